//! How far the NATS cluster has been updated for certain, and when that is agreed.

use std::collections::VecDeque;

use super::lanes::REWIND_MS;

/// How often the position is agreed at most. Each time is an entry in the Raft log.
const MARK_EVERY_MS: u64 = 1_000;

/// How far the NATS cluster has been updated.
///
/// Invariants:
/// - `updated_to` and `marked` never decrease;
/// - `marked <= updated_to`.
#[derive(Debug)]
pub(super) struct Position {
    /// Every change up to here was answered by at least one server.
    updated_to: u64,
    /// The values of `updated_to` in the last two minutes, each with its time.
    history: VecDeque<(u64, u64)>,
    /// The agreed position: every change up to here is finished.
    marked: u64,
    /// Whether a position is being agreed.
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
            updated_to: agreed,
            history: VecDeque::new(),
            marked: agreed,
            marking: false,
            mark_again_at: 0,
            mark_needed: false,
        }
    }

    pub(super) fn updated_to(&self) -> u64 {
        self.updated_to
    }

    pub(super) fn marked(&self) -> u64 {
        self.marked
    }

    /// Every change up to `answered` was answered. Changes below `updated_to` were answered before, and are sent again
    /// only to be sure.
    pub(super) fn advance(&mut self, answered: u64, now: u64) {
        self.updated_to = self.updated_to.max(answered);
        while self.history.get(1).is_some_and(|(at, _)| at + REWIND_MS <= now) {
            self.history.pop_front();
        }
        if self.history.back().is_none_or(|(at, _)| at + MARK_EVERY_MS <= now) {
            self.history.push_back((now, self.updated_to));
        }
    }

    /// Where to start again after a lost connection: two minutes back, and not after the agreed position.
    pub(super) fn before_loss(&self) -> u64 {
        let before = self
            .history
            .front()
            .map_or(self.updated_to, |(_, updated_to)| *updated_to);
        before.min(self.marked)
    }

    /// There is something new to agree.
    pub(super) fn need_mark(&mut self) {
        self.mark_needed = true;
    }

    /// Whether to have the position agreed now. `finished` is the revision up to which nothing is to be sent again. The
    /// position never passes it: what is to be sent again must be sent by the next process if this one ends first.
    /// `is_more`: something else is to be agreed with it. `is_last`: there will be no later opportunity.
    pub(super) fn next_mark(&mut self, finished: u64, is_more: bool, is_last: bool, now: u64) -> Mark {
        let markable = finished.min(self.updated_to).max(self.marked);
        let is_due = self.mark_needed && markable > self.marked;
        if self.marking || !(is_due || is_more) {
            return Mark::No;
        }
        if now < self.mark_again_at && !is_last {
            return Mark::At(self.mark_again_at);
        }
        self.marking = true;
        self.mark_needed = false;
        Mark::Now(markable)
    }

    /// The attempt to have `position` agreed has ended; `agreed` if it succeeded.
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
