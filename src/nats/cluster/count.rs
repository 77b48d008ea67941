//! Counts the connections that a revocation has closed, for those who ask for it.
//!
//! Each server keeps a list of the connections that it closed lately, with the reason. It is written a moment after the
//! connection was closed, so the servers are asked twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::jwt::AccountKey;
use crate::nats::subjects;
use crate::resolver::{Answered, Inquiry, Told};

/// The time between the two times.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long the servers may take to answer.
const PATIENCE: Duration = Duration::from_millis(600);

/// The questions whose connections are being counted.
#[derive(Default)]
pub(super) struct Counting {
    counts: Vec<Count>,
    /// How many there were.
    begun: u64,
}

struct Count {
    number: u64,
    inquiry: Inquiry,
    told: Vec<Told>,
    elapsed_ms: u64,
    /// What each server has closed, as it said last.
    closed: BTreeMap<String, u64>,
    /// How many servers have answered the second time.
    answered: BTreeSet<String>,
    asked: u8,
    ask_at: Instant,
    until: Instant,
}

impl Counting {
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Forgets all of them, which drops their questions.
    pub(super) fn clear(&mut self) {
        self.counts.clear();
    }

    /// Answers `inquiry` with `told`, after counting if that is asked for.
    pub(super) fn conclude(&mut self, inquiry: Inquiry, told: Vec<Told>) {
        let Some(since) = inquiry.since else {
            let answered = Answered {
                told,
                closed: None,
                elapsed_ms: None,
            };
            // The caller may have gone.
            let _ = inquiry.answer.send(answered);
            return;
        };
        let now = Instant::now();
        self.begun += 1;
        self.counts.push(Count {
            number: self.begun,
            elapsed_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            inquiry,
            told,
            closed: BTreeMap::new(),
            answered: BTreeSet::new(),
            asked: 0,
            ask_at: now,
            until: now + PATIENCE,
        });
    }

    /// Answers those that are counted. Gives what is to be asked now, each with its number, and when to look again.
    pub(super) fn next(&mut self) -> (Vec<(u64, AccountKey)>, Option<Instant>) {
        let (now, mut questions, mut wake) = (Instant::now(), Vec::new(), None);
        for mut count in std::mem::take(&mut self.counts) {
            if now >= count.until || count.answered.len() >= count.told.len() {
                let closed = (!count.closed.is_empty()).then(|| count.closed.values().sum());
                let answered = Answered {
                    told: count.told,
                    closed,
                    elapsed_ms: Some(count.elapsed_ms),
                };
                let _ = count.inquiry.answer.send(answered);
                continue;
            }
            if count.asked < 2 && now >= count.ask_at {
                questions.push((2 * count.number + u64::from(count.asked), count.inquiry.account));
                count.asked += 1;
                count.ask_at = now + AGAIN_AFTER;
            }
            let due = if count.asked < 2 { count.ask_at } else { count.until };
            wake = Some(wake.map_or(due, |wake: Instant| wake.min(due)));
            self.counts.push(count);
        }
        (questions, wake)
    }

    /// A server says which connections it has closed.
    pub(super) fn closed(&mut self, number: u64, payload: &[u8]) {
        let (number, is_second) = (number / 2, number % 2 == 1);
        let Some(count) = self.counts.iter_mut().find(|count| count.number == number) else {
            return;
        };
        let since = count.inquiry.since.unwrap_or(count.until).elapsed();
        if let Some((server, closed)) = subjects::closed(payload, since) {
            if is_second {
                count.answered.insert(server.id.clone());
            }
            count.closed.insert(server.id, closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::oneshot;

    use super::*;
    use crate::resolver::{Enforcement, Server};

    /// A question that two servers are to answer, their ids, and its answer.
    fn asked() -> (Counting, [String; 2], oneshot::Receiver<Answered>) {
        let (answer, answered) = oneshot::channel();
        let now = Instant::now();
        let inquiry = Inquiry {
            account: AccountKey::from_bytes([7; 32]),
            revision: 1,
            until: now + PATIENCE,
            since: Some(now),
            answer,
        };
        let ids = [(); 2].map(|()| nkeys::KeyPair::new_server().public_key());
        let told = |id: &String| Told {
            server: Server {
                id: id.clone(),
                name: id.clone(),
                cluster: String::new(),
                version: String::new(),
                behind: None,
            },
            enforcement: Enforcement::InForce,
        };
        let mut counting = Counting::default();
        counting.conclude(inquiry, ids.iter().map(told).collect());
        (counting, ids, answered)
    }

    /// The number of the next question.
    fn number(counting: &mut Counting) -> Option<u64> {
        counting.next().0.first().map(|(number, _)| *number)
    }

    fn answer(counting: &mut Counting, number: u64, server: &str, closed: usize) {
        let time = "2026-11-28T06:00:10Z";
        let connections = vec![json!({"stop": time, "reason": "Credentials Revoked"}); closed];
        let answer = json!({"server": {"id": server, "time": time}, "data": {"connections": connections}});
        counting.closed(number, answer.to_string().as_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn g5_each_server_is_asked_twice_and_its_last_word_counts() {
        let (mut counting, [one, other], mut answered) = asked();
        let first = number(&mut counting).expect("at once");
        answer(&mut counting, first, &one, 1);
        answer(&mut counting, first, &other, 0);
        assert_eq!(number(&mut counting), None, "a moment later");
        tokio::time::advance(AGAIN_AFTER).await;
        let second = number(&mut counting).expect("once more");
        answer(&mut counting, second, &one, 1);
        assert_eq!(number(&mut counting), None);
        assert!(answered.try_recv().is_err(), "the other server has not answered");
        answer(&mut counting, second, &other, 2);
        answer(&mut counting, second + 2, &other, 9);
        assert_eq!((number(&mut counting), counting.len()), (None, 0));
        assert_eq!(answered.try_recv().expect("it is answered").closed, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn g5_what_servers_have_said_in_time_is_told_and_nothing_if_none_has() {
        for says in [true, false] {
            let (mut counting, [one, _], mut answered) = asked();
            let first = number(&mut counting).expect("at once");
            if says {
                answer(&mut counting, first, &one, 2);
            }
            tokio::time::advance(PATIENCE).await;
            assert_eq!(number(&mut counting), None);
            let answered = answered.try_recv().expect("it is answered");
            assert_eq!((answered.closed, answered.told.len()), (says.then_some(2), 2));
        }
    }
}
