//! THE LOG ON DISK: entries, votes, the purge point, in segment files of our own. Knows nothing of what an entry means.
//!
//! # What it promises
//!
//! What was reported to openraft as durable survives `kill -9` and a power cut, in the order of openraft's calls. One
//! stream holds entries, votes, truncations and purges, so that none of them can overtake another, on disk or after a
//! crash. Where a purge begins, `purged <= checkpoint` is asserted: nothing is purged that the state does not hold
//! durably.
//!
//! # What is on disk
//!
//! - A **segment** is a file, `0000000001.log` and so on, without a gap in the numbers. It is 64 MiB, and allocated and
//!   zeroed before it is used, so that a sync writes data and no metadata. Its first sector names the store and repeats
//!   everything that older segments said and that must outlive them: the vote, the purge point, the position. So a
//!   segment whose every entry is purged can be removed.
//! - A **group** is what one sync covers: a header and records, numbered without a gap. Its checksums are seeded with
//!   the store and the segment, so that no group is taken for one of another file.
//! - A **sector** (512 bytes) is what a disk writes whole or not at all. A group begins at a sector and fills its last
//!   one with `0xff`, so that no later write touches a sector that was acknowledged, and nothing that was written ends
//!   a sector with zero but by chance.
//!
//! # How an append passes
//!
//! [`LogStore`] (`store.rs`) puts the entries into memory, where they can be read at once, and queues a
//! [`WriteCommand`]. One thread, the [`LogWriter`], takes what is queued (up to 8 MiB), makes one group of it, writes
//! it and syncs once; then it reports each command. What is queued during a sync shares the next one. Another thread
//! (`prepare.rs`) makes the next segment ready ahead of time and removes purged ones, oldest first. `segment.rs` is the
//! format, without I/O.
//!
//! # Torn ends and damage
//!
//! A start reads every segment and every checksum (`open/`). A group is written only when the one before it is durable,
//! so a crash can leave only the last one incomplete, with zeros where it was not written and nothing behind it. Such a
//! torn group was never acknowledged: it is zeroed, and the log ends before it. Everything else that does not match its
//! checksum was acknowledged once: that is damage, and the node does not start. The message names the file and the
//! byte, and nothing is changed. Only one kind of damage looks like a torn end: zeros over part of the last group.
//!
//! # What it never does
//!
//! It never repairs by guessing, never writes before everything was judged, and never tries a failed write or sync of a
//! group again: the first failure is a [`LogFault`], after which every command fails and the node ends.

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
