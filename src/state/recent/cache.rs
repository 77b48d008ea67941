//! The rows that lookups ask for, in memory, so that a usual lookup reads no file.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::jwt::AccountKey;
use crate::state::file::EncodedRow;
use crate::state::rows::AccountRow;

/// Rows as they are in redb. One in the memtable is newer than one here.
pub(in crate::state) struct RowCache(Cache<AccountKey, CachedRow, Weight>);

/// A row in the cache.
#[derive(Clone)]
pub(in crate::state) enum CachedRow {
    /// The usual row: in one piece and small, because the cache's memory decides how many lookups read the file.
    Encoded(EncodedRow),
    /// A row with a large token, which all answers share: thousands of clients that do not read their answers would
    /// otherwise hold gigabytes of copies.
    Shared(Arc<AccountRow>),
}

impl CachedRow {
    /// The row. It could be decoded when it was cached; should it fail now, the lookup reads the file, which says what
    /// is wrong.
    pub(in crate::state) fn row(self) -> Option<Arc<AccountRow>> {
        match self {
            Self::Encoded(encoded) => encoded.decode().map(Arc::new).ok(),
            Self::Shared(row) => Some(row),
        }
    }
}

impl RowCache {
    /// Empty, for about `bytes` of memory.
    pub(in crate::state) fn new(bytes: usize) -> Self {
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

    /// The row of `account`, if it is cached.
    pub(in crate::state) fn get(&self, account: AccountKey) -> Option<CachedRow> {
        self.0.get(&account)
    }

    /// Caches `row`, and evicts others where there is no room.
    pub(in crate::state) fn insert(&self, row: &Arc<AccountRow>, encoded: EncodedRow) {
        let cached = if row.token.len() > SHARED_TOKEN_BYTES {
            CachedRow::Shared(row.clone())
        } else {
            CachedRow::Encoded(encoded)
        };
        self.0.insert(row.account, cached);
    }

    /// Forgets the row of `account`, which is being replaced in redb.
    pub(in crate::state) fn remove(&self, account: &AccountKey) {
        drop(self.0.remove(account));
    }

    /// Forgets everything.
    pub(in crate::state) fn clear(&self) {
        self.0.clear();
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<AccountKey, CachedRow> for Weight {
    fn weight(&self, _account: &AccountKey, row: &CachedRow) -> u64 {
        let bytes = match row {
            CachedRow::Encoded(encoded) => allocated(encoded.value.len() + COUNTS_BYTES),
            CachedRow::Shared(row) => allocated(row.bytes()),
        };
        (bytes + OVERHEAD_BYTES) as u64
    }
}

/// Rows with tokens above this are cached decoded and shared. Below it a copy takes no more memory than a request does
/// anyway.
const SHARED_TOKEN_BYTES: usize = 16 * 1024;

/// The memory that the allocator takes for `bytes`: it has four sizes between one power of two and the next.
fn allocated(bytes: usize) -> usize {
    let step = bytes.next_power_of_two() / 8;
    bytes.next_multiple_of(step.max(16))
}

/// The two reference counts before the bytes of an `Arc<[u8]>`.
const COUNTS_BYTES: usize = 16;

/// What a row takes beside its bytes: its key, its id, and the cache's own bookkeeping.
const OVERHEAD_BYTES: usize = 120;

/// Keys remembered of evicted rows, as a share of the cached rows: a row that is soon asked for again then stays
/// longer. In the cache's bookkeeping such a key takes as much room as a row does.
const GHOSTS: f64 = 0.1;

/// A row of the usual token of 1.5 KB. Only a hint at how many rows there will be.
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
