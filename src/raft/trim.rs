//! Keeps the log short: what the state holds durably, and no peer is likely to ask for, is let go of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::log::LogStore;
use super::types::Types;

/// Segments that stay: 256 MiB, so that a node that was away for hours catches up by log, not by snapshot.
const KEEP_SEGMENTS: usize = 4;

/// How often it looks. A segment takes seconds to fill even at the highest rate.
const EVERY: Duration = Duration::from_secs(5);

/// How long a snapshot may take: it waits for the flush and opens a view, no bytes move.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Lets the log go up to the durable `checkpoint`, in whole segments, until `stop`.
pub(super) async fn run(
    core: openraft::Raft<Types>,
    log: LogStore,
    checkpoint: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(upto) = log.last_before_newest(KEEP_SEGMENTS) else {
            continue;
        };
        let upto = upto.min(checkpoint.load(Ordering::Acquire));
        let purged = core.metrics().borrow().purged.map(|id| id.index);
        // 0 also says that nothing is durable yet.
        if upto == 0 || purged >= Some(upto) {
            continue;
        }
        // openraft purges only what a snapshot covers.
        let trimmed = async {
            core.trigger().snapshot().await.ok()?;
            let wait = core.wait(Some(SNAPSHOT_TIMEOUT));
            wait.metrics(
                |metrics| metrics.snapshot.is_some_and(|id| id.index >= upto),
                "a snapshot to purge by",
            )
            .await
            .ok()?;
            core.trigger().purge_log(upto).await.ok()
        };
        match trimmed.await {
            Some(()) => tracing::debug!(upto, "the log is let go up to here"),
            None => tracing::warn!(upto, "the log could not be trimmed; it is tried again"),
        }
    }
}
