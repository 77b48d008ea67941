//! The words between deciding and doing.

use crate::jwt::AccountKey;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) enum Step {
    /// Read the changes after `after`, at most `limit`, and hand them to `Propagation::listed`.
    Read { lane: Lane, after: u64, limit: usize },
    /// Look the account's token up, publish it, and say `Propagation::sent`, `too_large` or `gone`.
    Send(AccountKey),
    /// An account's answers are in. Nothing to do but to say so.
    Told(Summary),
    /// Have this position agreed, and say `Propagation::marked`.
    Mark(u64),
    /// Nothing until this time, or until something happens.
    Wait(Option<u64>),
    /// Nothing at all came over this connection since something was sent that is overdue: go on with another server.
    Leave,
}

/// Which changes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Lane {
    /// The newest.
    Fresh,
    /// Those from before.
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
    /// Servers that answered earlier changes, and this one not yet.
    pub(in crate::nats) missing: Vec<String>,
    /// From sending to the first answer.
    pub(in crate::nats) first_answer_ms: u64,
    /// Whether it was one of many sent while catching up, or a repetition: of interest to a debugger only.
    pub(in crate::nats) routine: bool,
    /// Whether it is sent again because of these answers.
    pub(in crate::nats) again: bool,
}
