//! How a state is opened: to which store it belongs, and how much memory it may take.

/// How a [`super::State`] is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The uuid of the store the file must belong to; a new file is given it.
    pub store: String,
    /// redb's page cache.
    pub cache_bytes: usize,
    /// Rows kept ready for lookups.
    pub row_cache_bytes: usize,
    /// What may be applied and not yet durable in redb.
    pub memtable_bytes: usize,
}

impl Options {
    /// The usual sizes: 146 MiB while serving, so that a node with a million accounts stays below 200 MB, plus the
    /// memtable at the worst moment of an upload. The operating system's page cache holds the rest of the file.
    pub fn new(store: impl Into<String>) -> Self {
        const MIB: usize = 1 << 20;
        Self {
            store: store.into(),
            // The index of a million accounts is 100 MB, its inner pages 1 MB: a larger cache only copies what the
            // operating system caches anyway.
            cache_bytes: 12 * MIB,
            // About 100,000 usual rows: a row that is not here costs a lookup 10 us more.
            row_cache_bytes: 134 * MIB,
            // About 13,000 uploads; beyond them, uploads wait for the disk. With what is on its way from a leader, what is
            // being written, and what the allocator keeps of both, a node that catches up stays below 100 MB more than it has
            // when idle.
            memtable_bytes: 24 * MIB,
        }
    }
}
