//! Finds out which accounts have JetStream streams, for those who want to delete them.
//!
//! In a JetStream cluster each stream is at some of the servers, so all are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::jwt::AccountKey;
use crate::nats::subjects;
use crate::resolver::{StreamsInquiry, StreamsUnknown};

/// Searches at once: each may be for some thousand accounts, and there is one for each request of an administrator.
const SEARCHES: usize = 16;

/// A search lasts at least this long, so that servers that are not known yet can answer too.
const SETTLE: Duration = Duration::from_millis(150);

/// Streams of an account that are told apart; beyond it they are not counted.
const STREAMS: usize = 10_000;

/// A server that should answer.
pub(super) struct Expected {
    pub(super) id: String,
    pub(super) name: String,
    /// Whether it is known to answer at all: otherwise its answer is taken, and not waited for.
    pub(super) is_reached: bool,
}

/// The searches that are under way.
#[derive(Default)]
pub(super) struct Streams {
    searches: Vec<Search>,
    /// How many accounts were asked about.
    asked: u64,
}

struct Search {
    inquiry: StreamsInquiry,
    /// The number of the question about the first account; those of the others follow it.
    number: u64,
    expected: Vec<Expected>,
    /// The accounts that each of those has answered about.
    answered: BTreeMap<String, BTreeSet<usize>>,
    /// The streams of accounts that have some.
    found: BTreeMap<usize, BTreeSet<String>>,
    is_asked: bool,
    settled: Instant,
}

impl Streams {
    /// Begins to search, at `expected` servers.
    pub(super) fn begin(&mut self, inquiry: StreamsInquiry, expected: Vec<Expected>) {
        if self.searches.len() >= SEARCHES {
            return tell(inquiry, Err(StreamsUnknown::Busy));
        }
        let number = self.asked;
        self.asked += u64::try_from(inquiry.accounts.len()).unwrap_or(u64::MAX);
        self.searches.push(Search {
            inquiry,
            number,
            expected,
            answered: BTreeMap::new(),
            found: BTreeMap::new(),
            is_asked: false,
            settled: Instant::now() + SETTLE,
        });
    }

    /// Forgets all of them, which drops their questions.
    pub(super) fn clear(&mut self) {
        self.searches.clear();
    }

    /// Our user may not ask.
    pub(super) fn not_permitted(&mut self) {
        for search in self.searches.drain(..) {
            tell(search.inquiry, Err(StreamsUnknown::NotPermitted));
        }
    }

    /// Answers the searches that are complete or due. Gives what is to be asked now, each with its number, and when to look
    /// again.
    pub(super) fn next(&mut self) -> (Vec<(u64, AccountKey)>, Option<Instant>) {
        let (now, mut questions, mut wake) = (Instant::now(), Vec::new(), None);
        for mut search in std::mem::take(&mut self.searches) {
            let is_complete = search.is_complete();
            if now >= search.inquiry.until || (is_complete && now >= search.settled) {
                search.conclude();
                continue;
            }
            if !std::mem::replace(&mut search.is_asked, true) {
                questions.extend((search.number..).zip(search.inquiry.accounts.iter().copied()));
            }
            let due = if is_complete {
                search.settled.min(search.inquiry.until)
            } else {
                search.inquiry.until
            };
            wake = Some(wake.map_or(due, |wake: Instant| wake.min(due)));
            self.searches.push(search);
        }
        (questions, wake)
    }

    /// A server says which streams an account has.
    pub(super) fn found(&mut self, number: u64, payload: &[u8]) {
        let search = self.searches.iter_mut().find_map(|search| {
            let at = usize::try_from(number.checked_sub(search.number)?).ok()?;
            let account = search.inquiry.accounts.get(at).copied()?;
            Some((search, at, account))
        });
        let Some((search, at, account)) = search else { return };
        let Some((server, names)) = subjects::streams(payload, account) else {
            return;
        };
        if search.expected.iter().any(|expected| expected.id == server.id) {
            search.answered.entry(server.id).or_default().insert(at);
        }
        if !names.is_empty() {
            let found = search.found.entry(at).or_default();
            let room = STREAMS.saturating_sub(found.len());
            found.extend(names.into_iter().take(room));
        }
    }
}

impl Search {
    fn has_answered(&self, server: &Expected) -> bool {
        let answered = self.answered.get(&server.id).map_or(0, BTreeSet::len);
        answered >= self.inquiry.accounts.len()
    }

    /// Whether there are servers, and no answer is waited for.
    fn is_complete(&self) -> bool {
        let mut expected = self.expected.iter();
        !self.expected.is_empty() && expected.all(|server| !server.is_reached || self.has_answered(server))
    }

    fn conclude(self) {
        let mut silent = self.expected.iter().filter(|server| !self.has_answered(server));
        let outcome = if !self.found.is_empty() {
            // That is known, whoever has not answered.
            let found = self.found.iter().map(|(at, names)| {
                let count = u64::try_from(names.len()).unwrap_or(u64::MAX);
                (self.inquiry.accounts[*at], count)
            });
            Ok(found.collect())
        } else if self.expected.is_empty() {
            Err(StreamsUnknown::NoServer)
        } else if let Some(server) = silent.next() {
            Err(StreamsUnknown::Silent {
                server: server.name.clone(),
                others: u64::try_from(silent.count()).unwrap_or(u64::MAX),
            })
        } else {
            Ok(Vec::new())
        };
        tell(self.inquiry, outcome);
    }
}

/// Whoever asked may have gone.
pub(super) fn tell(inquiry: StreamsInquiry, outcome: Result<Vec<(AccountKey, u64)>, StreamsUnknown>) {
    let _ = inquiry.answer.send(outcome);
}
