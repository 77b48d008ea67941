//! Sends accounts again whose tokens another sender has overwritten on the nats-servers.
//!
//! A refused JWT may still be on its way to some of the servers, and an account is not sent twice within a second. So each
//! refusal is followed by a second request to send the account again, more than a second later. An account stays due until
//! the resolver has taken that request. All this lasts longer than any connection: the task ends when the responder and the
//! tasks of its requests have.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::notices::Notices;
use crate::jwt::AccountKey;
use crate::nats::wait::until;
use crate::resolver::Resolver;

/// The second request comes so long after the refusal: later than the second in which nothing is sent again, and than a
/// message takes to the farthest server.
const AGAIN: Duration = Duration::from_millis(1_200);

/// Further refusals put it off, but not longer than this after the first: an account is set right within five seconds.
const LATEST: Duration = Duration::from_millis(3_500);

/// Accounts that wait for it. Of more at once only the first request is made.
const ACCOUNTS: usize = 4096;

/// Refusals that wait for the task; it only has to note them.
const REFUSALS: usize = 256;

/// Takes the accounts whose tokens were refused. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Refusals(mpsc::Sender<AccountKey>);

impl Refusals {
    /// A place to report refusals, and where they arrive.
    pub(super) fn channel() -> (Self, mpsc::Receiver<AccountKey>) {
        let (sender, receiver) = mpsc::channel(REFUSALS);
        (Self(sender), receiver)
    }

    /// A JWT of `account` was refused, and servers may have taken it.
    pub(super) async fn report(&self, account: AccountKey) {
        // It fails only where the task has panicked, which ends the node.
        let _ = self.0.send(account).await;
    }
}

/// Has the accounts in `refusals` sent again, until no more can come.
pub(super) async fn run(resolver: Resolver, notices: Notices, mut refusals: mpsc::Receiver<AccountKey>) {
    let mut waiting = Overrules::default();
    loop {
        let refused = tokio::select! {
            biased;
            () = until(waiting.next()) => None,
            refused = refusals.recv() => match refused {
                Some(account) => Some(account),
                None => break,
            },
        };
        let now = Instant::now();
        if let Some(account) = refused {
            // If it is not taken now, the second request is to come.
            let is_taken = resolver.overrule(account);
            if !waiting.refused(account, now) && !is_taken {
                notices.too_many("refused JWTs that servers may have taken");
            }
            continue;
        }
        for account in waiting.take_due(now) {
            if !resolver.overrule(account) {
                let _ = waiting.refused(account, now);
            }
        }
    }
    // The node stops: the second request comes early, rather than not at all.
    for account in waiting.take_due(Instant::now() + LATEST + AGAIN) {
        let _ = resolver.overrule(account);
    }
}

#[derive(Debug)]
struct Waiting {
    account: AccountKey,
    first: Instant,
    due: Instant,
}

/// The accounts to be sent again once more.
#[derive(Debug, Default)]
struct Overrules(Vec<Waiting>);

impl Overrules {
    /// A JWT of `account` was refused at `now`, or the account could not be sent then. `false` if too many wait.
    fn refused(&mut self, account: AccountKey, now: Instant) -> bool {
        if let Some(known) = self.0.iter_mut().find(|known| known.account == account) {
            known.due = (now + AGAIN).min(known.first + LATEST);
        } else if self.0.len() < ACCOUNTS {
            self.0.push(Waiting {
                account,
                first: now,
                due: now + AGAIN,
            });
        } else {
            return false;
        }
        true
    }

    /// When the next one is due.
    fn next(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.due).min()
    }

    /// Those that are due at `now`.
    fn take_due(&mut self, now: Instant) -> Vec<AccountKey> {
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
        assert!(overrules.refused(account(1), at(0)) && overrules.refused(account(2), at(500)));
        assert_eq!(overrules.next(), Some(at(1_200)));
        assert_eq!(overrules.take_due(at(1_199)), []);
        assert_eq!(overrules.take_due(at(1_200)), [account(1)]);
        for ms in [1_000, 2_000, 3_000, 3_900] {
            assert!(overrules.refused(account(2), at(ms)));
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
        let taken = (0..5_000).filter(|n| overrules.refused(account(*n), now)).count();
        assert_eq!(taken, ACCOUNTS);
        assert!(overrules.refused(account(0), now), "it waits already");
        assert_eq!(overrules.take_due(now + AGAIN).len(), ACCOUNTS);
    }
}
