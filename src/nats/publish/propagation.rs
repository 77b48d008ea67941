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
//! In both, an account's *first revision* goes behind the changes of accounts that existed. It takes no right away, and
//! an import makes a hundred thousand of them; most servers skip each, which makes it wait for its repetition. So first
//! revisions have places of their own, and what they take never keeps another change waiting.
//!
//! One answer moves the position, so that one server cannot hold up all others. But every server has to answer each change.
//! One that does not is *behind* from there on (`roster.rs`), which is agreed before the position passes that change. It
//! stays so until a check has shown that it enforces every newer token (`checks.rs`), however long it is away.

use std::collections::VecDeque;

use super::agenda::{Agenda, Rank, URGENT_ONCE_READ};
use super::lanes::{Lanes, REWIND_MS};

use super::pending::{Answer, Pending, Phase};
use super::position::{Mark, Position};
use super::roster::{Checks, Roster};
use super::step::{Changed, Lane, News, Step, Summary};
use super::sweep::Sweep;
use crate::jwt::AccountKey;
use crate::nats::subjects::{ServerInfo, Verdict};
use crate::resolver::Server;

/// Without an answer after this long, the message or the reply counts as lost. A reply takes a round trip; two seconds
/// is what nats-server itself grants a fetch (1.9 s).
pub(in crate::nats) const ANSWER_MS: u64 = 2_000;

/// The longest pause between two sends that no server answers.
const MAX_PAUSE_MS: u64 = 30_000;

/// After a first answer, how long the other servers' answers are collected for the summary.
const LISTEN_MS: u64 = 1_000;

/// After `skipped`, how long until the token is sent once more: the fetch that may have been under way is over then.
pub(super) const REPEAT_AFTER_MS: u64 = 3_000;

/// How often a token is sent again for `skipped`: once for the fetch, once more for the fetches of what it imports.
pub(super) const REPEATS: u8 = 2;

/// How often a refused token is sent again. A server that refuses a verified token has other operator keys than we do,
/// and only a restart changes them, after which it fetches the token. Trying for more than a few seconds is noise.
pub(super) const REFUSALS: u8 = 3;

/// How far one NATS cluster has been updated, and what is under way.
#[derive(Debug)]
pub(in crate::nats) struct Propagation {
    pub(super) connected: bool,
    /// When the connection came up.
    pub(super) connected_at: u64,
    /// Whether servers have to report before anything is sent over this connection, and whether one has.
    pub(super) greets: bool,
    pub(super) has_heard: bool,
    /// Since when every server that is reached was heard, and what other senders publish.
    pub(super) heard_all_since: u64,
    pub(super) draining: bool,
    /// Total bytes received on this connection.
    pub(super) received: u64,
    pub(super) lanes: Lanes,
    pub(super) agenda: Agenda,
    pub(super) position: Position,
    pub(super) roster: Roster,
    pub(super) checks: Checks,
    pub(super) sweep: Sweep,
    pub(super) news: VecDeque<News>,
    /// The account that was sent last: to see whether a server is back that cannot be asked.
    pub(super) last_sent: Option<AccountKey>,
    /// When the next first revision may be sent, in microseconds.
    pub(super) behind_at_us: u64,
    /// Accounts that were sent on request: the time, the account, its revision.
    pub(super) asked: VecDeque<(u64, AccountKey, u64)>,
}

impl Propagation {
    /// Continues at the agreed position, with the agreed servers.
    pub(in crate::nats) fn new(agreed: u64, servers: Vec<Server>) -> Self {
        Self {
            connected: false,
            connected_at: 0,
            greets: false,
            has_heard: false,
            heard_all_since: 0,
            draining: false,
            received: 0,
            lanes: Lanes::new(agreed),
            agenda: Agenda::default(),
            position: Position::new(agreed),
            roster: Roster::new(servers),
            checks: Checks::default(),
            sweep: Sweep::default(),
            news: VecDeque::new(),
            last_sent: None,
            behind_at_us: 0,
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

    /// Another node published before: everything since the agreed position is sent once more when what that node sent has
    /// either arrived or never will.
    pub(in crate::nats) fn taken_over(&mut self, now: u64) {
        self.lanes.taken_over(now);
    }

    /// A connection is up. Nothing that an earlier one sent is relied upon: what is not finished is sent again.
    pub(in crate::nats) fn connected(&mut self, now: u64) {
        self.connected = true;
        self.connected_at = now;
        self.lanes.connected();
        self.checks.connected(&self.roster, true, now);
        (self.greets, self.has_heard) = (!self.has_swept(), false);
        self.heard_all_since = now;
        self.sweep.connected(now);
        self.end_readings();
        for account in self.agenda.accounts() {
            if let Some(pending) = self.agenda.get_mut(account) {
                (pending.must_be_read, pending.is_read) = (true, false);
            }
            let urgent = |pending: &Pending| pending.fresh && !pending.behind && pending.answered < pending.listed;
            let urgent = self.agenda.get(account).is_some_and(urgent);
            self.agenda.queue(account, if urgent { URGENT_ONCE_READ } else { now });
        }
        self.asked.retain(|(at, ..)| at + REWIND_MS >= now);
        for (_, account, revision) in self.asked.clone() {
            self.list_asked(account, revision, now);
        }
    }

    /// The connection is gone, and with it every message under way.
    pub(in crate::nats) fn disconnected(&mut self, now: u64) {
        self.connected = false;
        self.checks.disconnected();
        self.sweep.disconnected();
        self.end_readings();
        self.advance(now);
        self.lanes.disconnected(self.position.before_loss(), now);
    }

    /// Whether `account` is one of many, or sent again: of interest to a debugger only.
    pub(in crate::nats) fn is_routine(&self, account: AccountKey) -> bool {
        self.agenda
            .get(account)
            .is_none_or(|pending| pending.routine || pending.first)
    }

    /// Whether first revisions are waiting: for their turn, for an answer or to be sent again.
    pub(in crate::nats) fn has_firsts(&self) -> bool {
        self.agenda.behind().all > 0 || self.lanes.is_behind()
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

    /// The result of [`Step::Read`]: the accounts that changed, and how far they reach.
    pub(in crate::nats) fn listed(&mut self, lane: Lane, rows: &[Changed], position: u64, now: u64) {
        self.lanes.read_ended(lane);
        let Some(goal) = self.lanes.goal(lane).filter(|_| !self.draining) else {
            return;
        };
        let takes_firsts = self.lanes.takes_firsts(lane) && self.room_for_firsts() > 0;
        let mut left = false;
        // Beyond the goal it belongs to another lane.
        for row in rows.iter().filter(|row| row.revision <= goal) {
            if row.first && !takes_firsts {
                left = true;
            } else if row.first || !lane.is_firsts() {
                self.list(*row, lane, now);
            }
        }
        if left && lane.is_firsts() {
            return;
        }
        self.lanes.listed(lane, position, left, now);
    }

    /// A [`Step::Read`] has failed; it is repeated after a pause.
    pub(in crate::nats) fn unreadable(&mut self, lane: Lane, now: u64) {
        self.lanes.read_ended(lane);
        self.lanes.unreadable(now);
    }

    /// `account` was published with the token of `revision`.
    pub(in crate::nats) fn sent(&mut self, account: AccountKey, revision: u64, now: u64) {
        let Some(pending) = self.agenda.get_mut(account) else {
            return;
        };
        self.last_sent = Some(account);
        pending.open_since = pending.open_since.min(now);
        pending.sent = revision;
        pending.sent_at = now;
        pending.received = self.received;
        // The revision that was listed is no longer current, so no server needs it.
        self.raise(account, revision, now);
    }

    /// There is no such account any more.
    pub(in crate::nats) fn gone(&mut self, account: AccountKey) {
        self.finish(account);
    }

    /// `account` cannot be sent, which was logged: it is too large, or its row cannot be read. It must not hold up the others.
    pub(in crate::nats) fn unsendable(&mut self, account: AccountKey, now: u64) {
        if let Some(pending) = self.agenda.get(account).filter(|pending| pending.expected) {
            let upto = pending.listed.saturating_sub(1);
            let slots: Vec<_> = self.roster.iter().map(|(slot, _)| slot).collect();
            for slot in slots {
                self.refuse(slot, account, upto, now);
            }
        }
        self.cannot_be_repaired(account, now);
        self.finish(account);
    }

    /// `server` answered a send of `account` that carried the token of `revision`.
    pub(in crate::nats) fn answered(
        &mut self,
        account: AccountKey,
        revision: u64,
        server: &ServerInfo,
        verdict: &Verdict,
        now: u64,
    ) {
        let slot = self.hear(server, now);
        self.is_back(slot, now);
        let Some(pending) = self.agenda.get_mut(account) else {
            return;
        };
        if revision < pending.listed || revision > pending.sent {
            return;
        }
        pending.answered = revision;
        let waited = pending.tries > 1;
        pending.tries = 0;
        if let Some(slot) = slot {
            pending.record(slot, verdict);
            if !matches!(verdict, Verdict::Refused(_)) {
                self.checks.answered(slot, account);
            }
        }
        let phase = pending.phase_when_read();
        if phase == Phase::Sent {
            pending.first_answer_ms = now.saturating_sub(pending.sent_at);
        }
        let listening = (phase != Phase::Queued).then(|| {
            let listen = if pending.count(Answer::Skipped) + pending.count(Answer::Refused) == 0 {
                LISTEN_MS
            } else {
                REPEAT_AFTER_MS
            };
            pending.sent_at + pending.first_answer_ms + listen
        });
        self.agenda.answered(account, listening);
        if waited {
            self.agenda.hurry(now);
        }
    }

    /// The result of [`Step::Mark`].
    pub(in crate::nats) fn marked(&mut self, position: u64, agreed: bool, now: u64) {
        self.roster.agreed(agreed);
        self.position.mark_ended(position, agreed, now);
    }

    /// What to do now.
    pub(in crate::nats) fn next(&mut self, now: u64) -> Step {
        self.advance(now);
        self.end_checks(now);
        if let Some(news) = self.news.pop_front() {
            return Step::News(news);
        }
        let finished = self.agenda.finished_up_to(self.position.marked());
        let (is_more, is_last) = (self.roster.is_changed(), self.draining && !self.connected);
        let mut wake = match self.position.next_mark(finished, is_more, is_last, now) {
            Mark::Now(position) => return Step::Mark(self.agreement(position)),
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
        for rank in [Rank::Answers, Rank::Sent, Rank::Ahead, Rank::Behind] {
            // Behind what takes rights away, and before what does not.
            if rank == Rank::Behind {
                match self.next_question(now) {
                    Ok(step) => return step,
                    Err(Some(at)) => wake = earlier(wake, at),
                    Err(None) => {}
                }
            }
            while let Some((due, account)) = self.agenda.first_due(rank) {
                let at = due.max(self.not_before(rank, (due, account), now));
                if at > now {
                    wake = earlier(wake, at);
                    break;
                }
                match self.act(account, now) {
                    Some(step) => {
                        if rank == Rank::Behind && matches!(step, Step::Send(_)) {
                            self.paced(now);
                        }
                        return step;
                    }
                    None => self.agenda.remove_due(rank, due, account),
                }
            }
        }
        let room = self.room_for_earlier();
        if let Some(read) = self.lanes.read_others(room, self.room_for_firsts(), now) {
            return read;
        }
        if let Some(at) = self.lanes.paused_until(now) {
            wake = earlier(wake, at);
        }
        Step::Wait(wake)
    }

    /// The step for `account`, which is due.
    fn act(&mut self, account: AccountKey, now: u64) -> Option<Step> {
        match self.agenda.get(account)?.phase {
            Phase::Listening => return self.conclude(account, now).map(Step::Concluded),
            Phase::Reading => return self.reading_is_due(account, now),
            Phase::Queued | Phase::Sent => {}
        }
        let is_to_be_read = self.is_to_be_read(account, now);
        let pending = self.agenda.get_mut(account)?;
        // It may also be due a moment after it was sent, because a server answered for another account.
        let overdue = pending.phase == Phase::Sent && now >= pending.sent_at + ANSWER_MS;
        if overdue && pending.received == self.received && !pending.is_read {
            return Some(Step::Leave);
        }
        if is_to_be_read {
            return Some(self.begin_reading(account, now));
        }
        if pending.phase == Phase::Queued {
            pending.listen_anew();
        }
        pending.tries += 1;
        let pause = ANSWER_MS << (pending.tries - 1).min(4);
        self.agenda.sent(account, now, now + pause.min(MAX_PAUSE_MS));
        Some(Step::Send(account))
    }

    /// No more answers to the last send are waited for: sums them up, then sends the account again or finishes it.
    fn conclude(&mut self, account: AccountKey, now: u64) -> Option<Summary> {
        let pending = self.agenda.get_mut(account)?;
        let (skipped, refused) = (pending.count(Answer::Skipped), pending.count(Answer::Refused));
        let pause = if refused > 0 && pending.refusals < REFUSALS {
            pending.refusals += 1;
            Some(ANSWER_MS << (pending.refusals - 1))
        } else if skipped > 0 && pending.repeats < REPEATS {
            pending.repeats += 1;
            Some(0)
        } else {
            None
        };
        let mut summary = Summary {
            account,
            revision: pending.sent,
            updated: pending.count(Answer::Updated),
            skipped,
            refused,
            first_answer_ms: pending.first_answer_ms,
            routine: pending.routine,
            missing: 0,
            first: pending.first && pending.fresh,
            again: pause.is_some(),
        };
        pending.routine = true;
        pending.open_since = now;
        self.look_after(account);
        summary.missing = self.miss_silent(account, pause.is_none(), now);
        match pause {
            Some(pause) => self.agenda.queue(account, now + pause),
            None => self.finish(account),
        }
        Some(summary)
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
