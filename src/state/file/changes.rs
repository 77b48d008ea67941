//! The accounts that changed after a given revision.

use std::sync::Arc;

use super::encoding::row_account;
use super::view::SnapshotView;
use super::{ACCOUNTS, ROWS};
use crate::state::command::Revision;
use crate::state::fault::Fault;
use crate::state::rows::{Changes, RowId};

impl SnapshotView {
    /// The accounts that changed after revision `after`, about `limit` of them. There may be a few more, since a
    /// revision is never split; and none at all if every row that was read has been replaced (then `more` says to go
    /// on).
    pub fn rows_since(&self, after: Revision, limit: usize) -> Result<Changes, Fault> {
        let end = Changes {
            rows: Vec::new(),
            position: after.max(self.mark().map_or(0, |mark| mark.index)),
            more: false,
        };
        let Some(first) = after.checked_add(1) else {
            return Ok(end);
        };
        let (accounts, rows) = (self.table(ACCOUNTS)?, self.table(ROWS)?);
        let (mut found, mut scanned, mut revision) = (Vec::new(), 0, after);
        for entry in rows.range((first, 0)..).map_err(|error| self.fault(error))? {
            let (key, value) = entry.map_err(|error| self.fault(error))?;
            let id = RowId::from_key(key.value());
            if id.revision != revision && (found.len() >= limit.max(1) || scanned >= SCAN_BYTES) {
                return Ok(Changes {
                    rows: found,
                    position: revision,
                    more: true,
                });
            }
            revision = id.revision;
            scanned += value.value().len();
            // A damaged row cannot be sent to any NATS cluster, and the changes after it must not wait for its repair.
            // A lookup of the account reports the damage.
            let Ok(account) = row_account(value.value()) else {
                continue;
            };
            let current = accounts.get(account.as_bytes()).map_err(|error| self.fault(error))?;
            if current.is_none_or(|current| current.value() != id.key()) {
                continue;
            }
            match self.decode(id, value.value()) {
                Ok(row) => found.push(Arc::new(row)),
                Err(Fault::Damaged { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(Changes { rows: found, ..end })
    }
}

/// Bytes one call reads before it returns: bounds its memory and its time, whatever the limit and however large the
/// tokens (about 13,000 usual rows, tens of milliseconds).
const SCAN_BYTES: usize = 16 * 1024 * 1024;
