//! Where a command is proposed: here, if this node leads, else by the leader, over the connection for bulk.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{PROPOSE_TIMEOUT, Proposer};
use crate::raft::error::ProposeError;
use crate::raft::peer::{CallError, NotProposed, Proposed, Speak};
use crate::raft::runtime::Member;
use crate::state::{Command, Outcomes, Revision};

/// How long a command waits for somebody to lead. Callers are told within two seconds that nobody does.
const LEADER_PATIENCE: Duration = Duration::from_millis(1_500);

/// How long the leader may take: as long as its own disk may stall and others are ahead.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// The pause before the leader is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Who leads, as this node knows it.
enum Leader {
    /// This node, and a quorum has acknowledged it lately.
    Own,
    Other(u64, Member),
    Nobody,
}

/// Finds the leader for each command.
pub(in crate::raft) struct Route {
    pub(in crate::raft) proposer: Proposer,
    pub(in crate::raft) peers: Arc<dyn Speak>,
    pub(in crate::raft) revision: watch::Receiver<Revision>,
    /// A leader whose quorum is older than this proposes nothing: its log would grow without end.
    pub(in crate::raft) stale_after: Duration,
}

impl Route {
    fn leader(&self) -> Result<Leader, ProposeError> {
        let core = self.proposer.core()?;
        let metrics = core.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let Some(leader) = metrics.current_leader else {
            return Ok(Leader::Nobody);
        };
        if leader == metrics.id {
            let voters = members.get_joint_config();
            let contacts = &self.proposer.handler.inner().contacts;
            let age = contacts.quorum_age(metrics.vote, leader, voters);
            let is_fresh = metrics.state.is_leader() && age.is_some_and(|age| age < self.stale_after);
            return Ok(if is_fresh { Leader::Own } else { Leader::Nobody });
        }
        Ok(match members.get_node(&leader) {
            Some(peer) => Leader::Other(leader, peer.clone()),
            None => Leader::Nobody,
        })
    }

    /// Whether this node leads, and a quorum has acknowledged it lately.
    pub(in crate::raft) fn is_leading(&self) -> bool {
        matches!(self.leader(), Ok(Leader::Own))
    }

    /// Whether somebody leads, and hears a quorum as far as this node knows.
    pub(in crate::raft) fn check(&self) -> Result<(), ProposeError> {
        let age = || self.proposer.handler.inner().contacts.age();
        match self.leader()? {
            Leader::Own => Ok(()),
            Leader::Other(..) if age().is_some_and(|age| age < self.stale_after) => Ok(()),
            _ => Err(ProposeError::NoLeader),
        }
    }

    /// Has `command` agreed on by whoever leads: `here` proposes it on this node, and says [`ProposeError::NoLeader`] if
    /// this node does not lead after all. Returns when it is applied here.
    pub(in crate::raft) async fn propose<T, F: Future<Output = Result<T, ProposeError>>>(
        &self,
        here: impl Fn() -> F,
        command: impl Fn() -> Command,
        outcome: impl Fn(Outcomes) -> Option<T>,
    ) -> Result<T, ProposeError> {
        let begun = Instant::now();
        let until = begun + PROPOSE_TIMEOUT;
        let mut sent = false;
        loop {
            match self.leader()? {
                Leader::Own => match here().await {
                    Err(ProposeError::NoLeader) => {}
                    decided => return decided,
                },
                Leader::Other(id, peer) => {
                    let patience = ANSWER_PATIENCE.min(until - Instant::now());
                    let encoded = command().encode();
                    match self.peers.propose(id, peer, encoded, patience).await {
                        Ok(Ok(proposed)) => return self.seen(proposed, until, &outcome).await,
                        Ok(Err(NotProposed::NotLeader)) | Err(CallError::NotSent(_) | CallError::Refused(_)) => {}
                        Ok(Err(NotProposed::Busy)) => return Err(ProposeError::Busy),
                        Ok(Err(NotProposed::OutcomeUnknown)) => return Err(ProposeError::OutcomeUnknown),
                        Ok(Err(NotProposed::Unavailable(reason) | NotProposed::Refused(reason))) => {
                            return Err(ProposeError::Unavailable {
                                reason: format!("the leader says: {reason}"),
                            });
                        }
                        // The same command again is safe: it is stored once, or found to be stored.
                        Err(CallError::NoAnswer(_)) => sent = true,
                    }
                }
                Leader::Nobody => {}
            }
            let now = Instant::now();
            if now >= until {
                return Err(ProposeError::OutcomeUnknown);
            }
            if !sent && now >= begun + LEADER_PATIENCE {
                return Err(ProposeError::NoLeader);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until this node has applied what the leader has: whoever is answered here can read it here.
    async fn seen<T>(
        &self,
        proposed: Proposed,
        until: Instant,
        outcome: impl Fn(Outcomes) -> Option<T>,
    ) -> Result<T, ProposeError> {
        let mut revision = self.revision.clone();
        let applied = revision.wait_for(|revision| *revision >= proposed.revision);
        match tokio::time::timeout_at(until, applied).await {
            Ok(Ok(_)) => outcome(proposed.outcomes).ok_or_else(|| ProposeError::Unavailable {
                reason: "the leader answered another question; are all nodes of one version?".to_owned(),
            }),
            Ok(Err(_)) => Err(ProposeError::ended()),
            Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }
}
