//! What is applied and not yet in redb, with the entries it came in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::tables::{AccountRow, Small};
use crate::jwt::AccountKey;

/// What an entry weighs beside its rows.
const ENTRY_BYTES: usize = 200;

/// One applied entry: the rows it wrote, and the small tables after it if it changed them.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) rows: Vec<Arc<AccountRow>>,
    pub(super) small: Small,
}

impl Applied {
    pub(super) fn index(&self) -> u64 {
        self.small.mark.as_ref().map_or(0, |mark| mark.index)
    }

    pub(super) fn bytes(&self) -> usize {
        ENTRY_BYTES + self.rows.iter().map(|row| row.bytes()).sum::<usize>()
    }
}

/// Applied, unflushed rows by account, and the entries they came in, oldest first.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    /// The newest unflushed row of each account. Only looked up, never iterated: its order is random.
    rows: HashMap<AccountKey, Arc<AccountRow>>,
    pub(super) entries: VecDeque<Applied>,
    pub(super) bytes: usize,
    /// The small tables after the newest entry.
    pub(super) small: Small,
    /// Counts flushes, so that a reader of redb notices one in between.
    pub(super) generation: u64,
}

impl Memtable {
    /// An empty one over a redb that ends at `small`.
    pub(super) fn new(small: Small) -> Self {
        Self {
            small,
            ..Self::default()
        }
    }

    pub(super) fn row(&self, account: &AccountKey) -> Option<&Arc<AccountRow>> {
        self.rows.get(account)
    }

    pub(super) fn push(&mut self, entry: Applied) {
        for row in &entry.rows {
            self.rows.insert(row.account, row.clone());
        }
        self.bytes += entry.bytes();
        self.small = entry.small.clone();
        self.entries.push_back(entry);
    }

    /// Lets go of the oldest `count` entries, which redb has now; gives the rows that were still the newest of
    /// their account.
    pub(super) fn drop_oldest(&mut self, count: usize) -> Vec<Arc<AccountRow>> {
        let mut current = Vec::new();
        for entry in self.entries.drain(..count) {
            self.bytes -= entry.bytes();
            for row in entry.rows {
                if self
                    .rows
                    .get(&row.account)
                    .is_some_and(|newest| newest.id() == row.id())
                {
                    self.rows.remove(&row.account);
                    current.push(row);
                }
            }
        }
        self.generation += 1;
        current
    }
}
