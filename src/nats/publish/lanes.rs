//! What is read next: fresh changes first, then what servers may have missed earlier.

use super::step::{Lane, Step};

/// Changes asked for at once. Small, so that the first is sent while the rest are still being read.
const READ_ROWS: usize = 64;

/// How far back sending starts again after a reconnection. A server that lost its connection to us may also have lost
/// those to the rest of its NATS cluster, for as long as that took to be noticed.
pub(super) const REWIND_MS: u64 = 120_000;

/// The pause before the next read when a read found nothing although there should be something.
const READ_PAUSE_MS: u64 = 50;

/// How far the two lanes have read.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The newest known revision.
    newest: u64,
    /// Fresh changes are listed up to here.
    read: u64,
    catch_up: Option<CatchUp>,
    /// Nothing is read before this time.
    read_again_at: u64,
    /// Where to start again at the next connection.
    rewind: Option<u64>,
    /// When to go back once more, and to which revision. Messages of a lost connection may still lie in the system's
    /// buffers. If they arrive after the next connection has sent something newer, they undo it.
    rewind_again: Option<(u64, u64)>,
}

#[derive(Debug)]
struct CatchUp {
    read: u64,
    goal: u64,
}

impl Lanes {
    pub(super) fn new(agreed: u64) -> Self {
        Self {
            newest: agreed,
            read: agreed,
            catch_up: None,
            read_again_at: 0,
            rewind: None,
            rewind_again: None,
        }
    }

    /// The newest revision is at least `newest`.
    pub(super) fn newest(&mut self, newest: u64) {
        self.newest = self.newest.max(newest);
    }

    /// How far catching up is, and where it ends; `None` if it has ended.
    pub(super) fn catching_up(&self) -> Option<(u64, u64)> {
        self.catch_up.as_ref().map(|catch_up| (catch_up.read, catch_up.goal))
    }

    /// The revision up to which every change has been listed.
    pub(super) fn floor(&self) -> u64 {
        self.catch_up.as_ref().map_or(self.read, |catch_up| catch_up.read)
    }

    /// A connection is up: catching up begins where the last one may have left a gap.
    pub(super) fn connected(&mut self) {
        self.read_again_at = 0;
        let from = match self.rewind.take() {
            Some(rewind) => rewind.min(self.floor()),
            None => {
                // The first connection: every change so far has to be caught up on.
                let floor = self.floor();
                self.read = self.newest;
                floor
            }
        };
        self.catch_up_from(from);
    }

    /// The connection is gone; the next one starts again at `from`.
    pub(super) fn disconnected(&mut self, from: u64, now: u64) {
        self.rewind = Some(self.rewind.map_or(from, |earlier| earlier.min(from)));
        let again = self.rewind_again.map_or(from, |(_, earlier)| earlier.min(from));
        self.rewind_again = Some((now + REWIND_MS, again));
    }

    /// Goes back once more if that is due; otherwise gives the time at which it will be due.
    pub(super) fn rewind_if_due(&mut self, now: u64) -> Option<u64> {
        let (at, from) = self.rewind_again?;
        if at > now {
            return Some(at);
        }
        if self.catch_up.is_none() {
            self.rewind_again = None;
            self.catch_up_from(from);
        }
        None
    }

    fn catch_up_from(&mut self, from: u64) {
        self.catch_up = (from < self.read).then_some(CatchUp {
            read: from,
            goal: self.read,
        });
    }

    /// The last revision that belongs to `lane`; `None` if the lane has ended meanwhile.
    pub(super) fn goal(&self, lane: Lane) -> Option<u64> {
        match lane {
            Lane::Fresh => Some(u64::MAX),
            Lane::CatchUp => self.catch_up.as_ref().map(|catch_up| catch_up.goal),
        }
    }

    /// `lane` has been read up to `position`.
    pub(super) fn listed(&mut self, lane: Lane, position: u64, now: u64) {
        let read = match &mut self.catch_up {
            Some(catch_up) if lane == Lane::CatchUp => &mut catch_up.read,
            _ => &mut self.read,
        };
        if position <= *read {
            self.read_again_at = now + READ_PAUSE_MS;
        }
        *read = position.max(*read);
        self.catch_up.take_if(|catch_up| catch_up.read >= catch_up.goal);
    }

    /// The next fresh changes, if there are any, about `room` of them.
    pub(super) fn read_fresh(&self, room: usize, now: u64) -> Option<Step> {
        let wanted = room > 0 && now >= self.read_again_at && self.newest > self.read;
        wanted.then(|| Step::Read {
            lane: Lane::Fresh,
            after: self.read,
            limit: room.min(READ_ROWS),
        })
    }

    /// The next earlier changes, if there are any, about `room` of them.
    pub(super) fn read_earlier(&self, room: usize, now: u64) -> Option<Step> {
        let catch_up = self.catch_up.as_ref()?;
        let wanted = room > 0 && now >= self.read_again_at;
        wanted.then(|| Step::Read {
            lane: Lane::CatchUp,
            after: catch_up.read,
            limit: room.min(READ_ROWS),
        })
    }

    /// When reading goes on, if it is paused.
    pub(super) fn paused_until(&self, now: u64) -> Option<u64> {
        (now < self.read_again_at).then_some(self.read_again_at)
    }
}
