//! What `propagation.rs` decides and the publisher does: steps, lanes and summaries.

use crate::jwt::AccountKey;

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
    /// Have this position agreed, and call `Propagation::marked`.
    Mark(u64),
    /// Do nothing until this time, or until an event.
    Wait(Option<u64>),
    /// Go on with another server: an answer is overdue, and nothing at all was received since its change was sent.
    Leave,
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
}

/// What the servers answered to one send of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) struct Summary {
    pub(in crate::nats) account: AccountKey,
    pub(in crate::nats) revision: u64,
    pub(in crate::nats) updated: usize,
    pub(in crate::nats) skipped: usize,
    pub(in crate::nats) refused: usize,
    /// Servers that answered earlier changes but not this one yet.
    pub(in crate::nats) missing: Vec<String>,
    /// From sending to the first answer.
    pub(in crate::nats) first_answer_ms: u64,
    /// Whether it was one of many sent while catching up, or sent again: of interest to a debugger only.
    pub(in crate::nats) routine: bool,
    /// Whether it is the account's first revision, and was not found while catching up.
    pub(in crate::nats) first: bool,
    /// Whether it is sent again because of these answers.
    pub(in crate::nats) again: bool,
}
