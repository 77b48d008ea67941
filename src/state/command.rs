//! Everything that can happen to the state, in one place: each command with its outcome, and its form in the log.
//!
//! A command carries what was extracted from a token when it was verified, so that applying it never parses,
//! verifies or looks at a clock. The encoded form is `version, kind, body`; variants are only ever added, at the
//! end, and an old one never changes its meaning: the log of an older node is read by a newer one.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use super::revision::Revision;
use super::roster::Server;
use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;

/// A change that the nodes agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Newer tokens of accounts.
    PutAccounts(PutAccounts),
    /// Operators to trust.
    PutOperators(PutOperators),
    /// How far a NATS cluster has been updated.
    MarkPropagated(MarkPropagated),
    /// An account's token that an administrator insists on.
    OverrideAccount(OverrideAccount),
    /// An operator in another one's place.
    ReplaceOperator(ReplaceOperator),
    /// Who publishes to a NATS cluster.
    TakeLease(TakeLease),
    /// What the publisher of a NATS cluster knows about its servers.
    UpdateRoster(UpdateRoster),
    /// A server that an administrator has forgotten.
    ForgetServer(ForgetServer),
    /// Accounts that an operator deletes.
    DeleteAccounts(DeleteAccounts),
    /// The token with which an account can be shut.
    PutClosing(PutClosing),
    /// That such a token is no longer kept.
    RemoveClosing(RemoveClosing),
    /// An account that is shut.
    KillAccount(KillAccount),
    /// A newer token of an account, in the place of a certain one.
    PutAccountIf(PutAccountIf),
    /// What the publisher of a NATS cluster knows about its servers, where it knows the update before.
    UpdateRosterIf(UpdateRosterIf),
}

/// The first byte of every encoded command. The second is the variant's number, then its fields (postcard).
const VERSION: u8 = 1;

/// Why an entry's bytes are not a command that this program can apply. The node must stop: skipping an entry that
/// others apply would make its state differ from theirs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownCommand {
    /// There are no bytes.
    #[error("the command is empty")]
    Empty,
    /// Written by a newer program.
    #[error("the command has version {found}, this program knows version {VERSION}")]
    Version {
        /// Its first byte.
        found: u8,
    },
    /// A kind that this program does not know, or a body that is not of its kind.
    #[error("the command of kind {kind} cannot be read: {reason}")]
    Kind {
        /// Its second byte, 0 if there is none.
        kind: u8,
        /// What the decoder says.
        reason: String,
    },
}

impl Command {
    /// The command as it stands in the log.
    pub fn encode(&self) -> Bytes {
        let encoded = postcard::to_extend(self, vec![VERSION]);
        Bytes::from(encoded.expect("plain data into memory: postcard fails only on unsized sequences, we have none"))
    }

    /// The command that `bytes` encode.
    pub fn decode(bytes: &[u8]) -> Result<Self, UnknownCommand> {
        let (version, rest) = bytes.split_first().ok_or(UnknownCommand::Empty)?;
        if *version != VERSION {
            return Err(UnknownCommand::Version { found: *version });
        }
        let unknown = |reason: String| UnknownCommand::Kind {
            kind: rest.first().copied().unwrap_or(0),
            reason,
        };
        match postcard::take_from_bytes(rest) {
            Ok((command, [])) => Ok(command),
            Ok((_, surplus)) => Err(unknown(format!("{} bytes follow its end", surplus.len()))),
            Err(error) => Err(unknown(error.to_string())),
        }
    }
}

/// A command whose outcome has a type of its own.
pub trait Proposal: Into<Command> {
    /// What applying it gives.
    type Outcome;

    /// Whether it may be proposed again where it is not known whether it was agreed on.
    const IS_REPEATABLE: bool;

    /// Whether `outcome` says that the command has had its effect. Of a command that was proposed again nothing else tells
    /// what became of the first time.
    fn has_happened(outcome: &Self::Outcome) -> bool;

    /// The outcome of this command in `outcomes`; `None` if they are another command's.
    fn outcome(outcomes: Outcomes) -> Option<Self::Outcome>;
}

/// Newer tokens of accounts, each judged on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAccounts {
    /// The trust epoch under which the proposer verified them. If another one holds when the entry is applied, every
    /// item is [`AccountOutcome::StaleTrust`].
    pub trust_epoch: u64,
    /// The accounts, in the order in which they were submitted.
    pub items: Vec<PutAccount>,
}

/// One account's newer token, which was made from a certain token of that account. Judged as in [`PutAccounts`], and
/// refused where that token is no longer the current one, so that what another caller changed meanwhile is not undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAccountIf {
    /// As in [`PutAccounts::trust_epoch`].
    pub trust_epoch: u64,
    /// The account.
    pub item: PutAccount,
    /// The ETag of the token that it takes the place of.
    pub expected: String,
}

/// One account's token, verified, with the fields that applying it needs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAccount {
    /// The token's subject.
    pub account: AccountKey,
    /// The operator whose key signed it.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `exp`, Unix seconds; 0 means never.
    pub expires_at: i64,
    /// The account's name, for listings.
    pub name: String,
    /// The token, canonical bytes.
    pub token: Bytes,
}

impl std::fmt::Debug for PutAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PutAccount({}, iat {}, {} bytes)",
            self.account,
            self.issued_at,
            self.token.len()
        )
    }
}

/// Operators to trust. Each is stored if none is agreed yet (the mesh's first trust), or if it is a token of an
/// operator already trusted that is not older than the one stored: with equal `iat` the later wins. Every stored one
/// raises the trust epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOperators {
    /// The operators, each self-signed and verified by the proposer.
    pub items: Vec<PutOperator>,
}

/// One operator's token, verified.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOperator {
    /// The operator's identity key.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// The token, canonical bytes.
    pub token: Bytes,
}

impl std::fmt::Debug for PutOperator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PutOperator({}, iat {})", self.operator, self.issued_at)
    }
}

/// One account's token in the order of its arrival: its `iat` is not compared with the stored one's, because an
/// administrator insists on it or because it has none.
///
/// Tokens are public, so the tokens that it goes before could be submitted again by anyone. The row bars them, until a
/// token is stored that is newer than they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideAccount {
    /// As in [`PutAccounts::trust_epoch`].
    pub trust_epoch: u64,
    /// The account. With an `issued_at` of 0, its row keeps the time of the row before it.
    pub item: PutAccount,
    /// Earlier versions that the proposer found. Only those that `iat` does not bar anyway are remembered.
    pub barred: Vec<Barred>,
}

/// How much of a token's BLAKE3 hash is its ETag: 128 bits, so that no two tokens ever share one by chance.
pub(super) const ETAG_BYTES: usize = 16;

/// A token that may not come back by its `iat` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barred {
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// The digest whose text form is the token's ETag.
    pub digest: [u8; ETAG_BYTES],
}

/// `new` is trusted in the place of `old`, whose accounts are its own from then on. Being able to propose it is being an
/// administrator: no token of `old` says it, because the identity key of `old` may be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceOperator {
    /// The trusted operator that goes.
    pub old: OperatorKey,
    /// The operator that comes, self-signed and verified by the proposer. It may be trusted already.
    pub new: PutOperator,
}

/// How far a NATS cluster has been updated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkPropagated {
    /// The NATS cluster's name in `cluster.toml`.
    pub nats_cluster: String,
    /// Every change up to this revision is finished: at least one server of the NATS cluster has answered it, and no
    /// other server is still to be sent it again.
    pub position: Revision,
}

/// The outcome of one [`PutAccount`]. Deterministic: the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountOutcome {
    /// It is the current row now.
    Stored {
        /// The revision it was given.
        revision: Revision,
    },
    /// The same bytes are current already.
    Unchanged {
        /// The revision that stored them.
        revision: Revision,
    },
    /// A newer token is stored, or a token of the same second that had already replaced this one (G2).
    Superseded {
        /// `iat` of the stored token, Unix seconds.
        stored_issued_at: i64,
        /// Its revision.
        revision: Revision,
    },
    /// The account belongs to another operator, the one whose token for it was stored first (G3).
    OtherOperator {
        /// That operator.
        owner: OperatorKey,
        /// The revision of the stored token, which stays.
        revision: Revision,
    },
    /// The trust changed between verifying and applying: verify again and propose again.
    StaleTrust {
        /// The epoch that holds now.
        trust_epoch: u64,
    },
    /// Its operator is not trusted (G3: judged again here, against the agreed operators).
    NotTrusted,
    /// The account was deleted, and the token is no newer than that (G8).
    Deleted {
        /// A token has to be issued after this time, Unix seconds, or in its second if it was never stored before.
        issued_after: i64,
        /// The revision of the tombstone.
        revision: Revision,
    },
    /// Of [`PutAccountIf`]: another token than the expected one is current, or none.
    Changed,
}

impl AccountOutcome {
    /// Whether the token is the current one.
    pub fn has_happened(&self) -> bool {
        matches!(self, Self::Stored { .. } | Self::Unchanged { .. })
    }
}

/// The outcome of one [`PutOperator`] or a [`ReplaceOperator`]. Deterministic: the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperatorOutcome {
    /// It is the current row now.
    Stored {
        /// The revision it was given.
        revision: Revision,
    },
    /// The same bytes are current already.
    Unchanged {
        /// The revision that stored them.
        revision: Revision,
    },
    /// A newer token of the same operator is stored.
    Superseded {
        /// `iat` of the stored token, Unix seconds.
        stored_issued_at: i64,
        /// Its revision.
        revision: Revision,
    },
    /// It, or the operator to replace, is not among the trusted operators, and none can be added this way.
    NotTrusted,
}

impl OperatorOutcome {
    /// Whether the token is the current one.
    pub fn has_happened(&self) -> bool {
        matches!(self, Self::Stored { .. } | Self::Unchanged { .. })
    }
}

/// The outcomes of an entry: one for each item of the command that it carried, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcomes {
    /// It carried no command.
    #[default]
    None,
    /// Of [`PutAccounts`], or the one of [`OverrideAccount`] or [`PutAccountIf`].
    Accounts(Vec<AccountOutcome>),
    /// Of [`PutOperators`], or the one of [`ReplaceOperator`].
    Operators(Vec<OperatorOutcome>),
    /// Of [`MarkPropagated`], which cannot fail.
    Marked,
    /// Of [`TakeLease`]: the revision of the lease, or `None` where another one was taken meanwhile.
    Lease(Option<Revision>),
    /// Of [`UpdateRoster`] and [`UpdateRosterIf`]: whether it was applied. Of [`ForgetServer`]: whether the server was there.
    Roster(bool),
    /// Of [`DeleteAccounts`].
    Deleted(DeleteOutcome),
    /// Of [`PutClosing`], [`RemoveClosing`] and [`KillAccount`].
    Closing(ClosingOutcome),
}

/// Accounts that an operator deletes, all of them or none (G8). Each leaves a tombstone, which no token passes that is not
/// newer than the request and than the newest that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteAccounts {
    /// As in [`PutAccounts::trust_epoch`].
    pub trust_epoch: u64,
    /// The operator whose key signed the request.
    pub operator: OperatorKey,
    /// `iat` of the request, Unix seconds; 0 if it has none: then the order of arrival counts.
    pub issued_at: i64,
    /// The signed request. Each row remembers its digest, so that it cannot delete what is created later in its second.
    pub claim: Bytes,
    /// The accounts, [`MAX_DELETED`] of them at most.
    pub accounts: Vec<AccountKey>,
}

/// The most accounts of one request to delete them: fewer than `ROWS_OF_AN_ENTRY` in `file/changes.rs`, and few enough to be
/// applied while others wait.
pub const MAX_DELETED: usize = 4_000;

/// The outcome of [`DeleteAccounts`]. Deterministic: the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeleteOutcome {
    /// None of them is there any more.
    Done {
        /// The revision of this entry.
        revision: Revision,
        /// Of each account of the request, in order: whether it was there.
        were_there: Vec<bool>,
    },
    /// One belongs to another operator (G3): nothing is deleted.
    OtherOperator {
        /// That account.
        account: AccountKey,
        /// Its operator.
        owner: OperatorKey,
    },
    /// One has a newer token than the request: nothing is deleted.
    Superseded {
        /// That account.
        account: AccountKey,
        /// `iat` of the stored token, Unix seconds.
        stored_issued_at: i64,
    },
    /// The request has had its effect on one that was created again since: nothing is deleted.
    Replayed {
        /// That account.
        account: AccountKey,
    },
    /// As [`AccountOutcome::StaleTrust`].
    StaleTrust {
        /// The epoch that holds now.
        trust_epoch: u64,
    },
    /// As [`AccountOutcome::NotTrusted`].
    NotTrusted,
}

impl DeleteOutcome {
    /// Whether none of the accounts is there any more.
    pub fn has_happened(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

/// The token with which an account can be shut, in the place of one that is kept already. The account must be known; it may
/// have been deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutClosing {
    /// As in [`PutAccounts::trust_epoch`].
    pub trust_epoch: u64,
    /// The token, verified, and found to shut the account.
    pub item: PutAccount,
}

/// No closing token is kept for this account any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveClosing {
    /// The account.
    pub account: AccountKey,
}

/// Makes an account's closing token its current one, whatever is stored; only a newer token than both goes before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillAccount {
    /// As in [`PutAccounts::trust_epoch`].
    pub trust_epoch: u64,
    /// The closing token, verified.
    pub item: PutAccount,
}

/// The outcome of what is done with a closing token. Deterministic: the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClosingOutcome {
    /// It is done.
    Done {
        /// The revision of this entry.
        revision: Revision,
    },
    /// It was so already.
    Unchanged {
        /// The revision since which it has been.
        revision: Revision,
    },
    /// There is no such account, or, where a token is to be removed, none is kept.
    Unknown,
    /// The account was deleted.
    Deleted {
        /// The revision of the tombstone.
        revision: Revision,
    },
    /// As [`AccountOutcome::OtherOperator`].
    OtherOperator {
        /// The operator of the account.
        owner: OperatorKey,
    },
    /// As [`AccountOutcome::StaleTrust`].
    StaleTrust {
        /// The epoch that holds now.
        trust_epoch: u64,
    },
    /// As [`AccountOutcome::NotTrusted`].
    NotTrusted,
    /// It is not the token that is kept for the account.
    NotKept,
}

impl ClosingOutcome {
    /// Whether it is as the command wants it.
    pub fn has_happened(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Unchanged { .. })
    }
}

/// Who may publish to a NATS cluster from now on. How long is not agreed: the holder and those that wait for it each
/// measure the same term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeLease {
    /// The NATS cluster.
    pub nats_cluster: String,
    /// The member that takes, renews or, with 0, gives it back.
    pub holder: u64,
    /// The revision of the lease that it takes the place of; 0 if there is none. It is refused where that is another.
    pub before: Revision,
}

/// What the publisher of a NATS cluster knows about its servers, and how far it has updated them. Earlier builds proposed it
/// alone; now it comes in an [`UpdateRosterIf`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRoster {
    /// The NATS cluster.
    pub nats_cluster: String,
    /// The term in which the publisher found it, [`Lease::term`](super::Lease::term); 0 if no lease was ever taken.
    /// Refused where another one is current, so that a publisher that lost its lease overwrites nothing.
    pub term: Revision,
    /// As in [`MarkPropagated::position`]; a server that is still to be sent something says so in [`Server::behind`].
    pub position: Revision,
    /// Servers that are new or changed, each with its whole row. One whose texts are too long is not stored, nor is a new
    /// one beyond [`MAX_SERVERS`](super::MAX_SERVERS).
    pub seen: Vec<Server>,
    /// The ids of servers to remove, before room is made for new ones.
    pub gone: Vec<String>,
}

/// An update of a roster that is refused where another one was applied since. One whose outcome its publisher never learned may be
/// late: behind a newer one of the same term it would say again of a server that it misses nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRosterIf {
    /// The update.
    pub update: UpdateRoster,
    /// The revision of the last update of this kind that its publisher knew,
    /// [`State::roster_revision`](super::State::roster_revision).
    pub present: Revision,
}

/// Removes a server from the roster because an administrator says so, in any term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetServer {
    /// The NATS cluster.
    pub nats_cluster: String,
    /// The server's id.
    pub id: String,
}

macro_rules! proposal {
    ($name:ident, $repeatable:expr, $outcome:ty, $pattern:pat => $value:expr, $happened:expr) => {
        impl From<$name> for Command {
            fn from(command: $name) -> Self {
                Self::$name(command)
            }
        }

        impl Proposal for $name {
            type Outcome = $outcome;

            const IS_REPEATABLE: bool = $repeatable;

            fn has_happened(outcome: &$outcome) -> bool {
                let has_happened: fn(&$outcome) -> bool = $happened;
                has_happened(outcome)
            }

            fn outcome(outcomes: Outcomes) -> Option<$outcome> {
                match outcomes {
                    $pattern => Some($value),
                    _ => None,
                }
            }
        }
    };
}

proposal!(PutAccounts, true, Vec<AccountOutcome>, Outcomes::Accounts(each) => each,
    |each| each.iter().all(AccountOutcome::has_happened));
proposal!(PutOperators, true, Vec<OperatorOutcome>, Outcomes::Operators(each) => each,
    |each| each.iter().all(OperatorOutcome::has_happened));
proposal!(MarkPropagated, true, (), Outcomes::Marked => (), |()| true);
// Repeated, it finds its own token.
proposal!(PutAccountIf, true, Option<AccountOutcome>, Outcomes::Accounts(mut each) => each.pop(),
    |one| one.as_ref().is_some_and(AccountOutcome::has_happened));
// Repeated behind another one it would take that one's place.
proposal!(OverrideAccount, false, Option<AccountOutcome>, Outcomes::Accounts(mut each) => each.pop(),
    |one| one.as_ref().is_some_and(AccountOutcome::has_happened));
proposal!(TakeLease, true, Option<Revision>, Outcomes::Lease(granted) => granted, Option::is_some);
proposal!(UpdateRoster, true, bool, Outcomes::Roster(applied) => applied, |applied| *applied);
// Repeated, it finds itself in its place, and is refused.
proposal!(UpdateRosterIf, true, bool, Outcomes::Roster(applied) => applied, |applied| *applied);
// Repeated, it no longer finds the server.
proposal!(ForgetServer, true, bool, Outcomes::Roster(found) => found, |_| true);
// Without an issue time it would, repeated, delete what was created meanwhile.
proposal!(DeleteAccounts, false, DeleteOutcome, Outcomes::Deleted(outcome) => outcome, DeleteOutcome::has_happened);
// Repeated behind another one it would take that one's place, or remove it.
proposal!(PutClosing, false, ClosingOutcome, Outcomes::Closing(outcome) => outcome, ClosingOutcome::has_happened);
proposal!(RemoveClosing, false, ClosingOutcome, Outcomes::Closing(outcome) => outcome, ClosingOutcome::has_happened);
// Repeated behind a newer token it would shut the account again.
proposal!(KillAccount, false, ClosingOutcome, Outcomes::Closing(outcome) => outcome, ClosingOutcome::has_happened);
proposal!(ReplaceOperator, false, Option<OperatorOutcome>, Outcomes::Operators(mut each) => each.pop(),
    |one| one.as_ref().is_some_and(OperatorOutcome::has_happened));
