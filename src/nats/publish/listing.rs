//! Which accounts are to be sent: those that have changed, and those that a caller asks for.

use super::agenda::{URGENT, URGENT_ONCE_READ, is_urgent};
use super::pending::{Answer, Pending, Phase};
use super::propagation::{Propagation, REFUSALS, REPEAT_AFTER_MS, REPEATS};
use super::step::{Changed, Lane};
use crate::jwt::AccountKey;

/// Accounts sent on request that are remembered for the next reconnection; of more, the newest.
const ASKED_REMEMBERED: usize = 1_024;

impl Propagation {
    /// A caller asks for `account`, now at `revision`, to be sent again. `false`: too many are waiting.
    pub(in crate::nats) fn ask(&mut self, account: AccountKey, revision: u64, now: u64) -> bool {
        if self.agenda.get(account).is_none() && !self.has_room_for_asked() {
            return false;
        }
        if self.asked.len() == ASKED_REMEMBERED {
            self.asked.pop_front();
        }
        self.asked.push_back((now, account, revision));
        self.list_asked(account, revision, now);
        true
    }

    /// An account has changed: it is queued, unless that revision is sent already.
    pub(super) fn list(&mut self, row: Changed, lane: Lane, now: u64) {
        let Changed {
            account,
            revision,
            first,
            issued,
        } = row;
        let is_newest = lane.is_fresh() && self.is_newest(issued, now);
        // Fresh changes of accounts that existed go before everything else that is due.
        let due = match lane == Lane::Fresh && !first {
            true if is_newest => URGENT,
            true => URGENT_ONCE_READ,
            false => now,
        };
        let Some(pending) = self.agenda.get_mut(account) else {
            let mut pending = Pending::new(revision, due, first, !lane.is_fresh());
            (pending.first, pending.issued) = (first, Some(issued));
            if !lane.is_fresh() {
                expect_little(&mut pending);
            } else if first {
                // No fetch can bring an older token of it, and a hundred thousand may come at once.
                pending.repeats = REPEATS - 1;
            }
            self.agenda.insert(account, pending);
            return;
        };
        // Its token may have been looked up and sent before the change was listed.
        pending.fresh |= lane.is_fresh();
        pending.must_be_read &= !is_newest;
        pending.expected = true;
        let is_new = revision > pending.listed;
        let under_way = pending.sent >= revision;
        let urgent = is_urgent(due) && pending.phase_when_read() == Phase::Queued;
        if is_new {
            pending.routine &= !lane.is_fresh();
            self.raise(account, revision, now);
            if let Some(pending) = self.agenda.get_mut(account) {
                pending.issued = Some(issued);
            }
        }
        if is_newest {
            // Whatever servers hold of it is older.
            self.agenda.end_reading(account, None);
        }
        if !first {
            self.agenda.put_ahead(account);
        }
        if (is_new || urgent) && !under_way {
            self.agenda.queue(account, due);
        }
    }

    /// A caller asked for `account`, which is at `revision`. It is sent behind every other change: any client may ask,
    /// and a revocation must not wait for it. An account in flight, or whose answers are still coming in, is not sent
    /// again.
    pub(super) fn list_asked(&mut self, account: AccountKey, revision: u64, now: u64) {
        if self.agenda.get(account).is_none() {
            let mut pending = Pending::new(revision, now, true, true);
            pending.expected = false;
            expect_little(&mut pending);
            self.agenda.insert(account, pending);
        }
    }

    /// Records that `account` is at `revision`, unless a newer revision is known.
    pub(super) fn raise(&mut self, account: AccountKey, revision: u64, now: u64) {
        let is_new = |pending: &&Pending| pending.listed < revision && pending.sent > 0;
        let open_since = self
            .agenda
            .get(account)
            .filter(is_new)
            .map(|pending| pending.open_since);
        // An account that changes again and again before its answers are summed up hides no server that gives none.
        if open_since.is_some_and(|since| since + REPEAT_AFTER_MS <= now) {
            self.miss_silent(account, false, now);
            if let Some(pending) = self.agenda.get_mut(account) {
                pending.open_since = now;
            }
        }
        if self.agenda.raise(account, revision) {
            self.position.need_mark();
        }
    }

    pub(super) fn finish(&mut self, account: AccountKey) {
        if let Some(pending) = self.agenda.remove(account) {
            self.position.need_mark();
            let has_answered = |slot| pending.answer(slot) != Answer::None;
            self.checks.finished(account, has_answered);
            if self.agenda.is_empty() {
                self.roster.free_slots();
            }
        }
    }
}

/// No caller waits for it, and a million of them pass here: one repetition is enough.
pub(super) fn expect_little(pending: &mut Pending) {
    pending.repeats = REPEATS - 1;
    pending.refusals = REFUSALS - 1;
}
