//! Why a submission or a read failed, in sentences for the caller.

use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;
use crate::jwt::Rejection;
use crate::jwt::time;
use crate::raft::ProposeError;
use crate::state::Fault;
use crate::state::Revision;

/// A nats-server that would refuse an account's JWT.
#[derive(Debug, thiserror::Error)]
#[error(
    "nats-server {server}, version {version}, of NATS cluster {nats_cluster:?} would refuse this JWT of account {account}, and go on \
     with the one it has: {reason}. Change the account, or update that server (if it was shut down for good: `jwtmesh nats forget \
     {server}`); `older_servers = \"warn\"` under [cluster] takes such JWTs all the same"
)]
pub struct OlderServer {
    /// The account.
    pub account: AccountKey,
    /// The server's name.
    pub server: String,
    /// Its version.
    pub version: String,
    /// The NATS cluster that it belongs to.
    pub nats_cluster: String,
    /// The rule, one sentence.
    pub reason: String,
}

/// Why a submission failed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The token does not verify, or breaks a blocking rule.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The token's times do not fit this node's, and NATS servers have said what time it is.
    #[error("{rejection}. {}", whose_clock(*offset, *now))]
    Untimely {
        /// Why it is refused.
        rejection: Rejection,
        /// The NATS servers' clocks minus this node's, in seconds.
        offset: i64,
        /// This node's time, Unix seconds.
        now: i64,
    },
    /// The token is signed for an operator that this node's configuration names and the mesh does not trust.
    #[error(
        "the issuer {issuer} is a key of operator {candidate}, which the configuration of this node names but the mesh does not trust: it \
         trusts {trusted}. If {candidate} takes the place of a trusted operator, as after `nsc reissue operator`, run `jwtmesh operator \
         replace OLD FILE` on the machine of a node"
    )]
    Candidate {
        /// The key that signed.
        issuer: String,
        /// Its operator.
        candidate: OperatorKey,
        /// The trusted operators.
        trusted: String,
    },
    /// The path names one operator, the token another.
    #[error("the path names operator {path}, but the token is for operator {token}: submit it under its own key")]
    WrongOperator {
        /// The key it was submitted under.
        path: OperatorKey,
        /// The token's subject.
        token: OperatorKey,
    },
    /// An operator that has to be trusted is not.
    #[error(
        "operator {operator} is not trusted here, but {trusted}: to put it in the place of one of those, run `jwtmesh operator replace \
         OLD FILE`"
    )]
    UnknownOperator {
        /// The operator.
        operator: OperatorKey,
        /// The trusted operators.
        trusted: String,
    },
    /// A newer token of the operator is stored.
    #[error(
        "operator {operator} has a newer JWT here, issued at {}; this one was issued at {}: export it again with `nsc describe operator \
         --raw`", time(*stored_issued_at), time(*submitted_issued_at)
    )]
    OperatorSuperseded {
        /// The operator.
        operator: OperatorKey,
        /// `iat` of the stored token, Unix seconds.
        stored_issued_at: i64,
        /// `iat` of the submitted token, Unix seconds.
        submitted_issued_at: i64,
    },
    /// Two operators list one key, so that it would be open whose an account is (G3).
    #[error(
        "key {key} belongs to operator {} and to operator {}, so it would be open for whom it signs: remove it from one of them, or \
         trust only one", operators[0], operators[1]
    )]
    SharedKey {
        /// The key.
        key: OperatorKey,
        /// The operators.
        operators: [OperatorKey; 2],
    },
    /// The path names one account, the token another.
    #[error("the path names account {path}, but the token is for account {token}: submit it under its own key")]
    WrongAccount {
        /// The key it was submitted under.
        path: AccountKey,
        /// The token's subject.
        token: AccountKey,
    },
    /// It was to take the place of a token that is no longer the current one.
    #[error(
        "account {account} has another JWT than the one that If-Match names, or none: it was changed meanwhile. Fetch it again, make the \
         change once more, and send that"
    )]
    Changed {
        /// The account.
        account: AccountKey,
    },
    /// It has no `iat`, so that it cannot be told from an older one (G2).
    #[error(
        "the JWT of account {account} has no issue time: its claims lack `iat`, so nobody can tell it from an older JWT that is sent \
         again; sign it with a library that sets `iat`, or push it with `jwtmesh account push` on the machine of a node, where the \
         order of arrival counts"
    )]
    Undated {
        /// The account.
        account: AccountKey,
    },
    /// A newer token is stored (G2).
    #[error("{}", superseded(*account, *stored_issued_at, *submitted_issued_at, *now))]
    Superseded {
        /// The account.
        account: AccountKey,
        /// `iat` of the stored token, Unix seconds.
        stored_issued_at: i64,
        /// `iat` of the submitted token, Unix seconds.
        submitted_issued_at: i64,
        /// The mesh's time, Unix seconds.
        now: i64,
    },
    /// A nats-server that is sent accounts would refuse it, as a whole.
    #[error(transparent)]
    OlderServer(Box<OlderServer>),
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
    /// The disk does not give what is stored, or not as it was stored. Other reads succeed, and the node goes on.
    #[error("a part of the state of this node cannot be read; its log says which, and what to do")]
    Damaged(#[source] Fault),
    /// The rows are not in redb yet, and the disk has no room to write them there.
    #[error("the disk of this node is full; make room there and try again (lookups of single accounts go on)")]
    NoRoom,
    /// The caller wants to read what this node does not have yet.
    #[error(
        "this node serves revision {revision} and could not get to what was asked for in time; ask again, or another node"
    )]
    Behind {
        /// What it serves.
        revision: Revision,
    },
    /// This node is shutting down.
    #[error("this node is shutting down; try again, or ask another node")]
    ShuttingDown,
    /// This node cannot go on.
    #[error("this node cannot read its state")]
    Fault(#[source] Fault),
}

/// Beyond this difference between two clocks, one of them is wrong: tokens are refused that the other would accept. Far
/// more than a NATS server's reply takes to be read.
pub const CLOCK_TOLERANCE_SECONDS: i64 = 60;

fn whose_clock(offset: i64, now: i64) -> String {
    if offset.saturating_abs() <= CLOCK_TOLERANCE_SECONDS {
        return "The NATS servers that this node is connected to have the same time as it has, so it is the other clock that is wrong"
            .to_owned();
    }
    format!(
        "The NATS servers that this node is connected to say that it is {}, and the node's clock says {}: set the clock of the node",
        time(now.saturating_add(offset)),
        time(now)
    )
}

fn superseded(account: AccountKey, stored: i64, submitted: i64, now: i64) -> String {
    if stored < submitted {
        return format!(
            "account {account} had this JWT, issued at {}, and an administrator replaced it with another one: pull that one (`nsc pull \
             --account NAME --overwrite-newer`), repeat the change on it and push again",
            time(submitted)
        );
    }
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
    let remedy = if stored > now {
        format!(
            ". The stored one is dated after now ({}), so a wrong clock dated it or stored it: to store this one all the same, run \
             `jwtmesh account push --replace` on the machine of a node",
            time(now)
        )
    } else {
        ": pull the account, repeat the change on that version and push again".to_owned()
    };
    format!("account {account} {newer}{remedy}")
}
