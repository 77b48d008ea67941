//! The servers of a NATS cluster that answered lately, and how long a missing one is waited for.

use std::collections::BTreeSet;

use super::pending::{Pending, SERVERS};
use crate::jwt::AccountKey;

/// How long a server is expected to answer after it answered last: over a night without changes. One that was shut down
/// meanwhile costs some repetitions of the next change, and is forgotten.
const EXPECTED_MS: u64 = 24 * 3_600_000;

/// How long a server that should have answered is waited for: longer than a reboot, a moved machine or a failing switch
/// takes. One that was restarted fetches anyway; one that was shut down for good costs no more than this.
const MISSING_MS: u64 = 600_000;

/// Between two sends to a server that is waited for; doubles up to the second.
const MISSING_PAUSE_MS: u64 = 2_000;
const MAX_MISSING_PAUSE_MS: u64 = 10_000;

/// Accounts that are sent again for that: 100 a second. Beyond it the other servers' answers are enough.
const AWAITED: usize = 1_024;

/// The servers of a NATS cluster that answered lately.
///
/// Asking for all that exist needs a further permission, so those that answered one change are expected to answer the next.
#[derive(Debug, Default)]
pub(super) struct Roster {
    known: Vec<Known>,
    named: u64,
    /// Accounts that one of them has not answered.
    awaited: BTreeSet<AccountKey>,
}

#[derive(Debug)]
struct Known {
    id: u64,
    name: String,
    heard_at: u64,
}

impl Roster {
    /// The server called `name` answered; what it is called in a [`Pending`].
    pub(super) fn hear(&mut self, name: &str, now: u64) -> u64 {
        if let Some(known) = self.known.iter_mut().find(|known| known.name == name) {
            known.heard_at = now;
            return known.id;
        }
        if self.known.len() == SERVERS
            && let Some(at) = (0..SERVERS).min_by_key(|at| self.known[*at].heard_at)
        {
            self.known.swap_remove(at);
        }
        self.named += 1;
        self.known.push(Known {
            id: self.named,
            name: name.to_owned(),
            heard_at: now,
        });
        self.named
    }

    /// The names of those that have not answered `pending`.
    pub(super) fn missing(&self, pending: &Pending, now: u64) -> Vec<String> {
        if pending.answers().len() == SERVERS {
            // More may have answered than were counted.
            return Vec::new();
        }
        let missing = |known: &&Known| {
            let answered = pending.answers().iter().any(|(server, _)| *server == known.id);
            !answered && known.heard_at + EXPECTED_MS > now
        };
        self.known
            .iter()
            .filter(missing)
            .map(|known| known.name.clone())
            .collect()
    }

    /// Somebody has not answered `account`: the pause until it is sent again, if it is.
    pub(super) fn wait_for(&mut self, account: AccountKey, pending: &mut Pending, now: u64) -> Option<u64> {
        let since = *pending.missing_since.get_or_insert(now);
        if now >= since + MISSING_MS {
            // Nothing more is expected of those that have said nothing at all since then.
            self.known.retain(|known| known.heard_at >= since);
            return None;
        }
        if self.awaited.len() == AWAITED && !self.awaited.contains(&account) {
            return None;
        }
        self.awaited.insert(account);
        pending.misses += 1;
        Some((MISSING_PAUSE_MS << (pending.misses - 1).min(4)).min(MAX_MISSING_PAUSE_MS))
    }

    /// `account` is done with, or changed.
    pub(super) fn wait_no_more(&mut self, account: AccountKey) {
        self.awaited.remove(&account);
    }
}
