//! openraft's state machine: applies committed entries to the state, and publishes how far it has applied.
//!
//! It decides nothing. It waits while the memtable is full, so that a slow disk slows uploads and never grows memory.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::forms::{self, AgreedMembership, decode, encode};
use super::runtime::{Entry, LogId, Reply, Snapshot, SnapshotMeta, StorageError, StoredMembership, Types};
use crate::state::Effect;
use crate::state::Fault;
use crate::state::Mark;
use crate::state::SnapshotView;
use crate::state::State;
use crate::tasks::FaultHandle;
use crate::tasks::{chain, off_the_workers};

/// openraft over our state.
pub type Core = openraft::Raft<Types, Machine>;

/// The membership that `core` goes by: the newest in its log.
pub(super) fn members(core: &Core) -> Arc<StoredMembership> {
    core.metrics().borrow_watched().membership_config.clone()
}

/// Whether this node is the only member of its mesh. One that does not know its mesh yet is not, nor is one that has only
/// read how its mesh began.
pub(super) fn is_alone(core: &Core) -> bool {
    let metrics = core.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics
        .membership_config
        .membership()
        .nodes()
        .map(|(id, _)| *id)
        .eq([metrics.id])
}

/// The state as openraft sees it.
pub struct Machine {
    state: State,
    /// Updated by the flusher after each step; a closed channel means that the flusher has ended.
    flushed: watch::Receiver<u64>,
    /// Everything up to this revision can be read.
    revision: Arc<watch::Sender<u64>>,
    /// The index up to which the state is durable, and the log may be purged.
    checkpoint: Arc<AtomicU64>,
    fault: FaultHandle,
    snapshot_ready: SnapshotReady,
    /// The last entry that the log knew at the start to be committed.
    resumed: u64,
}

/// Whether a snapshot has been built, or was found at the start.
type SnapshotReady = Arc<AtomicBool>;

/// A view of redb as a snapshot. Made anew for each request: while a view is held, redb cannot reuse its pages, and its
/// file grows.
struct Current {
    meta: SnapshotMeta,
    view: SnapshotView,
}

impl Current {
    fn of(view: SnapshotView) -> Result<Self, String> {
        let meta = SnapshotMeta {
            last_log_id: view.mark().map(log_id).transpose()?,
            last_membership: membership(view.membership())?,
        };
        Ok(Self { meta, view })
    }

    fn handle(self) -> Snapshot {
        Snapshot {
            meta: self.meta,
            snapshot: self.view,
        }
    }
}

/// A view as a snapshot, for one that was received.
pub(super) fn snapshot_of(view: SnapshotView) -> Result<Snapshot, String> {
    Current::of(view).map(Current::handle)
}

/// The log id that the state keeps with a mark.
fn log_id(mark: &Mark) -> Result<LogId, String> {
    let form: forms::LogId = decode(&mark.log_id).map_err(|error| unreadable("log id", &error))?;
    Ok(form.into())
}

/// The membership that the state keeps; empty before the mesh was formed.
fn membership(kept: Option<&Bytes>) -> Result<StoredMembership, String> {
    let Some(bytes) = kept else {
        return Ok(StoredMembership::default());
    };
    let form: AgreedMembership = decode(bytes).map_err(|error| unreadable("membership", &error))?;
    form.try_into()
        .map_err(|error: String| unreadable("membership", &error))
}

fn unreadable(what: &str, error: &str) -> String {
    format!("the state holds a {what} that cannot be read: {error}")
}

impl Machine {
    /// The machine over `state`, in front of a log that knows entries up to `resumed` to be committed. The flusher of `state`
    /// updates `flushed`; the machine publishes each applied index in `revision`, and an installed snapshot, which is
    /// durable at once, in `checkpoint` as well.
    pub fn new(
        state: State,
        flushed: watch::Receiver<u64>,
        revision: Arc<watch::Sender<u64>>,
        checkpoint: Arc<AtomicU64>,
        fault: FaultHandle,
        resumed: u64,
    ) -> Self {
        // What a start finds in redb is a snapshot that covers every purged entry. If we reported none, openraft would
        // have one built before the node serves, and building waits for the flusher.
        let snapshot_ready = Arc::new(AtomicBool::new(state.flushed() > 0));
        Self {
            state,
            flushed,
            revision,
            checkpoint,
            fault,
            snapshot_ready,
            resumed,
        }
    }

    fn report(&self, reason: impl Display) -> StorageError {
        report(&self.fault, reason)
    }

    /// Waits while the memtable is full, unless `index` is what a start applies again: lookups wait for that, and where the
    /// disk is full nothing makes room. A node that lags is sent little, so there is not much of it.
    async fn wait_for_room(&mut self, index: u64) -> Result<(), StorageError> {
        while index > self.resumed && self.state.is_full() {
            if self.flushed.changed().await.is_err() {
                return Err(StorageError::other(
                    "the flusher has ended; nothing more can be applied",
                ));
            }
        }
        Ok(())
    }
}

fn apply_one(state: &State, entry: &Entry) -> Result<Reply, Fault> {
    let mark = Mark {
        index: entry.log_id.index,
        log_id: encode(&forms::LogId::from(entry.log_id)),
    };
    let outcomes = match &entry.payload {
        EntryPayload::Blank => state.apply(mark, Effect::Blank)?,
        EntryPayload::Normal(payload) => state.apply(mark, Effect::Command(&payload.0))?,
        EntryPayload::Membership(membership) => {
            let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
            state.apply(mark, Effect::Membership(encode(&AgreedMembership::from(&stored))))?
        }
    };
    Ok(Reply(outcomes))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotView;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let read = || -> Result<_, String> {
            let applied = self.state.applied().as_ref().map(log_id).transpose()?;
            Ok((applied, membership(self.state.membership().as_ref())?))
        };
        read().map_err(|reason| self.report(reason))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), StorageError>
    where
        S: Stream<Item = Result<EntryResponder<Types>, StorageError>> + Unpin + Send,
    {
        while let Some((entry, proposer)) = entries.try_next().await? {
            let index = entry.log_id.index;
            self.wait_for_room(index).await?;
            // A command is judged against rows that may have to be read from the file, for which the thread that sends
            // heartbeats must not wait.
            let may_read = matches!(&entry.payload, EntryPayload::Normal(_));
            // openraft would notice a panic of its apply task only with the next entry.
            let state = self.state.clone();
            let applying = move || catch_unwind(AssertUnwindSafe(|| apply_one(&state, &entry)));
            let applied = if may_read {
                off_the_workers(applying).await
            } else {
                applying()
            };
            let applied = applied
                .map_err(|_panic| self.report("applying an entry has panicked; this is a defect of the program"))?;
            let reply = applied.map_err(|fault| self.report(chain(&fault)))?;
            self.revision.send_replace(index);
            if let Some(proposer) = proposer {
                proposer.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.state.clone(),
            flushed: self.flushed.clone(),
            fault: self.fault.clone(),
            snapshot_ready: self.snapshot_ready.clone(),
        }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotView) -> Result<(), StorageError> {
        let current = Current::of(snapshot).map_err(|reason| self.report(reason))?;
        let (state, view) = (self.state.clone(), current.view.clone());
        // It waits for a checkpoint, and closing the file before it may free gigabytes.
        let installed = off_the_workers(move || state.install(view)).await;
        installed.map_err(|fault| self.report(chain(&fault)))?;
        let index = current.meta.last_log_id.map_or(0, |id| id.index);
        self.checkpoint.fetch_max(index, Ordering::AcqRel);
        self.revision.send_replace(index);
        self.snapshot_ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        if !self.snapshot_ready.load(Ordering::Relaxed) {
            return Ok(None);
        }
        // At least as new as the one that was built: redb only moves forward.
        let view = self
            .state
            .snapshot()
            .map_err(|fault| self.report(chain(&fault.fatal())))?;
        let current = Current::of(view).map_err(|reason| self.report(reason))?;
        Ok(Some(current.handle()))
    }
}

/// Builds a snapshot: waits until the flusher has reached what is applied now, then takes a view of redb. Copies
/// nothing.
pub struct Builder {
    state: State,
    flushed: watch::Receiver<u64>,
    fault: FaultHandle,
    snapshot_ready: SnapshotReady,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotView;

    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let report_fault = |fault: Fault| report(&self.fault, chain(&fault.fatal()));
        let applied = self.state.applied().map(|mark| mark.index);
        let view = loop {
            let view = self.state.snapshot().map_err(report_fault)?;
            if view.mark().map(|mark| mark.index) >= applied {
                break view;
            }
            drop(view);
            // No caller waits for a snapshot, so the flusher keeps its own pace.
            if self.flushed.changed().await.is_err() {
                return Err(report(&self.fault, "the flusher has ended"));
            }
        };
        let current = Current::of(view).map_err(|reason| report(&self.fault, reason))?;
        self.snapshot_ready.store(true, Ordering::Relaxed);
        Ok(current.handle())
    }
}

/// Reports a fault, which ends the node; the error that it returns ends openraft's core.
fn report(fault: &FaultHandle, reason: impl Display) -> StorageError {
    let error = StorageError::other(reason.to_string());
    fault.report(reason);
    error
}
