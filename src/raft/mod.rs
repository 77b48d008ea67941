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
//! 3. Once a quorum has it on disk, openraft commits it and calls `machine.rs`, which waits while the memtable is full and
//!    then calls [`State::apply`](crate::state::State::apply).
//! 4. The outcomes are the entry's [`Reply`]; each caller gets its own. After ten seconds a caller gets the answer that
//!    the outcome is unknown; the entry stays in flight.
//! 5. Later, outside the caller's wait, `stores/flusher.rs` moves the entry into redb and makes checkpoints, and
//!    `stores/trim.rs` purges the log up to a checkpoint.
//!
//! # How a start makes reads right
//!
//! [`stores`] opens both: redb holds the state at the end of some entry, at or after the last checkpoint. The log
//! is read in full; a torn end is zeroed, and damage stops the start. [`Raft::begin`] hands both to openraft, and
//! [`Raft::resume`] waits. The `committed` that the log has on disk may lag behind what was acknowledged. A node that is
//! alone elects itself and waits until the blank entry of its new term is applied: every older entry comes before it in the
//! log, so everything that it ever acknowledged can be read again. A node with peers does not wait for them: it serves what it
//! knows to be committed, and catches up when it hears a leader.
//!
//! # How a mesh of several works
//!
//! `form.rs` forms it: a node becomes a member once, and its identity on disk says so before it answers a message. A
//! command is proposed by the leader; any other node has the leader do it (`propose/route.rs`), and `propose/settle.rs`
//! holds an answer up until the others serve it too. `peer/contacts.rs` measures how old the view of the mesh is.
//!
//! # What it never does
//!
//! - It never looks inside a command: the log carries bytes ([`Payload`]), which only the state decodes.
//! - It never stores openraft's own serialization: log and state carry `forms.rs`, so that an upgrade of openraft reads
//!   the same bytes.
//! - It gives no type of openraft to the rooms above. Tests get them, since they drive the stores through openraft's
//!   traits.
//! - It never trusts a peer: what arrives is checked before openraft sees it (`peer/handler/`), and what a follower sends
//!   to be stored is verified again by the resolver of the leader.
//!
//! `tests/mesh` runs several voters under simulated time with the real stores, handler, network code, forwarding and
//! resolver, over a network that loses, delays and cuts, on disks whose power fails.

mod attend;
mod error;
mod form;
mod forms;
pub mod log;
mod machine;
mod members;
pub mod peer;
mod propose;
mod runtime;
mod settings;
mod start;
pub mod stores;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::WaitError;
use peer::{Handler, Speak};
use propose::{Batcher, PROPOSE_TIMEOUT, Proposer, Route, Settle};
use stores::Space;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

pub use error::ProposeError;
pub use form::{Formed, Unformed};
pub use machine::{Core, Machine};
pub use members::{MemberView, Role};

pub use runtime::{
    Entry, LogId, Member, Membership, Payload, Reply, Runtime, Snapshot, StorageError, StoredMembership, Types, Vote,
};
pub use settings::{RaftStartError, Settings};

use crate::config::Acknowledge;
use crate::state::AccountOutcome;
use crate::state::Command;
use crate::state::Outcomes;
use crate::state::Proposal;
use crate::state::PutAccount;
use crate::state::PutAccounts;
use crate::state::Revision;
use crate::tasks::Scope;

/// Where openraft logs as errors that messages arrive at a core which is being stopped, and nothing that this program does
/// not say itself.
pub const NOISY_TARGET: &str = "openraft::raft::raft_inner";

/// How long a handover may take: two round trips and two syncs, and a stalling disk.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(2);

/// This node's handle on Raft: it proposes commands and knows what is applied. Clones share one core.
#[derive(Clone)]
pub struct Raft(Arc<Inner>);

/// Starts openraft as the member with this id.
type Begin = Box<dyn FnOnce(u64) -> BoxFuture<'static, Result<Core, RaftStartError>> + Send>;

struct Inner {
    handler: Handler,
    proposer: Proposer,
    batcher: Batcher,
    /// Gathers what another node is to propose.
    forwards: Batcher,
    route: Route,
    settle: Settle,
    revision: watch::Receiver<Revision>,
    /// The index up to which the state is durable, and the log may be purged.
    checkpoint: Arc<AtomicU64>,
    space: Space,
    peers: Arc<dyn Speak>,
    /// Starts openraft; used once.
    begin: Mutex<Option<Begin>>,
    /// Held while this node forms a mesh.
    forming: Mutex<()>,
    settings: Settings,
    scope: Scope,
}

impl std::fmt::Debug for Raft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Raft({})", self.0.settings.member.name)
    }
}

impl Raft {
    /// Proposes `command` in an entry of its own and waits until it is applied here; returns its outcome.
    pub async fn propose<P: Proposal + Clone>(&self, command: P) -> Result<P::Outcome, ProposeError> {
        self.check_space()?;
        let route = &self.0.route;
        let here = || async { self.settled(self.0.proposer.propose(command.clone()).await).await };
        let there = || route.forward_one(command.clone().into(), P::outcome);
        let is_doubtful = |outcome: &P::Outcome| !P::has_happened(outcome);
        route.propose(here, there, is_doubtful, P::IS_REPEATABLE).await
    }

    /// Proposes one account, in one entry with the other submissions that wait, and returns its outcome once the entry
    /// is applied here. `trust_epoch` is the trust under which the account was verified.
    pub async fn submit(&self, trust_epoch: u64, item: PutAccount) -> Result<AccountOutcome, ProposeError> {
        self.check_space()?;
        let here = || async {
            self.settled(self.0.batcher.submit(trust_epoch, item.clone()).await)
                .await
        };
        let there = || self.0.forwards.submit(trust_epoch, item.clone());
        // It may have been stored the first time, and then superseded, or the trust may have changed since.
        let is_doubtful = |outcome: &AccountOutcome| !outcome.has_happened();
        self.0.route.propose(here, there, is_doubtful, true).await
    }

    /// Has a follower's `command`, which was verified, agreed on by this node and no other: [`ProposeError::NoLeader`]
    /// if it does not lead.
    pub async fn lead(&self, command: Command) -> Result<Outcomes, ProposeError> {
        self.check_space()?;
        self.0.route.lead().await?;
        if let Command::PutAccounts(PutAccounts { trust_epoch, items }) = &command
            && let [item] = &items[..]
        {
            let outcome = self
                .settled(self.0.batcher.submit(*trust_epoch, item.clone()).await)
                .await?;
            return Ok(Outcomes::Accounts(vec![outcome]));
        }
        let proposed = self.0.proposer.propose_encoded(Payload(command.encode()));
        let proposed = tokio::time::timeout(PROPOSE_TIMEOUT, proposed).await;
        self.settled(proposed.unwrap_or(Err(ProposeError::OutcomeUnknown)))
            .await
    }

    /// Hands on what was agreed on here, once others serve it too.
    async fn settled<T>(&self, agreed: Result<T, ProposeError>) -> Result<T, ProposeError> {
        if agreed.is_ok() && self.0.settings.acknowledge == Acknowledge::Reachable && !self.is_alone() {
            let revision = *self.0.revision.borrow();
            self.0.settle.settled(revision).await;
        }
        agreed
    }

    /// Whether a submission would be proposed now; the error with which it would be refused otherwise.
    pub fn check_space(&self) -> Result<(), ProposeError> {
        if self.0.space.is_low() {
            return Err(ProposeError::Unavailable {
                reason: "this node's disk is nearly full: free some space (lookups go on)".to_owned(),
            });
        }
        Ok(())
    }

    /// Whether a submission would have a leader now; the error with which it would be refused otherwise.
    pub fn check_writable(&self) -> Result<(), ProposeError> {
        self.check_space()?;
        self.0.route.check()
    }

    /// Whether the disk has room to flush applied entries into redb.
    pub fn may_flush(&self) -> bool {
        !self.0.space.is_used_up()
    }

    /// The newest revision that can be read here; changes with every applied entry.
    pub fn revision(&self) -> watch::Receiver<Revision> {
        self.0.revision.clone()
    }

    /// The newest entry of this node's log, committed or not; 0 if there is none.
    pub fn last_entry(&self) -> Revision {
        let core = self.0.proposer.core();
        core.map_or(0, |core| core.metrics().borrow_watched().last_log_index.unwrap_or(0))
    }

    /// Waits until this node can read revision `wanted`, or without one everything that was acknowledged by any node
    /// before. [`ProposeError::NoLeader`] if that is not within `patience`.
    pub async fn read_at_least(&self, wanted: Option<Revision>, patience: Duration) -> Result<(), ProposeError> {
        let until = Instant::now() + patience;
        let found = async {
            let wanted = match wanted {
                Some(wanted) => wanted,
                None => self.0.route.newest(until).await?,
            };
            let mut revision = self.0.revision.clone();
            let reached = revision.wait_for(|revision| *revision >= wanted).await;
            reached.map(drop).map_err(|_ended| ProposeError::ended())
        };
        tokio::time::timeout_at(until, found)
            .await
            .unwrap_or(Err(ProposeError::NoLeader))
    }

    /// How old this node's view of the mesh is: the time since a quorum last acknowledged the leader that it hears. Zero
    /// in a mesh of one node. `None` if it has never heard one.
    pub fn leader_age(&self) -> Option<Duration> {
        if self.is_alone() {
            return Some(Duration::ZERO);
        }
        self.0.handler.inner().contacts.age()
    }

    /// How old the view is that lookups are answered from here: a node that applies nothing may still hear its leader.
    pub fn applied_age(&self) -> Option<Duration> {
        if self.is_alone() {
            return Some(Duration::ZERO);
        }
        self.0.handler.inner().contacts.applied_age()
    }

    /// Whether lookups can be answered: this node has the state of an earlier life, or has caught up with the mesh once.
    pub fn is_usable(&self) -> bool {
        let Some(member) = self.0.handler.inner().member.get() else {
            return false;
        };
        self.0.handler.inner().contacts.has_caught_up()
            || member.core.server_metrics().borrow_watched().state.is_leader()
    }

    /// The mesh's time minus this node's clock, in seconds: the median of the members' clocks that can be reached.
    pub fn time_offset(&self) -> i64 {
        self.0.handler.inner().contacts.time_offset()
    }

    /// Tells the other members that `account` is to be sent again to the NATS clusters that they publish to.
    pub fn resend(&self, account: [u8; 32]) {
        self.0.settle.resend(account);
    }

    /// Asks the publishers of the member `to` something. `None` if it does not publish, or does not answer in time.
    pub async fn ask_publisher(&self, to: u64, question: Bytes, patience: Duration) -> Option<Bytes> {
        self.0.settle.ask_publisher(to, question, patience).await
    }

    /// Hands the leadership to another voter, if this node has it, and waits until that one leads. Gives up after a
    /// while: then the others elect one.
    pub async fn hand_over(&self) {
        let Some(member) = self.0.handler.inner().member.get() else {
            return;
        };
        if !member.core.server_metrics().borrow_watched().state.is_leader() {
            return;
        }
        let Some(to) = self.0.settle.most_advanced() else {
            return;
        };
        if member.core.trigger().transfer_leader(to).await.is_err() {
            return;
        }
        let wait = member.core.wait(Some(HANDOVER_PATIENCE));
        let handed = wait.metrics(
            |metrics| metrics.current_leader.is_some_and(|leader| leader != member.node_id),
            "another node leads",
        );
        match handed.await {
            Ok(_) => {}
            Err(WaitError::Timeout(..)) => tracing::warn!(
                "no other node has taken the lead within {} s: they elect one",
                HANDOVER_PATIENCE.as_secs()
            ),
            // This node's own core has ended.
            Err(WaitError::ShuttingDown) => {}
        }
    }

    /// Whether this node is the only member of its mesh.
    pub fn is_alone(&self) -> bool {
        let Some(member) = self.0.handler.inner().member.get() else {
            return false;
        };
        machine::is_alone(&member.core)
    }

    /// This node's id; `None` while it is not a member of a mesh.
    pub fn member_id(&self) -> Option<u64> {
        self.0.handler.inner().member.get().map(|member| member.node_id)
    }

    /// Whether this node leads, and a quorum has acknowledged it lately.
    pub fn is_leading(&self) -> bool {
        self.0.route.is_leading()
    }

    /// What answers the peers.
    pub fn handler(&self) -> &Handler {
        &self.0.handler
    }

    /// Ends openraft's core. What was acknowledged stays on disk.
    pub async fn shutdown(&self) {
        self.0.handler.unhook();
        if let Ok(core) = self.0.proposer.core() {
            // An error means that the core has ended already, for a reason that was reported.
            let _ = core.shutdown().await;
        }
    }
}
