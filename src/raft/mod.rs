//! HOW THE NODES AGREE. The only room that names openraft.
//!
//! # What it promises
//!
//! - **G1.** A command is acknowledged only when its entry is synced to the log on disk, committed, and applied to this
//!   node's state. It then survives `kill -9` and a power cut, and every later lookup sees it.
//! - **Order.** `purged <= checkpoint <= flushed <= applied <= committed`. The log has dropped the entries up to
//!   *purged*; redb holds those up to *checkpoint* durably and those up to *flushed* in its last commit; readers see
//!   those up to *applied*. So log and redb together always hold everything that was acknowledged. openraft applies
//!   only what is committed; the other steps are asserted where they move: `log/store.rs` (purge),
//!   `state/recent/live.rs`.
//! - **One log id, one content.** A leader sends an entry only when it is durable here, a truncation is durable before
//!   anything that builds on it, and a leader that restarts must be elected again.
//! - **Limits.** A slow disk slows uploads and never grows memory: the queue of submissions and the memtable are
//!   bounded, and beyond them callers are refused or wait. A nearly full disk refuses uploads while lookups go on.
//! - **A failed disk.** After the first write or sync that fails, nothing more is written or acknowledged, and the node
//!   ends.
//!
//! # How a proposal passes
//!
//! 1. [`Raft::propose`] makes one command an entry of its own. [`Raft::submit`] takes one account, which
//!    `propose/batch.rs` puts into one entry with the other submissions that wait.
//! 2. openraft appends the entry. `log/store.rs` makes it readable and queues it; `log/writer.rs` writes it with
//!    everything else that is queued, syncs once, and reports it durable.
//! 3. Once a quorum has it on disk (today: this node alone), openraft commits it and calls `machine.rs`, which waits
//!    while the memtable is full and then calls [`State::apply`](crate::state::State::apply).
//! 4. The outcomes are the entry's [`Reply`]; each caller gets its own. After ten seconds a caller gets the answer that
//!    the outcome is unknown; the entry stays in flight.
//! 5. Later, outside the caller's wait, `stores/flusher.rs` moves the entry into redb and makes checkpoints, and
//!    `stores/trim.rs` purges the log up to a checkpoint.
//!
//! # How a start makes reads right
//!
//! [`stores`] opens both: redb holds the state at the end of some entry, at or after the last checkpoint. The log
//! is read in full; a torn end is zeroed, and damage stops the start. [`Raft::start`] hands both to openraft. The `committed`
//! that the log has on disk may lag behind what was acknowledged, so applying up to it would not be enough: the node
//! elects itself and waits until the blank entry of its new term is applied. Every older entry comes before it in the
//! log, so everything that this node ever acknowledged can be read again. Only then does `start` return and the node
//! answer lookups.
//!
//! # What it never does
//!
//! - It never looks inside a command: the log carries bytes ([`Payload`]), which only the state decodes.
//! - It never stores openraft's own serialization: log and state carry `forms.rs`, so that an upgrade of openraft reads
//!   the same bytes.
//! - It gives no type of openraft to the rooms above. Tests get them, since they drive the stores through openraft's
//!   traits.
//! - It never sends a peer anything yet: a mesh has one node and one voter today, and [`NoPeers`] refuses every
//!   message. The stores are ready for more: openraft's own suite (`tests/storage/suite.rs`) checks them, and
//!   `tests/mesh` runs several voters on them under simulated time, with crashes, cuts, purges and snapshots.

mod forms;
pub mod log;
mod machine;
mod network;
mod propose;
mod runtime;
mod start;
pub mod stores;

use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use propose::{Batcher, PROPOSE_TIMEOUT, Proposer};
use stores::Space;
use tokio::sync::watch;

pub use machine::{Core, Machine};
pub use network::NoPeers;
pub use propose::ProposeError;
pub use runtime::{
    Entry, LogId, Member, Membership, Payload, Reply, Runtime, Snapshot, StorageError, StoredMembership, Types, Vote,
};
pub use start::{RaftStartError, Settings};

use crate::state::AccountOutcome;
use crate::state::Proposal;
use crate::state::PutAccount;
use crate::state::Revision;

/// This node's handle on Raft: it proposes commands and knows what is applied. Clones share one core.
#[derive(Debug, Clone)]
pub struct Raft {
    proposer: Proposer,
    batcher: Batcher,
    revision: watch::Receiver<Revision>,
    space: Space,
}

impl Raft {
    /// Proposes `command` in an entry of its own and waits until it is applied here; returns its outcome.
    pub async fn propose<P: Proposal>(&self, command: P) -> Result<P::Outcome, ProposeError> {
        self.check_space()?;
        let proposed = tokio::time::timeout(PROPOSE_TIMEOUT, self.proposer.propose(command)).await;
        proposed.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    /// Proposes one account, in one entry with the other submissions that wait, and returns its outcome once the entry
    /// is applied here. `trust_epoch` is the trust under which the account was verified.
    pub async fn submit(&self, trust_epoch: u64, item: PutAccount) -> Result<AccountOutcome, ProposeError> {
        self.check_space()?;
        self.batcher.submit(trust_epoch, item).await
    }

    /// Whether a submission would be proposed now; the error with which it would be refused otherwise.
    pub fn check_space(&self) -> Result<(), ProposeError> {
        if self.space.is_low() {
            return Err(ProposeError::Unavailable {
                reason: "this node's disk is nearly full: free some space (lookups go on)".to_owned(),
            });
        }
        Ok(())
    }

    /// Whether the disk has room to flush applied entries into redb.
    pub fn may_flush(&self) -> bool {
        !self.space.is_used_up()
    }

    /// The newest revision that can be read here; changes with every applied entry.
    pub fn revision(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    /// How long ago this node last heard from a leader: zero on the leader itself. `None` on any other node, since one
    /// voter has no other leader to hear from.
    pub fn leader_age(&self) -> Option<Duration> {
        let metrics = self.proposer.core.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(Duration::ZERO)
    }

    /// Ends openraft's core. What was acknowledged stays on disk.
    pub async fn shutdown(&self) {
        // An error means that the core has ended already, for a reason that was reported.
        let _ = self.proposer.core.shutdown().await;
    }
}
