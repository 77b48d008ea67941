//! How a log is kept.

use crate::raft::log::prepare::Prepare;
use crate::raft::log::segment::StoreId;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store this log is part of.
    pub store: StoreId,
    /// Size of a segment. 64 MiB: large enough that a new one is rare, small enough to purge by.
    pub segment_bytes: u64,
    /// Memory for the newest entries, which every follower that keeps up asks for.
    pub tail_bytes: usize,
    /// The most that is collected for one sync; a single append may be larger.
    pub group_bytes: usize,
    /// Where segment files are prepared and removed.
    pub prepare: Prepare,
    /// Whether to refuse to begin a new log, because the store already had one.
    pub must_exist: bool,
    /// The index of the snapshot from which the state was installed, if that is all that the state holds durably. The
    /// log may end before it: the purge that follows an installation may not have reached the disk.
    pub installed: Option<u64>,
}

impl Options {
    /// What production uses.
    pub fn new(store: StoreId) -> Self {
        Self {
            store,
            segment_bytes: 64 << 20,
            tail_bytes: 8 << 20,
            group_bytes: 8 << 20,
            prepare: Prepare::Thread,
            must_exist: false,
            installed: None,
        }
    }
}
