//! All accounts, a few at a time, with rests between, so that lookups stay fast.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::jwt::AccountKey;
use crate::resolver::{Listed, ReadError, Resolver};

/// Rows read in one step, about 25 KB; 16 of the largest tokens are 16 MiB.
const PAGE_ROWS: usize = 16;
/// After each step it rests this many times as long as the step took.
const REST_FACTOR: u32 = 2;
/// The shortest rest, so that other tasks run in between, and the longest, so that a slow disk does not stall it: nsc gives
/// up after a second without a message.
const MIN_REST: Duration = Duration::from_micros(500);
const MAX_REST: Duration = Duration::from_millis(50);

/// Accounts in the order of their keys, a few at a time.
pub(super) struct Pages {
    resolver: Resolver,
    after: Option<AccountKey>,
    began: Instant,
}

impl Pages {
    /// Those after `after`.
    pub(super) fn after(resolver: Resolver, after: Option<AccountKey>) -> Self {
        Self {
            resolver,
            after,
            began: Instant::now(),
        }
    }

    /// The next ones; `None` at the end. An account whose row cannot be read is there with the reason.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Listed>>, ReadError> {
        self.began = Instant::now();
        let listed = self.resolver.accounts(self.after, PAGE_ROWS).await?;
        let Some(last) = listed.last() else {
            return Ok(None);
        };
        self.after = Some(last.account);
        Ok(Some(listed))
    }

    /// Rests after what was done with them.
    pub(super) async fn rest(&self) {
        sleep((self.began.elapsed() * REST_FACTOR).clamp(MIN_REST, MAX_REST)).await;
    }
}
