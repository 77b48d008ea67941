//! The servers of a NATS cluster that answered lately, and how long a missing one is waited for.

use std::collections::BTreeSet;

use super::pending::{Pending, SERVERS};
use crate::jwt::AccountKey;

/// How long after its last answer a server is expected to answer: longer than a night without changes. A server that
/// was shut down meanwhile costs some repetitions of the next change, and is then forgotten.
const EXPECTED_MS: u64 = 24 * 3_600_000;

/// How long a server that should have answered is waited for: longer than a reboot, a moved machine or a failing switch
/// takes. A server that was restarted fetches anyway; one that was shut down for good costs no more than this.
const MISSING_MS: u64 = 600_000;

/// The pause between two sends for a server that is waited for. It doubles from the first of these up to the second.
const MISSING_PAUSE_MS: u64 = 2_000;
const MAX_MISSING_PAUSE_MS: u64 = 10_000;

/// Accounts that are sent again for missing servers: 100 a second. Beyond it the other servers' answers are enough.
const AWAITED: usize = 1_024;

/// How many of them may be first revisions, so that an import leaves room for a revocation.
const AWAITED_FIRSTS: usize = AWAITED / 2;

/// The servers of a NATS cluster that answered lately.
///
/// Asking for the list of all servers needs a further permission. So a server that answered one change is expected to
/// answer the next.
#[derive(Debug, Default)]
pub(super) struct Roster {
    known: Vec<Known>,
    /// The number given last.
    last_id: u64,
    /// Accounts that one of the servers has not answered, and that are sent again for it.
    awaited: BTreeSet<AccountKey>,
}

#[derive(Debug)]
struct Known {
    id: u64,
    name: String,
    answered_at: u64,
}

impl Roster {
    /// Records that the server called `name` answered; gives the number that stands for it in a [`Pending`].
    pub(super) fn record(&mut self, name: &str, now: u64) -> u64 {
        if let Some(known) = self.known.iter_mut().find(|known| known.name == name) {
            known.answered_at = now;
            return known.id;
        }
        if self.known.len() == SERVERS
            && let Some(at) = (0..SERVERS).min_by_key(|at| self.known[*at].answered_at)
        {
            self.known.swap_remove(at);
        }
        self.last_id += 1;
        self.known.push(Known {
            id: self.last_id,
            name: name.to_owned(),
            answered_at: now,
        });
        self.last_id
    }

    /// The names of the servers that have not answered `pending`.
    pub(super) fn missing(&self, pending: &Pending, now: u64) -> Vec<String> {
        if pending.answers().len() == SERVERS {
            // More may have answered than were counted.
            return Vec::new();
        }
        let missing = |known: &&Known| {
            let answered = pending.answers().iter().any(|(server, _)| *server == known.id);
            !answered && known.answered_at + EXPECTED_MS > now
        };
        self.known
            .iter()
            .filter(missing)
            .map(|known| known.name.clone())
            .collect()
    }

    /// A server has not answered `account`: gives the pause until it is sent again, `None` if it is not.
    pub(super) fn wait_for(&mut self, account: AccountKey, pending: &mut Pending, now: u64) -> Option<u64> {
        let since = *pending.missing_since.get_or_insert(now);
        if now >= since + MISSING_MS {
            // Servers that have not answered anything since then are no longer expected to.
            self.known.retain(|known| known.answered_at >= since);
            return None;
        }
        let room = if pending.behind { AWAITED_FIRSTS } else { AWAITED };
        if self.awaited.len() >= room && !self.awaited.contains(&account) {
            return None;
        }
        self.awaited.insert(account);
        pending.misses += 1;
        Some((MISSING_PAUSE_MS << (pending.misses - 1).min(4)).min(MAX_MISSING_PAUSE_MS))
    }

    /// `account` is finished, or has changed.
    pub(super) fn wait_no_more(&mut self, account: AccountKey) {
        self.awaited.remove(&account);
    }
}
