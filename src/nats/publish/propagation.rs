//! Decides what a NATS cluster is sent next. A value with methods: no I/O, no clock; `now` is milliseconds of any
//! steady clock.
//!
//! Only keys are queued. The publisher looks a token up when it takes a [`Step::Send`], so that an older token can
//! never follow a newer one. The position says what is certain: every change up to it was answered by at least one
//! nats-server. It moves only over answered changes. So if a message, a reply, a connection or this process is lost,
//! the change is still above the position, and is sent again.
//!
//! Changes are read in two lanes (`lanes.rs`). *Fresh* changes follow the newest revision and are sent before all else,
//! so that a revocation never waits behind a million accounts. *Catching up* covers the changes before them: from the
//! agreed position at the first connection, and from two minutes back at every later one.
//!
//! One answer moves the position, so that one server cannot hold up all others. But a server that answered earlier
//! changes is expected to answer the next fresh one too (`roster.rs`). Until it does, that change is sent again, for at
//! most ten minutes.

use std::collections::VecDeque;

use super::agenda::Agenda;
use super::lanes::{Lanes, REWIND_MS};
use super::pending::{Answer, Pending, Phase};
use super::position::{Mark, Position};
use super::roster::Roster;
use super::step::{Lane, Step, Summary};
use crate::jwt::AccountKey;
use crate::nats::subjects::Verdict;

/// Accounts that are sent and unanswered at once. Enough to fill a connection over a 50 ms round trip with 5,000
/// accounts a second; few enough that a NATS cluster that stopped answering costs nothing.
const IN_FLIGHT: usize = 256;

/// How many of them catching up may use, so that a fresh change always finds room.
const CATCH_UP_IN_FLIGHT: usize = IN_FLIGHT / 2;

/// Accounts remembered in total, most of them answered `skipped` and waiting for their repetition: 16,384 in 3 s is a
/// pace of 5,000 accounts a second, and about 5 MB. Beyond it no earlier changes are read, and no account is sent on
/// request, until some are finished.
const REMEMBERED: usize = 16_384;

/// How far fresh changes may exceed that. Beyond it they wait where they are, in the store.
const REMEMBERED_RESERVE: usize = 2_048;

/// Without an answer after this long, the message or the reply counts as lost. A reply takes a round trip; two seconds
/// is what nats-server itself grants a fetch (1.9 s).
pub(in crate::nats) const ANSWER_MS: u64 = 2_000;

/// The longest pause between two sends that no server answers.
const MAX_PAUSE_MS: u64 = 30_000;

/// After a first answer, how long the other servers' answers are collected for the summary.
const LISTEN_MS: u64 = 1_000;

/// After `skipped`, how long until the token is sent once more: the fetch that may have been under way is over then.
const REPEAT_AFTER_MS: u64 = 3_000;

/// How often a token is sent again for `skipped`: once for the fetch, once more for the fetches of what it imports.
const REPEATS: u8 = 2;

/// How often a refused token is sent again. A server that refuses a verified token has other operator keys than we do,
/// and only a restart changes them, after which it fetches the token. Trying for more than a few seconds is noise.
const REFUSALS: u8 = 3;

/// Accounts sent on request that are remembered for the next reconnection; of more, the newest.
const ASKED_REMEMBERED: usize = 1_024;

/// How far one NATS cluster has been updated, and what is under way.
#[derive(Debug)]
pub(in crate::nats) struct Propagation {
    connected: bool,
    draining: bool,
    /// Total bytes received on this connection.
    received: u64,
    lanes: Lanes,
    agenda: Agenda,
    position: Position,
    roster: Roster,
    /// Accounts that were sent on request: the time, the account, its revision.
    asked: VecDeque<(u64, AccountKey, u64)>,
}

impl Propagation {
    /// Continues at the agreed position.
    pub(in crate::nats) fn new(agreed: u64) -> Self {
        Self {
            connected: false,
            draining: false,
            received: 0,
            lanes: Lanes::new(agreed),
            agenda: Agenda::default(),
            position: Position::new(agreed),
            roster: Roster::default(),
            asked: VecDeque::new(),
        }
    }

    /// Every change up to here was answered by at least one server.
    #[cfg(test)]
    pub(super) fn updated_to(&self) -> u64 {
        self.position.updated_to()
    }

    /// How far catching up is, and where it ends; `None` if it has ended.
    pub(in crate::nats) fn catching_up(&self) -> Option<(u64, u64)> {
        self.lanes.catching_up()
    }

    /// The newest revision is at least `newest`.
    pub(in crate::nats) fn newest(&mut self, newest: u64) {
        self.lanes.newest(newest);
    }

    /// Total bytes received on this connection, of any kind. A living server sends something every second.
    pub(in crate::nats) fn received(&mut self, bytes: u64) {
        self.received = bytes;
    }

    /// A connection is up. Nothing that an earlier one sent is relied upon: what is not finished is sent again.
    pub(in crate::nats) fn connected(&mut self, now: u64) {
        self.connected = true;
        self.lanes.connected();
        for account in self.agenda.accounts() {
            self.agenda.queue(account, now);
        }
        self.asked.retain(|(at, ..)| at + REWIND_MS >= now);
        for (_, account, revision) in self.asked.clone() {
            self.list(account, revision, Lane::CatchUp, now);
        }
    }

    /// The connection is gone, and with it every message under way.
    pub(in crate::nats) fn disconnected(&mut self, now: u64) {
        self.connected = false;
        self.advance(now);
        self.lanes.disconnected(self.position.before_loss(), now);
    }

    /// Whether `account` is one of many, or sent again: of interest to a debugger only.
    pub(in crate::nats) fn is_routine(&self, account: AccountKey) -> bool {
        self.agenda.get(account).is_none_or(|pending| pending.routine)
    }

    /// Whether `account` has been sent again as often as refusals allow, so that one more refusal is final.
    pub(in crate::nats) fn is_last_try(&self, account: AccountKey) -> bool {
        self.agenda
            .get(account)
            .is_some_and(|pending| pending.refusals >= REFUSALS)
    }

    /// Reads no more changes from now on; those in flight are finished.
    pub(in crate::nats) fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is waiting for its first answer.
    pub(in crate::nats) fn is_drained(&self) -> bool {
        self.agenda.unanswered() == 0
    }

    /// A caller asks for `account`, now at `revision`, to be sent again. `false`: too many are waiting.
    pub(in crate::nats) fn ask(&mut self, account: AccountKey, revision: u64, now: u64) -> bool {
        let known = self.agenda.get(account).is_some();
        if !known && (self.agenda.len() >= REMEMBERED || self.agenda.unanswered() >= IN_FLIGHT / 2) {
            return false;
        }
        if self.asked.len() == ASKED_REMEMBERED {
            self.asked.pop_front();
        }
        self.asked.push_back((now, account, revision));
        // After every fresh change: any client may ask, and a revocation must not wait for it. An account in flight, or
        // whose answers are still coming in, is not sent again.
        self.list(account, revision, Lane::CatchUp, now);
        true
    }

    /// The result of [`Step::Read`]: the accounts that changed, at their current revisions, and how far they reach.
    pub(in crate::nats) fn listed(&mut self, lane: Lane, rows: &[(AccountKey, u64)], position: u64, now: u64) {
        let Some(goal) = self.lanes.goal(lane) else {
            return;
        };
        for (account, revision) in rows {
            // Beyond the goal it belongs to the other lane.
            if *revision <= goal {
                self.list(*account, *revision, lane, now);
            }
        }
        self.lanes.listed(lane, position, now);
    }

    /// `account` was published with the token of `revision`.
    pub(in crate::nats) fn sent(&mut self, account: AccountKey, revision: u64, now: u64) {
        let Some(pending) = self.agenda.get_mut(account) else {
            return;
        };
        pending.sent = revision;
        pending.sent_at = now;
        pending.received = self.received;
        // The revision that was listed is no longer current, so no server needs it.
        self.raise(account, revision);
    }

    /// There is no such account any more.
    pub(in crate::nats) fn gone(&mut self, account: AccountKey) {
        self.finish(account);
    }

    /// `account` is too large to be sent, which was logged. It must not hold up the others.
    pub(in crate::nats) fn too_large(&mut self, account: AccountKey) {
        self.finish(account);
    }

    /// `server` answered a send of `account` that carried the token of `revision`.
    pub(in crate::nats) fn answered(
        &mut self,
        account: AccountKey,
        revision: u64,
        server: &str,
        verdict: &Verdict,
        now: u64,
    ) {
        let server = self.roster.record(server, now);
        let Some(pending) = self.agenda.get_mut(account) else {
            return;
        };
        if revision < pending.listed || revision > pending.sent {
            return;
        }
        pending.answered = revision;
        let waited = pending.tries > 1;
        pending.tries = 0;
        pending.record(server, verdict);
        if pending.phase == Phase::Sent {
            pending.phase = Phase::Listening;
            pending.first_answer_ms = now.saturating_sub(pending.sent_at);
        }
        let listening = (pending.phase == Phase::Listening).then(|| {
            let listen = if pending.count(Answer::Skipped) + pending.count(Answer::Refused) == 0 {
                LISTEN_MS
            } else {
                REPEAT_AFTER_MS
            };
            pending.sent_at + pending.first_answer_ms + listen
        });
        self.agenda.answered(account);
        if let Some(due) = listening {
            self.agenda.reschedule(account, due);
        }
        if waited {
            self.agenda.hurry(now);
        }
    }

    /// The result of [`Step::Mark`].
    pub(in crate::nats) fn marked(&mut self, position: u64, agreed: bool, now: u64) {
        self.position.mark_ended(position, agreed, now);
    }

    /// What to do now.
    pub(in crate::nats) fn next(&mut self, now: u64) -> Step {
        self.advance(now);
        let finished = self.agenda.finished_up_to(self.position.marked());
        let mut wake = match self.position.next_mark(finished, now) {
            Mark::Now(position) => return Step::Mark(position),
            Mark::At(at) => Some(at),
            Mark::No => None,
        };
        if !self.connected {
            return Step::Wait(wake);
        }
        if let Some(read) = self.lanes.read_fresh(self.room_for_fresh(), now) {
            return read;
        }
        if let Some(at) = self.lanes.rewind_if_due(now) {
            wake = earlier(wake, at);
        }
        while let Some((due, account)) = self.agenda.first_due() {
            if due > now {
                wake = earlier(wake, due);
                break;
            }
            match self.act(account, now) {
                Some(step) => return step,
                None => self.agenda.remove_due(due, account),
            }
        }
        if let Some(read) = self.lanes.read_earlier(self.room_for_earlier(), now) {
            return read;
        }
        if let Some(at) = self.lanes.paused_until(now) {
            wake = earlier(wake, at);
        }
        Step::Wait(wake)
    }

    /// How many fresh changes may be taken now.
    fn room_for_fresh(&self) -> usize {
        if self.draining || self.agenda.len() >= REMEMBERED + REMEMBERED_RESERVE {
            return 0;
        }
        IN_FLIGHT.saturating_sub(self.agenda.unanswered())
    }

    /// How many earlier changes may be taken now.
    fn room_for_earlier(&self) -> usize {
        if self.draining || self.agenda.len() >= REMEMBERED {
            return 0;
        }
        CATCH_UP_IN_FLIGHT.saturating_sub(self.agenda.unanswered())
    }

    /// The step for `account`, which is due.
    fn act(&mut self, account: AccountKey, now: u64) -> Option<Step> {
        let pending = self.agenda.get_mut(account)?;
        if pending.phase == Phase::Listening {
            return self.conclude(account, now).map(Step::Concluded);
        }
        // It may also be due a moment after it was sent, because a server answered for another account.
        let overdue = pending.phase == Phase::Sent && now >= pending.sent_at + ANSWER_MS;
        if overdue && pending.received == self.received {
            return Some(Step::Leave);
        }
        if pending.phase == Phase::Queued {
            pending.listen_anew();
        }
        pending.phase = Phase::Sent;
        pending.tries += 1;
        let pause = ANSWER_MS << (pending.tries - 1).min(4);
        self.agenda.reschedule(account, now + pause.min(MAX_PAUSE_MS));
        Some(Step::Send(account))
    }

    /// No more answers to the last send are waited for: sums them up, then sends the account again or finishes it.
    fn conclude(&mut self, account: AccountKey, now: u64) -> Option<Summary> {
        let pending = self.agenda.get_mut(account)?;
        let (skipped, refused) = (pending.count(Answer::Skipped), pending.count(Answer::Refused));
        let missing = if pending.fresh {
            self.roster.missing(pending, now)
        } else {
            Vec::new()
        };
        let mut summary = Summary {
            account,
            revision: pending.sent,
            updated: pending.count(Answer::Updated),
            skipped,
            refused,
            first_answer_ms: pending.first_answer_ms,
            // A missing server was logged, so it is also logged that none is missing any more.
            routine: pending.routine && (pending.missing_since.is_none() || !missing.is_empty()),
            missing,
            again: false,
        };
        pending.routine = true;
        let pause = if refused > 0 && pending.refusals < REFUSALS {
            pending.refusals += 1;
            Some(ANSWER_MS << (pending.refusals - 1))
        } else if skipped > 0 && pending.repeats < REPEATS {
            pending.repeats += 1;
            Some(0)
        } else if summary.missing.is_empty() {
            None
        } else {
            self.roster.wait_for(account, pending, now)
        };
        match pause {
            Some(pause) => self.agenda.queue(account, now + pause),
            None => self.finish(account),
        }
        summary.again = pause.is_some();
        Some(summary)
    }

    /// `account` is at `revision`: it is queued, unless that revision is sent already.
    fn list(&mut self, account: AccountKey, revision: u64, lane: Lane, now: u64) {
        // Fresh changes go before everything else that is due.
        let due = if lane == Lane::Fresh { 0 } else { now };
        let Some(pending) = self.agenda.get_mut(account) else {
            let mut pending = Pending::new(revision, due, lane == Lane::CatchUp);
            if lane == Lane::CatchUp {
                // No caller waits for it, and a million of them pass here: one repetition is enough.
                pending.repeats = REPEATS - 1;
                pending.refusals = REFUSALS - 1;
            }
            self.agenda.insert(account, pending);
            return;
        };
        // Its token may have been looked up and sent before the change was listed.
        pending.fresh |= lane == Lane::Fresh;
        if revision <= pending.listed {
            return;
        }
        let under_way = pending.sent >= revision;
        pending.routine &= lane == Lane::CatchUp;
        self.raise(account, revision);
        if !under_way {
            self.agenda.queue(account, due);
        }
    }

    /// Records that `account` is at `revision`, unless a newer revision is known.
    fn raise(&mut self, account: AccountKey, revision: u64) {
        if self.agenda.raise(account, revision) {
            self.position.need_mark();
            self.roster.wait_no_more(account);
        }
    }

    fn finish(&mut self, account: AccountKey) {
        if self.agenda.remove(account) {
            self.roster.wait_no_more(account);
            self.position.need_mark();
        }
    }

    /// Moves the position over the changes that are answered.
    fn advance(&mut self, now: u64) {
        let answered = self.agenda.answered_up_to(self.position.updated_to());
        self.position.advance(answered.min(self.lanes.floor()), now);
    }
}

fn earlier(wake: Option<u64>, at: u64) -> Option<u64> {
    Some(wake.map_or(at, |wake| wake.min(at)))
}
