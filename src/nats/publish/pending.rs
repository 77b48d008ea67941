//! What is remembered about one account until it is finished.

use crate::nats::subjects::Verdict;

/// How many servers are remembered, and how many answers to one update are counted. In a larger supercluster the other
/// answers are logged and not counted.
pub(super) const SERVERS: usize = 64;

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
    /// Whether every known server has to answer: it is a fresh change, not one found while catching up.
    pub(super) fresh: bool,

    // The last send.
    pub(super) sent_at: u64,
    /// Bytes received on the connection when it was sent.
    pub(super) received: u64,
    pub(super) first_answer_ms: u64,
    answers: Vec<(u64, Answer)>,

    // Why it is sent again.
    /// Sends since the last answer.
    pub(super) tries: u32,
    pub(super) repeats: u8,
    pub(super) refusals: u8,
    /// Since when it waits for a server that should have answered, and how often it was sent again for that.
    pub(super) missing_since: Option<u64>,
    pub(super) misses: u32,
}

/// The phase of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be sent when due.
    Queued,
    /// Sent. When due, no server has answered, and it is sent again.
    Sent,
    /// Answered by a server. When due, no more answers are waited for.
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

    /// Records the answer of `server` to the last send; it replaces an earlier one.
    pub(super) fn record(&mut self, server: u64, verdict: &Verdict) {
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

    /// It is sent again: verdicts on the earlier send no longer count, but the servers that gave them have answered.
    pub(super) fn listen_anew(&mut self) {
        for (_, answer) in &mut self.answers {
            *answer = Answer::Earlier;
        }
    }

    /// It is at another revision: nothing that servers said about the earlier one counts.
    pub(super) fn begin_anew(&mut self, revision: u64) {
        self.listed = revision;
        self.first = false;
        self.repeats = 0;
        self.refusals = 0;
        self.missing_since = None;
        self.misses = 0;
        self.answers.clear();
    }

    /// Each server's answer, by the number that the roster gave the server.
    pub(super) fn answers(&self) -> &[(u64, Answer)] {
        &self.answers
    }

    /// How many servers gave `wanted`.
    pub(super) fn count(&self, wanted: Answer) -> usize {
        self.answers.iter().filter(|(_, answer)| *answer == wanted).count()
    }
}
