//! The servers of a NATS cluster: which there are, from which change on each one may enforce something older, and what of
//! that is not agreed yet.
//!
//! A server that has not said what became of a change is *behind*: from that change on nothing is known about it. It stays
//! so until a check (`checks.rs`) has shown that it enforces every newer token. All of this is agreed together with the
//! position, so that a restart and another publisher continue with it.

mod checks;
mod looking;

use std::collections::{BTreeSet, HashMap};

pub(in crate::nats) use checks::Held;
pub(super) use checks::{Checks, Due, Ended, ROLL_CALL_MS};

use crate::jwt::AccountKey;
use crate::nats::subjects::ServerInfo;
use crate::resolver::{MAX_SERVERS, Server, Standing};

/// The place of a server in a [`Roster`]. Another server gets it only when nothing is in flight.
pub(in crate::nats::publish) type Slot = usize;

/// Servers whose changes go into one entry of the log: some 200 KB.
const AGREED_AT_ONCE: usize = 1_024;

/// New servers that are remembered within [`NEW_WITHIN_MS`]: all of the largest NATS cluster at once, and few enough that
/// who makes some up does not fill the log.
const NEW: usize = MAX_SERVERS;
const NEW_WITHIN_MS: u64 = 600_000;

/// Accounts of which it is remembered that a server refuses them. Of more, everything counts as refused there.
const REFUSED: usize = 64;

/// A server, and what is known about it in this publisher's life.
#[derive(Debug)]
pub(in crate::nats::publish) struct Known {
    pub(in crate::nats::publish) server: Server,
    pub(in crate::nats::publish) standing: Standing,
    /// When it was heard first, and last, in this publisher's life.
    pub(in crate::nats::publish) first_heard_at: Option<u64>,
    pub(in crate::nats::publish) heard_at: Option<u64>,
    /// Whether it was missing since it was last up to date.
    pub(in crate::nats::publish) was_missing: bool,
    /// The accounts whose tokens it refuses, while it refuses any; some of them, if there are many.
    pub(in crate::nats::publish) refused: BTreeSet<AccountKey>,
    /// Whether "updated" is proof there: it has a resolver that says so only of what it enforces.
    pub(in crate::nats::publish) is_believed: bool,
    /// Whether the mesh may know it.
    is_agreed: bool,
    /// How often it missed or refused a change: a check that began before the last time proves nothing.
    pub(in crate::nats::publish) misses: u64,
}

impl Known {
    /// Without a name of its own a server has its id for one. Two servers of one NATS cluster with one name would shut each
    /// other out.
    fn is_replaced_by(&self, later: &Self) -> bool {
        let (own, other) = (&self.server, &later.server);
        self.standing == Standing::Missing
            && later.standing == Standing::Reached
            && own.id != other.id
            && own.name != own.id
            && (&own.name, &own.cluster) == (&other.name, &other.cluster)
            && later.first_heard_at.is_some()
            && self.heard_at < later.first_heard_at
    }
}

/// The servers of one NATS cluster.
#[derive(Debug, Default)]
pub(in crate::nats::publish) struct Roster {
    servers: Vec<Option<Known>>,
    slots: HashMap<String, Slot>,
    /// Slots of servers that are gone: to be given to others, and those that something may still refer to.
    free: Vec<Slot>,
    retired: Vec<Slot>,
    /// Whether there are servers for which there was no room.
    overflows: bool,
    /// How many servers are missing.
    missing: usize,
    /// How many new servers there were since then.
    new: usize,
    new_since: u64,
    unagreed: Unagreed,
    agreeing: Option<Unagreed>,
}

/// What differs from what is agreed.
#[derive(Debug, Default)]
struct Unagreed {
    changed: BTreeSet<Slot>,
    gone: BTreeSet<String>,
}

impl Roster {
    /// The agreed servers, none of which was heard yet.
    pub(in crate::nats::publish) fn new(agreed: Vec<Server>) -> Self {
        let mut roster = Self::default();
        for server in agreed {
            let slot = roster.insert(server, None);
            roster.servers[slot].iter_mut().for_each(|known| known.is_agreed = true);
        }
        roster.unagreed = Unagreed::default();
        roster
    }

    fn insert(&mut self, server: Server, heard_at: Option<u64>) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.servers.push(None);
            self.servers.len() - 1
        });
        self.slots.insert(server.id.clone(), slot);
        self.servers[slot] = Some(Known {
            server,
            standing: Standing::Reached,
            first_heard_at: heard_at,
            heard_at,
            was_missing: false,
            refused: BTreeSet::new(),
            is_believed: false,
            is_agreed: false,
            misses: 0,
        });
        self.unagreed.changed.insert(slot);
        slot
    }

    /// Records that a server was heard. Gives its slot, and whether it is new or was missing; `None` if there is no room for
    /// it, or it has no id.
    /// `behind` is from where on a new one may enforce something older.
    pub(in crate::nats::publish) fn heard(
        &mut self,
        info: &ServerInfo,
        behind: Option<u64>,
        now: u64,
    ) -> Option<(Slot, bool)> {
        if let Some(slot) = self.slots.get(&info.id).copied() {
            let known = self.servers[slot].as_mut()?;
            known.heard_at = Some(now);
            known.first_heard_at.get_or_insert(now);
            let is_back = known.standing == Standing::Missing;
            if is_back {
                known.standing = Standing::Reached;
                self.missing -= 1;
            }
            let server = &mut known.server;
            if !info.version.is_empty() && (&server.version, &server.name) != (&info.version, &info.name) {
                server.version.clone_from(&info.version);
                server.name.clone_from(&info.name);
                self.unagreed.changed.insert(slot);
            }
            return Some((slot, is_back));
        }
        if info.id.is_empty() || !self.may_grow(now) {
            return None;
        }
        self.unagreed.gone.remove(&info.id);
        let server = Server {
            id: info.id.clone(),
            name: info.name.clone(),
            cluster: info.cluster.clone(),
            version: info.version.clone(),
            behind,
        };
        Some((self.insert(server, Some(now)), true))
    }

    /// The server with this id has ended.
    pub(in crate::nats::publish) fn remove(&mut self, id: &str) -> Option<Slot> {
        let slot = self.slots.remove(id)?;
        let known = self.servers[slot].take();
        let is_missing = |known: &Known| known.standing == Standing::Missing;
        self.missing -= usize::from(known.as_ref().is_some_and(is_missing));
        let is_agreed = known.is_some_and(|known| known.is_agreed);
        self.retired.push(slot);
        self.unagreed.changed.remove(&slot);
        if is_agreed || self.is_being_agreed(slot) {
            self.unagreed.gone.insert(id.to_owned());
        }
        Some(slot)
    }

    fn is_being_agreed(&self, slot: Slot) -> bool {
        let agreeing = self.agreeing.as_ref();
        agreeing.is_some_and(|open| open.changed.contains(&slot))
    }

    /// The mesh knows only the servers with these ids any more: an administrator had others forgotten.
    pub(in crate::nats::publish) fn retain(&mut self, agreed: &BTreeSet<String>) -> Vec<Slot> {
        let is_lost = |id: &String, slot: Slot| {
            let is_agreed = self.get(slot).is_some_and(|known| known.is_agreed);
            is_agreed && !agreed.contains(id)
        };
        let slots = self.slots.iter().map(|(id, slot)| (id.clone(), *slot));
        let lost: Vec<(String, Slot)> = slots.filter(|(id, slot)| is_lost(id, *slot)).collect();
        for (id, slot) in &lost {
            let may_return = self.is_being_agreed(*slot);
            self.remove(id);
            if !may_return {
                self.unagreed.gone.remove(id);
            }
        }
        lost.into_iter().map(|(_, slot)| slot).collect()
    }

    /// The servers that are missing and have the name of the one in `slot`, which was heard later: they have ended, and it
    /// is the process that was started in their place.
    pub(in crate::nats::publish) fn replaced_by(&self, slot: Slot) -> Vec<String> {
        let Some(known) = self.get(slot) else { return Vec::new() };
        let replaced = self.iter().filter(|(_, earlier)| earlier.is_replaced_by(known));
        replaced.map(|(_, known)| known.server.id.clone()).collect()
    }

    /// Whether the server in `slot`, which is missing, has ended, and another process was started in its place.
    pub(in crate::nats::publish) fn is_replaced(&self, slot: Slot) -> bool {
        let is_replaced = |known: &Known| self.iter().any(|(_, later)| known.is_replaced_by(later));
        self.get(slot).is_some_and(is_replaced)
    }

    pub(in crate::nats::publish) fn get(&self, slot: Slot) -> Option<&Known> {
        self.servers.get(slot)?.as_ref()
    }

    pub(in crate::nats::publish) fn get_mut(&mut self, slot: Slot) -> Option<&mut Known> {
        self.servers.get_mut(slot)?.as_mut()
    }

    pub(in crate::nats::publish) fn slot(&self, id: &str) -> Option<Slot> {
        self.slots.get(id).copied()
    }

    /// Every server, by its slot.
    pub(in crate::nats::publish) fn iter(&self) -> impl Iterator<Item = (Slot, &Known)> {
        let servers = self.servers.iter().enumerate();
        servers.filter_map(|(slot, known)| Some((slot, known.as_ref()?)))
    }

    /// What changed after `upto` may not be in force at the server. One that is missing stays so until it is heard.
    pub(in crate::nats::publish) fn miss(&mut self, slot: Slot, upto: u64, standing: Standing) {
        if self.get(slot).is_some_and(|known| known.standing != Standing::Missing) {
            self.stands(slot, standing);
        }
        let Some(known) = self.get_mut(slot) else { return };
        known.misses += 1;
        known.was_missing |= standing == Standing::Missing;
        let behind = known.server.behind.map_or(upto, |behind| behind.min(upto));
        if known.server.behind != Some(behind) {
            known.server.behind = Some(behind);
            self.unagreed.changed.insert(slot);
        }
    }

    /// The same of a server that is being looked at already.
    pub(in crate::nats::publish) fn lower(&mut self, slot: Slot, upto: u64) {
        let Some(known) = self.get_mut(slot) else { return };
        if known.server.behind.is_none_or(|behind| behind > upto) {
            known.server.behind = Some(upto);
            self.unagreed.changed.insert(slot);
        }
    }

    fn stands(&mut self, slot: Slot, standing: Standing) {
        let Some(known) = self.get_mut(slot) else { return };
        let before = std::mem::replace(&mut known.standing, standing);
        self.missing += usize::from(standing == Standing::Missing);
        self.missing -= usize::from(before == Standing::Missing);
    }

    /// How many servers are missing.
    pub(in crate::nats::publish) fn missing(&self) -> usize {
        self.missing
    }

    /// How many servers there are.
    pub(in crate::nats::publish) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Every change is in force at the server, unless it has missed one since it had missed so many.
    pub(in crate::nats::publish) fn confirm(&mut self, slot: Slot, misses: u64) -> bool {
        if self.get(slot).is_none_or(|known| known.misses != misses) {
            return false;
        }
        self.stands(slot, Standing::Reached);
        let Some(known) = self.get_mut(slot) else { return false };
        known.was_missing = false;
        known.refused.clear();
        if known.server.behind.take().is_some() {
            self.unagreed.changed.insert(slot);
        }
        true
    }

    /// Servers that were new without a check cannot be judged: what they had loaded is not known, and not waited for.
    pub(in crate::nats::publish) fn take_as_they_are(&mut self) {
        for slot in 0..self.servers.len() {
            let is_unread = |known: &Known| known.server.behind == Some(0) && known.misses == 0;
            if self.get(slot).is_some_and(is_unread) {
                self.confirm(slot, 0);
            }
        }
    }

    /// `account` is refused by the server in `slot`.
    pub(in crate::nats::publish) fn refuses(&mut self, slot: Slot, account: AccountKey) {
        if let Some(known) = self.get_mut(slot).filter(|known| known.refused.len() < REFUSED) {
            known.refused.insert(account);
        }
    }

    /// Whether there are servers that are not remembered.
    pub(in crate::nats::publish) fn overflows(&self) -> bool {
        self.overflows
    }

    /// Whether there is room for one more server. Whoever may publish on the system account can make some up.
    fn may_grow(&mut self, now: u64) -> bool {
        if now >= self.new_since + NEW_WITHIN_MS {
            (self.new_since, self.new) = (now, 0);
        }
        let has_room = self.slots.len() < MAX_SERVERS && self.new < NEW;
        self.overflows |= !has_room;
        self.new += usize::from(has_room);
        has_room
    }

    /// Whether something is not agreed yet.
    pub(in crate::nats::publish) fn is_changed(&self) -> bool {
        !self.unagreed.changed.is_empty() || !self.unagreed.gone.is_empty()
    }

    /// What to have agreed next: the servers that are new or changed, those that are gone, and whether that is all.
    pub(in crate::nats::publish) fn begin_agreeing(&mut self) -> (Vec<Server>, Vec<String>, bool) {
        let mut taken = Unagreed::default();
        while taken.changed.len() < AGREED_AT_ONCE
            && let Some(slot) = self.unagreed.changed.pop_first()
        {
            taken.changed.insert(slot);
        }
        while taken.gone.len() < AGREED_AT_ONCE
            && let Some(id) = self.unagreed.gone.pop_first()
        {
            taken.gone.insert(id);
        }
        let seen = taken.changed.iter().filter_map(|slot| self.get(*slot));
        let seen = seen.map(|known| known.server.clone()).collect();
        let gone = taken.gone.iter().cloned().collect();
        self.agreeing = Some(taken);
        (seen, gone, !self.is_changed())
    }

    /// What was to be agreed is, or is not.
    pub(in crate::nats::publish) fn agreed(&mut self, agreed: bool) {
        let Some(taken) = self.agreeing.take() else { return };
        for slot in &taken.changed {
            // What was not agreed may be later.
            if let Some(known) = self.get_mut(*slot) {
                known.is_agreed = true;
            }
        }
        if agreed {
            return;
        }
        let there = |slot: &Slot| self.servers[*slot].is_some();
        self.unagreed.changed.extend(taken.changed.into_iter().filter(there));
        let gone = taken.gone.into_iter();
        self.unagreed
            .gone
            .extend(gone.filter(|id| !self.slots.contains_key(id)));
    }

    /// Nothing refers to a slot any more: those of servers that are gone may be given to others.
    pub(in crate::nats::publish) fn free_slots(&mut self) {
        self.free.append(&mut self.retired);
    }
}

impl Known {
    /// Whether it takes the current token of `account`, of all that it was sent.
    pub(in crate::nats::publish) fn takes(&self, account: AccountKey) -> bool {
        self.refused.len() < REFUSED && !self.refused.is_empty() && !self.refused.contains(&account)
    }
}
