//! WHAT IS APPLIED AND NOT YET IN REDB, and the way from here into redb.
//!
//! An entry becomes a [`Change`], which the memtable takes whole; [`Flush`] moves the oldest changes into redb as
//! steps that somebody else drives; [`Live`] is what of all this a reader sees, locked for moments only. The
//! [`RowCache`] holds rows that are in redb already, and never one that is older than redb's.

mod cache;
mod change;
mod flush;
mod live;
mod memtable;

pub(super) use cache::RowCache;
pub(super) use change::Change;
pub(super) use flush::Flush;
pub(super) use live::Live;
