//! The accounts that are not finished, and when each is due.

use std::collections::{BTreeMap, BTreeSet};

use super::pending::{Pending, Phase};
use crate::jwt::AccountKey;

/// The accounts in flight or waiting.
///
/// Invariants:
/// - an account is in `pending` exactly once, and `due` holds exactly its due time;
/// - `unfinished` holds every account by its newest known revision, and `unanswered` those of them whose revision no
///   server has answered yet.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    pending: BTreeMap<AccountKey, Pending>,
    unanswered: BTreeSet<(u64, AccountKey)>,
    unfinished: BTreeSet<(u64, AccountKey)>,
    due: BTreeSet<(u64, AccountKey)>,
}

impl Agenda {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// How many accounts no server has answered yet.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    pub(super) fn get(&self, account: AccountKey) -> Option<&Pending> {
        self.pending.get(&account)
    }

    pub(super) fn get_mut(&mut self, account: AccountKey) -> Option<&mut Pending> {
        self.pending.get_mut(&account)
    }

    pub(super) fn accounts(&self) -> Vec<AccountKey> {
        self.pending.keys().copied().collect()
    }

    /// The account that is due first, and when.
    pub(super) fn first_due(&self) -> Option<(u64, AccountKey)> {
        self.due.first().copied()
    }

    /// Forgets that `account` is due at `due`.
    pub(super) fn remove_due(&mut self, due: u64, account: AccountKey) {
        self.due.remove(&(due, account));
    }

    /// Adds an account that is not here yet.
    pub(super) fn insert(&mut self, account: AccountKey, pending: Pending) {
        self.due.insert((pending.due, account));
        self.unanswered.insert((pending.listed, account));
        self.unfinished.insert((pending.listed, account));
        self.pending.insert(account, pending);
    }

    /// Forgets an account; `false` if it was not here.
    pub(super) fn remove(&mut self, account: AccountKey) -> bool {
        let Some(pending) = self.pending.remove(&account) else {
            return false;
        };
        self.due.remove(&(pending.due, account));
        self.unanswered.remove(&(pending.listed, account));
        self.unfinished.remove(&(pending.listed, account));
        true
    }

    /// Records that `account` is at `revision`; `false` if this or a newer revision was known already.
    pub(super) fn raise(&mut self, account: AccountKey, revision: u64) -> bool {
        let Some(pending) = self
            .pending
            .get_mut(&account)
            .filter(|pending| pending.listed < revision)
        else {
            return false;
        };
        self.unanswered.remove(&(pending.listed, account));
        self.unfinished.remove(&(pending.listed, account));
        pending.begin_anew(revision);
        self.unfinished.insert((revision, account));
        if pending.answered < revision {
            self.unanswered.insert((revision, account));
        }
        true
    }

    /// The newest known revision of `account` was answered.
    pub(super) fn answered(&mut self, account: AccountKey) {
        if let Some(pending) = self.pending.get(&account) {
            self.unanswered.remove(&(pending.listed, account));
        }
    }

    /// `account` is to be sent at `due`.
    pub(super) fn queue(&mut self, account: AccountKey, due: u64) {
        if let Some(pending) = self.pending.get_mut(&account) {
            pending.phase = Phase::Queued;
            pending.tries = 0;
        }
        self.reschedule(account, due);
    }

    pub(super) fn reschedule(&mut self, account: AccountKey, due: u64) {
        if let Some(pending) = self.pending.get_mut(&account) {
            self.due.remove(&(pending.due, account));
            pending.due = due;
            self.due.insert((due, account));
        }
    }

    /// A server answers again: accounts that wait for a longer pause to end are sent now.
    pub(super) fn hurry(&mut self, now: u64) {
        let paused = |pending: &Pending| pending.phase == Phase::Sent && pending.tries > 1;
        let accounts: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| paused(pending))
            .map(|(account, _)| *account)
            .collect();
        for account in accounts {
            self.reschedule(account, now);
        }
    }

    /// The revision up to which every change above `from` was answered; `u64::MAX` if all were.
    pub(super) fn answered_up_to(&self, from: u64) -> u64 {
        before_first(&self.unanswered, from)
    }

    /// The revision up to which every change above `from` is finished; `u64::MAX` if all are.
    pub(super) fn finished_up_to(&self, from: u64) -> u64 {
        before_first(&self.unfinished, from)
    }
}

/// The last revision before the first in `set` that is above `from`; `u64::MAX` if there is none.
fn before_first(set: &BTreeSet<(u64, AccountKey)>, from: u64) -> u64 {
    let least = AccountKey::from_bytes([0; 32]);
    set.range((from.saturating_add(1), least)..)
        .next()
        .map_or(u64::MAX, |(revision, _)| revision - 1)
}
