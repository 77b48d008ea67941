//! What `propagation.rs` decides and the publisher does: steps, lanes and summaries.

use crate::jwt::AccountKey;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) enum Step {
    /// Read the changes after `after`, at most `limit`, and hand them to `Propagation::listed`.
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
    /// Earlier changes, which servers may have missed.
    CatchUp,
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
    /// Whether it is sent again because of these answers.
    pub(in crate::nats) again: bool,
}
