//! WHAT IS APPLIED AND NOT YET IN REDB, and the way from here into redb.
//!
//! An entry becomes a [`Change`], which the memtable takes whole; [`Flush`] moves the oldest changes into redb in steps
//! that the caller drives; [`Live`] is what a reader sees of all this, and its lock is held for moments only. The
//! [`RowCache`] holds rows that are in redb already, and never one that is older than redb's.

mod cache;
mod change;
mod flush;
mod live;
mod memtable;

pub(super) use cache::RowCache;
pub(super) use change::{Change, RosterChange};
pub(super) use flush::Flush;
pub(super) use live::Live;
