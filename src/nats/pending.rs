//! The words between deciding and doing, and what is remembered of one account while it is told. No I/O.

use super::subjects::Verdict;
use crate::jwt::AccountKey;

/// Servers whose answers to one update are counted. Those of a larger supercluster are logged, and not counted.
const SERVERS: usize = 64;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
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
pub(super) enum Lane {
    /// The newest.
    Fresh,
    /// Those from before.
    CatchUp,
}

/// What the servers answered to one send of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) account: AccountKey,
    pub(super) revision: u64,
    pub(super) updated: usize,
    pub(super) skipped: usize,
    pub(super) refused: usize,
    /// From sending to the first answer.
    pub(super) first_answer_ms: u64,
    /// Whether it was one of many sent while catching up, or a repetition: of interest to a debugger only.
    pub(super) routine: bool,
    /// Whether it is sent again because of these answers.
    pub(super) again: bool,
}

/// An account on its way.
#[derive(Debug)]
pub(super) struct Pending {
    /// The newest revision it is known to have.
    pub(super) listed: u64,
    /// The revision that was last sent.
    pub(super) sent: u64,
    /// The newest revision that was answered.
    pub(super) answered: u64,
    pub(super) phase: Phase,
    pub(super) due: u64,
    pub(super) sent_at: u64,
    /// How much had been heard when it was sent.
    pub(super) heard: u64,
    pub(super) first_answer_ms: u64,
    /// Sends since the last answer.
    pub(super) tries: u32,
    pub(super) repeats: u8,
    pub(super) refusals: u8,
    pub(super) routine: bool,
    answers: Vec<(u64, Answer)>,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be sent when due.
    Queued,
    /// Sent; when due, nobody has answered.
    Sent,
    /// Answered; when due, all answers are in.
    Listening,
}

/// A server's verdict, without its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Updated,
    Skipped,
    Refused,
}

impl Pending {
    /// An account that is at `listed` and was not sent yet.
    pub(super) fn new(listed: u64, due: u64, routine: bool) -> Self {
        Self {
            listed,
            sent: 0,
            answered: 0,
            phase: Phase::Queued,
            due,
            sent_at: 0,
            heard: 0,
            first_answer_ms: 0,
            tries: 0,
            repeats: 0,
            refusals: 0,
            routine,
            answers: Vec::new(),
        }
    }

    /// What `server` said last to what is being sent.
    pub(super) fn hear(&mut self, server: u64, verdict: &Verdict) {
        let answer = match verdict {
            Verdict::Updated => Answer::Updated,
            Verdict::Skipped => Answer::Skipped,
            Verdict::Refused(_) => Answer::Refused,
        };
        match self.answers.iter().position(|(known, _)| *known == server) {
            Some(at) => self.answers[at].1 = answer,
            None if self.answers.len() < SERVERS => self.answers.push((server, answer)),
            None => {}
        }
    }

    /// Forgets what was said to an earlier send.
    pub(super) fn listen_anew(&mut self) {
        self.answers.clear();
    }

    /// How many servers gave `wanted`.
    pub(super) fn count(&self, wanted: Answer) -> usize {
        self.answers.iter().filter(|(_, answer)| *answer == wanted).count()
    }
}
