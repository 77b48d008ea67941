//! What is remembered about one account until it is finished.

use std::collections::BTreeSet;

use super::roster::Slot;
use crate::nats::subjects::Verdict;

/// An account that is in flight or waiting.
#[derive(Debug)]
pub(super) struct Pending {
    // Its revisions.
    /// The newest revision it is known to have.
    pub(super) listed: u64,
    /// The revision that was last sent.
    pub(super) sent: u64,
    /// The newest revision that was answered.
    pub(super) answered: u64,

    // What happens to it next. The agenda alone sets these, since it keeps sets in their order.
    pub(super) phase: Phase,
    pub(super) due: u64,
    /// Whether it is sent behind the changes of accounts that existed: a first revision, or sent on request.
    pub(super) behind: bool,
    /// When it was sent, while no server has answered that.
    pub(super) under_way: Option<u64>,

    // How it is judged and logged.
    pub(super) routine: bool,
    /// Whether `listed` is the account's first revision.
    pub(super) first: bool,
    /// Whether it is a fresh change, not one found while catching up.
    pub(super) fresh: bool,
    /// Whether every server has to answer: it is a change, and not only sent on request.
    pub(super) expected: bool,

    // What servers hold of it, which is read before it is sent (`reading.rs`).
    /// Whether it is no fresh change of this connection, so that a server may hold something newer.
    pub(super) must_be_read: bool,
    /// When the token of `listed` was issued, as it says; `None` if that is not known.
    pub(super) issued: Option<i64>,
    /// Whether the servers were read since it was last sent.
    pub(super) is_read: bool,
    pub(super) reading: Option<Reading>,

    // The last send.
    pub(super) sent_at: u64,
    /// Bytes received on the connection when it was sent.
    pub(super) received: u64,
    pub(super) first_answer_ms: u64,
    /// By the slot of the server.
    answers: Vec<Answer>,

    // Why it is sent again.
    /// When its answers were last summed up; when it was first sent if they never were.
    pub(super) open_since: u64,
    /// Sends since the last answer.
    pub(super) tries: u32,
    pub(super) repeats: u8,
    pub(super) refusals: u8,
}

/// The phase of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be sent when due.
    Queued,
    /// The servers were asked what they hold of it. When due, those that have not answered are missing.
    Reading,
    /// Sent. When due, no server has answered, and it is sent again.
    Sent,
    /// Answered by a server. When due, no more answers are waited for.
    Listening,
}

/// What servers hold of an account is being found out.
#[derive(Debug)]
pub(super) struct Reading {
    /// What it is again when that is known, and when it is due then.
    pub(super) before: Phase,
    pub(super) due: u64,
    /// Bytes received on the connection when the servers were asked.
    pub(super) received: u64,
    /// Servers that have not answered.
    pub(super) silent: BTreeSet<Slot>,
    /// Servers whose answers are being judged.
    pub(super) judged: BTreeSet<Slot>,
    /// Whether a server may hold a newer token, which could not be stored.
    pub(super) is_undecided: bool,
}

/// What a server said about the newest revision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    #[default]
    None,
    /// It enforces it.
    Updated,
    /// It does not have the account loaded. A fetch of an older token may be under way.
    Skipped,
    /// The same, to an earlier send: it has to say so once more.
    SkippedEarlier,
    /// It refuses it.
    Refused,
    /// The same, to an earlier send.
    RefusedEarlier,
}

impl Pending {
    /// An account that is at `listed` and was not sent yet.
    pub(super) fn new(listed: u64, due: u64, behind: bool, routine: bool) -> Self {
        Self {
            listed,
            sent: 0,
            answered: 0,
            phase: Phase::Queued,
            due,
            behind,
            under_way: None,
            first: false,
            sent_at: 0,
            received: 0,
            first_answer_ms: 0,
            open_since: u64::MAX / 2,
            tries: 0,
            repeats: 0,
            refusals: 0,
            routine,
            fresh: !routine,
            expected: true,
            must_be_read: routine,
            issued: None,
            is_read: false,
            reading: None,
            answers: Vec::new(),
        }
    }

    /// Its phase, as if the servers were not read.
    pub(super) fn phase_when_read(&self) -> Phase {
        self.reading.as_ref().map_or(self.phase, |reading| reading.before)
    }

    /// Records the answer of `server` to the last send; it replaces an earlier one.
    pub(super) fn record(&mut self, server: Slot, verdict: &Verdict) {
        if self.answers.len() <= server {
            self.answers.resize(server + 1, Answer::None);
        }
        self.answers[server] = match verdict {
            Verdict::Updated => Answer::Updated,
            Verdict::Skipped => Answer::Skipped,
            Verdict::Refused(_) => Answer::Refused,
        };
    }

    /// It is sent again: what servers enforce stays so, everything else has to be said once more.
    pub(super) fn listen_anew(&mut self) {
        for answer in &mut self.answers {
            *answer = match *answer {
                Answer::Skipped => Answer::SkippedEarlier,
                Answer::Refused => Answer::RefusedEarlier,
                answer => answer,
            };
        }
    }

    /// It is at another revision: nothing that servers said about the earlier one counts.
    pub(super) fn begin_anew(&mut self, revision: u64) {
        self.listed = revision;
        self.issued = None;
        self.first = false;
        self.repeats = 0;
        self.refusals = 0;
        self.answers.clear();
    }

    /// What `server` said.
    pub(super) fn answer(&self, server: Slot) -> Answer {
        self.answers.get(server).copied().unwrap_or_default()
    }

    /// How many servers gave `wanted`.
    pub(super) fn count(&self, wanted: Answer) -> usize {
        self.answers.iter().filter(|answer| **answer == wanted).count()
    }
}
