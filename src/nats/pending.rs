//! The words between deciding and doing, and what is remembered of an account while it is told, and of the servers that
//! answer. No I/O.

use std::collections::BTreeSet;

use super::subjects::Verdict;
use crate::jwt::AccountKey;

/// Servers that are remembered, and whose answers to one update are counted. Those of a larger supercluster are logged,
/// and not counted.
const SERVERS: usize = 64;

/// How long a server is expected to answer after it answered last: over a night without changes. One that was shut down
/// meanwhile costs some repetitions of the next change, and is forgotten.
const EXPECTED_MS: u64 = 24 * 3_600_000;

/// How long a server that should have answered is waited for: longer than a reboot, a moved machine or a failing switch
/// takes. One that was restarted fetches anyway; one that was shut down for good costs no more than this.
const MISSING_MS: u64 = 600_000;

/// Between two sends to a server that is waited for; doubles up to the second.
const MISSING_PAUSE_MS: u64 = 2_000;
const MAX_MISSING_PAUSE_MS: u64 = 10_000;

/// Accounts that are sent again for that: 100 a second. Beyond it the other servers' answers are enough.
const AWAITED: usize = 1_024;

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
    /// Servers that answered earlier changes, and this one not yet.
    pub(super) missing: Vec<String>,
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
    /// Whether every known server has to answer: it is a change, not one of those that may have passed somebody by.
    pub(super) fresh: bool,
    /// Since when a server that should have answered is waited for, and how often it was sent for that.
    pub(super) missing_since: Option<u64>,
    pub(super) misses: u32,
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
    /// One of these, to an earlier send of the same revision.
    Earlier,
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
            fresh: !routine,
            missing_since: None,
            misses: 0,
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

    /// It is sent again: what was said to the earlier send no longer counts, but who said something does.
    pub(super) fn listen_anew(&mut self) {
        for (_, answer) in &mut self.answers {
            *answer = Answer::Earlier;
        }
    }

    /// It is at another revision, of which nobody knows yet.
    pub(super) fn begin_anew(&mut self, revision: u64) {
        self.listed = revision;
        self.repeats = 0;
        self.refusals = 0;
        self.missing_since = None;
        self.misses = 0;
        self.answers.clear();
    }

    /// How many servers gave `wanted`.
    pub(super) fn count(&self, wanted: Answer) -> usize {
        self.answers.iter().filter(|(_, answer)| *answer == wanted).count()
    }
}

/// The servers of a NATS cluster that answered lately.
///
/// Asking for all that exist needs a further right, so those that answered one change are expected to answer the next.
#[derive(Debug, Default)]
pub(super) struct Roster {
    known: Vec<Known>,
    named: u64,
    /// Accounts that one of them has not answered.
    awaited: BTreeSet<AccountKey>,
}

#[derive(Debug)]
struct Known {
    id: u64,
    name: String,
    heard_at: u64,
}

impl Roster {
    /// The server called `name` answered; what it is called in a [`Pending`].
    pub(super) fn hear(&mut self, name: &str, now: u64) -> u64 {
        if let Some(known) = self.known.iter_mut().find(|known| known.name == name) {
            known.heard_at = now;
            return known.id;
        }
        if self.known.len() == SERVERS
            && let Some(at) = (0..SERVERS).min_by_key(|at| self.known[*at].heard_at)
        {
            self.known.swap_remove(at);
        }
        self.named += 1;
        self.known.push(Known {
            id: self.named,
            name: name.to_owned(),
            heard_at: now,
        });
        self.named
    }

    /// The names of those that have not answered `pending`.
    pub(super) fn missing(&self, pending: &Pending, now: u64) -> Vec<String> {
        if pending.answers.len() == SERVERS {
            // More may have answered than were counted.
            return Vec::new();
        }
        let missing = |known: &&Known| {
            let answered = pending.answers.iter().any(|(server, _)| *server == known.id);
            !answered && known.heard_at + EXPECTED_MS > now
        };
        self.known
            .iter()
            .filter(missing)
            .map(|known| known.name.clone())
            .collect()
    }

    /// Somebody has not answered `account`: the pause until it is sent again, if it is.
    pub(super) fn wait_for(&mut self, account: AccountKey, pending: &mut Pending, now: u64) -> Option<u64> {
        let since = *pending.missing_since.get_or_insert(now);
        if now >= since + MISSING_MS {
            // Nothing more is expected of those that have said nothing at all since then.
            self.known.retain(|known| known.heard_at >= since);
            return None;
        }
        if self.awaited.len() == AWAITED && !self.awaited.contains(&account) {
            return None;
        }
        self.awaited.insert(account);
        pending.misses += 1;
        Some((MISSING_PAUSE_MS << (pending.misses - 1).min(4)).min(MAX_MISSING_PAUSE_MS))
    }

    /// `account` is done with, or changed.
    pub(super) fn wait_no_more(&mut self, account: AccountKey) {
        self.awaited.remove(&account);
    }
}
