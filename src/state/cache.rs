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
        (allocated(row.value.len() + COUNTS_BYTES) + OVERHEAD_BYTES) as u64
    }
}

/// The room that `bytes` take of the allocator: it knows four sizes between one power of two and the next.
fn allocated(bytes: usize) -> usize {
    let step = bytes.next_power_of_two() / 8;
    bytes.next_multiple_of(step.max(16))
}

/// The two counts that stand before the bytes of an `Arc<[u8]>`.
const COUNTS_BYTES: usize = 16;

/// What a row takes beside its bytes: its key, where it stands, and the cache's own books.
const OVERHEAD_BYTES: usize = 120;

/// Keys remembered of rows that had to go, as a share of the rows that are here: who comes again soon stays longer. They
/// take as much room in the cache's books as a row does.
const GHOSTS: f64 = 0.1;

/// A row of the usual token of 1.5 KB. Only a hint of how many there will be.
const USUAL_ROW_BYTES: usize = 1400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_weighs_what_the_allocator_gives_it() {
        let cases = [
            (1, 16),
            (17, 32),
            (1024, 1024),
            (1025, 1280),
            (1281, 1536),
            (2048, 2048),
            (2049, 2560),
        ];
        for (bytes, room) in cases {
            assert_eq!(allocated(bytes), room, "{bytes}");
        }
    }
}
