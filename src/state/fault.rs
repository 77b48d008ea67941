//! Fault: why this node cannot go on. Never an answer to a caller's mistake (that is an outcome).

use std::error::Error;
use std::sync::Arc;

use super::command::UnknownCommand;
use crate::jwt::AccountKey;

/// The disk failed, the state file is not what it should be, or the log holds an entry that cannot be applied. Says
/// which file and operation and what to do; the cause is its `source`. This node cannot go on, unless one read failed
/// while others may succeed ([`Fault::is_of_one_read`]).
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The disk or the database refused an operation.
    #[error("cannot {operation} the state file {file}: {advice}")]
    Storage {
        /// A verb: "open", "read", "write to", "commit to", "use".
        operation: &'static str,
        /// The file.
        file: Arc<str>,
        /// What the administrator can do.
        advice: &'static str,
        /// What the library or the system said.
        #[source]
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// A part of the file cannot be read: the disk refuses it, or its bytes are no part of a database any more.
    #[error("a part of the state file {file} cannot be read: {UNREADABLE_ADVICE}")]
    Unreadable {
        /// The file.
        file: Arc<str>,
        /// What the library or the system said.
        #[source]
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// The row of one account is not as it was stored.
    #[error("the stored row of account {account} is damaged ({what}; {file}): {ROW_ADVICE}")]
    Row {
        /// The file.
        file: Arc<str>,
        /// The account.
        account: AccountKey,
        /// What is wrong with the row.
        what: String,
    },
    /// Something in the file cannot be what was written.
    #[error("the state file {file} is damaged ({what}): {DAMAGED_ADVICE}")]
    Damaged {
        /// The file.
        file: Arc<str>,
        /// What is wrong in it.
        what: String,
    },
    /// The file is not one of ours.
    #[error("{file} is a database, but not a state file of jwtmesh: {MOVE_ADVICE}")]
    Foreign {
        /// The file.
        file: Arc<str>,
    },
    /// The file has another format number.
    #[error(
        "the state file {file} has format {found}, this program reads and writes formats {} to {}: \
         run the version of jwtmesh that wrote it", known[0], known[1]
    )]
    Format {
        /// The file.
        file: Arc<str>,
        /// Its format number.
        found: u32,
        /// The first and the last of those that this program reads and writes.
        known: [u32; 2],
    },
    /// The file belongs to another store.
    #[error(
        "the state file {file} belongs to the store {found}, this folder's store is {expected}: \
         put this store's own file back, or restore the whole data folder from a backup"
    )]
    Store {
        /// The file.
        file: Arc<str>,
        /// The store uuid in the file.
        found: String,
        /// The store uuid of the folder.
        expected: String,
    },
    /// An entry of the log is of a kind that this program does not know.
    #[error(
        "cannot apply log entry {index}: run a version of jwtmesh at least as new as the one that wrote it \
         (an entry is never skipped)"
    )]
    Entry {
        /// Its index.
        index: u64,
        /// What is unknown about it.
        #[source]
        cause: UnknownCommand,
    },
    /// An entry or a snapshot came that is not newer than what is applied: a mistake of ours.
    #[error("log index {index} came, but {applied} is already applied: report this as a bug in jwtmesh")]
    Order {
        /// What came.
        index: u64,
        /// What is applied.
        applied: u64,
    },
}

impl Fault {
    /// What a failed operation of the database is reported as.
    pub(super) fn storage(operation: &'static str, file: &Arc<str>, cause: impl Into<redb::Error>) -> Self {
        let cause = cause.into();
        let advice = match &cause {
            redb::Error::DatabaseAlreadyOpen => "another process has it open; stop that one first",
            redb::Error::Corrupted(_) | redb::Error::RepairAborted => DAMAGED_ADVICE,
            redb::Error::UpgradeRequired(_) => "a newer or much older program wrote it; run the version that did",
            redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => DAMAGED_ADVICE,
            _ => "see the cause; usually the disk is full or failing. Make room or replace it, then start the node",
        };
        Self::Storage {
            operation,
            file: file.clone(),
            advice,
            cause: Arc::new(cause),
        }
    }

    /// What a failed read is reported as. `unread` is the first read that the disk refused, if one did.
    pub(super) fn reading(file: &Arc<str>, cause: impl Into<redb::Error>, unread: Option<&str>) -> Self {
        match cause.into() {
            // redb has given the file up: after this no read succeeds.
            cause @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_)) => {
                Self::storage("read", file, cause)
            }
            cause => Self::Unreadable {
                file: file.clone(),
                cause: match unread {
                    Some(unread) => sentence(unread),
                    None => Arc::new(cause),
                },
            },
        }
    }

    /// What a panic of redb is reported as: the bytes that it found are none that it wrote.
    pub(super) fn panicked(file: &Arc<str>, what: &str, unread: Option<&str>) -> Self {
        Self::Unreadable {
            file: file.clone(),
            cause: unread.map_or_else(|| sentence(&format!("redb gave up: {what}")), sentence),
        }
    }

    /// What a panic of redb is reported as after which the file cannot be used.
    pub(super) fn unusable(file: &Arc<str>, what: &str) -> Self {
        Self::Storage {
            operation: "use",
            file: file.clone(),
            advice: DAMAGED_ADVICE,
            cause: sentence(what),
        }
    }

    /// Whether it is about what was read, so that other reads may succeed, and the node goes on.
    pub fn is_of_one_read(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::Row { .. } | Self::Damaged { .. })
    }

    /// Whether the disk, or the quota, is full.
    pub fn is_lack_of_room(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let Self::Storage { cause, .. } = self else {
            return false;
        };
        let said = match cause.downcast_ref::<redb::Error>() {
            Some(redb::Error::Io(error)) => Some(error),
            Some(_) => None,
            None => cause.downcast_ref::<std::io::Error>(),
        };
        said.is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
    }

    /// The same of a read without which this node cannot go on: what to do is then something else.
    pub fn fatal(self) -> Self {
        match self {
            Self::Unreadable { file, cause } => Self::Storage {
                operation: "read",
                file,
                advice: DAMAGED_ADVICE,
                cause,
            },
            fault => fault,
        }
    }

    /// What a failed operation of the file system is reported as.
    pub(super) fn io(operation: &'static str, file: &Arc<str>, cause: std::io::Error) -> Self {
        Self::Storage {
            operation,
            file: file.clone(),
            advice: "see the cause; check the folder's permissions and the disk's room, then start the node",
            cause: Arc::new(cause),
        }
    }
}

fn sentence(text: &str) -> Arc<dyn Error + Send + Sync> {
    Box::<dyn Error + Send + Sync>::from(text).into()
}

const DAMAGED_ADVICE: &str = "restore the whole data folder from a backup; without one, begin with an empty folder and \
     push every account again (nsc push --all). Nothing is repaired by guessing";

const UNREADABLE_ADVICE: &str = "whatever is stored there is answered with 500, everything else is served. Check the disk, \
     then restore the whole data folder from a backup; without one, begin with an empty folder and push every account \
     again (nsc push --all)";

const ROW_ADVICE: &str = "push the account's newest JWT again, which replaces it (the other accounts are served)";

const MOVE_ADVICE: &str = "name another data folder, or move the file away";
