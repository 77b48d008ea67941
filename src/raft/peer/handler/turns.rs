//! The order of what a leader sends without waiting for the answers before.
//!
//! Each message is a request of its own, so they can arrive in any order. An append that came before its predecessor would
//! be a gap to openraft, which then begins again from what both logs surely have.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;

use crate::raft::peer::messages::Place;
use crate::raft::peer::refusal::PeerRefusal;

/// How long an append waits for the one before it. That was sent first, so it is lost, or on its way.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it does so where nothing of its link was ever seen: what was sent before went to this node's life before this
/// one, or arrives in the same moment.
const FIRST_PATIENCE: Duration = Duration::from_millis(50);

const MISSING: PeerRefusal = PeerRefusal::NotNow("what was sent before this did not arrive, or was refused");

/// Links that are known at once. A leader has one for entries and one for heartbeats; what a leader before it sent may still
/// be on its way.
const LINKS: usize = 8;

/// Whose turn it is in the latest stream of each link; the link that was used last is the last.
#[derive(Debug)]
pub(super) struct Turns(watch::Sender<VecDeque<Next>>);

/// Whose turn it is in the latest stream of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Next {
    /// Each node counts its links from 0.
    from: u64,
    place: Place,
    /// Whether something of the stream was not taken: then nothing of it is any more.
    is_over: bool,
}

/// The turn of one append. Unless it passes, nothing of its stream is taken after it.
#[derive(Debug)]
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    from: u64,
    place: Place,
    is_taken: bool,
}

impl Default for Turns {
    fn default() -> Self {
        Self(watch::Sender::new(VecDeque::with_capacity(LINKS)))
    }
}

impl Turns {
    /// Waits until everything was taken that the node `from` sent before `place`. The first of a stream waits for nothing.
    pub(super) async fn wait(&self, from: u64, place: Place) -> Result<Turn<'_>, PeerRefusal> {
        if place.number == 0 {
            self.0.send_modify(|links| {
                links.retain(|other| (other.from, other.place.link) != (from, place.link));
                if links.len() == LINKS {
                    links.pop_front();
                }
                links.push_back(Next {
                    from,
                    place,
                    is_over: false,
                });
            });
            return Ok(self.turn(from, place));
        }
        let mut links = self.0.subscribe();
        let known = links.wait_for(|links| {
            links
                .iter()
                .any(|next| (next.from, next.place.link) == (from, place.link))
        });
        if !matches!(tokio::time::timeout(FIRST_PATIENCE, known).await, Ok(Ok(_))) {
            return Err(MISSING);
        }
        let decided = links.wait_for(|links| {
            next_in(links, from, place).is_some_and(|next| next.is_over || next.place.number >= place.number)
        });
        match tokio::time::timeout(PATIENCE, decided).await {
            Ok(Ok(links)) if next_in(&links, from, place).is_some_and(|next| !next.is_over && next.place == place) => {
                Ok(self.turn(from, place))
            }
            _ => Err(MISSING),
        }
    }

    fn turn(&self, from: u64, place: Place) -> Turn<'_> {
        Turn {
            turns: self,
            from,
            place,
            is_taken: false,
        }
    }
}

/// Whose turn it is in the stream of `place`, if that stream is the latest of its link.
fn next_in(links: &VecDeque<Next>, from: u64, place: Place) -> Option<Next> {
    let mut links = links.iter().copied();
    links.find(|next| (next.from, next.place.link, next.place.stream) == (from, place.link, place.stream))
}

impl Turn<'_> {
    /// The append is taken: the next one may come.
    pub(super) fn pass(mut self) {
        self.is_taken = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.0.send_modify(|links| {
            let own = |next: &Next| (next.from, next.place) == (self.from, self.place);
            if let Some(mut next) = links.iter().position(own).and_then(|at| links.remove(at)) {
                next.place.number += 1;
                next.is_over = !self.is_taken;
                links.push_back(next);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(link: u64, stream: u64, number: u64) -> Place {
        Place { link, stream, number }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_taken_in_its_order_and_ends_with_the_first_that_is_not_taken() {
        let turns = Turns::default();
        let (second, first) = tokio::join!(turns.wait(1, place(1, 1, 1)), async {
            let first = turns.wait(1, place(1, 1, 0)).await.expect("it waits for nothing");
            let early = tokio::time::timeout(PATIENCE / 2, turns.wait(1, place(1, 1, 1))).await;
            assert!(early.is_err(), "the first is not taken yet");
            first.pass();
        });
        let () = first;
        let heartbeat = turns.wait(1, place(2, 1, 0)).await.expect("another link");
        second.expect("the first is taken").pass();
        heartbeat.pass();
        drop(turns.wait(1, place(1, 1, 2)).await.expect("its turn"));
        turns
            .wait(1, place(1, 1, 3))
            .await
            .expect_err("the one before was not taken");
        turns.wait(1, place(1, 2, 0)).await.expect("a new stream").pass();
        turns
            .wait(1, place(1, 1, 3))
            .await
            .expect_err("of a stream that has ended");
        turns
            .wait(1, place(1, 2, 1))
            .await
            .expect("the new stream goes on")
            .pass();
    }

    /// The leader goes on with a stream that a node took in its life before this one.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_has_just_started_does_not_wait_for_what_its_life_before_was_sent() {
        let turns = Turns::default();
        let begun = tokio::time::Instant::now();
        turns
            .wait(1, place(1, 1, 7))
            .await
            .expect_err("nothing of it was taken here");
        assert!(begun.elapsed() < 2 * FIRST_PATIENCE, "{:?}", begun.elapsed());
        turns.wait(1, place(1, 2, 0)).await.expect("the next stream").pass();
    }

    #[tokio::test]
    async fn links_that_are_not_used_are_forgotten_and_a_quiet_one_beside_heartbeats_is_not() {
        let turns = Turns::default();
        turns.wait(1, place(1, 1, 0)).await.expect("entries").pass();
        for stream in 0..1_000 {
            turns.wait(1, place(2, stream, 0)).await.expect("a heartbeat").pass();
        }
        turns.wait(1, place(1, 1, 1)).await.expect("entries go on").pass();
        for link in 3..1_000 {
            turns.wait(1, place(link, 1, 0)).await.expect("another link").pass();
        }
        assert_eq!(turns.0.borrow().len(), LINKS);
    }
}
