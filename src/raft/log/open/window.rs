//! A file read forward in large pieces.

use std::path::Path;

use crate::raft::log::disk::DiskFile;
use crate::raft::log::fault::LogFault;

/// Bytes read at a time: enough that the disk streams, little enough that a start needs no memory to speak of.
pub(super) const WINDOW: usize = 1 << 20;

/// A file read forward through one buffer. Behind the end of the file it shows zeros.
pub(super) struct Window<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    buffer: Vec<u8>,
    block: usize,
    start: u64,
    /// Where the file was seen to end.
    length: Option<u64>,
}

impl<'a> Window<'a> {
    /// Reads [`WINDOW`] bytes at a time, or less of a small segment.
    pub(super) fn new(file: &'a dyn DiskFile, path: &'a Path, size: u64) -> Self {
        Self {
            file,
            path,
            buffer: Vec::new(),
            block: least(WINDOW, size),
            start: 0,
            length: None,
        }
    }

    pub(super) fn get(&mut self, offset: u64, length: usize) -> Result<&[u8], LogFault> {
        let inside = offset >= self.start && offset + length as u64 <= self.start + self.buffer.len() as u64;
        if !inside {
            self.buffer.resize(length.max(self.block), 0);
            let read = self
                .file
                .read_at(offset, &mut self.buffer)
                .map_err(LogFault::io(self.path, "read"))?;
            if read < self.buffer.len() {
                let seen = offset + read as u64;
                self.length = Some(self.length.map_or(seen, |length| length.min(seen)));
            }
            self.buffer[read..].fill(0);
            self.start = offset;
        }
        let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(&self.buffer[at..at + length])
    }

    /// The length of the file, once it was read to its end.
    pub(super) fn length(&mut self) -> Result<u64, LogFault> {
        while self.length.is_none() {
            self.get(self.start + self.buffer.len() as u64, 1)?;
        }
        Ok(self.length.unwrap_or(u64::MAX))
    }
}

/// The smaller of `limit` and `length`.
pub(super) fn least(limit: usize, length: u64) -> usize {
    usize::try_from(length).map_or(limit, |length| length.min(limit))
}
