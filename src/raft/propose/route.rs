//! Where a command is proposed: here, if this node leads, else by the leader, over the connection for bulk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::{PROPOSE_TIMEOUT, Proposer, Verdicts};
use crate::raft::error::ProposeError;
use crate::raft::peer::{CallError, Contacts, NotProposed, Proposed, QUORUM_PATIENCE, Speak};
use crate::raft::runtime::Member;
use crate::state::{Command, Outcomes, Proposal, PutAccounts, Revision};

/// How long a command waits for a leader. Callers learn within two seconds that there is none.
const LEADER_PATIENCE: Duration = Duration::from_millis(1_500);

/// How long the leader may take: as long as its own disk may stall and others are ahead.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// The pause before the leader is looked for again, unless another one is known earlier.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Who leads, as this node knows it.
pub(in crate::raft) enum Leader {
    /// This node, and a quorum has acknowledged it lately.
    Own,
    Other(u64, Member),
    Nobody,
}

impl From<NotProposed> for ProposeError {
    fn from(said: NotProposed) -> Self {
        match said {
            NotProposed::NotLeader => Self::NoLeader,
            NotProposed::Busy => Self::Busy,
            NotProposed::OutcomeUnknown => Self::OutcomeUnknown,
            NotProposed::Unavailable(reason) => Self::Unavailable {
                reason: format!("the leader says: {reason}"),
            },
            NotProposed::Refused(reason) => Self::Refused { reason },
        }
    }
}

fn unreachable(leader: &Member) -> ProposeError {
    ProposeError::Unavailable {
        reason: format!(
            "this node hears {:?}, which leads, and cannot reach it: look at its peer address in cluster.toml here, and at the log",
            leader.name
        ),
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
    pub(in crate::raft) rounds: Arc<Rounds>,
}

/// The questions for what is newest anywhere.
#[derive(Debug, Default)]
pub(in crate::raft) struct Rounds {
    begun: AtomicU64,
    /// The number of the last that was answered, and the answer.
    last: Mutex<Option<(u64, Revision)>>,
}

impl Route {
    pub(in crate::raft) fn leader(&self) -> Result<Leader, ProposeError> {
        let core = self.proposer.core()?;
        if self.contacts().contradiction().is_some() {
            return Err(ProposeError::Unavailable {
                reason:
                    "this node follows no leader, since the others have lost uploads that it has (`jwtmesh status`)"
                        .to_owned(),
            });
        }
        // Of openraft's metrics those that change first, for which others here wait.
        let metrics = core.server_metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let Some(leader) = metrics.current_leader else {
            return Ok(Leader::Nobody);
        };
        if leader == metrics.id {
            let voters = members.get_joint_config();
            let contacts = self.contacts();
            let age = contacts.following_age(metrics.vote, leader, voters);
            let is_fresh = metrics.state.is_leader() && age.is_some_and(|age| age < self.stale_after);
            return Ok(if is_fresh { Leader::Own } else { Leader::Nobody });
        }
        // openraft goes on naming a leader that this node is cut off from.
        let silence = self.contacts().silence();
        Ok(match members.get_node(&leader) {
            Some(peer) if silence.is_some_and(|silence| silence < self.stale_after) => {
                Leader::Other(leader, peer.clone())
            }
            _ => Leader::Nobody,
        })
    }

    /// Whether this node leads, and a quorum has acknowledged it lately.
    pub(in crate::raft) fn is_leading(&self) -> bool {
        matches!(self.leader(), Ok(Leader::Own))
    }

    /// Returns when a quorum has acknowledged this node, which leads, lately. A new leader hears from one a round trip after
    /// its election, and others give it commands as soon as they hear of it. [`ProposeError::NoLeader`] if it does not lead,
    /// or that takes longer.
    pub(in crate::raft) async fn lead(&self) -> Result<(), ProposeError> {
        let until = Instant::now() + QUORUM_PATIENCE;
        let mut metrics = self.proposer.core()?.server_metrics();
        loop {
            let acknowledged = self.contacts().next_acknowledgement();
            let leads = {
                let metrics = metrics.borrow_and_update();
                metrics.current_leader == Some(metrics.id)
            };
            if !leads {
                return Err(ProposeError::NoLeader);
            }
            if let Leader::Own = self.leader()? {
                return Ok(());
            }
            let news = async {
                tokio::select! {
                    () = acknowledged => true,
                    changed = metrics.changed() => changed.is_ok(),
                }
            };
            if !tokio::time::timeout_at(until, news).await.unwrap_or(false) {
                return Err(ProposeError::NoLeader);
            }
        }
    }

    /// Whether somebody leads, and hears a quorum as far as this node knows.
    pub(in crate::raft) fn check(&self) -> Result<(), ProposeError> {
        let contacts = self.contacts();
        let is_fresh = || contacts.age().is_some_and(|age| age < self.stale_after);
        match self.leader()? {
            Leader::Own => Ok(()),
            Leader::Other(id, peer) if self.contacts().of(id).is_away() => Err(unreachable(&peer)),
            Leader::Other(..) if is_fresh() => Ok(()),
            _ => Err(ProposeError::NoLeader),
        }
    }

    fn contacts(&self) -> &Contacts {
        &self.proposer.handler.inner().contacts
    }

    /// Has a command agreed on by the leader: `here` proposes it on this node, `there` has another node do it, both say
    /// [`ProposeError::NoLeader`] if there was none. Returns when it is applied here. Where a leader that did not answer may have
    /// had the command agreed on, it is tried again if it `is_repeatable`; a failure then, and an outcome that `is_doubtful`,
    /// are not the whole truth, and [`ProposeError::OutcomeUnknown`] is given.
    pub(in crate::raft) async fn propose<T, H, G>(
        &self,
        here: impl Fn() -> H,
        there: impl Fn() -> G,
        is_doubtful: impl Fn(&T) -> bool,
        is_repeatable: bool,
    ) -> Result<T, ProposeError>
    where
        H: Future<Output = Result<T, ProposeError>>,
        G: Future<Output = Result<T, ProposeError>>,
    {
        let begun = Instant::now();
        let until = begun + PROPOSE_TIMEOUT;
        let mut sent = false;
        let mut metrics = self.proposer.core()?.server_metrics();
        loop {
            drop(metrics.borrow_and_update());
            let unknown = |error| if sent { ProposeError::OutcomeUnknown } else { error };
            let leader = self.leader().map_err(unknown)?;
            let is_elsewhere = matches!(leader, Leader::Other(..));
            let attempt = async {
                match leader {
                    Leader::Own => here().await,
                    // Its time would pass with one more attempt to connect.
                    Leader::Other(id, _) if self.contacts().of(id).is_away() => Err(ProposeError::NoLeader),
                    Leader::Other(..) => there().await,
                    Leader::Nobody => Err(ProposeError::NoLeader),
                }
            };
            let attempt = tokio::time::timeout_at(until, attempt).await;
            match attempt.unwrap_or(Err(ProposeError::OutcomeUnknown)) {
                Err(ProposeError::NoLeader) => {}
                Err(ProposeError::OutcomeUnknown) if is_elsewhere && is_repeatable => sent = true,
                Ok(outcome) if !(sent && is_doubtful(&outcome)) => return Ok(outcome),
                Err(error) if !sent => return Err(error),
                _ => return Err(ProposeError::OutcomeUnknown),
            }
            let now = Instant::now();
            if now >= until {
                return Err(ProposeError::OutcomeUnknown);
            }
            if !sent && now >= begun + LEADER_PATIENCE {
                return self.check().and(Err(ProposeError::NoLeader));
            }
            if let Ok(Err(_ended)) = tokio::time::timeout(LOOK_AGAIN, metrics.changed()).await {
                return Err(if sent {
                    ProposeError::OutcomeUnknown
                } else {
                    ProposeError::ended()
                });
            }
        }
    }

    /// Has another node that leads have a command agreed on, tried once.
    pub(in crate::raft) async fn forward_one<T>(
        &self,
        command: Command,
        outcome: impl Fn(Outcomes) -> Option<T>,
    ) -> Result<T, ProposeError> {
        self.forward(command, outcome).await?.map_err(ProposeError::from)
    }

    /// The same for many accounts, in one message. Where the leader refuses one of them, the others do not suffer for it.
    pub(in crate::raft) fn forward_all(&self, accounts: PutAccounts) -> BoxFuture<'_, Verdicts> {
        Box::pin(async move {
            let (count, trust_epoch) = (accounts.items.len(), accounts.trust_epoch);
            let each = |outcomes| PutAccounts::outcome(outcomes).filter(|each| each.len() == count);
            match self.forward(accounts.clone().into(), each).await {
                Ok(Ok(outcomes)) => outcomes.into_iter().map(Ok).collect(),
                Ok(Err(NotProposed::Refused(_))) if count > 1 => {
                    let alone = accounts.items.into_iter().map(|item| {
                        let items = vec![item];
                        self.forward_all(PutAccounts { trust_epoch, items })
                    });
                    join_all(alone).await.into_iter().flatten().collect()
                }
                Ok(Err(refused)) => vec![Err(refused.into()); count],
                Err(error) => vec![Err(error); count],
            }
        })
    }

    /// The outcome of a command that the node which leads was given, or what it said. Gives up as soon as another node
    /// leads: [`ProposeError::OutcomeUnknown`].
    async fn forward<T>(
        &self,
        command: Command,
        outcome: impl Fn(Outcomes) -> Option<T>,
    ) -> Result<Result<T, NotProposed>, ProposeError> {
        let Leader::Other(id, peer) = self.leader()? else {
            return Err(ProposeError::NoLeader);
        };
        let until = Instant::now() + PROPOSE_TIMEOUT;
        let mut metrics = self.proposer.core()?.server_metrics();
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
        let answered = tokio::select! {
            answered = self.peers.propose(id, peer, command.encode(), ANSWER_PATIENCE) => answered,
            () = is_deposed => return Err(ProposeError::OutcomeUnknown),
        };
        match answered {
            Ok(Ok(proposed)) => self.seen(proposed, until, outcome).await.map(Ok),
            Ok(Err(refused)) => Ok(Err(refused)),
            Err(CallError::NotSent(_) | CallError::Refused(_)) => Err(ProposeError::NoLeader),
            Err(CallError::NoAnswer(_)) => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// The revision that has everything that was acknowledged by any node before this was called. Those who ask at the same
    /// time share one question: any client may ask, and each question makes the leader hear from a quorum.
    pub(in crate::raft) async fn newest(&self, until: Instant) -> Result<Revision, ProposeError> {
        let before = self.rounds.begun.load(Ordering::SeqCst);
        let mut last = self.rounds.last.lock().await;
        // Only a question that was asked since this call began knows everything from before it.
        if let Some((round, revision)) = *last
            && round > before
        {
            return Ok(revision);
        }
        loop {
            let round = self.rounds.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let said = match self.leader()? {
                Leader::Own => {
                    let contacts = self.contacts();
                    contacts.newest(self.proposer.core()?).await
                }
                Leader::Other(id, peer) => self.peers.newest(id, peer, until - Instant::now()).await.ok(),
                Leader::Nobody => None,
            };
            if let Some(revision) = said {
                *last = Some((round, revision));
                return Ok(revision);
            }
            if Instant::now() + LOOK_AGAIN >= until {
                return Err(ProposeError::NoLeader);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until this node has applied what the leader has: a client that is answered here can read it here. The leader has
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
