//! How far the NATS cluster has been updated for certain, and when that is agreed.

use std::collections::VecDeque;

use super::lanes::REWIND_MS;

/// How often the position is agreed at most. Each time is an entry in the Raft log.
const MARK_EVERY_MS: u64 = 1_000;

/// How far it has been updated.
///
/// `told` and `marked` never go back, and `marked <= told`.
#[derive(Debug)]
pub(super) struct Position {
    /// Every change up to here was answered by at least one server.
    told: u64,
    /// When `told` had which value, for the last two minutes.
    history: VecDeque<(u64, u64)>,
    /// Every change up to here is agreed to be done with.
    marked: u64,
    /// Whether an agreement is under way.
    marking: bool,
    mark_again_at: u64,
    /// Whether an account was finished, or changed again, since the last mark. The mark is itself an entry of the log
    /// and moves the newest revision; without this, each mark would cause the next, forever.
    mark_needed: bool,
}

/// Whether the position is to be agreed.
pub(super) enum Mark {
    Now(u64),
    /// Not before this time.
    At(u64),
    No,
}

impl Position {
    pub(super) fn new(agreed: u64) -> Self {
        Self {
            told: agreed,
            history: VecDeque::new(),
            marked: agreed,
            marking: false,
            mark_again_at: 0,
            mark_needed: false,
        }
    }

    pub(super) fn told(&self) -> u64 {
        self.told
    }

    pub(super) fn marked(&self) -> u64 {
        self.marked
    }

    /// Every change up to `answered` was answered. What lies below `told` was answered before, and is sent again only
    /// to be sure.
    pub(super) fn advance(&mut self, answered: u64, now: u64) {
        self.told = self.told.max(answered);
        while self.history.get(1).is_some_and(|(at, _)| at + REWIND_MS <= now) {
            self.history.pop_front();
        }
        if self.history.back().is_none_or(|(at, _)| at + MARK_EVERY_MS <= now) {
            self.history.push_back((now, self.told));
        }
    }

    /// Where to start again after a lost connection: two minutes back, and not beyond what is agreed.
    pub(super) fn before_loss(&self) -> u64 {
        let before = self.history.front().map_or(self.told, |(_, told)| *told);
        before.min(self.marked)
    }

    /// There is something new to agree.
    pub(super) fn need_mark(&mut self) {
        self.mark_needed = true;
    }

    /// Whether to agree now. `finished`: every change up to it needs no repetition; were this process to end before a
    /// repetition, the next one would otherwise not know of it.
    pub(super) fn next_mark(&mut self, finished: u64, now: u64) -> Mark {
        let markable = finished.min(self.told);
        if !self.mark_needed || self.marking || markable <= self.marked {
            return Mark::No;
        }
        if now < self.mark_again_at {
            return Mark::At(self.mark_again_at);
        }
        self.marking = true;
        self.mark_needed = false;
        Mark::Now(markable)
    }

    /// An agreement has ended, well or not.
    pub(super) fn mark_ended(&mut self, position: u64, agreed: bool, now: u64) {
        self.marking = false;
        self.mark_again_at = now + MARK_EVERY_MS;
        if agreed {
            self.marked = self.marked.max(position);
        } else {
            self.mark_needed = true;
        }
    }
}
