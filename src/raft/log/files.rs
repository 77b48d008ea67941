//! The segment files in use, and reading entries out of one.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::raft::log::disk::DiskFile;
use crate::raft::log::fault::LogFault;
use crate::raft::log::memory::Place;
use crate::raft::log::segment;
use crate::raft::runtime::Entry;

/// A segment that is on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) number: u32,
    /// The highest index of any entry in it, truncated since or not.
    pub(super) highest: Option<u64>,
}

/// The segment that is being written.
pub(super) struct Current {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    /// Where the next group begins.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Reads the entries at `places`, which lie in one file, in rising order.
pub(super) fn read_entries(file: &dyn DiskFile, path: &Path, places: &[Place]) -> Result<Vec<Entry>, LogFault> {
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return Ok(Vec::new());
    };
    let start = u64::from(first.offset);
    let length = u64::from(last.offset) + u64::from(last.length) - start;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_at(start, &mut bytes).map_err(LogFault::io(path, "read"))?;
    let bytes = Bytes::from(bytes);
    let entry = |place: &Place| {
        let at = (place.offset - first.offset) as usize;
        segment::read_entry(&bytes.slice(at..at + place.length as usize))
            .map_err(|what| LogFault::damaged(path, u64::from(place.offset), what))
    };
    places.iter().map(entry).collect()
}
