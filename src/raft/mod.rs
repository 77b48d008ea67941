//! HOW THE NODES AGREE. The only room that names openraft.

mod batch;
mod flusher;
pub mod log;
mod machine;
mod network;
mod space;
mod start;
mod trim;
mod types;

use std::time::Duration;

use openraft::ServerState;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::watch;

pub use flusher::Flusher;
pub use machine::Machine;
pub use network::NoPeers;
pub use space::Space;
pub use start::{Parts, Settings};
pub use types::{Entry, LogId, Member, Payload, Reply, Runtime, StorageError, StoredMembership, Types, Vote};

use crate::state::Command;
use crate::state::Outcome;
use crate::state::PutAccount;
use crate::state::Revision;

/// How long a proposal may take before its outcome counts as unknown. openraft 0.9 can lose a waiting caller
/// when a snapshot is installed meanwhile, so every wait has an end.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why something was not agreed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much is waiting already.
    #[error("too many submissions are waiting; try again in a second")]
    Busy,
    /// Nothing was proposed: there is nobody who could.
    #[error("{reason}; nothing was stored, try again")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// It may or may not be agreed on later. Submitting the same again is safe.
    #[error("the outcome is not known yet; submitting the same token again is safe")]
    OutcomeUnknown,
}

impl ProposeError {
    fn ended() -> Self {
        Self::Unavailable {
            reason: "this node is shutting down".to_owned(),
        }
    }
}

/// The agreement of the nodes, from the point of view of this one.
#[derive(Debug, Clone)]
pub struct Raft {
    proposer: Proposer,
    batcher: batch::Batcher,
    revision: watch::Receiver<Revision>,
    space: Space,
}

impl Raft {
    /// Proposes a command of its own and waits until it is applied here.
    pub async fn propose(&self, command: &Command) -> Result<Vec<Outcome>, ProposeError> {
        self.check_space()?;
        let proposed = tokio::time::timeout(PROPOSE_TIMEOUT, self.proposer.propose(command)).await;
        proposed.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    /// Proposes one account, together with whatever else is submitted now, and waits until it is applied here.
    /// `trust_epoch` is the trust under which it was verified.
    pub async fn submit(&self, trust_epoch: u64, item: PutAccount) -> Result<Outcome, ProposeError> {
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

/// Hands commands to openraft, one entry each.
#[derive(Clone)]
struct Proposer {
    core: openraft::Raft<Types>,
}

impl std::fmt::Debug for Proposer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proposer")
    }
}

impl Proposer {
    async fn propose(&self, command: &Command) -> Result<Vec<Outcome>, ProposeError> {
        let payload = Payload(command.encode());
        match self.core.client_write(payload).await {
            Ok(response) => Ok(response.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::Unavailable {
                reason: "no leader is known".to_owned(),
            }),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(ProposeError::Unavailable {
                    reason: error.to_string(),
                })
            }
            // The core has ended in the middle of it: the entry may be on disk.
            Err(RaftError::Fatal(_)) => Err(ProposeError::OutcomeUnknown),
        }
    }
}
