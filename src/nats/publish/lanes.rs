//! What is read next: fresh changes first, then what servers may have missed earlier.
//!
//! Both are read in the order of their revisions, and first revisions of accounts must not hold up the changes of
//! accounts that existed. So where there is no room for first revisions they are left where they are, in the store, and
//! read once more by a second reader, which takes nothing else.

use super::step::{Lane, Step};

/// Changes asked for at once. Small, so that the first is sent while the rest are still being read.
const READ_ROWS: usize = 64;

/// How far back sending starts again after a reconnection. A server that lost its connection to us may also have lost
/// those to the rest of its NATS cluster, for as long as that took to be noticed.
pub(super) const REWIND_MS: u64 = 120_000;

/// The pause before the next read when a read found nothing although there should be something.
const READ_PAUSE_MS: u64 = 50;

/// The pause before the next read when one has failed.
const UNREADABLE_PAUSE_MS: u64 = 1_000;

/// How far the lanes have read.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The newest known revision.
    newest: u64,
    fresh: Readers,
    catch_up: Option<CatchUp>,
    /// Whether a lane other than [`Lane::Fresh`] is being read.
    reading: bool,
    /// Nothing is read before this time.
    read_again_at: u64,
    /// Where to start again at the next connection.
    rewind: Option<u64>,
    /// When to go back once more, and to which revision. Messages of a lost connection, or of the node that published
    /// before, may still lie in the system's buffers. If they arrive after the next connection has sent something newer, they undo it.
    rewind_again: Option<(u64, u64)>,
    /// The same for what was lost since that was decided.
    rewind_then: Option<(u64, u64)>,
}

#[derive(Debug)]
struct CatchUp {
    readers: Readers,
    goal: u64,
}

/// Two readers of the same changes, one behind the other.
///
/// Invariant: `firsts <= read`.
#[derive(Debug, Clone, Copy)]
struct Readers {
    /// Changes of accounts that existed are listed up to here.
    read: u64,
    /// First revisions are listed up to here.
    firsts: u64,
}

impl Readers {
    fn at(revision: u64) -> Self {
        Self {
            read: revision,
            firsts: revision,
        }
    }

    /// The first reader has read up to `position`; `left` says whether it left first revisions where they are.
    fn listed(&mut self, position: u64, left: bool) {
        if !left && self.firsts == self.read {
            self.firsts = position.max(self.firsts);
        }
        self.read = position.max(self.read);
    }

    /// The second reader has read up to `position`.
    fn firsts_listed(&mut self, position: u64) {
        self.firsts = position.clamp(self.firsts, self.read);
    }
}

impl Lanes {
    pub(super) fn new(agreed: u64) -> Self {
        Self {
            newest: agreed,
            fresh: Readers::at(agreed),
            catch_up: None,
            reading: false,
            read_again_at: 0,
            rewind: None,
            rewind_again: None,
            rewind_then: None,
        }
    }

    /// Another node published before: what it sent may still lie in the buffers of its system.
    pub(super) fn taken_over(&mut self, now: u64) {
        self.rewind_again = Some((now + REWIND_MS, self.fresh.read));
    }

    /// The newest revision is at least `newest`.
    pub(super) fn newest(&mut self, newest: u64) {
        self.newest = self.newest.max(newest);
    }

    /// How far catching up is, and where it ends; `None` if it has ended.
    pub(super) fn catching_up(&self) -> Option<(u64, u64)> {
        self.catch_up
            .as_ref()
            .map(|catch_up| (catch_up.readers.firsts, catch_up.goal))
    }

    /// The revision up to which every change has been listed.
    pub(super) fn floor(&self) -> u64 {
        self.catch_up
            .as_ref()
            .map_or(self.fresh.firsts, |catch_up| catch_up.readers.firsts)
    }

    /// Whether what changed at `revision` has been listed, so that it is finished if it is not in flight.
    pub(super) fn is_listed(&self, revision: u64) -> bool {
        let lists = |readers: &Readers| revision <= readers.firsts;
        lists(&self.fresh)
            && self
                .catch_up
                .as_ref()
                .is_none_or(|catch_up| revision > catch_up.goal || lists(&catch_up.readers))
    }

    /// Whether first revisions were left where they are.
    pub(super) fn is_behind(&self) -> bool {
        self.catch_up.is_some() || self.fresh.firsts < self.fresh.read
    }

    /// A connection is up: catching up begins where the last one may have left a gap.
    pub(super) fn connected(&mut self) {
        self.read_again_at = 0;
        self.reading = false;
        let from = match self.rewind.take() {
            Some(rewind) => rewind.min(self.floor()),
            None => {
                // The first connection: every change so far has to be caught up on.
                let floor = self.floor();
                self.fresh = Readers::at(self.newest);
                floor
            }
        };
        self.catch_up_from(from);
    }

    /// The connection is gone; the next one starts again at `from`.
    pub(super) fn disconnected(&mut self, from: u64, now: u64) {
        self.rewind = Some(self.rewind.map_or(from, |earlier| earlier.min(from)));
        self.rewind_later(from, now);
    }

    /// What was sent since `from` may still arrive after what is sent from now on: everything since then is sent again when
    /// it has arrived.
    pub(super) fn rewind_later(&mut self, from: u64, now: u64) {
        let due = now + REWIND_MS;
        match self.rewind_again {
            None => self.rewind_again = Some((due, from)),
            // Not put off, or connections that break again and again would put it off for ever.
            Some(_) => {
                let from = self.rewind_then.map_or(from, |(_, earlier)| earlier.min(from));
                self.rewind_then = Some((due, from));
            }
        }
    }

    /// Goes back once more if that is due; otherwise gives the time at which it will be due.
    pub(super) fn rewind_if_due(&mut self, now: u64) -> Option<u64> {
        let (at, from) = self.rewind_again?;
        if at > now {
            return Some(at);
        }
        if self.catch_up.is_none() {
            self.rewind_again = self.rewind_then.take();
            self.catch_up_from(from);
        }
        None
    }

    /// Everything after `from` is sent again, unless that is happening already. Gives up to where.
    pub(super) fn rewind_to(&mut self, from: u64) -> Option<u64> {
        if self.catch_up.is_some() {
            return None;
        }
        self.catch_up_from(from);
        Some(self.fresh.read)
    }

    /// Catches up on what is listed already, and on the first revisions that fresh reading has left.
    fn catch_up_from(&mut self, from: u64) {
        let (from, goal) = (from.min(self.fresh.firsts), self.fresh.read);
        self.fresh = Readers::at(goal);
        self.catch_up = (from < goal).then_some(CatchUp {
            readers: Readers::at(from),
            goal,
        });
    }

    /// The last revision that belongs to `lane`; `None` if the lane has ended meanwhile.
    pub(super) fn goal(&self, lane: Lane) -> Option<u64> {
        match lane {
            Lane::Fresh => Some(u64::MAX),
            Lane::FreshFirsts => Some(self.fresh.read),
            Lane::CatchUp | Lane::CatchUpFirsts => self.catch_up.as_ref().map(|catch_up| catch_up.goal),
        }
    }

    /// Whether `lane` takes first revisions, if there is room for them. Where one was left, those after it are left too.
    pub(super) fn takes_firsts(&self, lane: Lane) -> bool {
        lane.is_firsts() || self.readers(lane).is_some_and(|readers| readers.firsts == readers.read)
    }

    fn readers(&self, lane: Lane) -> Option<&Readers> {
        if lane.is_fresh() {
            return Some(&self.fresh);
        }
        self.catch_up.as_ref().map(|catch_up| &catch_up.readers)
    }

    /// `lane` has been read up to `position`; `left` says whether it left first revisions where they are.
    pub(super) fn listed(&mut self, lane: Lane, position: u64, left: bool, now: u64) {
        let readers = match &mut self.catch_up {
            Some(catch_up) if !lane.is_fresh() => &mut catch_up.readers,
            _ => &mut self.fresh,
        };
        let before = if lane.is_firsts() { readers.firsts } else { readers.read };
        if position <= before {
            self.read_again_at = now + READ_PAUSE_MS;
        }
        if lane.is_firsts() {
            readers.firsts_listed(position);
        } else {
            readers.listed(position, left);
        }
        self.catch_up
            .take_if(|catch_up| catch_up.readers.firsts >= catch_up.goal);
    }

    /// A read of `lane` has ended, whatever became of it.
    pub(super) fn read_ended(&mut self, lane: Lane) {
        self.reading &= lane == Lane::Fresh;
    }

    /// A read has failed.
    pub(super) fn unreadable(&mut self, now: u64) {
        self.read_again_at = now + UNREADABLE_PAUSE_MS;
    }

    /// The next fresh changes, if there are any, about `room` of them.
    pub(super) fn read_fresh(&self, room: usize, now: u64) -> Option<Step> {
        let wanted = room > 0 && now >= self.read_again_at && self.newest > self.fresh.read;
        wanted.then(|| read(Lane::Fresh, self.fresh.read, room))
    }

    /// The next of all other changes, if there are any: about `room` earlier ones, or about `room_for_firsts` first
    /// revisions. One read at a time.
    pub(super) fn read_others(&mut self, room: usize, room_for_firsts: usize, now: u64) -> Option<Step> {
        if self.reading || now < self.read_again_at {
            return None;
        }
        let unread = |catch_up: &&CatchUp| room > 0 && catch_up.readers.read < catch_up.goal;
        let earlier = self.catch_up.as_ref().filter(unread);
        let behind = |readers: &Readers| room_for_firsts > 0 && readers.firsts < readers.read;
        let step = if let Some(catch_up) = earlier {
            read(Lane::CatchUp, catch_up.readers.read, room)
        } else if behind(&self.fresh) {
            read(Lane::FreshFirsts, self.fresh.firsts, room_for_firsts)
        } else {
            let catch_up = self.catch_up.as_ref().filter(|catch_up| behind(&catch_up.readers))?;
            read(Lane::CatchUpFirsts, catch_up.readers.firsts, room_for_firsts)
        };
        self.reading = true;
        Some(step)
    }

    /// When reading goes on, if it is paused.
    pub(super) fn paused_until(&self, now: u64) -> Option<u64> {
        (now < self.read_again_at).then_some(self.read_again_at)
    }
}

fn read(lane: Lane, after: u64, room: usize) -> Step {
    Step::Read {
        lane,
        after,
        limit: room.min(READ_ROWS),
    }
}
