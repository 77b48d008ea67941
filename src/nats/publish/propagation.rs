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

use super::agenda::{Agenda, Rank};
use super::lanes::{Lanes, REWIND_MS};
use super::pending::{Answer, Pending, Phase};
use super::position::{Mark, Position};
use super::roster::{Checks, Roster};
use super::step::{Changed, Lane, News, Step, Summary};
use crate::jwt::AccountKey;
use crate::nats::subjects::{ServerInfo, Verdict};
use crate::resolver::Server;

/// Changes of accounts that existed that are read and unanswered at once. Enough to fill a connection over a 50 ms round
/// trip with 5,000 accounts a second; few enough that a NATS cluster that stopped answering costs nothing.
const IN_FLIGHT: usize = 256;

/// How many of them catching up may use, so that a fresh change always finds room. First revisions may be as many
/// beside them.
const CATCH_UP_IN_FLIGHT: usize = IN_FLIGHT / 2;

/// Accounts that are under way before other changes than fresh ones are sent, even if thousands are due at once, as after
/// a reconnection. A fresh change waits for no more messages than the servers take in some ten milliseconds.
const UNDER_WAY: usize = CATCH_UP_IN_FLIGHT;

/// The same for first revisions and what is sent on request: over a 50 ms round trip 640 a second.
const BEHIND_UNDER_WAY: usize = 32;

/// The time between two of those, at least, in microseconds: 2,000 a second. Servers that work through an import thus
/// have time left for a revocation: right after one, 49 of 50 took at most 13 ms; at 4,000 a second that was 62 to 414 ms
/// on a busy machine, without pauses 81 to 161 ms.
const BEHIND_PAUSE_US: u64 = 500;

/// Pauses that may be made up for, since a timer wakes us every millisecond at most.
const BEHIND_BURST_US: u64 = 8 * BEHIND_PAUSE_US;

/// Accounts remembered in total, most of them answered `skipped` and waiting for their repetition: 16,384 in 3 s is a
/// pace of 5,000 accounts a second, and about 5 MB. Beyond it no earlier changes are read until some are finished. As
/// many first revisions are remembered beside them; beyond those no account is sent on request.
const REMEMBERED: usize = 16_384;

/// How far fresh changes may exceed that. Beyond it they wait where they are, in the store.
const REMEMBERED_RESERVE: usize = 2_048;

/// First revisions and accounts sent on request that are unanswered before no more are sent on request: those two share
/// their places, and an import must not make requests fail.
const ASKED_IN_FLIGHT: usize = 2 * IN_FLIGHT;

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
    pub(super) connected: bool,
    /// When the connection came up.
    pub(super) connected_at: u64,
    draining: bool,
    /// Total bytes received on this connection.
    received: u64,
    pub(super) lanes: Lanes,
    pub(super) agenda: Agenda,
    pub(super) position: Position,
    pub(super) roster: Roster,
    pub(super) checks: Checks,
    pub(super) news: VecDeque<News>,
    /// The account that was sent last: to see whether a server is back that cannot be asked.
    pub(super) last_sent: Option<AccountKey>,
    /// When the next first revision may be sent, in microseconds.
    behind_at_us: u64,
    /// Accounts that were sent on request: the time, the account, its revision.
    asked: VecDeque<(u64, AccountKey, u64)>,
}

impl Propagation {
    /// Continues at the agreed position, with the agreed servers.
    pub(in crate::nats) fn new(agreed: u64, servers: Vec<Server>) -> Self {
        Self {
            connected: false,
            connected_at: 0,
            draining: false,
            received: 0,
            lanes: Lanes::new(agreed),
            agenda: Agenda::default(),
            position: Position::new(agreed),
            roster: Roster::new(servers),
            checks: Checks::default(),
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
        for account in self.agenda.accounts() {
            let urgent = |pending: &Pending| pending.fresh && !pending.behind && pending.answered < pending.listed;
            let urgent = self.agenda.get(account).is_some_and(urgent);
            self.agenda.queue(account, if urgent { 0 } else { now });
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

    /// A caller asks for `account`, now at `revision`, to be sent again. `false`: too many are waiting.
    pub(in crate::nats) fn ask(&mut self, account: AccountKey, revision: u64, now: u64) -> bool {
        let known = self.agenda.get(account).is_some();
        let behind = self.agenda.behind();
        if !known && (behind.all >= REMEMBERED + REMEMBERED_RESERVE || behind.unanswered >= ASKED_IN_FLIGHT) {
            return false;
        }
        if self.asked.len() == ASKED_REMEMBERED {
            self.asked.pop_front();
        }
        self.asked.push_back((now, account, revision));
        self.list_asked(account, revision, now);
        true
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
        if pending.phase == Phase::Sent {
            pending.first_answer_ms = now.saturating_sub(pending.sent_at);
        }
        let listening = (pending.phase != Phase::Queued).then(|| {
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
        for rank in [Rank::Sent, Rank::Ahead, Rank::Behind] {
            // Behind what takes rights away, and before what does not.
            if rank == Rank::Behind {
                match self.next_check(now) {
                    Ok(step) => return step,
                    Err(Some(at)) => wake = earlier(wake, at),
                    Err(None) => {}
                }
            }
            while let Some((due, account)) = self.agenda.first_due(rank) {
                let at = due.max(self.not_before(rank, due, now));
                if at > now {
                    wake = earlier(wake, at);
                    break;
                }
                match self.act(account, now) {
                    Some(step) => {
                        if rank == Rank::Behind {
                            let earliest = (now * 1_000).saturating_sub(BEHIND_BURST_US);
                            self.behind_at_us = self.behind_at_us.max(earliest) + BEHIND_PAUSE_US;
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

    /// When an account of `rank` that is due at `due` may be sent. Fresh changes, due at 0, wait for nothing.
    fn not_before(&self, rank: Rank, due: u64, now: u64) -> u64 {
        if rank == Rank::Sent || due == 0 {
            return 0;
        }
        let (most, paced) = match rank {
            Rank::Behind => (BEHIND_UNDER_WAY, self.behind_at_us.div_ceil(1_000)),
            _ => (UNDER_WAY, 0),
        };
        match self.agenda.under_way((now + 1).saturating_sub(ANSWER_MS)) {
            // At the latest when its answer is overdue and it counts no more.
            (count, Some(first)) if count >= most => paced.max(first + ANSWER_MS),
            _ => paced,
        }
    }

    /// How many fresh changes may be taken now.
    fn room_for_fresh(&self) -> usize {
        let ahead = self.agenda.ahead();
        if self.draining || ahead.all >= REMEMBERED + REMEMBERED_RESERVE {
            return 0;
        }
        IN_FLIGHT.saturating_sub(ahead.unanswered)
    }

    /// How many earlier changes may be taken now.
    fn room_for_earlier(&self) -> usize {
        let ahead = self.agenda.ahead();
        if self.draining || ahead.all >= REMEMBERED {
            return 0;
        }
        CATCH_UP_IN_FLIGHT.saturating_sub(ahead.unanswered)
    }

    /// How many first revisions may be taken now.
    fn room_for_firsts(&self) -> usize {
        let behind = self.agenda.behind();
        if self.draining || behind.all >= REMEMBERED {
            return 0;
        }
        CATCH_UP_IN_FLIGHT.saturating_sub(behind.unanswered)
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
        summary.missing = self.miss_silent(account, pause.is_none(), now);
        match pause {
            Some(pause) => self.agenda.queue(account, now + pause),
            None => self.finish(account),
        }
        Some(summary)
    }

    /// An account has changed: it is queued, unless that revision is sent already.
    fn list(&mut self, row: Changed, lane: Lane, now: u64) {
        let Changed {
            account,
            revision,
            first,
        } = row;
        // Fresh changes of accounts that existed go before everything else that is due.
        let due = if lane == Lane::Fresh && !first { 0 } else { now };
        let Some(pending) = self.agenda.get_mut(account) else {
            let mut pending = Pending::new(revision, due, first, !lane.is_fresh());
            pending.first = first;
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
        pending.expected = true;
        let is_new = revision > pending.listed;
        let under_way = pending.sent >= revision;
        let urgent = due == 0 && pending.phase == Phase::Queued;
        if is_new {
            pending.routine &= !lane.is_fresh();
            self.raise(account, revision, now);
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
    fn raise(&mut self, account: AccountKey, revision: u64, now: u64) {
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

    fn finish(&mut self, account: AccountKey) {
        if self.agenda.remove(account) {
            self.position.need_mark();
            self.checks.finished(account);
            if self.agenda.is_empty() {
                self.roster.free_slots();
            }
        }
    }

    /// Moves the position over the changes that are answered.
    fn advance(&mut self, now: u64) {
        let answered = self.agenda.answered_up_to(self.position.updated_to());
        self.position.advance(answered.min(self.lanes.floor()), now);
    }
}

/// No caller waits for it, and a million of them pass here: one repetition is enough.
pub(super) fn expect_little(pending: &mut Pending) {
    pending.repeats = REPEATS - 1;
    pending.refusals = REFUSALS - 1;
}

fn earlier(wake: Option<u64>, at: u64) -> Option<u64> {
    Some(wake.map_or(at, |wake| wake.min(at)))
}
