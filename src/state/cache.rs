//! The rows that are asked for, in memory, so that a usual lookup reads no file.

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::tables::EncodedRow;
use crate::jwt::AccountKey;

/// Rows as they are in redb: encoded, in one piece each, because there memory decides how many lookups reach the disk.
/// One in the memtable is newer than one here.
pub(super) struct RowCache(Cache<AccountKey, EncodedRow, Weight>);

impl RowCache {
    /// Empty, for about `bytes` of memory.
    pub(super) fn new(bytes: usize) -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(bytes as u64)
            .estimated_items_capacity(bytes / USUAL_ROW_BYTES)
            .ghost_allocation(GHOSTS)
            .build();
        let options = options.expect("both capacities are set");
        Self(Cache::with_options(
            options,
            Weight,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        ))
    }

    /// The row of `account`, if it is here.
    pub(super) fn get(&self, account: AccountKey) -> Option<EncodedRow> {
        self.0.get(&account)
    }

    /// Keeps `row`, and lets others go where there is no room.
    pub(super) fn insert(&self, account: AccountKey, row: EncodedRow) {
        self.0.insert(account, row);
    }

    /// Forgets the row of `account`, which is being replaced in redb.
    pub(super) fn remove(&self, account: &AccountKey) {
        drop(self.0.remove(account));
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.0.clear();
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<AccountKey, EncodedRow> for Weight {
    fn weight(&self, _account: &AccountKey, row: &EncodedRow) -> u64 {
        (row.value.len() + OVERHEAD_BYTES) as u64
    }
}

/// What a row takes beside its bytes: its key, where it stands, the cache's own books, what the allocator rounds up to.
const OVERHEAD_BYTES: usize = 200;

/// Keys remembered of rows that had to go, as a share of the rows that are here: who comes again soon stays longer. They
/// take as much room in the cache's books as a row does.
const GHOSTS: f64 = 0.1;

/// A row of the usual token of 1.5 KB. Only a hint of how many there will be.
const USUAL_ROW_BYTES: usize = 1400;
