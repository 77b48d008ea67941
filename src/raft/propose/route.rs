//! Where a command is proposed: here, if this node leads, else by the leader, over the connection for bulk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{PROPOSE_TIMEOUT, Proposer, Verdicts};
use crate::raft::error::ProposeError;
use crate::raft::peer::{CallError, NotProposed, Proposed, Speak, newest};
use crate::raft::runtime::Member;
use crate::state::{Command, Outcomes, Proposal, PutAccounts, Revision};

/// How long a command waits for somebody to lead. Callers are told within two seconds that nobody does.
const LEADER_PATIENCE: Duration = Duration::from_millis(1_500);

/// How long the leader may take: as long as its own disk may stall and others are ahead.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// The pause before the leader is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Who leads, as this node knows it.
pub(in crate::raft) enum Leader {
    /// This node, and a quorum has acknowledged it lately.
    Own,
    Other(u64, Member),
    Nobody,
}

/// What was done with a command before.
#[derive(Debug, Clone, Copy)]
pub(in crate::raft) struct Tried {
    /// When its caller began to wait.
    pub(in crate::raft) begun: Instant,
    /// Whether a leader may have it.
    pub(in crate::raft) sent: bool,
}

impl Tried {
    /// Nothing yet.
    pub(in crate::raft) fn nothing() -> Self {
        Self {
            begun: Instant::now(),
            sent: false,
        }
    }
}

impl From<NotProposed> for ProposeError {
    fn from(said: NotProposed) -> Self {
        match said {
            NotProposed::NotLeader => Self::NoLeader,
            NotProposed::Busy => Self::Busy,
            NotProposed::OutcomeUnknown => Self::OutcomeUnknown,
            NotProposed::Unavailable(reason) | NotProposed::Refused(reason) => Self::Unavailable {
                reason: format!("the leader says: {reason}"),
            },
        }
    }
}

/// Finds the leader for each command. Clones are the same.
#[derive(Clone)]
pub(in crate::raft) struct Route {
    pub(in crate::raft) proposer: Proposer,
    pub(in crate::raft) peers: Arc<dyn Speak>,
    pub(in crate::raft) revision: watch::Receiver<Revision>,
    /// A leader whose quorum is older than this proposes nothing: its log would grow without end.
    pub(in crate::raft) stale_after: Duration,
}

impl Route {
    pub(in crate::raft) fn leader(&self) -> Result<Leader, ProposeError> {
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
    /// this node does not lead after all. Returns when it is applied here. `tried` says what was tried before. Where a
    /// leader that did not answer may have had the command agreed on, a failure or an outcome that `is_doubtful` is not
    /// the whole truth, and [`ProposeError::OutcomeUnknown`] is given.
    pub(in crate::raft) async fn propose<T, F: Future<Output = Result<T, ProposeError>>>(
        &self,
        here: impl Fn() -> F,
        command: impl Fn() -> Command,
        outcome: impl Fn(Outcomes) -> Option<T>,
        is_doubtful: impl Fn(&T) -> bool,
        tried: Tried,
    ) -> Result<T, ProposeError> {
        let Tried { begun, mut sent } = tried;
        let until = begun + PROPOSE_TIMEOUT;
        let known = |decided: Result<T, ProposeError>, sent: bool| match decided {
            Ok(outcome) if !(sent && is_doubtful(&outcome)) => Ok(outcome),
            Err(error) if !sent => Err(error),
            _ => Err(ProposeError::OutcomeUnknown),
        };
        loop {
            match self.leader()? {
                Leader::Own => match here().await {
                    Err(ProposeError::NoLeader) => {}
                    decided => return known(decided, sent),
                },
                Leader::Other(id, peer) => match self.forward(id, peer, command().encode(), until).await {
                    Ok(Ok(proposed)) => return known(self.seen(proposed, until, &outcome).await, sent),
                    Ok(Err(NotProposed::NotLeader)) | Err(CallError::NotSent(_) | CallError::Refused(_)) => {}
                    Ok(Err(refused)) => return known(Err(refused.into()), sent),
                    // The same command again is safe: it is stored once, or found to be stored.
                    Err(CallError::NoAnswer(_)) => sent = true,
                },
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

    /// Has many accounts agreed on by another node that leads, in one message, tried once. What is answered
    /// [`ProposeError::NoLeader`] or [`ProposeError::OutcomeUnknown`] is to be tried again, one by one.
    pub(in crate::raft) async fn forward_all(&self, accounts: PutAccounts) -> Verdicts {
        let count = accounts.items.len();
        let all = |error: ProposeError| vec![Err(error); count];
        let Ok(Leader::Other(id, peer)) = self.leader() else {
            return all(ProposeError::NoLeader);
        };
        let until = Instant::now() + PROPOSE_TIMEOUT;
        match self.forward(id, peer, Command::from(accounts).encode(), until).await {
            Ok(Ok(proposed)) => {
                let each = |outcomes| PutAccounts::outcome(outcomes).filter(|each| each.len() == count);
                match self.seen(proposed, until, each).await {
                    Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
                    Err(error) => all(error),
                }
            }
            // Because of one of them, and the others are not to suffer for it.
            Ok(Err(NotProposed::Refused(_))) if count > 1 => all(ProposeError::NoLeader),
            Ok(Err(NotProposed::NotLeader)) | Err(CallError::NotSent(_) | CallError::Refused(_)) => {
                all(ProposeError::NoLeader)
            }
            Ok(Err(refused)) => all(refused.into()),
            Err(CallError::NoAnswer(_)) => all(ProposeError::OutcomeUnknown),
        }
    }

    /// Gives a command to `id`, which leads. Gives up as soon as another node does.
    async fn forward(
        &self,
        id: u64,
        peer: Member,
        command: Bytes,
        until: Instant,
    ) -> Result<Result<Proposed, NotProposed>, CallError> {
        let patience = ANSWER_PATIENCE.min(until - Instant::now());
        let deposed = || CallError::NoAnswer("another node leads now".to_owned());
        let mut metrics = match self.proposer.core() {
            Ok(core) => core.server_metrics(),
            Err(_) => return Err(deposed()),
        };
        let is_deposed = async {
            while metrics
                .borrow_watched()
                .current_leader
                .is_none_or(|leader| leader == id)
            {
                if metrics.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            answered = self.peers.propose(id, peer, command, patience) => answered,
            () = is_deposed => Err(deposed()),
        }
    }

    /// The revision that has everything that was acknowledged by any node before this was called.
    pub(in crate::raft) async fn newest(&self, until: Instant) -> Result<Revision, ProposeError> {
        loop {
            let said = match self.leader()? {
                Leader::Own => newest(self.proposer.core()?).await,
                Leader::Other(id, peer) => self.peers.newest(id, peer, until - Instant::now()).await.ok(),
                Leader::Nobody => None,
            };
            if let Some(revision) = said {
                return Ok(revision);
            }
            if Instant::now() + LOOK_AGAIN >= until {
                return Err(ProposeError::NoLeader);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until this node has applied what the leader has: whoever is answered here can read it here. The leader has
    /// it already, so that whatever fails here leaves the outcome unknown, and nothing else.
    async fn seen<T>(
        &self,
        proposed: Proposed,
        until: Instant,
        outcome: impl Fn(Outcomes) -> Option<T>,
    ) -> Result<T, ProposeError> {
        let mut revision = self.revision.clone();
        let applied = revision.wait_for(|revision| *revision >= proposed.revision);
        match tokio::time::timeout_at(until, applied).await {
            Ok(Ok(_)) => outcome(proposed.outcomes).ok_or_else(|| {
                tracing::warn!("the leader answered another question than it was asked; are all nodes of one version?");
                ProposeError::OutcomeUnknown
            }),
            Ok(Err(_)) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }
}
