//! Why a submission or a read failed, in sentences for the caller.

use super::nats::StreamsUnknown;
use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;
use crate::jwt::Rejection;
use crate::jwt::time;
use crate::raft::ProposeError;
use crate::state::Fault;
use crate::state::MAX_DELETED;
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
    #[error("{}", superseded(*account, *stored_issued_at, *submitted_issued_at, *now, *shut))]
    Superseded {
        /// The account.
        account: AccountKey,
        /// `iat` of the stored token, Unix seconds.
        stored_issued_at: i64,
        /// `iat` of the submitted token, Unix seconds.
        submitted_issued_at: i64,
        /// The mesh's time, Unix seconds.
        now: i64,
        /// If the stored token is the one that shuts the account, the revision since which it does.
        shut: Option<Revision>,
    },
    /// The account was deleted, and the token is no newer than that (G8).
    #[error("{}", deleted(*account, *issued_after, *submitted_issued_at))]
    Deleted {
        /// The account.
        account: AccountKey,
        /// The token has to be issued after this time, Unix seconds.
        issued_after: i64,
        /// `iat` of the submitted token, Unix seconds.
        submitted_issued_at: i64,
    },
    /// Accounts cannot be deleted, shut or opened.
    #[error(transparent)]
    Removal(#[from] RemovalError),
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

/// Why a request to delete an account, or to shut it, is refused. Nothing of it was done.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The request has no `iat`, so that it cannot be told from one that is sent again.
    #[error(
        "the request to delete accounts has no issue time: its claims lack `iat`, so it cannot be told from an older one that is sent \
         again; sign it with a library that sets `iat`, or send it over the system account or the admin socket, where the order of \
         arrival counts"
    )]
    Undated,
    /// More accounts than one entry of the log takes.
    #[error("the request names {count} accounts, and at most {MAX_DELETED} are deleted at once: sign several requests")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The path names one account, the request others.
    #[error(
        "the path names account {path}, but the request is for others, for more, or for none: sign one for this account, or send it with `DELETE /v1/accounts`, which deletes \
         all accounts that it names"
    )]
    OtherAccounts {
        /// The account in the path.
        path: AccountKey,
    },
    /// The account is not to be removed.
    #[error("not allowed to delete or shut account {account}: it is {}", .why.sentence())]
    Protected {
        /// The account.
        account: AccountKey,
        /// What it is.
        why: Protected,
    },
    /// The account belongs to another trusted operator (G3).
    #[error(
        "account {account} belongs to operator {owner}, and the request was signed for operator {signed_by}, so that none of its accounts \
         is deleted: sign one request for the accounts of each operator"
    )]
    OtherOperator {
        /// The account.
        account: AccountKey,
        /// Its operator.
        owner: OperatorKey,
        /// The operator whose key signed.
        signed_by: OperatorKey,
    },
    /// The request is older than a stored token.
    #[error(
        "account {account} has a JWT issued at {}, after the request to delete it, issued at {}, so that none of its accounts is \
         deleted: if the account is to go, sign the request again", time(*stored_issued_at), time(*issued_at)
    )]
    Superseded {
        /// The account.
        account: AccountKey,
        /// `iat` of the stored token, Unix seconds.
        stored_issued_at: i64,
        /// `iat` of the request, Unix seconds.
        issued_at: i64,
    },
    /// The request was carried out before, and the account was created again.
    #[error(
        "this request to delete account {account} was carried out before, and the account was created again since, so that none of its \
         accounts is deleted: if it is to go, sign the request again"
    )]
    Replayed {
        /// The account.
        account: AccountKey,
    },
    /// The account has streams, and the configuration says that it stays then.
    #[error(
        "account {account} has {} in NATS cluster {nats_cluster:?}, so that no account of this request is deleted: delete the streams \
         first; `delete_with_streams = \"allow\"` under [cluster] deletes accounts all the same", counted(*streams)
    )]
    HasStreams {
        /// The account.
        account: AccountKey,
        /// How many.
        streams: u64,
        /// Where.
        nats_cluster: String,
    },
    /// Whether the accounts have streams is not known, and the configuration says that one that has stays.
    #[error(
        "it is not known whether account {account}{} has JetStream streams in NATS cluster {nats_cluster:?}, so that no account of \
         this request is deleted: {}. `delete_with_streams = \"allow\"` under [cluster] deletes accounts all the same",
        nor(*others), .why.sentence()
    )]
    StreamsUnknown {
        /// An account of the request.
        account: AccountKey,
        /// How many others it names.
        others: usize,
        /// Which servers were to be asked.
        nats_cluster: String,
        /// Why it is not known.
        why: StreamsUnknown,
    },
    /// A token that is deposited to shut its account would not do so.
    #[error("this JWT does not shut account {account}: {reason}")]
    NotClosing {
        /// The account.
        account: AccountKey,
        /// Why not.
        reason: String,
    },
    /// The token that is kept to shut it is not valid any more: since it was deposited the trust has changed, or it has expired.
    #[error(
        "the closing JWT that is kept for account {account} is not valid any more: {reason}. Deposit another one with `jwtmesh \
         account closing set`, or push a JWT that allows no connections"
    )]
    ClosingInvalid {
        /// The account.
        account: AccountKey,
        /// Why not.
        reason: String,
    },
    /// There is no token to shut it with.
    #[error(
        "no closing JWT is kept for account {account}: deposit one with `jwtmesh account closing set`, or push a JWT that allows no \
         connections"
    )]
    NoClosing {
        /// The account.
        account: AccountKey,
    },
    /// The token that was to shut it is not the one that is kept.
    #[error(
        "another closing JWT is kept for account {account} than this node knew of, or none any more: look at it with `jwtmesh account \
         closing show`, then try again"
    )]
    NotKept {
        /// The account.
        account: AccountKey,
    },
    /// The mesh does not know the account.
    #[error("there is no account {account} in this mesh: push its JWT first")]
    Unknown {
        /// The account.
        account: AccountKey,
    },
    /// It was deleted before.
    #[error("account {account} was deleted; if a closing JWT is kept for it, the NATS clusters have it")]
    AlreadyDeleted {
        /// The account.
        account: AccountKey,
    },
}

/// Why an account is neither deleted nor shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protected {
    /// A trusted operator names it as its system account.
    System,
    /// This node's user is of it, with which it connects to a NATS cluster.
    Own,
    /// The configuration says so.
    Configured,
}

impl Protected {
    fn sentence(self) -> &'static str {
        match self {
            Self::System => "the system account of a trusted operator, without which no server can be updated",
            Self::Own => "the account of the user with which jwtmesh connects to a NATS cluster",
            Self::Configured => "listed in `protected_accounts` under [cluster]; remove it there first",
        }
    }
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

fn counted(streams: u64) -> String {
    match streams {
        1 => "1 JetStream stream".to_owned(),
        streams => format!("{streams} JetStream streams"),
    }
}

fn nor(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " or another one of the request".to_owned(),
        others => format!(" or one of {others} others of the request"),
    }
}

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

fn deleted(account: AccountKey, issued_after: i64, submitted: i64) -> String {
    let again = "to create it again, issue a new JWT and push that (nsc: edit the account, then push)";
    // One of a later time is refused only because it is barred.
    if submitted >= issued_after {
        return format!("account {account} had this JWT, and was deleted: {again}");
    }
    format!(
        "account {account} was deleted, and only a JWT issued after {} creates it again; this one was issued at {}: {again}",
        time(issued_after),
        time(submitted)
    )
}

/// No pull here: it would fetch the closing JWT.
fn shut(account: AccountKey, since: Revision, opens_after: i64, submitted: i64) -> String {
    format!(
        "account {account} is shut: at revision {since} an administrator replaced its JWT with its closing JWT (`jwtmesh account kill`), \
         and this one, issued at {}, is from before. A JWT issued after {} opens the account again: edit it in nsc, which \
         signs it anew, and push, without a pull",
        time(submitted),
        time(opens_after)
    )
}

fn superseded(account: AccountKey, stored: i64, submitted: i64, now: i64, shut_since: Option<Revision>) -> String {
    // Where a wrong clock has dated what was shut, an edit does not help.
    if let Some(since) = shut_since.filter(|_| stored <= now) {
        return shut(account, since, stored, submitted);
    }
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
