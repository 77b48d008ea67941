//! Decides what a NATS cluster is told next. A value with methods: no I/O, no clock; `now` is milliseconds of any
//! steady clock.
//!
//! Nothing is queued but keys. Whoever acts on a [`Step::Send`] looks the token up at that moment, so that an older
//! one can never follow a newer one. What is known for certain is a position: every change up to it was answered by
//! at least one nats-server. It moves only over answered changes; whatever is lost on the way, a message, a reply, a
//! connection, this process, the change behind it is still above the position, and is sent again.
//!
//! There are two ways a change is found. *Fresh* changes follow the newest revision and are sent before all else, so
//! that a revocation never waits behind a million accounts. *Catching up* covers what lies before them: from the
//! agreed position at the first connection, and from two minutes back at every later one.
//!
//! One answer moves the position, so that one server cannot hold up all others. But a server that answered earlier
//! changes is expected to answer the next fresh one too, and as long as it does not, that change is sent again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::pending::{Answer, Lane, Pending, Phase, Roster, Step, Summary};
use super::subjects::Verdict;
use crate::jwt::AccountKey;

/// Accounts that are sent and unanswered at once. Enough to fill a connection over a 50 ms round trip with 5,000
/// accounts a second; little enough that a NATS cluster that stopped answering costs nothing.
const IN_FLIGHT: usize = 256;

/// How many of them catching up may use, so that a fresh change always finds room.
const CATCH_UP_IN_FLIGHT: usize = IN_FLIGHT / 2;

/// Changes asked for at once. Small, so that the first is sent while the rest are still being read.
const READ_ROWS: usize = 64;

/// Accounts remembered at all, most of them answered `skipped` and waiting for their repetition: 16,384 in 3 s is a
/// pace of 5,000 accounts a second, and about 5 MB. Beyond it no more changes are read until some are done.
const REMEMBERED: usize = 16_384;

/// What may exceed that: fresh changes and accounts that were asked for. Beyond it an asked-for account is not
/// taken, and fresh changes wait where they are, in the store.
const REMEMBERED_RESERVE: usize = 2_048;

/// No answer after this long: the message or the reply is lost. A reply takes a round trip; two seconds is what
/// nats-server itself grants a fetch (1.9 s).
pub(super) const ANSWER_MS: u64 = 2_000;

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

/// How often the position is agreed at most. Each time is an entry in the Raft log.
const MARK_EVERY_MS: u64 = 1_000;

/// How far back sending starts again after a reconnection. Whoever was cut off from us may also have been cut off
/// from the rest of its cluster for as long as that took to be noticed.
const REWIND_MS: u64 = 120_000;

/// The pause before asking again when there was nothing to read where something should have been.
const READ_PAUSE_MS: u64 = 50;

/// Accounts sent on request that are remembered for the next reconnection.
const ASKED_REMEMBERED: usize = 1_024;

/// How far one NATS cluster has been told, and what is under way.
///
/// - An account is in `pending` exactly once, and `agenda` holds exactly its `due`.
/// - `unanswered` holds those whose newest known revision nobody has answered yet.
/// - `told` and `marked` never go back, `marked <= told`.
#[derive(Debug)]
pub(super) struct Propagation {
    connected: bool,
    draining: bool,
    /// Grows with everything that comes over the connection.
    heard: u64,
    /// The newest revision there is.
    newest: u64,
    /// Fresh changes are listed up to here.
    read: u64,
    catch_up: Option<CatchUp>,
    /// Nothing is read before this time.
    read_again_at: u64,
    pending: BTreeMap<AccountKey, Pending>,
    unanswered: BTreeSet<(u64, AccountKey)>,
    unfinished: BTreeSet<(u64, AccountKey)>,
    agenda: BTreeSet<(u64, AccountKey)>,
    roster: Roster,
    told: u64,
    marked: u64,
    marking: bool,
    mark_again_at: u64,
    /// An account was told and is done with, or changed again, since the last mark. The mark is itself an entry of the log and moves the newest
    /// revision; without this, each would cause the next, for ever.
    news: bool,
    /// When `told` had which value, for the last two minutes.
    history: VecDeque<(u64, u64)>,
    /// Where to start again at the next connection.
    rewind: Option<u64>,
    /// When to go back once more, and how far: what a lost connection had in the system's buffers may still arrive
    /// after the next one has sent something newer, and would undo it.
    rewind_again: Option<(u64, u64)>,
    asked: VecDeque<(u64, AccountKey, u64)>,
}

#[derive(Debug)]
struct CatchUp {
    read: u64,
    goal: u64,
}

impl Propagation {
    /// Continues at an agreed position.
    pub(super) fn new(agreed: u64) -> Self {
        Self {
            connected: false,
            draining: false,
            heard: 0,
            newest: agreed,
            read: agreed,
            catch_up: None,
            read_again_at: 0,
            pending: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            agenda: BTreeSet::new(),
            roster: Roster::default(),
            told: agreed,
            marked: agreed,
            marking: false,
            mark_again_at: 0,
            news: false,
            history: VecDeque::new(),
            rewind: None,
            rewind_again: None,
            asked: VecDeque::new(),
        }
    }

    /// Everything up to here was answered by at least one server.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// How far catching up is, and where it ends.
    pub(super) fn catching_up(&self) -> Option<(u64, u64)> {
        self.catch_up.as_ref().map(|c| (c.read, c.goal))
    }

    /// There is a revision `newest`.
    pub(super) fn newest(&mut self, newest: u64) {
        self.newest = self.newest.max(newest);
    }

    /// So much came over the connection until now, of any kind. A living server says something every second.
    pub(super) fn heard(&mut self, bytes: u64) {
        self.heard = bytes;
    }

    /// A connection is up; nothing of what an earlier one did is relied upon.
    pub(super) fn connected(&mut self, now: u64) {
        self.connected = true;
        self.read_again_at = 0;
        let from = match self.rewind.take() {
            Some(rewind) => rewind.min(self.floor()),
            None => {
                // The first connection: all there is lies before it.
                let floor = self.floor();
                self.read = self.newest;
                floor
            }
        };
        self.catch_up = (from < self.read).then_some(CatchUp {
            read: from,
            goal: self.read,
        });
        let accounts: Vec<_> = self.pending.keys().copied().collect();
        for account in accounts {
            self.queue(account, now);
        }
        self.asked.retain(|(at, ..)| at + REWIND_MS >= now);
        for (_, account, revision) in self.asked.clone() {
            self.list(account, revision, Lane::CatchUp, now);
        }
    }

    /// The connection is gone, and with it whatever was under way.
    pub(super) fn disconnected(&mut self, now: u64) {
        self.connected = false;
        self.remember(now);
        let before = self.history.front().map_or(self.told, |(_, told)| *told);
        let from = before.min(self.marked);
        self.rewind = Some(self.rewind.map_or(from, |earlier| earlier.min(from)));
        let again = self.rewind_again.map_or(from, |(_, earlier)| earlier.min(from));
        self.rewind_again = Some((now + REWIND_MS, again));
    }

    /// Whether `account` is one of many, or a repetition: of interest to a debugger only.
    pub(super) fn is_routine(&self, account: AccountKey) -> bool {
        self.pending.get(&account).is_none_or(|pending| pending.routine)
    }

    /// Whether a refusal of `account` by a server is the last that is listened to.
    pub(super) fn is_last_try(&self, account: AccountKey) -> bool {
        self.pending
            .get(&account)
            .is_some_and(|pending| pending.refusals >= REFUSALS)
    }

    /// Takes no more changes; what is in flight is finished.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is waiting for its first answer.
    pub(super) fn is_drained(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Somebody asks for `account`, now at `revision`, to be sent again. `false`: too many are waiting.
    pub(super) fn ask(&mut self, account: AccountKey, revision: u64, now: u64) -> bool {
        let known = self.pending.contains_key(&account);
        if !known && (self.pending.len() >= REMEMBERED || self.unanswered.len() >= IN_FLIGHT / 2) {
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
    pub(super) fn listed(&mut self, lane: Lane, rows: &[(AccountKey, u64)], position: u64, now: u64) {
        let goal = match (lane, &self.catch_up) {
            (Lane::Fresh, _) => u64::MAX,
            (Lane::CatchUp, Some(catch_up)) => catch_up.goal,
            (Lane::CatchUp, None) => return,
        };
        for (account, revision) in rows {
            // Beyond the goal it is the other lane's.
            if *revision <= goal {
                self.list(*account, *revision, lane, now);
            }
        }
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

    /// `account` was published with the token of `revision`.
    pub(super) fn sent(&mut self, account: AccountKey, revision: u64, now: u64) {
        let Some(pending) = self.pending.get_mut(&account) else {
            return;
        };
        pending.sent = revision;
        pending.sent_at = now;
        pending.heard = self.heard;
        // What was read then is no longer current, so nobody needs to be told of it.
        self.raise(account, revision);
    }

    /// There is no such account any more.
    pub(super) fn gone(&mut self, account: AccountKey) {
        self.finish(account);
    }

    /// It can not be sent as it is; somebody was told to act. It must not hold up all others.
    pub(super) fn too_large(&mut self, account: AccountKey) {
        self.finish(account);
    }

    /// `server` answered a send of `account` that carried the token of `revision`.
    pub(super) fn answered(&mut self, account: AccountKey, revision: u64, server: &str, verdict: &Verdict, now: u64) {
        let server = self.roster.hear(server, now);
        let Some(pending) = self.pending.get_mut(&account) else {
            return;
        };
        if revision < pending.listed || revision > pending.sent {
            return;
        }
        pending.answered = revision;
        let waited = pending.tries > 1;
        pending.tries = 0;
        self.unanswered.remove(&(pending.listed, account));
        pending.hear(server, verdict);
        if pending.phase == Phase::Sent {
            pending.phase = Phase::Listening;
            pending.first_answer_ms = now.saturating_sub(pending.sent_at);
        }
        if pending.phase == Phase::Listening {
            let listen = if pending.count(Answer::Skipped) + pending.count(Answer::Refused) == 0 {
                LISTEN_MS
            } else {
                REPEAT_AFTER_MS
            };
            let due = pending.sent_at + pending.first_answer_ms + listen;
            self.reschedule(account, due);
        }
        if waited {
            self.hurry(now);
        }
    }

    /// The answer to [`Step::Mark`].
    pub(super) fn marked(&mut self, position: u64, agreed: bool, now: u64) {
        self.marking = false;
        self.mark_again_at = now + MARK_EVERY_MS;
        if agreed {
            self.marked = self.marked.max(position);
        } else {
            self.news = true;
        }
    }

    /// What to do now.
    pub(super) fn next(&mut self, now: u64) -> Step {
        self.remember(now);
        let markable = self.markable();
        let mark = self.news && !self.marking && markable > self.marked;
        if mark && now >= self.mark_again_at {
            self.marking = true;
            self.news = false;
            return Step::Mark(markable);
        }
        let mut wake = mark.then_some(self.mark_again_at);
        if !self.connected {
            return Step::Wait(wake);
        }
        if let Some(read) = self.read_fresh(now) {
            return read;
        }
        if let Some((at, from)) = self.rewind_again {
            if at > now {
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
            } else if self.catch_up.is_none() {
                self.rewind_again = None;
                self.catch_up = (from < self.read).then_some(CatchUp {
                    read: from,
                    goal: self.read,
                });
            }
        }
        while let Some((due, account)) = self.agenda.first().copied() {
            if due > now {
                wake = Some(wake.map_or(due, |wake| wake.min(due)));
                break;
            }
            match self.act(account, now) {
                Some(step) => return step,
                None => self.agenda.remove(&(due, account)),
            };
        }
        if let Some(read) = self.read_earlier(now) {
            return read;
        }
        if now < self.read_again_at {
            wake = Some(wake.map_or(self.read_again_at, |wake| wake.min(self.read_again_at)));
        }
        Step::Wait(wake)
    }

    fn read_fresh(&self, now: u64) -> Option<Step> {
        let room = IN_FLIGHT.saturating_sub(self.unanswered.len());
        let wanted = !self.draining && now >= self.read_again_at && self.newest > self.read;
        let fits = room > 0 && self.pending.len() < REMEMBERED + REMEMBERED_RESERVE;
        (wanted && fits).then(|| Step::Read {
            lane: Lane::Fresh,
            after: self.read,
            limit: room.min(READ_ROWS),
        })
    }

    fn read_earlier(&self, now: u64) -> Option<Step> {
        let catch_up = self.catch_up.as_ref()?;
        let room = CATCH_UP_IN_FLIGHT.saturating_sub(self.unanswered.len());
        let wanted = !self.draining && now >= self.read_again_at;
        (wanted && room > 0 && self.pending.len() < REMEMBERED).then(|| Step::Read {
            lane: Lane::CatchUp,
            after: catch_up.read,
            limit: room.min(READ_ROWS),
        })
    }

    /// `account` is due.
    fn act(&mut self, account: AccountKey, now: u64) -> Option<Step> {
        let pending = self.pending.get_mut(&account)?;
        if pending.phase == Phase::Listening {
            return self.conclude(account, now).map(Step::Told);
        }
        // It may also be due because others were answered, a moment after it was sent.
        let overdue = pending.phase == Phase::Sent && now >= pending.sent_at + ANSWER_MS;
        if overdue && pending.heard == self.heard {
            return Some(Step::Leave);
        }
        if pending.phase == Phase::Queued {
            pending.listen_anew();
        }
        pending.phase = Phase::Sent;
        pending.tries += 1;
        let pause = ANSWER_MS << (pending.tries - 1).min(4);
        self.reschedule(account, now + pause.min(MAX_PAUSE_MS));
        Some(Step::Send(account))
    }

    /// All answers to a send are in.
    fn conclude(&mut self, account: AccountKey, now: u64) -> Option<Summary> {
        let pending = self.pending.get_mut(&account)?;
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
            // That a server was missing was said, so it is said that none is any more.
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
            Some(pause) => self.queue(account, now + pause),
            None => self.finish(account),
        }
        summary.again = pause.is_some();
        Some(summary)
    }

    /// `account` is at `revision`: it is sent, unless that is done already or under way.
    fn list(&mut self, account: AccountKey, revision: u64, lane: Lane, now: u64) {
        // Before everything that is merely due.
        let due = if lane == Lane::Fresh { 0 } else { now };
        let Some(pending) = self.pending.get_mut(&account) else {
            let mut pending = Pending::new(revision, due, lane == Lane::CatchUp);
            if lane == Lane::CatchUp {
                // Nobody is known to wait for it, and a million of them pass here: one repetition is enough.
                pending.repeats = REPEATS - 1;
                pending.refusals = REFUSALS - 1;
            }
            self.pending.insert(account, pending);
            self.agenda.insert((due, account));
            self.unanswered.insert((revision, account));
            self.unfinished.insert((revision, account));
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
            self.queue(account, due);
        }
    }

    /// `account` is known to be at `revision`, if it was not known to be further.
    fn raise(&mut self, account: AccountKey, revision: u64) {
        let Some(pending) = self.pending.get_mut(&account) else {
            return;
        };
        if revision <= pending.listed {
            return;
        }
        self.unanswered.remove(&(pending.listed, account));
        self.unfinished.remove(&(pending.listed, account));
        pending.begin_anew(revision);
        self.news = true;
        self.roster.wait_no_more(account);
        self.unfinished.insert((revision, account));
        if pending.answered < revision {
            self.unanswered.insert((revision, account));
        }
    }

    fn queue(&mut self, account: AccountKey, due: u64) {
        if let Some(pending) = self.pending.get_mut(&account) {
            pending.phase = Phase::Queued;
            pending.tries = 0;
        }
        self.reschedule(account, due);
    }

    fn reschedule(&mut self, account: AccountKey, due: u64) {
        if let Some(pending) = self.pending.get_mut(&account) {
            self.agenda.remove(&(pending.due, account));
            pending.due = due;
            self.agenda.insert((due, account));
        }
    }

    fn finish(&mut self, account: AccountKey) {
        if let Some(pending) = self.pending.remove(&account) {
            self.agenda.remove(&(pending.due, account));
            self.unanswered.remove(&(pending.listed, account));
            self.unfinished.remove(&(pending.listed, account));
            self.roster.wait_no_more(account);
            self.news = true;
        }
    }

    /// Somebody answers again: those that were given long pauses are sent now.
    fn hurry(&mut self, now: u64) {
        let paused = |p: &Pending| p.phase == Phase::Sent && p.tries > 1;
        let accounts: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, p)| paused(p))
            .map(|(a, _)| *a)
            .collect();
        for account in accounts {
            self.reschedule(account, now);
        }
    }

    /// Every change up to here has been listed.
    fn floor(&self) -> u64 {
        self.catch_up.as_ref().map_or(self.read, |catch_up| catch_up.read)
    }

    /// Moves `told` over what is answered. What lies below it was answered before, and is sent for good measure.
    fn remember(&mut self, now: u64) {
        self.told = self
            .told
            .max(before_first(&self.unanswered, self.told).min(self.floor()));
        while self.history.get(1).is_some_and(|(at, _)| at + REWIND_MS <= now) {
            self.history.pop_front();
        }
        if self.history.back().is_none_or(|(at, _)| at + MARK_EVERY_MS <= now) {
            self.history.push_back((now, self.told));
        }
    }

    /// How far the position may be agreed: behind `told`, over those only that need no repetition. Were this
    /// process to end before a repetition, the next one would otherwise not know of it.
    fn markable(&self) -> u64 {
        before_first(&self.unfinished, self.marked).min(self.told)
    }
}

/// The last revision before the first in `set` that is above `from`.
fn before_first(set: &BTreeSet<(u64, AccountKey)>, from: u64) -> u64 {
    let least = AccountKey::from_bytes([0; 32]);
    set.range((from.saturating_add(1), least)..)
        .next()
        .map_or(u64::MAX, |(revision, _)| revision - 1)
}
