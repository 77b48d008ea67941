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

/// Links that are known at once. A leader has one for entries and one for heartbeats; what a leader before it sent may still
/// be on its way.
const LINKS: usize = 8;

/// Whose turn it is in the latest stream of each link; the link that was used last is the last.
#[derive(Debug)]
pub(super) struct Turns(watch::Sender<VecDeque<Place>>);

/// The turn of one append. Unless it passes, nothing of its stream is taken after it.
#[derive(Debug)]
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    place: Place,
    /// The number whose turn it is when this one ends.
    next: u64,
}

impl Default for Turns {
    fn default() -> Self {
        Self(watch::Sender::new(VecDeque::with_capacity(LINKS)))
    }
}

impl Turns {
    /// Waits until everything before `place` was taken. The first of a stream waits for nothing.
    pub(super) async fn wait(&self, place: Place) -> Result<Turn<'_>, PeerRefusal> {
        if place.number == 0 {
            self.0.send_modify(|links| {
                links.retain(|other| other.link != place.link);
                if links.len() == LINKS {
                    links.pop_front();
                }
                links.push_back(place);
            });
            return Ok(self.turn(place));
        }
        let mut links = self.0.subscribe();
        let decided = links.wait_for(|links| next_in(links, place).is_some_and(|next| next >= place.number));
        match tokio::time::timeout(PATIENCE, decided).await {
            Ok(Ok(links)) if next_in(&links, place) == Some(place.number) => Ok(self.turn(place)),
            _ => Err(PeerRefusal::NotNow(
                "what was sent before this did not arrive, or was refused",
            )),
        }
    }

    fn turn(&self, place: Place) -> Turn<'_> {
        Turn {
            turns: self,
            place,
            next: u64::MAX,
        }
    }
}

/// The number whose turn it is in the stream of `place`, if that stream is the latest of its link.
fn next_in(links: &VecDeque<Place>, place: Place) -> Option<u64> {
    let mut links = links.iter();
    let own = links.find(|next| (next.link, next.stream) == (place.link, place.stream));
    own.map(|next| next.number)
}

impl Turn<'_> {
    /// The append is taken: the next one may come.
    pub(super) fn pass(mut self) {
        self.next = self.place.number + 1;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.0.send_modify(|links| {
            if let Some(at) = links.iter().position(|own| *own == self.place) {
                links.remove(at);
                links.push_back(Place {
                    number: self.next,
                    ..self.place
                });
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
        let (second, first) = tokio::join!(turns.wait(place(1, 1, 1)), async {
            let first = turns.wait(place(1, 1, 0)).await.expect("it waits for nothing");
            let early = tokio::time::timeout(PATIENCE / 2, turns.wait(place(1, 1, 1))).await;
            assert!(early.is_err(), "the first is not taken yet");
            first.pass();
        });
        let () = first;
        let heartbeat = turns.wait(place(2, 1, 0)).await.expect("another link");
        second.expect("the first is taken").pass();
        heartbeat.pass();
        drop(turns.wait(place(1, 1, 2)).await.expect("its turn"));
        turns
            .wait(place(1, 1, 3))
            .await
            .expect_err("the one before was not taken");
        turns.wait(place(1, 2, 0)).await.expect("a new stream").pass();
        turns
            .wait(place(1, 1, 3))
            .await
            .expect_err("of a stream that has ended");
        turns.wait(place(1, 2, 1)).await.expect("the new stream goes on").pass();
    }

    #[tokio::test]
    async fn links_that_are_not_used_are_forgotten_and_a_quiet_one_beside_heartbeats_is_not() {
        let turns = Turns::default();
        turns.wait(place(1, 1, 0)).await.expect("entries").pass();
        for stream in 0..1_000 {
            turns.wait(place(2, stream, 0)).await.expect("a heartbeat").pass();
        }
        turns.wait(place(1, 1, 1)).await.expect("entries go on").pass();
        for link in 3..1_000 {
            turns.wait(place(link, 1, 0)).await.expect("another link").pass();
        }
        assert_eq!(turns.0.borrow().len(), LINKS);
    }
}
