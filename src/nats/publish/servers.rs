//! What [`Propagation`] does about servers: it hears of them, notices who has not answered, and brings who was away up to
//! date.

use std::collections::{BTreeMap, BTreeSet};

use super::listing::expect_little;
use super::pending::{Answer, Pending};
use super::propagation::Propagation;
use super::roster::{Due, Ended, Held, Known, ROLL_CALL_MS, Slot};
use super::step::{Agreement, News, Step, Wanted};
use crate::jwt::AccountKey;
use crate::nats::subjects::ServerInfo;
use crate::resolver::{Enforcement, MAX_SERVERS, Server, Standing, Told};

/// Accounts that are sent or remembered before no more are looked at: what a server needs must not keep fresh changes
/// waiting.
const LOOK_UNDER_WAY: usize = 64;
const LOOK_REMEMBERED: usize = 4_096;

/// A server that was not heard for so long may have been cut off: it reports every ten seconds, where our user may hear that.
const CUT_OFF_MS: u64 = 25_000;

impl Propagation {
    /// A server has said something.
    pub(in crate::nats) fn heard(&mut self, server: &ServerInfo, now: u64) {
        self.hear(server, now);
    }

    /// Another connection is up, over which servers may be heard that are missing.
    pub(in crate::nats) fn another_connected(&mut self, now: u64) {
        self.checks.ping(now);
    }

    /// Another connection is gone, and what it sent may still arrive.
    pub(in crate::nats) fn another_lost(&mut self, now: u64) {
        self.lanes.rewind_later(self.position.before_loss(), now);
    }

    /// The server with this id, which this node is connected to, sends nothing any more. Nothing waits for it over the next
    /// connection.
    pub(in crate::nats) fn left(&mut self, id: &str, now: u64) {
        if let Some(slot) = self.roster.slot(id) {
            self.miss(slot, self.position.marked(), now);
        }
    }

    /// What another sender has published may be unknown here: any server may hold it.
    pub(in crate::nats) fn unheard(&mut self, now: u64) {
        self.sweep.is_unswept_everywhere();
        self.heard_all_since = now;
    }

    /// Whether the server with this id answers.
    pub(in crate::nats) fn is_reached(&self, id: &str) -> bool {
        let known = self.roster.slot(id).and_then(|slot| self.roster.get(slot));
        known.is_some_and(|known| known.standing != Standing::Missing)
    }

    /// Whether a server does not answer.
    pub(in crate::nats) fn misses_any(&self) -> bool {
        self.roster.missing() > 0
    }

    /// The server with this id says that it ends.
    pub(in crate::nats) fn ended(&mut self, id: &str, now: u64) {
        if let Some(known) = self.roster.slot(id).and_then(|slot| self.roster.get(slot)) {
            let server = known.server.clone();
            self.news.push_back(News::Gone { server });
            self.remove(id, now);
        }
    }

    /// The mesh knows only the servers with these ids: an administrator had others forgotten.
    pub(in crate::nats) fn forgotten(&mut self, agreed: &BTreeSet<String>, now: u64) {
        for slot in self.roster.retain(agreed) {
            self.checks.forget(slot);
            self.sweep.forget(slot);
            self.never_read(slot, now);
        }
    }

    /// Our user may not ask servers what they have loaded. Those that were away are sent everything since then.
    pub(in crate::nats) fn cannot_ask(&mut self, now: u64) {
        if self.checks.can_ask() {
            self.roster.take_as_they_are();
            self.checks.connected(&self.roster, false, now);
            self.sweep.disconnected();
            self.end_readings();
        }
    }

    /// A server answers that it has accounts loaded; gives which of them it is to be said of.
    pub(in crate::nats) fn loaded(&mut self, server: &ServerInfo, now: u64) -> Option<Wanted> {
        // It may have ended since it said so.
        self.roster.slot(&server.id)?;
        let slot = self.hear(server, now)?;
        if !self.checks.listed(slot, now) {
            return self.sweep.is_listing(slot).then_some(Wanted::All);
        }
        let behind = self.roster.get(slot)?.server.behind;
        if behind.is_none() {
            // It was only silent.
            self.checks.compared(slot, Some(Vec::new()), now);
        }
        behind.map(Wanted::ChangedSince)
    }

    /// All accounts that the server with this id has loaded.
    pub(in crate::nats) fn listed_all(&mut self, id: &str, accounts: Vec<AccountKey>) {
        if let Some(slot) = self.roster.slot(id) {
            self.sweep.listed(slot, accounts);
        }
    }

    /// A server says "updated" only of what it enforces.
    pub(in crate::nats) fn believe(&mut self, server: &ServerInfo) {
        let slot = self.roster.slot(&server.id);
        if let Some(known) = slot.and_then(|slot| self.roster.get_mut(slot)) {
            known.is_believed = true;
        }
    }

    /// Every account that each server has loaded was looked at, since it is connected and was last missing.
    pub(super) fn has_swept(&self) -> bool {
        self.roster.count() > 0 && self.sweep.is_complete(&self.roster)
    }

    /// What the servers hold of `account` that say that they have taken it is to be looked at, unless that is proof.
    pub(super) fn look_after(&mut self, account: AccountKey) {
        let pending = self.agenda.get(account).filter(|pending| pending.expected);
        let Some(pending) = pending.filter(|_| self.checks.can_ask()) else {
            return;
        };
        for (slot, known) in self.roster.iter() {
            if !known.is_believed && pending.answer(slot) == Answer::Updated {
                self.sweep.look_after(slot, account);
            }
        }
    }

    /// Which accounts that the server has loaded have changed since it was up to date; `None` if that could not be read.
    pub(in crate::nats) fn compared(&mut self, id: &str, changed: Option<Vec<AccountKey>>, now: u64) {
        if let Some(slot) = self.roster.slot(id) {
            self.checks.compared(slot, changed, now);
        }
    }

    /// What a server holds of `account`, which is at `revision`.
    pub(in crate::nats) fn held(
        &mut self,
        server: &ServerInfo,
        account: AccountKey,
        revision: u64,
        held: Held,
        now: u64,
    ) {
        // It was heard when it said so, and may have ended since.
        let Some(slot) = self.roster.slot(&server.id) else {
            return;
        };
        self.has_read(slot, account, held, now);
        self.sweep.held(slot, account, held);
        let is_checked = self.checks.is_asked(slot, account);
        if !self.checks.held(slot, account, held, now) {
            if held == Held::Other && !is_checked {
                self.found_other(slot, account, revision, now);
            }
            return;
        }
        // Where one is in flight already, that brings it.
        if self.agenda.get(account).is_none() {
            let mut pending = Pending::new(revision, now, false, true);
            pending.expected = false;
            expect_little(&mut pending);
            self.agenda.insert(account, pending);
        }
    }

    /// A server was heard: its slot, unless there is no room for it.
    pub(super) fn hear(&mut self, info: &ServerInfo, now: u64) -> Option<Slot> {
        // What a new server has loaded was fetched from anyone, at any time.
        let behind = self.checks.can_ask().then_some(0);
        let silent_since = self
            .roster
            .slot(&info.id)
            .and_then(|slot| self.roster.get(slot)?.heard_at);
        let (slot, is_back) = self.roster.heard(info, behind, now)?;
        self.has_heard = true;
        if let Some(known) = self.roster.get(slot) {
            self.checks.heard(slot, known, is_back, now);
        }
        if is_back || silent_since.is_some_and(|since| since + CUT_OFF_MS <= now) {
            // Others may have reached it before this node did.
            self.sweep.is_unswept(slot);
            self.heard_all_since = now;
        }
        if is_back {
            for id in self.roster.replaced_by(slot) {
                self.ended(&id, now);
            }
        }
        Some(slot)
    }

    fn remove(&mut self, id: &str, now: u64) {
        if let Some(slot) = self.roster.remove(id) {
            self.checks.forget(slot);
            self.sweep.forget(slot);
            self.never_read(slot, now);
            self.position.need_mark();
        }
    }

    /// What changed after `upto` may not be in force at a server, which has not answered.
    pub(super) fn miss(&mut self, slot: Slot, upto: u64, now: u64) {
        let Some(known) = self.roster.get(slot) else { return };
        let is_new = known.standing != Standing::Missing;
        let server = known.server.clone();
        self.roster.miss(slot, upto, Standing::Missing);
        self.checks.missed(slot, now);
        self.sweep.missed(slot);
        self.no_longer_read(slot, now);
        if !is_new {
            return;
        }
        let id = server.id.clone();
        self.news.push_back(News::Missing { server });
        if self.roster.is_replaced(slot) {
            self.ended(&id, now);
        }
    }

    /// A server refuses the token of `account`, or that cannot be sent to it.
    pub(super) fn refuse(&mut self, slot: Slot, account: AccountKey, upto: u64, now: u64) {
        self.roster.miss(slot, upto, Standing::Refuses);
        self.roster.refuses(slot, account);
        let known = self.roster.get(slot);
        if known.is_some_and(|known| known.standing != Standing::Missing) {
            self.checks.refused(slot, account, now);
        }
    }

    /// What was too large may be sent now: servers that it was not sent to are looked at without a pause.
    pub(in crate::nats) fn limit_raised(&mut self, now: u64) {
        let refusing = self
            .roster
            .iter()
            .filter(|(_, known)| known.standing == Standing::Refuses);
        let slots = refusing.map(|(slot, _)| slot);
        let waiting: Vec<Slot> = slots.filter(|slot| self.checks.is_waiting(*slot)).collect();
        for slot in waiting {
            self.checks.again(slot, now);
        }
    }

    /// Whether the server with this id is known to enforce `revision` of `account`, or a newer one.
    pub(in crate::nats) fn enforces(&self, id: &str, account: AccountKey, revision: u64) -> bool {
        let slot = self.roster.slot(id);
        let known = slot.and_then(|slot| Some((slot, self.roster.get(slot)?)));
        known.is_some_and(|(slot, known)| self.enforcement(account, revision, slot, known) == Enforcement::InForce)
    }

    /// Which servers have not said what became of `account`; gives how many. `is_last`: it is not sent again.
    pub(super) fn miss_silent(&mut self, account: AccountKey, is_last: bool, now: u64) -> usize {
        let Some(pending) = self.agenda.get(account).filter(|pending| pending.expected) else {
            return 0;
        };
        let upto = pending.listed.saturating_sub(1);
        let missed: Vec<(Slot, Standing)> = self
            .roster
            .iter()
            .filter_map(|(slot, known)| match pending.answer(slot) {
                Answer::None | Answer::SkippedEarlier | Answer::RefusedEarlier => Some((slot, Standing::Missing)),
                Answer::Refused if is_last || !known.refused.contains(&account) => Some((slot, Standing::Refuses)),
                _ => None,
            })
            .collect();
        for (slot, standing) in &missed {
            match standing {
                Standing::Refuses => self.refuse(*slot, account, upto, now),
                _ => self.miss(*slot, upto, now),
            }
        }
        missed
            .iter()
            .filter(|(_, standing)| *standing == Standing::Missing)
            .count()
    }

    /// `account` cannot be sent: the servers that it was sent for stay as they are.
    pub(super) fn cannot_be_repaired(&mut self, account: AccountKey, now: u64) {
        for slot in self.checks.sent_for(account) {
            self.checks.refused(slot, account, now);
        }
    }

    /// A server that cannot be asked has answered something: everything that it may have missed is sent again.
    pub(super) fn is_back(&mut self, slot: Option<Slot>, now: u64) {
        let Some((slot, known)) = slot.and_then(|slot| Some((slot, self.roster.get(slot)?))) else {
            return;
        };
        if self.checks.can_ask() || !self.checks.is_waiting(slot) {
            return;
        }
        let (Some(behind), misses) = (known.server.behind, known.misses) else {
            return;
        };
        if let Some(goal) = self.lanes.rewind_to(behind) {
            self.checks.resending(slot, misses, goal, now);
        }
    }

    /// Servers whose checks have ended are up to date, unless they have missed something meanwhile.
    pub(super) fn end_checks(&mut self, now: u64) {
        let (agenda, roster, floor) = (&self.agenda, &self.roster, self.lanes.floor());
        let finished = |slot: Slot| {
            let behind = roster.get(slot).and_then(|known| known.server.behind);
            agenda.finished_up_to(behind.unwrap_or(0)).min(floor)
        };
        for Ended { slot, misses, refused } in self.checks.ended(finished, now) {
            let Some(known) = self.roster.get(slot) else { continue };
            let (was_missing, behind) = (known.was_missing, known.server.behind);
            if !refused.is_empty() {
                self.roster.miss(slot, behind.unwrap_or(0), Standing::Refuses);
                for account in refused {
                    self.roster.refuses(slot, account);
                }
                self.checks.pause(slot, now);
            } else if !self.roster.confirm(slot, misses) {
                self.checks.again(slot, now);
            } else if let Some(known) = self.roster.get(slot).filter(|_| behind.is_some() || was_missing) {
                let server = known.server.clone();
                self.checks.confirmed(slot);
                if behind == Some(0) {
                    self.sweep.is_swept(slot, now);
                }
                self.news.push_back(News::UpToDate { server, was_missing });
            }
        }
    }

    /// What to ask servers next; otherwise when.
    pub(super) fn next_question(&mut self, now: u64) -> Result<Step, Option<u64>> {
        loop {
            let ahead = self.agenda.ahead();
            let may_look = ahead.unanswered < LOOK_UNDER_WAY && ahead.all < LOOK_REMEMBERED;
            let due = match self.checks.next(&self.roster, may_look, now) {
                Due::Wait(at) if self.checks.can_ask() => {
                    let checks = &self.checks;
                    let due = self.sweep.next(&self.roster, |slot| checks.is_busy(slot), now);
                    match (at, due) {
                        (Some(at), Due::Wait(until)) => Due::Wait(Some(until.map_or(at, |until| until.min(at)))),
                        (_, due) => due,
                    }
                }
                due => due,
            };
            match due {
                Due::Step(step) => return Ok(step),
                Due::Wait(at) => return Err(at),
                Due::Missing(slot) => {
                    let upto = self.position.marked();
                    self.miss(slot, upto, now);
                    if let Some(news) = self.news.pop_front() {
                        return Ok(Step::News(news));
                    }
                }
                Due::Probe(slot) => {
                    match self.last_sent {
                        Some(account) => self.list_asked(account, 0, now),
                        // Whatever is sent shows whether it is back.
                        None => self.is_back(Some(slot), now),
                    }
                }
            }
        }
    }

    /// What is to be agreed now: `position`, unless more has to be agreed before it.
    pub(super) fn agreement(&mut self, position: u64) -> Agreement {
        let (seen, gone, is_all) = self.roster.begin_agreeing();
        let position = if is_all { position } else { self.position.marked() };
        Agreement { position, seen, gone }
    }

    /// The servers that are missing or refuse, by their ids.
    pub(in crate::nats) fn troubled(&self) -> BTreeMap<String, Standing> {
        let troubled = self
            .roster
            .iter()
            .filter(|(_, known)| known.standing != Standing::Reached);
        troubled
            .map(|(_, known)| (known.server.id.clone(), known.standing))
            .collect()
    }

    /// Whether `revision` of `account`, or a newer one, is in force at every server, as far as can be known yet.
    pub(in crate::nats) fn is_everywhere(&self, account: AccountKey, revision: u64, now: u64) -> bool {
        // Before, some servers may not have been heard at all.
        let has_called_roll = now >= self.connected_at + ROLL_CALL_MS;
        let mut all = self.roster.iter();
        has_called_roll
            && self.roster.iter().next().is_some()
            && !self.roster.overflows()
            && all.all(|(slot, known)| self.enforcement(account, revision, slot, known) == Enforcement::InForce)
    }

    /// At which servers `revision` of `account`, or a newer one, is in force.
    pub(in crate::nats) fn in_force(&self, account: AccountKey, revision: u64) -> Vec<Told> {
        let told = self.roster.iter().map(|(slot, known)| Told {
            server: known.server.clone(),
            enforcement: self.enforcement(account, revision, slot, known),
        });
        let mut told: Vec<Told> = told.collect();
        if self.roster.overflows() {
            let name = format!("more than {MAX_SERVERS} servers, which are not known");
            let server = Server {
                id: String::new(),
                name,
                cluster: String::new(),
                version: String::new(),
                behind: Some(0),
            };
            let enforcement = Enforcement::Waiting;
            told.push(Told { server, enforcement });
        }
        told
    }

    fn enforcement(&self, account: AccountKey, revision: u64, slot: Slot, known: &Known) -> Enforcement {
        let pending = self.agenda.get(account);
        let pending = pending.filter(|pending| pending.expected && pending.listed >= revision);
        let is_listed = self.lanes.is_listed(revision);
        match (pending.map(|pending| pending.answer(slot)), known.standing) {
            (Some(Answer::Updated), _) => Enforcement::InForce,
            (Some(Answer::Refused | Answer::RefusedEarlier), _) => Enforcement::Refused,
            (Some(Answer::Skipped | Answer::SkippedEarlier), _) => Enforcement::NotLoaded,
            (_, Standing::Missing) => Enforcement::Missing,
            (Some(Answer::None), _) => Enforcement::Waiting,
            (None, _) if !is_listed => Enforcement::Waiting,
            (None, _) if known.server.behind.is_none() => Enforcement::InForce,
            // It has answered every change, and refused those.
            (None, Standing::Refuses) if known.takes(account) => Enforcement::InForce,
            (None, Standing::Refuses) => Enforcement::Refused,
            (None, Standing::Reached) => Enforcement::Waiting,
        }
    }

    /// The ids of all servers.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<String> {
        self.roster.iter().map(|(_, known)| known.server.id.clone()).collect()
    }
}
