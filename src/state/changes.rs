//! By revision: what changed since one, and how far each NATS cluster has been told.

use std::sync::Arc;

use super::State;
use super::accounts::AccountRow;
use super::command::Revision;
use super::fault::Fault;
use super::memtable::Change;
use super::snapshot::SnapshotView;
use super::tables::{ACCOUNTS, ROWS, RowId, row_account};

/// Accounts that changed, oldest change first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The current rows of the accounts that changed, in the order of their revisions. A row that was replaced since is
    /// not here: its account comes later, with the revision of its newest.
    pub rows: Vec<Arc<AccountRow>>,
    /// Every change up to and including this revision is in `rows`: where to continue.
    pub position: Revision,
    /// Whether there is more behind `position`.
    pub more: bool,
}

/// Notes how far a NATS cluster has been told. Positions only ever grow: a late mark of a publisher that was
/// replaced must not make the next one send everything again.
pub(super) fn mark_propagated(change: &mut Change, present: Revision, nats_cluster: String, position: Revision) {
    if position > present {
        change.position = Some((nats_cluster, position));
    }
}

impl State {
    /// Up to which revision the NATS cluster has been told everything; 0 if it was never told anything.
    pub fn position(&self, nats_cluster: &str) -> Revision {
        self.live().memtable.positions.get(nats_cluster).copied().unwrap_or(0)
    }

    /// The same as [`Self::rows_since`] while all of it is still in memory, without waiting for the flush; absent if
    /// some of it is in redb only.
    pub fn recent_changes(&self, after: Revision, limit: usize) -> Option<Changes> {
        self.live().memtable.since(after, limit)
    }

    /// The accounts that changed after revision `after`, about `limit` of them. Reads what the flush has reached.
    pub fn rows_since(&self, after: Revision, limit: usize) -> Result<Changes, Fault> {
        self.snapshot()?.rows_since(after, limit)
    }
}

impl SnapshotView {
    /// The accounts that changed after revision `after`, about `limit` of them: a revision is never split, so a few
    /// more may come, and none at all if all that was looked at is replaced (then `more` says to go on).
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
            // Nobody can be told of a damaged one, and the changes behind it must not wait for that. Whoever looks the
            // account up hears of the damage.
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

/// How much one call reads before it answers: bounds its memory and its time whatever the limit and however large
/// the tokens (about 13,000 usual rows, tens of milliseconds).
const SCAN_BYTES: usize = 16 * 1024 * 1024;
