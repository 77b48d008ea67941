//! The accounts that are not finished, and when each is due.

use std::collections::{BTreeMap, BTreeSet};

use super::pending::{Pending, Phase, Reading};
use super::roster::Slot;
use crate::jwt::AccountKey;

/// When a fresh change of an account that existed is due: before everything else.
pub(super) const URGENT: u64 = 0;

/// The same, where servers have to be read first: behind those that wait for no answer.
pub(super) const URGENT_ONCE_READ: u64 = 1;

/// Whether what is due at `due` is a fresh change of an account that existed.
pub(super) fn is_urgent(due: u64) -> bool {
    due <= URGENT_ONCE_READ
}

/// The accounts in flight or waiting.
///
/// Invariants:
/// - an account is in `pending` exactly once, and `due` holds exactly its rank and due time;
/// - `unfinished` holds every account by its newest known revision, and `unanswered` those of them whose revision no
///   server has answered yet;
/// - `under_way` holds the accounts that were sent, by that time, until a server answers or they are queued again;
/// - `reading` holds the accounts in [`Phase::Reading`];
/// - `ahead` and `behind` count what the others hold.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    pending: BTreeMap<AccountKey, Pending>,
    unanswered: BTreeSet<(u64, AccountKey)>,
    unfinished: BTreeSet<(u64, AccountKey)>,
    due: BTreeSet<(Rank, u64, AccountKey)>,
    under_way: BTreeSet<(u64, AccountKey)>,
    reading: BTreeSet<AccountKey>,
    ahead: Count,
    behind: Count,
}

/// How many accounts there are of one class.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Count {
    pub(super) all: usize,
    /// Those that no server has answered yet.
    pub(super) unanswered: usize,
}

/// What is looked at first among the accounts that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Servers are read for it, or have answered it: no more answers are waited for.
    Answers,
    /// It was sent, and its answer is overdue.
    Sent,
    /// To be sent: a change of an account that existed.
    Ahead,
    /// To be sent: a first revision, or sent on request.
    Behind,
}

impl Agenda {
    /// Changes of accounts that existed.
    pub(super) fn ahead(&self) -> Count {
        self.ahead
    }

    /// First revisions, and accounts sent on request.
    pub(super) fn behind(&self) -> Count {
        self.behind
    }

    /// Whether there is nothing in flight or waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
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

    /// The account of `rank` that is due first, and when.
    pub(super) fn first_due(&self, rank: Rank) -> Option<(u64, AccountKey)> {
        let (_, due, account) = self
            .due
            .range((rank, 0, least())..)
            .next()
            .filter(|(found, ..)| *found == rank)?;
        Some((*due, *account))
    }

    /// Forgets that `account` is due at `due`.
    pub(super) fn remove_due(&mut self, rank: Rank, due: u64, account: AccountKey) {
        self.due.remove(&(rank, due, account));
    }

    /// The accounts that were sent at `since` or later and not answered: how many, and when the first of them was sent.
    pub(super) fn under_way(&self, since: u64) -> (usize, Option<u64>) {
        let mut sent = self.under_way.range((since, least())..);
        let first = sent.next().map(|(at, _)| *at);
        (first.map_or(0, |_| sent.count() + 1), first)
    }

    /// Adds an account that is not here yet.
    pub(super) fn insert(&mut self, account: AccountKey, pending: Pending) {
        self.count(pending.behind).all += 1;
        self.count(pending.behind).unanswered += 1;
        self.due.insert((rank(&pending), pending.due, account));
        self.unanswered.insert((pending.listed, account));
        self.unfinished.insert((pending.listed, account));
        self.pending.insert(account, pending);
    }

    /// Takes an account out, if it is here.
    pub(super) fn remove(&mut self, account: AccountKey) -> Option<Pending> {
        let pending = self.pending.remove(&account)?;
        self.due.remove(&(rank(&pending), pending.due, account));
        self.reading.remove(&account);
        if let Some(at) = pending.under_way {
            self.under_way.remove(&(at, account));
        }
        self.unfinished.remove(&(pending.listed, account));
        self.expect_no_answer(account, pending.listed, pending.behind);
        self.count(pending.behind).all -= 1;
        Some(pending)
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
        let (before, behind) = (pending.listed, pending.behind);
        pending.begin_anew(revision);
        let is_answered = pending.answered >= revision;
        self.unfinished.remove(&(before, account));
        self.unfinished.insert((revision, account));
        self.expect_no_answer(account, before, behind);
        if !is_answered {
            self.unanswered.insert((revision, account));
            self.count(behind).unanswered += 1;
        }
        true
    }

    /// `account` is from now on a change of an account that existed.
    pub(super) fn put_ahead(&mut self, account: AccountKey) {
        let Some(pending) = self.pending.get(&account).filter(|pending| pending.behind) else {
            return;
        };
        let unanswered = usize::from(self.unanswered.contains(&(pending.listed, account)));
        self.behind.all -= 1;
        self.behind.unanswered -= unanswered;
        self.ahead.all += 1;
        self.ahead.unanswered += unanswered;
        self.change(account, |pending| pending.behind = false);
    }

    /// A server answered the newest known revision of `account`; others are listened for until `due`, if that changes.
    pub(super) fn answered(&mut self, account: AccountKey, due: Option<u64>) {
        let Some((listed, behind)) = self
            .pending
            .get(&account)
            .map(|pending| (pending.listed, pending.behind))
        else {
            return;
        };
        self.expect_no_answer(account, listed, behind);
        self.no_longer_under_way(account);
        if let Some(due) = due {
            self.reading.remove(&account);
            self.change(account, |pending| {
                pending.reading = None;
                pending.phase = Phase::Listening;
                pending.due = due;
            });
        }
    }

    /// `account` is to be sent at `due`; if the servers are being read, then after that.
    pub(super) fn queue(&mut self, account: AccountKey, due: u64) {
        self.no_longer_under_way(account);
        self.change(account, |pending| {
            pending.tries = 0;
            if let Some(reading) = &mut pending.reading {
                (reading.before, reading.due) = (Phase::Queued, due);
            } else {
                pending.phase = Phase::Queued;
                pending.due = due;
            }
        });
    }

    /// The accounts of which servers are being read.
    pub(super) fn reading(&self) -> &BTreeSet<AccountKey> {
        &self.reading
    }

    /// The servers in `silent` are asked what they hold of `account`; they have until `due`.
    pub(super) fn begin_reading(&mut self, account: AccountKey, silent: BTreeSet<Slot>, received: u64, due: u64) {
        self.reading.insert(account);
        self.change(account, |pending| {
            pending.reading = Some(Reading {
                before: pending.phase,
                due: pending.due,
                received,
                silent,
                judged: BTreeSet::new(),
                is_undecided: false,
            });
            pending.phase = Phase::Reading;
            pending.due = due;
        });
    }

    /// More time is given to judge what servers have answered about `account`.
    pub(super) fn read_until(&mut self, account: AccountKey, due: u64) {
        self.change(account, |pending| pending.due = due);
    }

    /// It is known what servers hold of `account`; or it is not, and they are to be read again at that time.
    pub(super) fn end_reading(&mut self, account: AccountKey, again_at: Option<u64>) {
        self.reading.remove(&account);
        self.change(account, |pending| {
            let Some(reading) = pending.reading.take() else { return };
            pending.phase = reading.before;
            // What is urgent waits for nothing else once it is read.
            let due = if reading.due == URGENT_ONCE_READ {
                URGENT
            } else {
                reading.due
            };
            pending.due = again_at.unwrap_or(due);
            pending.is_read = again_at.is_none();
        });
    }

    /// `account` is sent at `now`; its answer is overdue at `due`.
    pub(super) fn sent(&mut self, account: AccountKey, now: u64, due: u64) {
        self.no_longer_under_way(account);
        self.under_way.insert((now, account));
        self.change(account, |pending| {
            pending.phase = Phase::Sent;
            pending.is_read = false;
            pending.under_way = Some(now);
            pending.due = due;
        });
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
            self.change(account, |pending| pending.due = now);
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

    /// Changes what decides an account's place among those that are due.
    fn change(&mut self, account: AccountKey, change: impl FnOnce(&mut Pending)) {
        if let Some(pending) = self.pending.get_mut(&account) {
            self.due.remove(&(rank(pending), pending.due, account));
            change(pending);
            self.due.insert((rank(pending), pending.due, account));
        }
    }

    fn no_longer_under_way(&mut self, account: AccountKey) {
        let sent_at = self
            .pending
            .get_mut(&account)
            .and_then(|pending| pending.under_way.take());
        if let Some(at) = sent_at {
            self.under_way.remove(&(at, account));
        }
    }

    fn expect_no_answer(&mut self, account: AccountKey, revision: u64, behind: bool) {
        if self.unanswered.remove(&(revision, account)) {
            self.count(behind).unanswered -= 1;
        }
    }

    fn count(&mut self, behind: bool) -> &mut Count {
        if behind { &mut self.behind } else { &mut self.ahead }
    }
}

fn rank(pending: &Pending) -> Rank {
    match (pending.phase, pending.behind) {
        (Phase::Listening | Phase::Reading, _) => Rank::Answers,
        (Phase::Sent, _) => Rank::Sent,
        (Phase::Queued, false) => Rank::Ahead,
        (Phase::Queued, true) => Rank::Behind,
    }
}

/// The account before all others.
fn least() -> AccountKey {
    AccountKey::from_bytes([0; 32])
}

/// The last revision before the first in `set` that is above `from`; `u64::MAX` if there is none.
fn before_first(set: &BTreeSet<(u64, AccountKey)>, from: u64) -> u64 {
    set.range((from.saturating_add(1), least())..)
        .next()
        .map_or(u64::MAX, |(revision, _)| revision - 1)
}
