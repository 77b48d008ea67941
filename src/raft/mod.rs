//! HOW THE NODES AGREE. The only room that names openraft.

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
use propose::{Batcher, PROPOSE_TIMEOUT, Proposer};
use stores::Space;
use tokio::sync::watch;

pub use machine::Machine;
pub use network::NoPeers;
pub use propose::ProposeError;
pub use runtime::{
    Entry, LogId, Member, Membership, Payload, Reply, Runtime, StorageError, StoredMembership, Types, Vote,
};
pub use start::{Settings, StartError};

use crate::state::AccountOutcome;
use crate::state::Proposal;
use crate::state::PutAccount;
use crate::state::Revision;

/// The agreement of the nodes, from the point of view of this one.
#[derive(Debug, Clone)]
pub struct Raft {
    proposer: Proposer,
    batcher: Batcher,
    revision: watch::Receiver<Revision>,
    space: Space,
}

impl Raft {
    /// Proposes a command of its own and waits until it is applied here.
    pub async fn propose<P: Proposal>(&self, command: P) -> Result<P::Outcome, ProposeError> {
        self.check_space()?;
        let proposed = tokio::time::timeout(PROPOSE_TIMEOUT, self.proposer.propose(command)).await;
        proposed.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    /// Proposes one account, together with whatever else is submitted now, and waits until it is applied here.
    /// `trust_epoch` is the trust under which it was verified.
    pub async fn submit(&self, trust_epoch: u64, item: PutAccount) -> Result<AccountOutcome, ProposeError> {
        self.check_space()?;
        self.batcher.submit(trust_epoch, item).await
    }

    fn check_space(&self) -> Result<(), ProposeError> {
        if self.space.is_low() {
            return Err(ProposeError::Unavailable {
                reason: "the disk of this node is nearly full; make room there (lookups go on)".to_owned(),
            });
        }
        Ok(())
    }

    /// Whether what is applied may be moved into redb now.
    pub fn may_flush(&self) -> bool {
        !self.space.is_used_up()
    }

    /// The newest revision that can be read here; changes with every applied entry.
    pub fn revision(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    /// How long ago this node last heard from a leader: 0 on the leader itself, absent if it never did.
    pub fn leader_age(&self) -> Option<Duration> {
        let metrics = self.proposer.core.server_metrics();
        let metrics = metrics.borrow();
        (metrics.state == ServerState::Leader).then_some(Duration::ZERO)
    }

    /// Stops taking part. What was acknowledged stays.
    pub async fn shutdown(&self) {
        // An error means that the core has ended already, for a reason that was reported.
        let _ = self.proposer.core.shutdown().await;
    }
}
