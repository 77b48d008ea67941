//! Why a submission or a read failed, in sentences for the caller.

use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;
use crate::jwt::Rejection;
use crate::jwt::time;
use crate::raft::ProposeError;
use crate::state::Fault;

/// Why a submission failed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The token does not verify, or breaks a blocking rule.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The path names one account, the token another.
    #[error("the path names account {path}, but the token is for account {token}: submit it under its own key")]
    WrongAccount {
        /// The key it was submitted under.
        path: AccountKey,
        /// The token's subject.
        token: AccountKey,
    },
    /// A newer token is stored (G2).
    #[error("{}", superseded(*account, *stored_issued_at, *submitted_issued_at))]
    Superseded {
        /// The account.
        account: AccountKey,
        /// `iat` of the stored token, Unix seconds.
        stored_issued_at: i64,
        /// `iat` of the submitted token, Unix seconds.
        submitted_issued_at: i64,
    },
    /// The account belongs to another trusted operator (G3).
    #[error(
        "account {account} belongs to operator {owner}, whose JWT for it was stored first, and this JWT was signed for operator \
         {signed_by}: sign it with a key of {owner}, or make a new account for {signed_by}"
    )]
    OtherOperator {
        /// The account.
        account: AccountKey,
        /// The operator of the stored token.
        owner: OperatorKey,
        /// The operator of the submitted token.
        signed_by: OperatorKey,
    },
    /// It was not agreed on, or the outcome is unknown.
    #[error(transparent)]
    NotAgreed(#[from] ProposeError),
    /// The stored row could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The row is damaged. Other rows are sound, and the node goes on.
    #[error("a row in the state of this node is damaged")]
    Damaged(#[source] Fault),
    /// The rows are not in redb yet, and the disk has no room to write them there.
    #[error("the disk of this node is full; make room there and try again (lookups of single accounts go on)")]
    NoRoom,
    /// This node is shutting down.
    #[error("this node is shutting down; try again, or ask another node")]
    ShuttingDown,
    /// This node cannot go on.
    #[error("this node cannot read its state")]
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
