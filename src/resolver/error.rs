//! Why a submission or a read did not succeed, in sentences for whoever asked.

use crate::jwt::AccountKey;
use crate::jwt::Rejection;
use crate::jwt::time;
use crate::raft::ProposeError;
use crate::state::Fault;

/// Why a submission did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The token is not acceptable to any nats-server of this operator.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It is some other account's token.
    #[error("the path names account {path}, but the token is for account {token}: submit it under its own key")]
    WrongAccount {
        /// The key it was submitted under.
        path: AccountKey,
        /// The token's subject.
        token: AccountKey,
    },
    /// A newer one is stored (G2).
    #[error("{}", superseded(*account, *stored_issued_at, *submitted_issued_at))]
    Superseded {
        /// The account.
        account: AccountKey,
        /// `iat` of the one that is stored, Unix seconds.
        stored_issued_at: i64,
        /// `iat` of the one that was submitted.
        submitted_issued_at: i64,
    },
    /// It was not agreed on, or that is not known.
    #[error(transparent)]
    NotAgreed(#[from] ProposeError),
    /// What is stored could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a read did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The row is damaged; the others are sound.
    #[error("this node cannot answer that")]
    Damaged(#[source] Fault),
    /// What was asked for is not in redb yet, and the disk has no room to bring it there.
    #[error("the disk of this node is full; make room there and try again (lookups of single accounts go on)")]
    NoRoom,
    /// This node is about to end.
    #[error("this node is shutting down; try again, or ask another node")]
    ShuttingDown,
    /// This node cannot go on.
    #[error("this node cannot answer that")]
    Fault(#[source] Fault),
}

fn superseded(account: AccountKey, stored: i64, submitted: i64) -> String {
    let newer = if stored == submitted {
        format!(
            "was issued another JWT in the same second, {}, which replaced this one",
            time(stored)
        )
    } else {
        format!(
            "has a newer JWT, issued at {}; this one was issued at {}",
            time(stored),
            time(submitted)
        )
    };
    format!("account {account} {newer}: pull the account, repeat the change on that version and push again")
}
