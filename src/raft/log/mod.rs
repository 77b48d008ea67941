//! THE LOG ON DISK: entries, votes, the purge point, in segment files of our own. Knows nothing of what an entry means.
//!
//! One stream holds them all, in the order of openraft's calls: entries, votes, truncations and purges cannot
//! overtake one another, on disk or after a crash. A [`LogStore`] queues, a [`LogWriter`] writes and syncs, and
//! what openraft is told afterwards is durable. The order on which everything rests, asserted where a purge begins:
//! `purged <= checkpoint`, the entry up to which the state is durable.

mod disk;
mod fault;
mod files;
mod memory;
mod open;
mod options;
mod prepare;
mod segment;
mod store;
mod writer;

pub use disk::{Disk, DiskFile, RealDisk, Room};
pub use fault::{LogFault, OnFault};
pub use options::Options;
pub use prepare::Prepare;
pub use segment::StoreId;
pub use store::LogStore;
pub use writer::{LogWriter, WriteCommand};
