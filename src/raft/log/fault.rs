//! Why the log cannot be opened or cannot go on. Nothing here is for a client: the node ends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::raft::log::segment::StoreId;

/// A reason to end this node, in a sentence for its administrator.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogFault {
    /// The disk refused.
    #[error(
        "the log file {} could not be {operation}: what was not acknowledged yet may or may not be stored; \
         check the disk, then start this node again", file.display()
    )]
    Io {
        /// The file, or the folder.
        file: PathBuf,
        /// What was tried, as a participle: "written", "synced".
        operation: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Bytes on disk are not those that were written.
    #[error(
        "the log file {} is damaged at byte {offset}: {what}. Nothing was changed. Restore this node's data folder \
         from a backup; without one, begin with an empty folder and push every account again (nsc push --all)", file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file of another store.
    #[error(
        "the log file {} belongs to store {found}, this node's store is {expected}. Nothing was changed. Put the \
         file back where it came from; if this node's own files are lost, restore them from a backup", file.display()
    )]
    WrongStore {
        /// The file.
        file: PathBuf,
        /// This node's store.
        expected: StoreId,
        /// The store in the file.
        found: StoreId,
    },
    /// A file of a later release.
    #[error(
        "the log file {} has format {format}, which is newer than this program. Nothing was changed. Start the \
         release that wrote it, or a later one", file.display()
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format number.
        format: u32,
    },
    /// The newest files are gone, and what was acknowledged in them.
    #[error(
        "the log in {} ends at entry {held}, but the state holds entries up to {durable}: the newest log files are \
         missing. Nothing was changed. Restore the whole data folder from a backup; without one, begin with an empty \
         folder and push every account again (nsc push --all)", folder.display()
    )]
    Short {
        /// The folder.
        folder: PathBuf,
        /// Where the log ends.
        held: u64,
        /// How far the state is durable.
        durable: u64,
    },
    /// A state from an older backup than the log.
    #[error(
        "the log in {} begins after entry {purged}, but the state holds entries only up to {durable}: the state is \
         older than the log. Nothing was changed. A data folder is restored as a whole: log and state from the same \
         backup", folder.display()
    )]
    Ahead {
        /// The folder.
        folder: PathBuf,
        /// The last purged entry.
        purged: u64,
        /// How far the state is durable.
        durable: u64,
    },
    /// No log where there must be one.
    #[error(
        "the log folder {} holds no log, but this node's store had one: without it the node could vote twice in one \
         term. Restore the whole data folder from a backup; without one, begin with an empty folder and push every \
         account again (nsc push --all)", folder.display()
    )]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
}

impl LogFault {
    /// Adds the file and the operation to a disk's error.
    pub(super) fn io(file: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            file: file.to_owned(),
            operation,
            source: Arc::new(source),
        }
    }

    /// Whether the disk is merely full: the one failure that may pass by itself.
    pub(super) fn is_lack_of_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// A place in a file that is not as it was written.
    pub(super) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            offset,
            what: what.into(),
        }
    }
}

/// Where a fault is reported, once; the receiver ends the process.
pub type OnFault = Arc<dyn Fn(LogFault) + Send + Sync>;
