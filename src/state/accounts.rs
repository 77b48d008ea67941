//! Looking accounts up: memtable, cache, then one redb view. And the scans, which read one redb view alone.

use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use redb::{ReadTransaction, ReadableDatabase};

use super::State;
use super::command::Revision;
use super::fault::Fault;
use super::memtable::Memtable;
use super::tables::{ACCOUNTS, AccountRow, ROWS, RowId};
use crate::jwt::AccountKey;

/// Current rows in the order of their revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The rows. Whatever a row replaced is not among them.
    pub rows: Vec<Arc<AccountRow>>,
    /// Everything up to here is in `rows` or was returned before; what to ask from next.
    pub position: Revision,
    /// Whether there is more right now.
    pub more: bool,
}

/// What a row weighs in the cache: its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight;

impl quick_cache::Weighter<AccountKey, Arc<AccountRow>> for Weight {
    fn weight(&self, _account: &AccountKey, row: &Arc<AccountRow>) -> u64 {
        row.bytes() as u64
    }
}

impl State {
    pub(super) fn memtable(&self) -> RwLockReadGuard<'_, Memtable> {
        self.0.applied.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn memtable_mut(&self) -> RwLockWriteGuard<'_, Memtable> {
        self.0.applied.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn storage(&self, what: &'static str, error: impl Into<redb::Error>) -> Fault {
        Fault::Storage {
            what,
            store: self.0.source.to_string(),
            source: Box::new(error.into()),
        }
    }

    pub(super) fn damaged(&self, defect: String) -> Fault {
        Fault::Damaged {
            store: self.0.source.to_string(),
            defect,
        }
    }

    /// The current row of `account`. Never waits for the disk to sync.
    pub fn account(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault> {
        let generation = {
            let memtable = self.memtable();
            if let Some(row) = memtable.row(&account) {
                return Ok(Some(row.clone()));
            }
            memtable.generation
        };
        if let Some(row) = self.0.cache.get(&account) {
            return Ok(Some(row));
        }
        let row = self.stored_account(account)?;
        if let Some(row) = &row {
            let memtable = self.memtable();
            // A flush or an apply in between may have made this row an old one: then it must not be remembered.
            if memtable.generation == generation && memtable.row(&account).is_none() {
                self.0.cache.insert(account, row.clone());
            }
        }
        Ok(row)
    }

    fn stored_account(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault> {
        let view = self.view()?;
        let accounts = view
            .open_table(ACCOUNTS)
            .map_err(|e| self.storage("read accounts", e))?;
        let Some(ids) = accounts
            .get(account.as_bytes())
            .map_err(|e| self.storage("read an account", e))?
        else {
            return Ok(None);
        };
        self.current_row(&view, account, ids.value()).map(Some)
    }

    /// The newest of the rows that `ids`, a value of [`ACCOUNTS`], names.
    fn current_row(&self, view: &ReadTransaction, account: AccountKey, ids: &[u8]) -> Result<Arc<AccountRow>, Fault> {
        let newest = RowId::read_all(ids).next();
        let id = newest.ok_or_else(|| self.damaged(format!("account {account} has no rows")))?;
        let rows = view.open_table(ROWS).map_err(|e| self.storage("read rows", e))?;
        let row = rows.get(id.key()).map_err(|e| self.storage("read a row", e))?;
        let row =
            row.ok_or_else(|| self.damaged(format!("account {account} lacks its row {}.{}", id.revision, id.slot)))?;
        let row = AccountRow::decode(id, row.value()).map_err(|defect| self.damaged(defect))?;
        Ok(Arc::new(row))
    }

    pub(super) fn view(&self) -> Result<ReadTransaction, Fault> {
        let database = self.0.database.load();
        database.begin_read().map_err(|e| self.storage("begin to read", e))
    }

    /// Up to `limit` accounts after `after`, in the order of their keys' bytes: what redb holds, so let the flush
    /// reach [`State::applied`] first.
    pub fn accounts(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<Arc<AccountRow>>, Fault> {
        let view = self.view()?;
        let accounts = view
            .open_table(ACCOUNTS)
            .map_err(|e| self.storage("read accounts", e))?;
        let start = after
            .as_ref()
            .map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_bytes()));
        let range = accounts
            .range::<&[u8; 32]>((start, Bound::Unbounded))
            .map_err(|e| self.storage("list accounts", e))?;
        range
            .take(limit)
            .map(|entry| {
                let (key, ids) = entry.map_err(|e| self.storage("list accounts", e))?;
                self.current_row(&view, AccountKey::from_bytes(*key.value()), ids.value())
            })
            .collect()
    }

    /// What changed after `after`, if all of it is still in the memtable; absent if some of it is in redb only.
    pub fn recent_changes(&self, after: Revision, limit: usize) -> Result<Option<Changes>, Fault> {
        let memtable = self.memtable();
        let flushed_past = memtable
            .entries
            .front()
            .is_none_or(|oldest| oldest.index() > after.saturating_add(1));
        if flushed_past {
            return Ok(None);
        }
        let mut changes = Changes {
            rows: Vec::new(),
            position: after,
            more: false,
        };
        for entry in memtable.entries.iter().filter(|entry| entry.index() > after) {
            if changes.rows.len() >= limit {
                changes.more = true;
                break;
            }
            let newest =
                |row: &&Arc<AccountRow>| memtable.row(&row.account).is_some_and(|newest| newest.id() == row.id());
            changes.rows.extend(entry.rows.iter().filter(newest).cloned());
            changes.position = entry.index();
        }
        Ok(Some(changes))
    }

    /// What changed after the revision `after`, about `limit` rows; the rows of one revision are never split. What
    /// redb holds, so let the flush reach [`State::applied`] first.
    pub fn rows_since(&self, after: Revision, limit: usize) -> Result<Changes, Fault> {
        let view = self.view()?;
        let accounts = view
            .open_table(ACCOUNTS)
            .map_err(|e| self.storage("read accounts", e))?;
        let rows = view.open_table(ROWS).map_err(|e| self.storage("read rows", e))?;
        let range = rows
            .range((Bound::Excluded((after, u32::MAX)), Bound::Unbounded))
            .map_err(|e| self.storage("read changes", e))?;
        let mut changes = Changes {
            rows: Vec::new(),
            position: after,
            more: false,
        };
        // Old versions are read over and not returned: they count too, so that a call's work is bounded.
        for (seen, entry) in range.enumerate() {
            let (key, bytes) = entry.map_err(|e| self.storage("read changes", e))?;
            let (revision, slot) = key.value();
            if seen >= limit && revision != changes.position {
                changes.more = true;
                return Ok(changes);
            }
            let id = RowId { revision, slot };
            let row = AccountRow::decode(id, bytes.value()).map_err(|defect| self.damaged(defect))?;
            let ids = accounts
                .get(row.account.as_bytes())
                .map_err(|e| self.storage("read an account", e))?;
            if ids.is_some_and(|ids| RowId::read_all(ids.value()).next() == Some(id)) {
                changes.rows.push(Arc::new(row));
            }
            changes.position = revision;
        }
        // Entries without rows count as told as well.
        let flushed = super::open::read_mark(&view).map_err(|defect| self.damaged(defect))?;
        changes.position = changes.position.max(flushed.map_or(0, |mark| mark.index));
        Ok(changes)
    }

    /// The versions of `account` that are kept, newest first. What redb holds.
    pub fn history(&self, account: AccountKey) -> Result<Vec<Arc<AccountRow>>, Fault> {
        let view = self.view()?;
        let accounts = view
            .open_table(ACCOUNTS)
            .map_err(|e| self.storage("read accounts", e))?;
        let rows = view.open_table(ROWS).map_err(|e| self.storage("read rows", e))?;
        let Some(ids) = accounts
            .get(account.as_bytes())
            .map_err(|e| self.storage("read an account", e))?
        else {
            return Ok(Vec::new());
        };
        RowId::read_all(ids.value())
            .map(|id| {
                let row = rows.get(id.key()).map_err(|e| self.storage("read a row", e))?;
                let row = row
                    .ok_or_else(|| self.damaged(format!("account {account} lacks row {}.{}", id.revision, id.slot)))?;
                let row = AccountRow::decode(id, row.value()).map_err(|defect| self.damaged(defect))?;
                Ok(Arc::new(row))
            })
            .collect()
    }
}
