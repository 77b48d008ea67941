//! The accounts that changed after a given revision.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::encoding::row_account;
use super::view::SnapshotView;
use super::{ACCOUNTS, DELETED, ROWS};
use crate::jwt::AccountKey;
use crate::state::command::Revision;
use crate::state::fault::Fault;
use crate::state::rows::{Changes, RowId};

impl SnapshotView {
    /// The accounts that changed after revision `after`, about `limit` of them. There may be a few more, since a
    /// revision is never split; and none at all if every row that was read has been replaced (then `more` says to go
    /// on).
    ///
    /// A row that cannot be read is left out: it cannot be sent to any NATS cluster, and the changes after it must not
    /// wait for its repair. A lookup of its account reports the damage.
    pub fn rows_since(&self, after: Revision, limit: usize) -> Result<Changes, Fault> {
        match self.store().reading(|| self.by_revision(after, limit)) {
            Err(fault) if fault.is_of_one_read() => self.store().reading(|| self.by_account(after, limit)),
            changes => changes,
        }
    }

    fn by_revision(&self, after: Revision, limit: usize) -> Result<Changes, Fault> {
        let end = self.end(after);
        let Some(first) = after.checked_add(1) else {
            return Ok(end);
        };
        let rows = self.table(ROWS)?;
        let (accounts, deleted) = (self.table(ACCOUNTS)?, self.optional(DELETED)?);
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
            let Ok(account) = row_account(value.value()) else {
                continue;
            };
            let mut current = accounts.get(account.as_bytes()).map_err(|error| self.fault(error))?;
            if let (None, Some(deleted)) = (&current, &deleted) {
                current = deleted.get(account.as_bytes()).map_err(|error| self.fault(error))?;
            }
            if current.is_none_or(|current| current.value() != id.key()) {
                continue;
            }
            match self.store().row(Some(account), id, value.value()) {
                Ok(row) => found.push(Arc::new(row)),
                Err(fault) if fault.is_of_one_read() => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(Changes { rows: found, ..end })
    }

    /// The same where a page of rows cannot be read, and with it not what comes after: finds the rows one by one, by
    /// the index of accounts. Reads all of that index, which takes a tenth of a second for a million accounts.
    fn by_account(&self, after: Revision, limit: usize) -> Result<Changes, Fault> {
        let rows = self.table(ROWS)?;
        let mut oldest: BTreeSet<(RowId, AccountKey)> = BTreeSet::new();
        let mut left_out: Option<Revision> = None;
        let mut all = Vec::new();
        for index in [Some(self.table(ACCOUNTS)?), self.optional(DELETED)?]
            .into_iter()
            .flatten()
        {
            all.push(index.range::<&[u8; 32]>(..).map_err(|error| self.fault(error))?);
        }
        for entry in all.into_iter().flatten() {
            let (account, id) = entry.map_err(|error| self.fault(error))?;
            let id = RowId::from_key(id.value());
            if id.revision > after {
                oldest.insert((id, AccountKey::from_bytes(*account.value())));
            }
            if oldest.len() > limit.max(1).saturating_add(ROWS_OF_AN_ENTRY) {
                let newest = oldest.pop_last().map(|(id, _)| id.revision);
                left_out = left_out.into_iter().chain(newest).min();
            }
        }
        let (mut found, mut scanned, mut revision) = (Vec::new(), 0, after);
        for (id, account) in oldest {
            let is_enough = found.len() >= limit.max(1) || scanned >= SCAN_BYTES;
            if id.revision != revision && is_enough || left_out.is_some_and(|first| id.revision >= first) {
                left_out = Some(id.revision);
                break;
            }
            revision = id.revision;
            match self.row(&rows, account, id) {
                Ok(row) => {
                    scanned += row.token.len();
                    found.push(Arc::new(row));
                }
                Err(fault) if fault.is_of_one_read() => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(match left_out {
            None => Changes {
                rows: found,
                ..self.end(after)
            },
            Some(_) => Changes {
                rows: found,
                position: revision,
                more: true,
            },
        })
    }

    /// No changes after `after`, nor any to come.
    fn end(&self, after: Revision) -> Changes {
        Changes {
            rows: Vec::new(),
            position: after.max(self.mark().map_or(0, |mark| mark.index)),
            more: false,
        }
    }
}

/// Bytes one call reads before it returns: bounds its memory and its time, whatever the limit and however large the
/// tokens (about 13,000 usual rows, tens of milliseconds).
const SCAN_BYTES: usize = 16 * 1024 * 1024;

/// More rows than an entry of the log has (the proposer bounds it far below), so that the oldest changes that are
/// kept in memory always hold one whole entry.
const ROWS_OF_AN_ENTRY: usize = 4096;
