//! Waiting for what may not be there.

use std::future::Future;
use std::pin::Pin;

use tokio::time::{Instant, sleep_until};

/// What `work` ends with; waits forever if there is none.
pub(super) async fn outcome<T>(work: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Waits until `at`; forever if that is `None`.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        // The timer would round it up to the next millisecond.
        Some(at) if at <= Instant::now() => {}
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
