//! Drives the state's flush and checkpoints, at its own pace, beside the uploads.
//!
//! A loop over steps: its own thread with a low priority runs it in production, a task in a simulation.

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

/// Rows a step moves once the memtable fills: then keeping up matters more than anybody's p99.
const ROWS_A_STEP_BEHIND: usize = 256;

/// The pause between two steps while there is room.
const PACE: Duration = Duration::from_millis(2);

/// From this much unflushed on there is no pause: a quarter of the memtable's bound.
const BEHIND_BYTES: usize = 16 * 1024 * 1024;

/// A checkpoint at the latest after this much was flushed, which is what a restart must replay from the log.
const CHECKPOINT_BYTES: u64 = 32 * 1024 * 1024;

/// A checkpoint at the latest after this long, if anything was flushed since.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);

/// How soon a full disk is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Moves what was applied into redb until the revision channel closes, then once more, durably.
pub struct Flusher {
    state: State,
    applied: watch::Receiver<u64>,
    flushed: watch::Sender<u64>,
    /// The index up to which the log may forget: only a durable checkpoint moves it.
    checkpoint: Arc<AtomicU64>,
    space: Space,
    fault: FaultHandle,
    last_checkpoint: Instant,
}

impl Flusher {
    /// A flusher of `state`, woken by `applied`; it tells `flushed` after each step and `checkpoint` after each
    /// durable one.
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
        while self.room().await {
            let behind = self.state.unflushed_bytes() >= BEHIND_BYTES;
            let more = self.step(if behind { ROWS_A_STEP_BEHIND } else { ROWS_A_STEP })?;
            if self.checkpoint_due() && !self.checkpoint()? {
                // No room for it: the loop waits for room, not for something to be applied.
                continue;
            }
            if !more && !self.wait().await {
                break;
            }
            // Also before the first step after a rest: what comes in meanwhile goes along in one transaction, and an
            // upload that is alone does not wake this loop each time.
            if behind {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(PACE).await;
            }
        }
        if self.space.is_used_up() {
            tracing::warn!(
                "the disk is full: what was not flushed stays in the log, and is applied again at the next start"
            );
            return Ok(());
        }
        while self.step(ROWS_A_STEP_BEHIND)? {}
        self.checkpoint().map(drop)
    }

    /// Waits while the disk is full: a write that it refuses would end the node, and lookups with it. `false` when
    /// nothing more will come.
    async fn room(&mut self) -> bool {
        while self.space.is_used_up() {
            if self.applied.has_changed().is_err() {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            self.space.look();
        }
        true
    }

    /// Waits until something was applied or a checkpoint is due; `false` when nothing more will be.
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

    /// One small transaction; whether more is waiting.
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

    /// Whether it was made: not where the disk has no room.
    fn checkpoint(&mut self) -> Result<bool, Fault> {
        // A checkpoint is what writes most; the next look would come after it.
        self.space.look();
        if self.space.is_used_up() {
            return Ok(false);
        }
        let index = self.state.checkpoint()?;
        self.checkpoint.store(index, Ordering::Release);
        // Whoever waits for room has it now.
        self.flushed.send_replace(self.state.flushed());
        self.last_checkpoint = Instant::now();
        Ok(true)
    }
}

/// A low priority: a flush must not take the processor from an upload. Not the lowest: it holds a lock for moments that
/// lookups wait for, and at 19 a busy neighbour could stretch such a moment to a tenth of a second.
const NICE: i32 = 10;

impl Flusher {
    /// Runs on a thread of its own until `applied` closes.
    pub fn spawn_thread(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        spawn_thread("flush", "the flush", self.fault.clone(), move || {
            // Refused in some sandboxes; then it competes, and is still paced.
            let _ = rustix::process::nice(NICE);
            runtime.block_on(self.run());
        })
    }
}
