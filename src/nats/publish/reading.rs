//! What servers hold of an account is read before it is sent, where one of them may hold something newer than this mesh.
//!
//! An older backup may have been put back, by whatever means, or another sender may have published something. Then a server
//! can hold a newer token than the one that is stored here, such as one with a revocation. To send the stored one would undo
//! it. So servers are read first
//!
//! - where what is sent is no fresh change: a client asks for it, or servers may have missed it;
//! - of every account, until each server has been looked at (`sweep.rs`) since this connection began, and since the server
//!   was heard after it had been missing.
//!
//! A fresh change is not held up where its token was issued since then. What servers held before is older, and of what other
//! senders publish since then, this node has heard.
//!
//! All servers are asked at once. What differs is judged elsewhere: a newer valid token is stored, and is then the one that
//! is sent. A server that does not answer within two seconds is missing and holds nothing up; its answer counts whenever it
//! comes. A user who may not ask sends without reading.

use std::collections::BTreeSet;

use super::agenda::is_urgent;
use super::pending::{Phase, Reading};
use super::propagation::{ANSWER_MS, Propagation};
use super::roster::{Held, Slot};
use super::step::{Question, Step};
use crate::jwt::AccountKey;
use crate::nats::subjects::ServerInfo;
use crate::resolver::Standing;

/// How long servers have to report after a connection is up, before anything is sent: two ways to the farthest and back. Of
/// a new NATS cluster none is known.
const GREETING_MS: u64 = 500;

/// The pause before servers are read again, where what one holds could not be stored.
const UNDECIDED_MS: u64 = 1_000;

/// Answers that may be on their way at once: a quarter of what the connection holds. At a thousand servers eight accounts
/// are read at once.
const ANSWERS: usize = 8_192;

/// Accounts that are read at once. Half of the places are kept for fresh changes.
const READS: usize = 64;

/// How far the clocks of those who sign may be from this node's, before a token counts as issued at another time than it
/// says: with any of the usual services that set clocks it is less than a second.
const CLOCKS_MS: i64 = 10_000;

impl Propagation {
    /// Whether what servers hold of `account` has to be read before it is sent now.
    pub(super) fn is_to_be_read(&self, account: AccountKey, now: u64) -> bool {
        let Some(pending) = self.agenda.get(account).filter(|pending| !pending.is_read) else {
            return false;
        };
        let is_sent_next = match pending.phase {
            Phase::Queued => true,
            Phase::Sent => now >= pending.due,
            Phase::Reading | Phase::Listening => false,
        };
        let is_newest = || pending.issued.is_some_and(|issued| self.is_newest(issued, now));
        is_sent_next && self.checks.can_ask() && (pending.must_be_read || !is_newest())
    }

    /// Whether no server that is reached can hold a newer token than one that was issued at `issued`, and is now current.
    pub(super) fn is_newest(&self, issued: i64, now: u64) -> bool {
        let ms = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
        let since = ms(self.heard_all_since) + CLOCKS_MS;
        // One of the future may be of any time: then clocks are wrong.
        self.has_swept() || (since..=ms(now) + CLOCKS_MS).contains(&issued)
    }

    /// Whether so many accounts are read already that one that is due at `due` is not read now.
    pub(super) fn reads_enough(&self, due: u64) -> bool {
        let most = (ANSWERS / self.roster.count().max(1)).clamp(2, READS);
        let most = if is_urgent(due) { most } else { most / 2 };
        self.agenda.reading().len() >= most
    }

    /// Until when nothing is sent, because servers may not have reported yet.
    pub(super) fn greets_until(&self) -> u64 {
        match self.greets {
            true if !self.checks.can_ask() => 0,
            true if self.has_heard => self.connected_at + GREETING_MS,
            true => self.connected_at + ANSWER_MS,
            false => 0,
        }
    }

    /// Asks every server what it holds of `account`.
    pub(super) fn begin_reading(&mut self, account: AccountKey, now: u64) -> Step {
        let reached = self
            .roster
            .iter()
            .filter(|(_, known)| known.standing != Standing::Missing);
        let silent: BTreeSet<Slot> = reached.map(|(slot, _)| slot).collect();
        self.agenda
            .begin_reading(account, silent, self.received, now + ANSWER_MS);
        self.read_on(account, now);
        Step::Ask(Question::HeldByAll(account))
    }

    /// A server has answered what it holds of `account`. Whether that is to be judged: it was asked. What comes late counts.
    pub(in crate::nats) fn arrived(&mut self, server: &ServerInfo, account: AccountKey, now: u64) -> bool {
        let Some(slot) = self.hear(server, now) else {
            return false;
        };
        let mut was_asked = self.sweep.arrived(slot, account);
        if self.checks.is_asked(slot, account) {
            self.checks.arrived(slot, account);
            was_asked = true;
        }
        if let Some(reading) = self.reading_of(account) {
            reading.silent.remove(&slot);
            reading.judged.insert(slot);
            was_asked = true;
        }
        was_asked
    }

    fn reading_of(&mut self, account: AccountKey) -> Option<&mut Reading> {
        self.agenda.get_mut(account)?.reading.as_mut()
    }

    /// It is known what the server in `slot` holds of `account`.
    pub(super) fn has_read(&mut self, slot: Slot, account: AccountKey, held: Held, now: u64) {
        if let Some(reading) = self.reading_of(account) {
            reading.silent.remove(&slot);
            reading.judged.remove(&slot);
            reading.is_undecided |= held == Held::Undecided;
            self.read_on(account, now);
        }
    }

    /// The server in `slot` is missing or gone: nothing waits for it.
    pub(super) fn no_longer_read(&mut self, slot: Slot, now: u64) {
        for account in self.agenda.reading().clone() {
            if let Some(reading) = self.reading_of(account)
                && reading.silent.remove(&slot)
            {
                self.read_on(account, now);
            }
        }
    }

    /// The server in `slot` is known no more: nor is it waited for what it has said.
    pub(super) fn never_read(&mut self, slot: Slot, now: u64) {
        for account in self.agenda.reading().clone() {
            if let Some(reading) = self.reading_of(account)
                && (reading.silent.remove(&slot) | reading.judged.remove(&slot))
            {
                self.read_on(account, now);
            }
        }
    }

    /// No server is asked any more, or the connection is gone.
    pub(super) fn end_readings(&mut self) {
        for account in self.agenda.reading().clone() {
            self.agenda.end_reading(account, None);
        }
    }

    /// Ends the reading of `account`, unless answers are waited for.
    fn read_on(&mut self, account: AccountKey, now: u64) {
        let Some(reading) = self.reading_of(account) else {
            return;
        };
        if reading.silent.is_empty() && reading.judged.is_empty() {
            let again_at = reading.is_undecided.then_some(now + UNDECIDED_MS);
            self.agenda.end_reading(account, again_at);
        }
    }

    /// Servers had two seconds to answer what they hold of `account`.
    pub(super) fn reading_is_due(&mut self, account: AccountKey, now: u64) -> Option<Step> {
        let received = self.received;
        let reading = self.reading_of(account)?;
        if !reading.silent.is_empty() && reading.received == received {
            return Some(Step::Leave);
        }
        let silent = std::mem::take(&mut reading.silent);
        self.agenda.read_until(account, now + ANSWER_MS);
        for slot in silent {
            let upto = self.position.marked();
            let listed = self
                .agenda
                .get(account)
                .map_or(upto, |pending| pending.listed.saturating_sub(1));
            self.miss(slot, upto.min(listed), now);
        }
        self.read_on(account, now);
        None
    }

    /// A server enforces another token of `account`, which is at `revision`, than the current one. It is looked at, and sent
    /// that, until it enforces it.
    pub(super) fn found_other(&mut self, slot: Slot, account: AccountKey, revision: u64, now: u64) {
        let upto = revision.saturating_sub(1);
        if self.checks.add(slot, account) {
            return self.roster.lower(slot, upto);
        }
        let Some(known) = self.roster.get(slot) else { return };
        let (behind, standing) = (known.server.behind, known.standing);
        if behind.is_some_and(|behind| behind <= upto) {
            if known.refused.contains(&account) {
                return;
            }
            // Its check begins when it answers, or after a pause where it refuses something. The current token is sent
            // meanwhile.
            return self.list_asked(account, revision, now);
        }
        self.roster.miss(slot, upto, standing);
        if let Some(known) = self.roster.get(slot).filter(|_| self.checks.is_idle(slot)) {
            self.checks.look_at(slot, account, known.misses, now);
        }
    }
}
