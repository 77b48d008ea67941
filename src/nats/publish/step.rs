//! What `propagation.rs` decides and the publisher does: steps, lanes and summaries.

use crate::jwt::AccountKey;
use crate::resolver::Server;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) enum Step {
    /// Read the changes after `after`, about `limit`, and hand them to `Propagation::listed`; call `unreadable` if that
    /// fails. Only a read of [`Lane::Fresh`] has to come first: the steps after any other do not wait for it.
    Read { lane: Lane, after: u64, limit: usize },
    /// Look the account's token up, publish it, and call `Propagation::sent`, `too_large` or `gone`.
    Send(AccountKey),
    /// No more answers to a send are waited for. Only to be logged.
    Concluded(Summary),
    /// Have this agreed, and call `Propagation::marked`.
    Mark(Agreement),
    /// Publish this question. What servers answer is handed to `Propagation`.
    Ask(Question),
    /// Something became of a server. Only to be logged.
    News(News),
    /// Do nothing until this time, or until an event.
    Wait(Option<u64>),
    /// Go on with another server: an answer is overdue, and nothing at all was received since its change was sent.
    Leave,
}

/// How far a NATS cluster has been updated, and what differs from the servers that are agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) struct Agreement {
    pub(in crate::nats) position: u64,
    /// Servers that are new or changed.
    pub(in crate::nats) seen: Vec<Server>,
    /// The ids of servers that have ended.
    pub(in crate::nats) gone: Vec<String>,
}

/// What servers are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) enum Question {
    /// Every server: who it is. The answers go to `Propagation::heard`.
    Ping,
    /// The server with this id: is it there? `Propagation::heard`.
    Alive(String),
    /// The server with this id: which accounts it has loaded. `Propagation::loaded`.
    Loaded(String),
    /// The server with this id: what it holds of this account. `Propagation::held`.
    Held(String, AccountKey),
    /// Every server: the same.
    HeldByAll(AccountKey),
}

/// Which of the accounts that a server has loaded are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Wanted {
    /// Those that have changed since this revision. To be handed to `Propagation::compared`.
    ChangedSince(u64),
    /// All. To be handed to `Propagation::listed_all`.
    All,
}

/// What became of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) enum News {
    /// It does not answer.
    Missing { server: Server },
    /// It answers again, or is new, and everything is in force there.
    UpToDate { server: Server, was_missing: bool },
    /// It has ended, by its own word or because its name runs as another process.
    Gone { server: Server },
}

/// Which changes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Lane {
    /// The newest changes.
    Fresh,
    /// The first revisions that [`Lane::Fresh`] had no room for.
    FreshFirsts,
    /// Earlier changes, which servers may have missed.
    CatchUp,
    /// The first revisions that [`Lane::CatchUp`] had no room for.
    CatchUpFirsts,
}

impl Lane {
    /// Whether it follows the newest revision.
    pub(in crate::nats) fn is_fresh(self) -> bool {
        matches!(self, Self::Fresh | Self::FreshFirsts)
    }

    /// Whether it takes nothing but first revisions.
    pub(super) fn is_firsts(self) -> bool {
        matches!(self, Self::FreshFirsts | Self::CatchUpFirsts)
    }
}

/// An account that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) struct Changed {
    pub(in crate::nats) account: AccountKey,
    /// Its current revision.
    pub(in crate::nats) revision: u64,
    /// Whether this is the account's first revision.
    pub(in crate::nats) first: bool,
    /// When its token was issued, as it says: milliseconds of the publisher's clock, which may have begun later.
    pub(in crate::nats) issued: i64,
}

/// What the servers answered to one send of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) struct Summary {
    pub(in crate::nats) account: AccountKey,
    pub(in crate::nats) revision: u64,
    pub(in crate::nats) updated: usize,
    pub(in crate::nats) skipped: usize,
    pub(in crate::nats) refused: usize,
    /// How many servers have not answered.
    pub(in crate::nats) missing: usize,
    /// From sending to the first answer.
    pub(in crate::nats) first_answer_ms: u64,
    /// Whether it was one of many sent while catching up, or sent again: of interest to a debugger only.
    pub(in crate::nats) routine: bool,
    /// Whether it is the account's first revision, and was not found while catching up.
    pub(in crate::nats) first: bool,
    /// Whether it is sent again because of these answers.
    pub(in crate::nats) again: bool,
}
