//! Checks of servers: which accounts a server has loaded, and which token of each it enforces.
//!
//! A server that does not answer is asked whether it is there, again and again. One that is there and may enforce something
//! older is asked which accounts it has loaded. Of those that changed since it was known to be up to date, each is looked
//! at; a token that is not the current one is sent, and looked at again. When nothing is left, it is asked once more a
//! moment later: a fetch that was under way may have loaded an older token meanwhile. Then the server is up to date. Such
//! questions go to one server, while a token that is sent goes to all.
//!
//! A user that may not ask these questions can only send tokens: then everything since is sent again when the server
//! answers something (`servers.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::looking::Looking;
use super::{Known, Roster, Slot};
use crate::jwt::AccountKey;
use crate::nats::publish::step::{Question, Step};
use crate::resolver::Standing;

/// Without an answer after this long, a server is missing.
const ANSWER_MS: u64 = 2_000;

/// The pause between two questions to a server that does not answer, from one to the next. It grows with the number of such
/// servers, so that there are no more than [`POLLS`] a second.
const POLL_MS: u64 = 1_500;
const POLLS: u64 = 64;

/// The pause before a server that refuses a token is asked again; it doubles up to the second one.
const REFUSED_PAUSE_MS: u64 = 30_000;
const MAX_REFUSED_PAUSE_MS: u64 = 600_000;

/// How long after it was looked at a server is asked once more: longer than a fetch takes (1.9 s).
const AGAIN_MS: u64 = 2_500;

/// Servers whose accounts are being listed and looked at, at once. A list may have a million accounts.
const BUSY: usize = 8;

/// The pause while more servers are to be looked at than at once.
const BUSY_PAUSE_MS: u64 = 50;

/// Accounts that are being looked at, at all servers together.
const LOOKS: usize = 64;

/// How long a server may be silent before it is asked something: seven of the reports that each server sends every ten
/// seconds (nats-server `server/events.go`, `statsHBInterval`).
const SILENT_MS: u64 = 70_000;

/// How long a server that is known from before may take to report, after a connection is up.
pub(in crate::nats::publish) const ROLL_CALL_MS: u64 = 3_000;

/// How often all servers are asked to report.
const PING_EVERY_MS: u64 = 60_000;

/// What a server holds of an account that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Held {
    /// The current token, or nothing.
    Current,
    /// Another one, which is older or refused.
    Other,
    /// Another one, which could not be stored for a reason that passes.
    Undecided,
    /// Nobody knows: what is stored cannot be read.
    Unknown,
}

/// How far the checks of all servers are.
#[derive(Debug, Default)]
pub(in crate::nats::publish) struct Checks {
    /// Whether our user may ask servers.
    can_ask: bool,
    connected: bool,
    ping_at: u64,
    of: BTreeMap<Slot, Check>,
    /// When something is to be done about each server.
    due: BTreeSet<(u64, Slot)>,
    /// Servers whose checks may have ended: being looked at, or everything is being sent again.
    open: BTreeSet<Slot>,
    /// Servers that have accounts to look at, in turn.
    looking: VecDeque<Slot>,
    looks: usize,
    /// How many servers are asked whether they are there.
    unreached: u64,
    /// How many servers are listed or looked at.
    busy: usize,
}

#[derive(Debug)]
struct Check {
    stage: Stage,
    due: u64,
    /// The pause after the last refusal.
    pause: u64,
}

#[derive(Debug)]
enum Stage {
    /// There is nothing to find out, unless it is silent until it is due.
    Idle,
    /// It is to be asked when due.
    Waiting,
    /// The same for the second time, and how often it had missed something when it was asked first.
    WaitingAgain(u64),
    /// It was asked whether it is there; when due, it is missing.
    Polled,
    /// It was asked for its accounts; when due, it is missing.
    Listing(u64, bool),
    /// Its accounts are being compared with the state.
    Comparing(u64, bool),
    /// Its accounts are being looked at.
    Looking(Looking),
    /// Everything since it was up to date is being sent again; done when every change up to `goal` is finished.
    Resending { misses: u64, goal: u64 },
}

impl Stage {
    fn is_open(&self) -> bool {
        matches!(self, Self::Looking(_) | Self::Resending { .. })
    }

    fn is_busy(&self) -> bool {
        matches!(self, Self::Listing(..) | Self::Comparing(..) | Self::Looking(_))
    }
}

/// What is to be done about a server that is due.
pub(in crate::nats::publish) enum Due {
    Step(Step),
    /// It has not answered.
    Missing(Slot),
    /// Only sending something can show whether it is back.
    Probe(Slot),
    /// Nothing at all until then.
    Wait(Option<u64>),
}

/// How a check has ended.
pub(in crate::nats::publish) struct Ended {
    pub(in crate::nats::publish) slot: Slot,
    /// How often the server had missed something when the check began.
    pub(in crate::nats::publish) misses: u64,
    /// What it does not take; empty if it is up to date.
    pub(in crate::nats::publish) refused: BTreeSet<AccountKey>,
}

impl Checks {
    /// A connection is up, whose user may ask servers or not: what was asked over another one is asked again.
    pub(in crate::nats::publish) fn connected(&mut self, roster: &Roster, can_ask: bool, now: u64) {
        *self = Self {
            can_ask,
            connected: true,
            ping_at: now,
            ..Self::default()
        };
        for (slot, known) in roster.iter() {
            let (stage, due) = match known.server.behind {
                Some(_) => (Stage::Waiting, now),
                None => (Stage::Idle, now + ROLL_CALL_MS),
            };
            self.set(slot, stage, due);
        }
    }

    /// Every server is to be asked who it is.
    pub(in crate::nats::publish) fn ping(&mut self, now: u64) {
        self.ping_at = now;
    }

    /// The connection is gone.
    pub(in crate::nats::publish) fn disconnected(&mut self) {
        self.connected = false;
    }

    pub(in crate::nats::publish) fn can_ask(&self) -> bool {
        self.can_ask
    }

    fn stage(&self, slot: Slot) -> Option<&Stage> {
        self.of.get(&slot).map(|check| &check.stage)
    }

    fn looking(&mut self, slot: Slot) -> Option<&mut Looking> {
        match &mut self.of.get_mut(&slot)?.stage {
            Stage::Looking(looking) => Some(looking),
            _ => None,
        }
    }

    fn set(&mut self, slot: Slot, stage: Stage, due: u64) {
        let pause = self.remove(slot).map_or(0, |check| check.pause);
        if matches!(stage, Stage::Looking(_)) {
            self.looking.push_back(slot);
        }
        if stage.is_open() {
            self.open.insert(slot);
        }
        self.busy += usize::from(stage.is_busy());
        self.unreached += u64::from(matches!(stage, Stage::Polled | Stage::Waiting));
        self.due.insert((due, slot));
        self.of.insert(slot, Check { stage, due, pause });
    }

    /// Forgets the server in `slot`.
    pub(in crate::nats::publish) fn forget(&mut self, slot: Slot) {
        self.remove(slot);
    }

    fn remove(&mut self, slot: Slot) -> Option<Check> {
        let check = self.of.remove(&slot)?;
        self.due.remove(&(check.due, slot));
        self.open.remove(&slot);
        self.busy -= usize::from(check.stage.is_busy());
        self.unreached -= u64::from(matches!(check.stage, Stage::Polled | Stage::Waiting));
        if let Stage::Looking(looking) = &check.stage {
            self.looks -= looking.asked();
            self.looking.retain(|other| *other != slot);
        }
        Some(check)
    }

    /// A server was heard. `is_back`: it was missing, or is heard for the first time.
    pub(in crate::nats::publish) fn heard(&mut self, slot: Slot, known: &Known, is_back: bool, now: u64) {
        let is_behind = known.server.behind.is_some();
        match self.stage(slot) {
            None | Some(Stage::Idle | Stage::Polled) if !is_behind => self.set(slot, Stage::Idle, now + SILENT_MS),
            // It need not wait for the end of its pause.
            None | Some(Stage::Idle | Stage::Polled | Stage::Waiting) if is_back && self.can_ask => {
                self.set(slot, Stage::Waiting, now);
            }
            None => self.set(slot, Stage::Waiting, now),
            Some(_) => {}
        }
    }

    /// A server has missed a change.
    pub(in crate::nats::publish) fn missed(&mut self, slot: Slot, now: u64) {
        if matches!(self.stage(slot), None | Some(Stage::Idle)) {
            let due = if self.can_ask { now } else { now + POLL_MS };
            self.set(slot, Stage::Waiting, due);
        }
    }

    /// A server refuses `account`. A check that is under way goes on with the others.
    pub(in crate::nats::publish) fn refused(&mut self, slot: Slot, account: AccountKey, now: u64) {
        match self.looking(slot) {
            Some(looking) => {
                let was_asked = looking.refuses(account);
                self.looks -= usize::from(was_asked);
            }
            None => self.pause(slot, now),
        }
    }

    /// The server in `slot` is asked again after a pause, which is longer each time.
    pub(in crate::nats::publish) fn pause(&mut self, slot: Slot, now: u64) {
        let pause = self.of.get(&slot).map_or(0, |check| check.pause);
        let pause = (pause * 2).clamp(REFUSED_PAUSE_MS, MAX_REFUSED_PAUSE_MS);
        // Not a second look: what it refuses may have been replaced.
        self.set(slot, Stage::Waiting, now + pause);
        if let Some(check) = self.of.get_mut(&slot) {
            check.pause = pause;
        }
    }

    /// What to do about the servers next. `may_look`: there is room for what has to be sent to one that is looked at.
    pub(in crate::nats::publish) fn next(&mut self, roster: &Roster, may_look: bool, now: u64) -> Due {
        if !self.connected {
            return Due::Wait(None);
        }
        let mut wake = None;
        if self.can_ask {
            if now >= self.ping_at {
                self.ping_at = now + PING_EVERY_MS;
                return Due::Step(Step::Ask(Question::Ping));
            }
            wake = Some(self.ping_at);
            if let Some(step) = self.look(roster, now).filter(|_| may_look) {
                return Due::Step(step);
            }
        }
        while let Some((due, slot)) = self.due.first().copied() {
            if due > now {
                return Due::Wait(Some(wake.map_or(due, |wake: u64| wake.min(due))));
            }
            let Some(known) = roster.get(slot) else {
                self.remove(slot);
                self.due.remove(&(due, slot));
                continue;
            };
            if let Some(due) = self.act(slot, known, now) {
                return due;
            }
        }
        Due::Wait(wake)
    }

    /// The server in `slot` is due.
    fn act(&mut self, slot: Slot, known: &Known, now: u64) -> Option<Due> {
        let ask = |question| Some(Due::Step(Step::Ask(question)));
        let id = known.server.id.clone();
        match self.stage(slot)? {
            // Whether a silent server is away shows only when there is something to send.
            Stage::Idle if !self.can_ask => self.set(slot, Stage::Idle, now + SILENT_MS),
            Stage::Waiting if !self.can_ask => {
                self.set(slot, Stage::Waiting, now + self.poll_pause());
                return Some(Due::Probe(slot));
            }
            Stage::Idle => {
                self.set(slot, Stage::Polled, now + ANSWER_MS);
                return ask(Question::Alive(id));
            }
            Stage::Waiting if known.standing == Standing::Missing => {
                self.set(slot, Stage::Polled, now + self.poll_pause());
                return ask(Question::Alive(id));
            }
            Stage::Waiting | Stage::WaitingAgain(_) if self.busy >= BUSY => self.postpone(slot, now + BUSY_PAUSE_MS),
            Stage::Waiting => {
                self.set(slot, Stage::Listing(known.misses, false), now + ANSWER_MS);
                return ask(Question::Loaded(id));
            }
            Stage::WaitingAgain(misses) => {
                let misses = *misses;
                self.set(slot, Stage::Listing(misses, true), now + ANSWER_MS);
                return ask(Question::Loaded(id));
            }
            Stage::Comparing(..) | Stage::Resending { .. } => self.postpone(slot, now + ANSWER_MS),
            Stage::Looking(looking) => match looking.asked_since() {
                Some(since) if since + ANSWER_MS <= now => {
                    self.set(slot, Stage::Waiting, now);
                    return Some(Due::Missing(slot));
                }
                since => self.postpone(slot, since.unwrap_or(now) + ANSWER_MS),
            },
            Stage::Polled | Stage::Listing(..) => {
                self.set(slot, Stage::Waiting, now);
                return Some(Due::Missing(slot));
            }
        }
        None
    }

    /// The time between two questions to a server that does not answer.
    fn poll_pause(&self) -> u64 {
        POLL_MS.max(1_000 * self.unreached / POLLS)
    }

    fn postpone(&mut self, slot: Slot, due: u64) {
        if let Some(check) = self.of.get_mut(&slot) {
            self.due.remove(&(check.due, slot));
            check.due = due;
            self.due.insert((due, slot));
        }
    }

    fn look(&mut self, roster: &Roster, now: u64) -> Option<Step> {
        while self.looks < LOOKS {
            let slot = self.looking.pop_front()?;
            let Some(known) = roster.get(slot) else { continue };
            let Some(account) = self.looking(slot).and_then(|looking| looking.next(now)) else {
                continue;
            };
            self.looks += 1;
            self.looking.push_back(slot);
            return Some(Step::Ask(Question::Held(known.server.id.clone(), account)));
        }
        None
    }

    /// Whether the server in `slot` was asked for its accounts: then they are to be compared.
    pub(in crate::nats::publish) fn listed(&mut self, slot: Slot, now: u64) -> bool {
        let Some(Stage::Listing(misses, is_second)) = self.stage(slot) else {
            return false;
        };
        let stage = Stage::Comparing(*misses, *is_second);
        self.set(slot, stage, now + ANSWER_MS);
        true
    }

    /// What of the accounts of the server in `slot` has changed since it was up to date; `None` if that could not be read.
    pub(in crate::nats::publish) fn compared(&mut self, slot: Slot, changed: Option<Vec<AccountKey>>, now: u64) {
        let Some(Stage::Comparing(misses, is_second)) = self.stage(slot) else {
            return;
        };
        let (misses, is_second) = (*misses, *is_second);
        match changed {
            None => self.set(slot, Stage::Waiting, now + POLL_MS),
            Some(todo) => {
                let looking = Looking::at(todo, misses, is_second);
                self.set(slot, Stage::Looking(looking), now + ANSWER_MS);
            }
        }
    }

    /// Whether the server in `slot` was asked what it holds of `account`.
    pub(in crate::nats::publish) fn is_asked(&self, slot: Slot, account: AccountKey) -> bool {
        matches!(self.stage(slot), Some(Stage::Looking(looking)) if looking.is_asked(account))
    }

    /// The server in `slot` has answered what it holds of `account`, which is being judged.
    pub(in crate::nats::publish) fn arrived(&mut self, slot: Slot, account: AccountKey) {
        if let Some(looking) = self.looking(slot) {
            looking.arrived(account);
        }
    }

    /// Whether nothing is being found out about the server in `slot`.
    pub(in crate::nats::publish) fn is_idle(&self, slot: Slot) -> bool {
        matches!(self.stage(slot), Some(Stage::Idle))
    }

    /// Whether the server in `slot` is being listed or looked at, or will be again in a moment.
    pub(in crate::nats::publish) fn is_busy(&self, slot: Slot) -> bool {
        let is_busy = |stage: &Stage| stage.is_busy() || matches!(stage, Stage::WaitingAgain(_));
        self.stage(slot).is_some_and(is_busy)
    }

    /// `account` is to be looked at too while the server in `slot` is looked at; `false` if it is not.
    pub(in crate::nats::publish) fn add(&mut self, slot: Slot, account: AccountKey) -> bool {
        let Some(looking) = self.looking(slot) else {
            return false;
        };
        looking.add(account);
        self.looking.push_back(slot);
        true
    }

    /// Looks at `account` at the server in `slot`, which had missed something so often.
    pub(in crate::nats::publish) fn look_at(&mut self, slot: Slot, account: AccountKey, misses: u64, now: u64) {
        let looking = Looking::at(vec![account], misses, true);
        self.set(slot, Stage::Looking(looking), now + ANSWER_MS);
    }

    /// What the server in `slot` holds of `account`; gives whether the current token has to be sent.
    pub(in crate::nats::publish) fn held(&mut self, slot: Slot, account: AccountKey, held: Held, now: u64) -> bool {
        let Some(looking) = self.looking(slot).filter(|looking| looking.is_asked(account)) else {
            return false;
        };
        let is_sent = match held {
            Held::Current => {
                looking.is_current(account);
                false
            }
            Held::Other => looking.is_other(account),
            Held::Undecided => {
                self.set(slot, Stage::Waiting, now + POLL_MS);
                return false;
            }
            Held::Unknown => {
                let _was_asked = looking.refuses(account);
                false
            }
        };
        self.looks -= 1;
        is_sent
    }

    /// The server in `slot` has answered to a send of `account`: what it holds now is looked at.
    pub(in crate::nats::publish) fn answered(&mut self, slot: Slot, account: AccountKey) {
        self.look_again(slot, account, true);
    }

    fn look_again(&mut self, slot: Slot, account: AccountKey, has_answered: bool) {
        let looking = self.looking(slot);
        if looking.is_some_and(|looking| looking.look_again(account, has_answered)) {
            self.looking.push_back(slot);
        }
    }

    /// `account` is in flight no more. `has_answered` says whether the server in a slot has said anything.
    pub(in crate::nats::publish) fn finished(&mut self, account: AccountKey, has_answered: impl Fn(Slot) -> bool) {
        for slot in self.open.clone() {
            self.look_again(slot, account, has_answered(slot));
        }
    }

    /// Everything since the server in `slot` was up to date is sent again, up to `goal`.
    pub(in crate::nats::publish) fn resending(&mut self, slot: Slot, misses: u64, goal: u64, now: u64) {
        self.set(slot, Stage::Resending { misses, goal }, now + ANSWER_MS);
    }

    /// Whether the server in `slot` waits for something to show that it is back.
    pub(in crate::nats::publish) fn is_waiting(&self, slot: Slot) -> bool {
        matches!(self.stage(slot), Some(Stage::Waiting))
    }

    /// The server in `slot` is to be asked once more, from the beginning.
    pub(in crate::nats::publish) fn again(&mut self, slot: Slot, now: u64) {
        self.set(slot, Stage::Waiting, now);
    }

    /// The servers that `account` was sent for, because they enforce another token of it.
    pub(in crate::nats::publish) fn sent_for(&self, account: AccountKey) -> Vec<Slot> {
        let is_sent =
            |slot: &&Slot| matches!(self.stage(**slot), Some(Stage::Looking(looking)) if looking.is_sent(account));
        self.open.iter().filter(is_sent).copied().collect()
    }

    /// The servers whose checks have ended. `finished` says up to which revision everything is finished since a server was up
    /// to date.
    pub(in crate::nats::publish) fn ended(&mut self, finished: impl Fn(Slot) -> u64, now: u64) -> Vec<Ended> {
        let mut ended = Vec::new();
        for slot in self.open.clone() {
            match self.stage(slot) {
                Some(Stage::Looking(looking)) if looking.is_over() => {
                    let (misses, is_second) = (looking.misses, looking.is_second);
                    let refused = looking.refused().clone();
                    if !is_second && refused.is_empty() {
                        self.set(slot, Stage::WaitingAgain(misses), now + AGAIN_MS);
                        continue;
                    }
                    ended.push(Ended { slot, misses, refused });
                }
                Some(Stage::Resending { misses, goal }) if finished(slot) >= *goal => ended.push(Ended {
                    slot,
                    misses: *misses,
                    refused: BTreeSet::new(),
                }),
                _ => continue,
            }
            self.set(slot, Stage::Idle, now + SILENT_MS);
        }
        ended
    }

    /// The server in `slot` is up to date: the next refusal has a short pause again.
    pub(in crate::nats::publish) fn confirmed(&mut self, slot: Slot) {
        if let Some(check) = self.of.get_mut(&slot) {
            check.pause = 0;
        }
    }
}
