//! When accounts are sent again that somebody else has overwritten on the nats-servers. No I/O, no clock.
//!
//! A refused JWT may still be on its way to some of the servers, and an account is not sent twice within a second. So each
//! refusal is followed by a second request to send the account again, more than a second later.

use std::time::Duration;

use tokio::time::Instant;

use crate::jwt::AccountKey;

/// The second request comes so long after the refusal: later than the second in which nothing is sent again, and than a
/// message takes to the farthest server.
const AGAIN: Duration = Duration::from_millis(1_200);

/// Further refusals put it off, but not longer than this after the first: an account is set right within five seconds.
const LATEST: Duration = Duration::from_millis(3_500);

/// Accounts that wait for it. Of more at once only the first request is made.
const ACCOUNTS: usize = 1024;

#[derive(Debug)]
struct Waiting {
    account: AccountKey,
    first: Instant,
    due: Instant,
}

/// The accounts to be sent again once more.
#[derive(Debug, Default)]
pub(super) struct Overrules(Vec<Waiting>);

impl Overrules {
    /// A JWT of `account` was refused at `now`, and the account was requested to be sent again.
    pub(super) fn refused(&mut self, account: AccountKey, now: Instant) {
        if let Some(known) = self.0.iter_mut().find(|known| known.account == account) {
            known.due = (now + AGAIN).min(known.first + LATEST);
        } else if self.0.len() < ACCOUNTS {
            self.0.push(Waiting {
                account,
                first: now,
                due: now + AGAIN,
            });
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.due).min()
    }

    /// Those that are due at `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<AccountKey> {
        let due = self.0.extract_if(.., |waiting| waiting.due <= now);
        due.map(|waiting| waiting.account).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(n: u16) -> AccountKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        AccountKey::from_bytes(bytes)
    }

    #[test]
    fn g6_each_refusal_is_followed_by_a_second_request_within_five_seconds() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut overrules = Overrules::default();
        assert_eq!(overrules.next(), None);
        overrules.refused(account(1), at(0));
        overrules.refused(account(2), at(500));
        assert_eq!(overrules.next(), Some(at(1_200)));
        assert_eq!(overrules.take_due(at(1_199)), []);
        assert_eq!(overrules.take_due(at(1_200)), [account(1)]);
        for ms in [1_000, 2_000, 3_000, 3_900] {
            overrules.refused(account(2), at(ms));
            assert_eq!(overrules.take_due(at(ms)), [], "{ms}");
        }
        assert_eq!(overrules.next(), Some(at(4_000)));
        assert_eq!(overrules.take_due(at(4_000)), [account(2)]);
        assert_eq!(overrules.next(), None);
    }

    #[test]
    fn g12_the_number_of_accounts_that_wait_is_bounded() {
        let mut overrules = Overrules::default();
        let now = Instant::now();
        (0..5_000).for_each(|n| overrules.refused(account(n), now));
        assert_eq!(overrules.take_due(now + AGAIN).len(), ACCOUNTS);
    }
}
