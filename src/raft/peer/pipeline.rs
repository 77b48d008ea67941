//! Appends that do not wait for the answers before: on a way of 50 ms, one at a time would make each upload wait for two.
//!
//! The peer takes them in their order ([`Place`]). The first that it does not take whole ends the stream: what was sent
//! behind it cannot be taken either, and openraft begins the next stream with what the peer has.
//!
//! Entries that the peer is known to have are not sent. A new leader looks for the end of what both have by halving its log,
//! and each step would take a round trip.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt, stream};
use openraft::EntryPayload;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use tokio::sync::Semaphore;

use super::messages::Place;
use crate::raft::runtime::{Entry, LogId, Payload, Types, Vote};

/// Appends on their way at once. While that many are, new entries gather in the next one.
const IN_FLIGHT: usize = 16;

/// KiB of entries on their way at once, beyond a first append: the peer holds them until it is their turn.
const IN_FLIGHT_KIB: u32 = 2 * 1024;

/// Sends each of `requests` with `send`, the first of them at the place `first`; answers those itself of which the peer
/// `has` everything. The last argument of `send` is how many are on their way before it.
pub(super) fn pipelined<'s, F>(
    requests: impl Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    first: Place,
    has: impl Fn(&AppendEntriesRequest<Types>) -> bool + Send + 's,
    send: impl Fn(AppendEntriesRequest<Types>, Place, u32) -> F + Send + 's,
) -> impl Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send + 's
where
    F: Future<Output = Result<AppendEntriesResponse<Types>, RPCError<Types>>> + Send + 's,
{
    let room = Arc::new(Semaphore::new(IN_FLIGHT_KIB as usize));
    let in_flight = Arc::new(AtomicU32::new(0));
    let mut number = 0;
    let answers = requests.map(move |request| {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        let kib = kib(&request.entries);
        let (room, in_flight) = (room.clone(), in_flight.clone());
        let sent = (!has(&request)).then(|| {
            let place = Place { number, ..first };
            number += 1;
            let ahead = in_flight.fetch_add(1, Ordering::Relaxed);
            send(request, place, ahead)
        });
        async move {
            let Some(sent) = sent else {
                return (Ok(Ok(last)), true);
            };
            let _permit = room.acquire_many(kib).await;
            let answered = sent.await;
            in_flight.fetch_sub(1, Ordering::Relaxed);
            let response = match answered {
                Ok(response) => response,
                Err(error) => return (Err(error), false),
            };
            let is_whole = match &response {
                AppendEntriesResponse::Success => true,
                AppendEntriesResponse::PartialSuccess(upto) => *upto == last,
                _ => false,
            };
            (Ok(response.into_stream_result(previous, last)), is_whole)
        }
    });
    let answers = Box::pin(answers.buffered(IN_FLIGHT));
    stream::unfold(Some(answers), |answers| async move {
        let mut answers = answers?;
        let (answer, is_whole) = answers.next().await?;
        Some((answer, is_whole.then_some(answers)))
    })
}

/// Whether a peer may answer this to entries after `previous` up to `last`: openraft takes it as it is.
pub(super) fn fits(response: &AppendEntriesResponse<Types>, previous: Option<LogId>, last: Option<LogId>) -> bool {
    match response {
        AppendEntriesResponse::PartialSuccess(upto) => previous <= *upto && *upto <= last,
        // Nothing contradicts what follows nothing.
        AppendEntriesResponse::Conflict => previous.is_some(),
        AppendEntriesResponse::Success | AppendEntriesResponse::HigherVote(_) => true,
    }
}

/// A vote that this node was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    pub(super) vote: Vote,
    /// The newest entry of the voter's log.
    pub(super) last: LogId,
}

impl Granted {
    /// Whether the voter has all of these entries. One without entries asks for an acknowledgement, which only the voter
    /// can give.
    pub(super) fn covers(&self, request: &AppendEntriesRequest<Types>) -> bool {
        let is_theirs = request.vote.leader_id == self.vote.leader_id;
        let last = request.entries.last().map(|entry| entry.log_id.index);
        is_theirs && last.is_some_and(|last| last <= self.last.index)
    }
}

/// The votes that this node was given, the last by each voter.
#[derive(Debug, Default)]
pub(super) struct AllGranted(Mutex<BTreeMap<u64, Granted>>);

impl AllGranted {
    fn inner(&self) -> MutexGuard<'_, BTreeMap<u64, Granted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, voter: u64, granted: Granted) {
        self.inner().insert(voter, granted);
    }

    /// Whether the voter has all entries of `request`, as far as its vote tells.
    pub(super) fn cover(&self, voter: u64, request: &AppendEntriesRequest<Types>) -> bool {
        self.inner().get(&voter).is_some_and(|granted| granted.covers(request))
    }

    /// The voter lacks the entry `at`, although it may have had it when it gave its vote: an older copy of its data folder
    /// was put back. Its vote tells nothing any more.
    pub(super) fn lacks(&self, voter: u64, at: LogId) {
        let mut all = self.inner();
        if all.get(&voter).is_some_and(|granted| granted.last.index >= at.index) {
            all.remove(&voter);
        }
    }
}

/// What these entries take of [`IN_FLIGHT_KIB`].
pub(super) fn kib(entries: &[Entry]) -> u32 {
    let bytes = entries.iter().map(|entry| match &entry.payload {
        EntryPayload::Normal(Payload(bytes)) => bytes.len(),
        _ => 0,
    });
    let kib = bytes.sum::<usize>() / 1024;
    u32::try_from(kib).unwrap_or(u32::MAX).min(IN_FLIGHT_KIB)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use bytes::Bytes;
    use openraft::impls::leader_id_adv::LeaderId;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::raft::runtime::Vote;

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId::new(1, 1), index)
    }

    /// An append of one entry with this many bytes.
    fn append(index: u64, bytes: usize) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: Vote {
                leader_id: LeaderId::new(1, 1),
                committed: true,
            },
            prev_log_id: Some(id(index - 1)),
            entries: vec![Entry {
                log_id: id(index),
                payload: EntryPayload::Normal(Payload(Bytes::from(vec![0; bytes]))),
            }],
            leader_commit: None,
        }
    }

    /// The answers to a hundred appends of this size, and the most that were on their way at once.
    async fn answers(
        bytes: usize,
        answer: impl Fn(u64) -> AppendEntriesResponse<Types> + Sync,
    ) -> (Vec<StreamAppendResult<Types>>, usize) {
        let on_their_way = Mutex::new((0, 0));
        let requests = stream::iter((1..=100).map(|index| append(index, bytes)).collect::<Vec<_>>());
        let (on_their_way_ref, answer) = (&on_their_way, &answer);
        let send = |request: AppendEntriesRequest<Types>, place: Place, _| async move {
            let index = request.entries[0].log_id.index;
            assert_eq!(place.number, index - 1, "places follow the entries");
            {
                let (now, most) = &mut *on_their_way_ref.lock().unwrap();
                *now += 1;
                *most = (*most).max(*now);
            }
            // The later ones are answered first.
            tokio::time::sleep(Duration::from_millis(200 - index)).await;
            on_their_way_ref.lock().unwrap().0 -= 1;
            Ok(answer(index))
        };
        let sent: Vec<_> = pipelined(requests, Place::default(), |_| false, send).collect().await;
        let sent = sent.into_iter().map(|sent| sent.expect("it is answered")).collect();
        let (_, most) = *on_their_way.lock().unwrap();
        (sent, most)
    }

    #[tokio::test(start_paused = true)]
    async fn appends_do_not_wait_for_each_other_and_their_answers_come_in_their_order() {
        let (answered, most) = answers(1_000, |_| AppendEntriesResponse::Success).await;
        let matching: Vec<_> = answered
            .into_iter()
            .map(|answer| answer.expect("all is taken"))
            .collect();
        assert_eq!(matching, (1..=100).map(|index| Some(id(index))).collect::<Vec<_>>());
        assert_eq!(most, IN_FLIGHT);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_peer_has_is_not_sent_and_takes_no_place() {
        let requests = stream::iter((1..=9).map(|index| append(index, 10)).collect::<Vec<_>>());
        let has = |request: &AppendEntriesRequest<Types>| request.entries[0].log_id.index <= 6;
        let places = Mutex::new(Vec::new());
        let send = |request: AppendEntriesRequest<Types>, place: Place, ahead| {
            let mut places = places.lock().unwrap();
            places.push((request.entries[0].log_id.index, place.number, ahead));
            std::future::ready(Ok(AppendEntriesResponse::Success))
        };
        let answered: Vec<_> = pipelined(requests, Place::default(), has, send).collect().await;
        let matching: Vec<_> = answered
            .into_iter()
            .map(|answer| answer.expect("answered").expect("taken"))
            .collect();
        assert_eq!(matching, (1..=9).map(|index| Some(id(index))).collect::<Vec<_>>());
        assert_eq!(places.into_inner().unwrap(), [(7, 0, 0), (8, 1, 1), (9, 2, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn large_appends_are_few_at_once() {
        let (answered, most) = answers(1 << 20, |_| AppendEntriesResponse::Success).await;
        assert_eq!((answered.len(), most), (100, 2));
        let (answered, most) = answers(64 << 20, |_| AppendEntriesResponse::Success).await;
        assert_eq!((answered.len(), most), (100, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_is_not_taken_whole_ends_the_stream() {
        let (answered, _) = answers(1_000, |index| match index {
            5 => AppendEntriesResponse::Conflict,
            _ => AppendEntriesResponse::Success,
        })
        .await;
        assert_eq!(answered.len(), 5);
        assert!(answered[4].is_err() && answered[..4].iter().all(Result::is_ok));
        let (answered, _) = answers(1_000, |index| match index {
            5 => AppendEntriesResponse::PartialSuccess(Some(id(4))),
            _ => AppendEntriesResponse::Success,
        })
        .await;
        assert_eq!(answered.len(), 5, "what follows a gap is not taken either");
    }

    #[test]
    fn an_answer_that_no_peer_of_ours_gives_is_none() {
        use AppendEntriesResponse::{Conflict, PartialSuccess};
        let (previous, last) = (Some(id(3)), Some(id(7)));
        assert!(!fits(&Conflict, None, last));
        for (upto, is_one) in [(2, false), (3, true), (7, true), (8, false)] {
            assert_eq!(fits(&PartialSuccess(Some(id(upto))), previous, last), is_one, "{upto}");
        }
        assert!(!fits(&PartialSuccess(None), previous, last));
    }
}
