//! Why this node cannot go on with its state. Never an answer to a caller's mistake.

use std::error::Error;

/// A failure of the disk under the state, or a state file that is not what was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// redb, or the disk under it, refuses.
    #[error("cannot {what} in {store}")]
    Storage {
        /// The operation.
        what: &'static str,
        /// The file.
        store: String,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The content is not what this program wrote.
    #[error("{store} is damaged: {defect}. Restore this node's data folder from a backup, or replace the node")]
    Damaged {
        /// The file.
        store: String,
        /// What is wrong with it.
        defect: String,
    },
    /// An entry that this version cannot apply.
    #[error("entry {index} cannot be applied: {defect}")]
    Unappliable {
        /// The entry's log index.
        index: u64,
        /// Why not.
        defect: String,
    },
}
