//! How often clients may have accounts sent again: each account, and all together.
//!
//! Any client of the public port may ask for it, and each time makes every nats-server verify a token.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::jwt::AccountKey;

/// What was sent within this time is not sent again. Publishers answer likewise for the second after a change.
const SENT_JUST_NOW: Duration = Duration::from_secs(1);

/// Accounts sent again in a second: about a hundredth of each nats-server's processor.
const A_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// How many may come at once, for a script that pushes all of an operator's accounts again. Publishers take as many.
const AT_ONCE: NonZeroU32 = NonZeroU32::new(500).expect("not zero");

/// Accounts remembered: more than can be sent in the time that they are remembered for.
const REMEMBERED: usize = 4_096;

/// How often it is logged that there are too many.
const LOGGED: Duration = Duration::from_secs(60);

/// What becomes of a request to send an account again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::resolver) enum Resend {
    /// It is sent.
    Now,
    /// It was sent within the last second.
    JustSent,
    /// There are too many requests. `log`: to be logged, which is due once a minute.
    TooMany { log: bool },
}

type All<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;
type Each<C> = RateLimiter<AccountKey, HashMapStateStore<AccountKey>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Counts the requests to send accounts again.
pub(in crate::resolver) struct Resends<C: Clock = DefaultClock> {
    each: Each<C>,
    all: All<C>,
    forgetting: All<C>,
    logging: All<C>,
}

impl Default for Resends {
    fn default() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock + Clone> Resends<C> {
    fn with_clock(clock: C) -> Self {
        let once = |every: Duration| Quota::with_period(every).expect("not zero");
        Self {
            each: RateLimiter::hashmap_with_clock(once(SENT_JUST_NOW), clock.clone()),
            all: RateLimiter::direct_with_clock(Quota::per_second(A_SECOND).allow_burst(AT_ONCE), clock.clone()),
            forgetting: RateLimiter::direct_with_clock(once(SENT_JUST_NOW), clock.clone()),
            logging: RateLimiter::direct_with_clock(once(LOGGED), clock),
        }
    }

    /// What becomes of one more request for `account`.
    pub(in crate::resolver) fn ask(&self, account: AccountKey) -> Resend {
        // Forgetting looks at each account that is remembered.
        if self.each.len() >= REMEMBERED && self.forgetting.check().is_ok() {
            self.each.retain_recent();
        }
        if self.each.len() < REMEMBERED {
            if self.each.check_key(&account).is_err() {
                return Resend::JustSent;
            }
            if self.all.check().is_ok() {
                return Resend::Now;
            }
        }
        Resend::TooMany {
            log: self.logging.check().is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn account(n: u32) -> AccountKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        AccountKey::from_bytes(bytes)
    }

    #[test]
    fn an_account_is_sent_again_once_a_second_and_others_do_not_wait_for_it() {
        let clock = FakeRelativeClock::default();
        let resends = Resends::with_clock(clock.clone());
        for (pass_ms, n, wanted) in [
            (0, 1, Resend::Now),
            (0, 1, Resend::JustSent),
            (0, 2, Resend::Now),
            (999, 1, Resend::JustSent),
            (1, 1, Resend::Now),
            (999, 2, Resend::Now),
        ] {
            clock.advance(Duration::from_millis(pass_ms));
            assert_eq!(resends.ask(account(n)), wanted, "{pass_ms} {n}");
        }
    }

    #[test]
    fn g12_all_together_are_bounded_and_so_is_what_is_remembered_and_logged() {
        let clock = FakeRelativeClock::default();
        let resends = Resends::with_clock(clock.clone());
        let mut asked = 0..;
        let mut ask = |times: usize| {
            let outcomes = asked.by_ref().take(times).map(|n| resends.ask(account(n)));
            let (mut sent, mut logged) = (0, 0);
            for outcome in outcomes {
                sent += usize::from(outcome == Resend::Now);
                logged += usize::from(outcome == Resend::TooMany { log: true });
            }
            (sent, logged)
        };
        assert_eq!(ask(10_000), (500, 1));
        assert_eq!(resends.each.len(), REMEMBERED);
        for _ in 0..29 {
            // An account is remembered for twice the time that it counts.
            clock.advance(Duration::from_secs(2));
            assert_eq!(ask(10_000), (200, 0));
            assert!(resends.each.len() <= REMEMBERED);
        }
        clock.advance(Duration::from_secs(2));
        assert_eq!(ask(10_000), (200, 1));
        clock.advance(Duration::from_secs(60));
        assert_eq!(
            ask(499),
            (499, 0),
            "after a minute a script may send all of its accounts"
        );
    }
}
