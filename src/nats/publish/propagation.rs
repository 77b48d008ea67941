//! Decides what a NATS cluster is told next. A value with methods: no I/O, no clock; `now` is milliseconds of any
//! steady clock.
//!
//! Nothing is queued but keys. Whoever acts on a [`Step::Send`] looks the token up at that moment, so that an older
//! one can never follow a newer one. What is known for certain is a position: every change up to it was answered by
//! at least one nats-server. It moves only over answered changes; whatever is lost on the way, a message, a reply, a
//! connection, this process, the change behind it is still above the position, and is sent again.
//!
//! There are two ways a change is found (`lanes.rs`). *Fresh* changes follow the newest revision and are sent before all else, so
//! that a revocation never waits behind a million accounts. *Catching up* covers what lies before them: from the
//! agreed position at the first connection, and from two minutes back at every later one.
//!
//! One answer moves the position, so that one server cannot hold up all others. But a server that answered earlier
//! changes is expected to answer the next fresh one too, and as long as it does not, that change is sent again.

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
/// accounts a second; little enough that a NATS cluster that stopped answering costs nothing.
const IN_FLIGHT: usize = 256;

/// How many of them catching up may use, so that a fresh change always finds room.
const CATCH_UP_IN_FLIGHT: usize = IN_FLIGHT / 2;

/// Accounts remembered at all, most of them answered `skipped` and waiting for their repetition: 16,384 in 3 s is a
/// pace of 5,000 accounts a second, and about 5 MB. Beyond it no more changes are read until some are done.
const REMEMBERED: usize = 16_384;

/// What may exceed that: fresh changes and accounts that were asked for. Beyond it an asked-for account is not
/// taken, and fresh changes wait where they are, in the store.
const REMEMBERED_RESERVE: usize = 2_048;

/// No answer after this long: the message or the reply is lost. A reply takes a round trip; two seconds is what
/// nats-server itself grants a fetch (1.9 s).
pub(in crate::nats) const ANSWER_MS: u64 = 2_000;

/// The longest pause between two sends that nobody answers.
const MAX_PAUSE_MS: u64 = 30_000;

/// After a first answer, how long the other servers' answers are collected for the summary.
const LISTEN_MS: u64 = 1_000;

/// After `skipped`, how long until the token is sent once more: the fetch that may have been under way is over then.
const REPEAT_AFTER_MS: u64 = 3_000;

/// How often it is repeated for `skipped`: once for the fetch, once more for the fetches of what it imports.
const REPEATS: u8 = 2;

/// How often a refused token is sent again. A server that refuses a verified token has other operator keys than we
/// do, and only a restart changes them (then it fetches): more than a few seconds of trying is noise.
const REFUSALS: u8 = 3;

/// Accounts sent on request that are remembered for the next reconnection.
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
    /// Accounts that were sent on request: when, which, at which revision.
    asked: VecDeque<(u64, AccountKey, u64)>,
}

impl Propagation {
    /// Continues at an agreed position.
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

    /// Everything up to here was answered by at least one server.
    #[cfg(test)]
    pub(super) fn told(&self) -> u64 {
        self.position.told()
    }

    /// How far catching up is, and where it ends.
    pub(in crate::nats) fn catching_up(&self) -> Option<(u64, u64)> {
        self.lanes.catching_up()
    }

    /// There is a revision `newest`.
    pub(in crate::nats) fn newest(&mut self, newest: u64) {
        self.lanes.newest(newest);
    }

    /// Total bytes received on this connection, of any kind. A living server sends something every second.
    pub(in crate::nats) fn received(&mut self, bytes: u64) {
        self.received = bytes;
    }

    /// A connection is up; nothing of what an earlier one did is relied upon.
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

    /// The connection is gone, and with it whatever was under way.
    pub(in crate::nats) fn disconnected(&mut self, now: u64) {
        self.connected = false;
        self.advance(now);
        self.lanes.disconnected(self.position.before_loss(), now);
    }

    /// Whether `account` is one of many, or a repetition: of interest to a debugger only.
    pub(in crate::nats) fn is_routine(&self, account: AccountKey) -> bool {
        self.agenda.get(account).is_none_or(|pending| pending.routine)
    }

    /// Whether a refusal of `account` by a server is the last that is listened to.
    pub(in crate::nats) fn is_last_try(&self, account: AccountKey) -> bool {
        self.agenda
            .get(account)
            .is_some_and(|pending| pending.refusals >= REFUSALS)
    }

    /// Takes no more changes; what is in flight is finished.
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
        // Behind every change: anybody may ask, and a revocation must not wait for it. One that is under way, or
        // whose answers are still coming in, is not sent again.
        self.list(account, revision, Lane::CatchUp, now);
        true
    }

    /// The answer to [`Step::Read`]: the current rows that changed, and how far they reach.
    pub(in crate::nats) fn listed(&mut self, lane: Lane, rows: &[(AccountKey, u64)], position: u64, now: u64) {
        let Some(goal) = self.lanes.goal(lane) else {
            return;
        };
        for (account, revision) in rows {
            // Beyond the goal it is the other lane's.
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
        // What was read then is no longer current, so no server needs it.
        self.raise(account, revision);
    }

    /// There is no such account any more.
    pub(in crate::nats) fn gone(&mut self, account: AccountKey) {
        self.finish(account);
    }

    /// It cannot be sent as it is, which was logged. It must not hold up all others.
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
        let server = self.roster.hear(server, now);
        let Some(pending) = self.agenda.get_mut(account) else {
            return;
        };
        if revision < pending.listed || revision > pending.sent {
            return;
        }
        pending.answered = revision;
        let waited = pending.tries > 1;
        pending.tries = 0;
        pending.hear(server, verdict);
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

    /// The answer to [`Step::Mark`].
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
                None => self.agenda.strike(due, account),
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

    /// `account` is due.
    fn act(&mut self, account: AccountKey, now: u64) -> Option<Step> {
        let pending = self.agenda.get_mut(account)?;
        if pending.phase == Phase::Listening {
            return self.conclude(account, now).map(Step::Told);
        }
        // It may also be due because others were answered, a moment after it was sent.
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

    /// All answers to a send are in.
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
            // That a server was missing was logged, so it is logged that none is any more.
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

    /// `account` is at `revision`: it is sent, unless that is done already or under way.
    fn list(&mut self, account: AccountKey, revision: u64, lane: Lane, now: u64) {
        // Before everything that is merely due.
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
        // It may have been read, and sent, before it was listed.
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

    /// `account` is known to be at `revision`, if it was not known to be further.
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

    /// Moves the position over what is answered.
    fn advance(&mut self, now: u64) {
        let answered = self.agenda.answered_up_to(self.position.told());
        self.position.advance(answered.min(self.lanes.floor()), now);
    }
}

fn earlier(wake: Option<u64>, at: u64) -> Option<u64> {
    Some(wake.map_or(at, |wake| wake.min(at)))
}
