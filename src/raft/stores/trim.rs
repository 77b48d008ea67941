//! Every few seconds: purges the log entries that the state holds durably and no peer is likely to ask for, and warns
//! when a sync hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::MissedTickBehavior;

use super::Space;
use crate::raft::log::LogStore;
use crate::raft::machine::{Core, is_alone};
use crate::tasks::Scope;

/// Segments that are kept: 256 MiB, so that a node that was away for hours catches up by log, not by snapshot.
const KEEP_SEGMENTS: usize = 4;

/// The same in a mesh of one node, where no peer has to catch up: every segment that is kept is read at each start.
const KEEP_SEGMENTS_ALONE: usize = 1;

/// Segments that are kept at most for a peer that is sent a snapshot and needs what follows it: 2 GiB, which the highest rate
/// fills in minutes. Without them a large snapshot would be too old when it has arrived, and so would the next one.
const KEEP_SEGMENTS_FOR_SNAPSHOT: usize = 32;

/// The room that the disk must have, beside what uploads need, for as long as segments are kept for a peer.
const HELD_NEEDS: u64 = 1024 * 1024 * 1024;

/// The time between two rounds. A segment takes seconds to fill even at the highest rate.
const EVERY: Duration = Duration::from_secs(5);

/// How long a snapshot may take: it waits for the flusher and opens a view; no bytes are copied.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Purges the log behind the state.
pub struct Trimmer {
    /// openraft, which purges only what a snapshot covers.
    pub core: Core,
    /// The log.
    pub log: LogStore,
    /// The index up to which the state is durable.
    pub checkpoint: Arc<AtomicU64>,
}

impl Trimmer {
    /// Purges every few seconds, until `scope` is stopped. `held` gives the last entry that no peer needs which is sent a
    /// snapshot, as long as that is before its argument.
    pub(in crate::raft) async fn run(self, held: impl Fn(u64) -> Option<u64> + Send, space: Space, scope: Scope) {
        let mut hanging = None;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while scope.until_stop(ticks.tick()).await.is_some() {
            let waits = self.log.waits_for_sync();
            if waits.is_some() && waits == hanging {
                tracing::warn!(
                    "a write to the log has been waiting for {} s: the disk hangs or is full; uploads wait for it",
                    EVERY.as_secs()
                );
            }
            hanging = waits;
            let keep = if is_alone(&self.core) {
                KEEP_SEGMENTS_ALONE
            } else {
                KEEP_SEGMENTS
            };
            let spare = self.log.last_before_newest(keep);
            // Long before uploads are refused for want of room, a peer that needs another snapshot is the smaller evil.
            let held = spare.and_then(&held).filter(|_| space.fits(HELD_NEEDS));
            let far = self.log.last_before_newest(KEEP_SEGMENTS_FOR_SNAPSHOT);
            self.purge_upto(held.map_or(spare, |held| spare.min(Some(held)).max(far)))
                .await;
        }
    }

    /// Purges what the state holds durably and none of the newest `keep` segments holds.
    pub async fn purge(&self, keep: usize) {
        self.purge_upto(self.log.last_before_newest(keep)).await;
    }

    async fn purge_upto(&self, spare: Option<u64>) {
        let Some(spare) = spare else { return };
        let upto = spare.min(self.checkpoint.load(Ordering::Acquire));
        let purged = self.core.metrics().borrow_watched().purged.map(|id| id.index);
        // 0 also means that nothing is durable yet.
        if upto == 0 || purged >= Some(upto) {
            return;
        }
        // openraft purges only what a snapshot covers.
        let trimmed = async {
            self.core.trigger().snapshot().await.ok()?;
            let wait = self.core.wait(Some(SNAPSHOT_TIMEOUT));
            wait.metrics(
                |metrics| metrics.snapshot.is_some_and(|id| id.index >= upto),
                "a snapshot to purge by",
            )
            .await
            .ok()?;
            self.core.trigger().purge_log(upto).await.ok()
        };
        match trimmed.await {
            Some(()) => tracing::debug!(upto, "the log is purged up to here"),
            None => tracing::warn!(upto, "the log could not be purged; trying again in a few seconds"),
        }
    }
}
