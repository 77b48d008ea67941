//! Drives the state's flush and checkpoints, at its own pace, beside the uploads.
//!
//! A loop over steps: in production a low-priority thread of its own runs it, in a simulation a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Space;
use crate::state::Fault;
use crate::state::State;
use crate::tasks::FaultHandle;
use crate::tasks::chain;
use crate::tasks::spawn_thread;

/// Rows a step moves: small, because a large transaction shows in the p99 of the uploads beside it.
const ROWS_A_STEP: usize = 16;

/// Rows a step moves once the memtable fills: then keeping up matters more than the p99 of uploads.
const ROWS_A_STEP_BEHIND: usize = 256;

/// The pause between two steps while there is room.
const PACE: Duration = Duration::from_millis(2);

/// With this much unflushed or more there is no pause: a third of the memtable's bound, so that it does not fill up during a
/// checkpoint.
const BEHIND_BYTES: usize = 8 * 1024 * 1024;

/// A checkpoint is due when this much was flushed since the last: a restart replays about as much from the log.
const CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;

/// A checkpoint is due this long after the last, if anything was flushed since.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);

/// How often a full disk is checked for room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Moves applied entries into redb until the revision channel closes; then flushes the rest and makes a last
/// checkpoint.
pub struct Flusher {
    state: State,
    applied: watch::Receiver<u64>,
    flushed: watch::Sender<u64>,
    /// The index up to which the log may be purged: only a checkpoint moves it.
    checkpoint: Arc<AtomicU64>,
    space: Space,
    fault: FaultHandle,
    last_checkpoint: Instant,
}

impl Flusher {
    /// A flusher of `state`, woken by `applied`; it updates `flushed` after each step and `checkpoint` after each
    /// checkpoint.
    pub fn new(
        state: State,
        applied: watch::Receiver<u64>,
        flushed: watch::Sender<u64>,
        checkpoint: Arc<AtomicU64>,
        space: Space,
        fault: FaultHandle,
    ) -> Self {
        Self {
            state,
            applied,
            flushed,
            checkpoint,
            space,
            fault,
            last_checkpoint: Instant::now(),
        }
    }

    /// Runs until `applied` closes or a fault ends the node. A clean end leaves everything applied on disk.
    pub async fn run(mut self) {
        if let Err(fault) = self.steps().await {
            self.fault.report(chain(&fault));
        }
    }

    async fn steps(&mut self) -> Result<(), Fault> {
        while self.wait_for_room().await {
            let behind = self.state.unflushed_bytes() >= BEHIND_BYTES;
            let more = self.step(if behind { ROWS_A_STEP_BEHIND } else { ROWS_A_STEP })?;
            if self.checkpoint_due() && !self.checkpoint()? {
                // No room for it: the loop waits for room, not for the next applied entry.
                continue;
            }
            if !more && !self.wait().await {
                break;
            }
            // Also before the first step after idling: entries applied during the pause share one transaction, so that
            // a client that uploads one by one does not cause a step for each.
            if behind {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(PACE).await;
            }
        }
        if self.space.is_used_up() {
            tracing::warn!(
                "the disk is full: entries not yet flushed stay in the log and are applied again at the next start"
            );
            return Ok(());
        }
        while self.step(ROWS_A_STEP_BEHIND)? {}
        self.checkpoint().map(drop)
    }

    /// Waits while the disk is full: a refused write would end the node, and lookups with it. `false` when the revision
    /// channel has closed meanwhile.
    async fn wait_for_room(&mut self) -> bool {
        while self.space.is_used_up() {
            if self.applied.has_changed().is_err() {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            self.space.look();
        }
        true
    }

    /// Waits until something was applied or a checkpoint is due; `false` when the revision channel has closed.
    async fn wait(&mut self) -> bool {
        let idle = if self.state.checkpoint_due_bytes() > 0 {
            CHECKPOINT_EVERY
        } else {
            Duration::MAX
        };
        !matches!(
            tokio::time::timeout(idle, self.applied.changed()).await,
            Ok(Err(_closed))
        )
    }

    /// One small transaction; returns whether more entries are waiting.
    fn step(&mut self, rows: usize) -> Result<bool, Fault> {
        let more = self.state.flush_step(rows)?;
        self.flushed.send_replace(self.state.flushed());
        Ok(more)
    }

    fn checkpoint_due(&self) -> bool {
        let unsynced = self.state.checkpoint_due_bytes();
        unsynced >= CHECKPOINT_BYTES
            || (self.state.is_crowded() && unsynced >= self.state.unflushed_bytes() as u64)
            || (unsynced > 0 && self.last_checkpoint.elapsed() >= CHECKPOINT_EVERY)
    }

    /// Makes a checkpoint; `false` if the disk has no room for it.
    fn checkpoint(&mut self) -> Result<bool, Fault> {
        // A checkpoint writes the most, so it is not left to the next regular look at the disk.
        self.space.look();
        if self.space.is_used_up() {
            return Ok(false);
        }
        let index = self.state.checkpoint()?;
        // An installed snapshot may have moved it further meanwhile.
        self.checkpoint.fetch_max(index, Ordering::AcqRel);
        // Wakes those that wait for room in the memtable: a checkpoint makes some.
        self.flushed.send_replace(self.state.flushed());
        self.last_checkpoint = Instant::now();
        Ok(true)
    }
}

/// A low priority: a flush must not take the processor from an upload. Not the lowest, which is 19: the flusher briefly
/// holds a lock that lookups wait for, and at 19 another busy process could stretch that to a tenth of a second.
const NICE: i32 = 10;

impl Flusher {
    /// Runs on a thread of its own until `applied` closes.
    pub fn spawn_thread(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        spawn_thread("flush", "the flusher", self.fault.clone(), move || {
            // Some sandboxes refuse it; the flusher then has a normal priority, and is still paced.
            let _ = rustix::process::nice(NICE);
            runtime.block_on(self.run());
        })
    }
}
