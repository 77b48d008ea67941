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

/// Questions of one search that are on their way at once, divided among the searches: thousands at once would keep the servers
/// from updates, and a search of one account waiting. A search of 4,000 accounts over a round trip of 100 ms takes 1.6 s.
const QUESTIONS: usize = 256;

/// Answers of one search that may be on their way at once: a quarter of what the connection holds. At a thousand servers eight
/// accounts are asked about at once.
const ANSWERS: usize = 8_192;

/// The pause between as many questions as are asked at once where no answer is waited for.
const PAUSE: Duration = Duration::from_millis(10);

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
    /// How many accounts were asked about, and when more may be if no answer is waited for.
    asked: usize,
    ask_at: Instant,
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
        let now = Instant::now();
        self.searches.push(Search {
            inquiry,
            number,
            expected,
            answered: BTreeMap::new(),
            found: BTreeMap::new(),
            asked: 0,
            ask_at: now,
            settled: now + SETTLE,
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
        let share = QUESTIONS / self.searches.len().max(1);
        for mut search in std::mem::take(&mut self.searches) {
            let is_complete = search.is_complete();
            if now >= search.inquiry.until || (is_complete && now >= search.settled) {
                search.conclude();
                continue;
            }
            let ask_at = search.ask(share, now, &mut questions);
            let due = if is_complete {
                search.settled
            } else {
                search.inquiry.until
            };
            let due = ask_at.map_or(due, |at| at.min(due)).min(search.inquiry.until);
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
    /// Adds what is to be asked now to `questions`, `share` of them at once; gives when there is more, unless an answer says so.
    fn ask(&mut self, share: usize, now: Instant, questions: &mut Vec<(u64, AccountKey)>) -> Option<Instant> {
        let most = share.min(ANSWERS / self.expected.len().max(1)).max(1);
        let reached = self.expected.iter().filter(|server| server.is_reached);
        let answered = reached.map(|server| self.answered.get(&server.id).map_or(0, BTreeSet::len));
        let slowest = answered.min();
        let room = match slowest {
            Some(slowest) => most.saturating_sub(self.asked.saturating_sub(slowest)),
            None if now < self.ask_at => 0,
            None => most,
        };
        let all = (self.number..).zip(self.inquiry.accounts.iter().copied());
        let before = questions.len();
        questions.extend(all.skip(self.asked).take(room));
        if questions.len() > before {
            self.asked += questions.len() - before;
            self.ask_at = now + PAUSE;
        }
        (slowest.is_none() && self.asked < self.inquiry.accounts.len()).then_some(self.ask_at)
    }

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
        let is_asked_all = self.asked >= self.inquiry.accounts.len();
        // Questions wait for answers: only a server that has given none has kept the others from being asked.
        let is_silent = |server: &&Expected| match is_asked_all {
            true => !self.has_answered(server),
            false => !self.answered.contains_key(&server.id),
        };
        let mut silent = self.expected.iter().filter(is_silent);
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
        } else if !is_asked_all {
            Err(StreamsUnknown::TooManyAccounts {
                asked: u64::try_from(self.asked).unwrap_or(u64::MAX),
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn search(streams: &mut Streams, accounts: u32, servers: &[(String, bool)]) -> oneshot::Receiver<Answer> {
        let key = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            AccountKey::from_bytes(bytes)
        };
        let (answer, answered) = oneshot::channel();
        let inquiry = StreamsInquiry {
            accounts: (0..accounts).map(key).collect(),
            until: Instant::now() + Duration::from_secs(2),
            answer,
        };
        let expected = servers.iter().map(|(id, is_reached)| Expected {
            id: id.clone(),
            name: "n1".to_owned(),
            is_reached: *is_reached,
        });
        streams.begin(inquiry, expected.collect());
        answered
    }

    type Answer = Result<Vec<(AccountKey, u64)>, StreamsUnknown>;

    fn server() -> String {
        nkeys::KeyPair::new_server().public_key()
    }

    fn answer(streams: &mut Streams, server: &str, asked: &[(u64, AccountKey)]) {
        for (number, _) in asked {
            let payload = format!(r#"{{"server":{{"name":"n1","id":"{server}"}},"data":{{}}}}"#);
            streams.found(*number, payload.as_bytes());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn g12_a_search_for_thousands_of_accounts_has_few_questions_on_their_way_and_leaves_room_for_others() {
        let (mut streams, own, slow) = (Streams::default(), server(), server());
        let servers = [(own.clone(), true), (slow.clone(), true)];
        let mut outcome = search(&mut streams, 4_000, &servers);
        let first = streams.next().0;
        assert_eq!(first.len(), QUESTIONS);
        assert_eq!(streams.next().0, [], "none is answered");
        answer(&mut streams, &own, &first);
        assert_eq!(streams.next().0, [], "by one of the two that answer");
        answer(&mut streams, &slow, &first[..100]);
        let mut asked = streams.next().0;
        assert_eq!(asked.len(), 100);
        let _small = search(&mut streams, 1, &servers);
        assert_eq!(streams.next().0.len(), 1, "another search does not wait for it");
        let mut all: BTreeSet<u64> = first.iter().chain(&asked).map(|(number, _)| *number).collect();
        answer(&mut streams, &slow, &first[100..]);
        while !asked.is_empty() {
            answer(&mut streams, &own, &asked);
            answer(&mut streams, &slow, &asked);
            asked = streams.next().0;
            assert!(asked.len() <= QUESTIONS, "{}", asked.len());
            all.extend(asked.iter().map(|(number, _)| *number));
        }
        assert_eq!(all.len(), 4_000);
        tokio::time::advance(SETTLE).await;
        assert_eq!(streams.next().0, []);
        assert_eq!(outcome.try_recv(), Ok(Ok(Vec::new())), "every account was asked about");
    }

    #[tokio::test(start_paused = true)]
    async fn g8_where_the_time_is_too_short_for_all_accounts_no_server_is_said_to_be_silent() {
        for silent in [false, true] {
            let mut streams = Streams::default();
            let many: Vec<_> = (0..1_000).map(|_| (server(), true)).collect();
            let mut outcome = search(&mut streams, 600, &many);
            let asked = streams.next().0;
            for (id, _) in &many[usize::from(silent)..] {
                answer(&mut streams, id, &asked);
            }
            let more = streams.next().0.len();
            assert_eq!(more, if silent { 0 } else { 8 });
            tokio::time::advance(Duration::from_secs(2)).await;
            assert_eq!(streams.next().0, []);
            let wanted = match silent {
                false => StreamsUnknown::TooManyAccounts { asked: 16 },
                true => StreamsUnknown::Silent {
                    server: "n1".to_owned(),
                    others: 0,
                },
            };
            assert_eq!(outcome.try_recv(), Ok(Err(wanted)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn g12_where_no_answer_is_waited_for_the_questions_are_paced_and_answers_of_many_servers_are_bounded() {
        let mut streams = Streams::default();
        let _unreached = search(&mut streams, 600, &[(server(), false)]);
        for wanted in [QUESTIONS, QUESTIONS, 600 - 2 * QUESTIONS] {
            let (asked, wake) = streams.next();
            assert_eq!((asked.len(), streams.next().0.len()), (wanted, 0));
            assert!(wake.is_some_and(|wake| wake >= Instant::now()));
            tokio::time::advance(PAUSE).await;
        }
        let mut streams = Streams::default();
        let many: Vec<_> = (0..1_000).map(|n| (n.to_string(), true)).collect();
        let _large = search(&mut streams, 600, &many);
        assert_eq!(streams.next().0.len(), 8);
    }
}
