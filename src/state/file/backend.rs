//! The file under redb. A page that cannot be read fails the read that met it, and no other.
//!
//! redb ends for good at the first error of its file: from then on every operation fails, those included that need no
//! file. That is right after a failed write or sync, when nothing is known any more. But one bad sector must not end
//! every lookup. So once the file is open, a read that fails gives redb a page of zeros. redb refuses it: a page begins
//! with its kind, which is never 0. Only the operation that needed the page fails, and a transaction that needed it is
//! not committed.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use redb::{BackendError, StorageBackend};

/// A file of redb. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub(super) struct Backend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Box<dyn StorageBackend>,
    /// Whether redb has opened it.
    opened: AtomicBool,
    /// The first read that failed.
    unread: OnceLock<String>,
}

impl Backend {
    /// A file that redb has not opened yet: while it does, a failed read fails the opening.
    pub(super) fn new(file: impl StorageBackend) -> Self {
        Self(Arc::new(Inner {
            file: Box::new(file),
            opened: AtomicBool::new(false),
            unread: OnceLock::new(),
        }))
    }

    /// From here on a failed read fails only what needed it.
    pub(super) fn opened(&self) {
        self.0.opened.store(true, Ordering::Relaxed);
    }

    /// Where the first read that failed was, and what the system said.
    pub(super) fn unread(&self) -> Option<&str> {
        self.0.unread.get().map(String::as_str)
    }

    /// Makes durable what the file holds now.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.file.sync_data()
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Err(error) = self.0.file.read(offset, out) else {
            return Ok(());
        };
        let length = out.len();
        let failure = || format!("reading {length} bytes at {offset} fails: {error}");
        self.0.unread.get_or_init(failure);
        if !self.0.opened.load(Ordering::Relaxed) {
            return Err(error);
        }
        out.fill(0);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.query_lock_range(start, end)
    }
}
