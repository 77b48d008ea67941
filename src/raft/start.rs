//! Starts openraft on the two stores and waits until everything that was ever acknowledged here can be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::network::NetSnapshot;
use openraft::{Config, RaftNetworkFactory, SnapshotPolicy};

use super::Raft;
use super::machine::{Core, Machine};
use super::propose::Batcher;
use super::propose::Proposer;
use super::runtime::{Member, Types};
use super::stores::{Stores, Trimmer};
use crate::config::Timing;
use crate::state::SnapshotView;
use crate::tasks::Scope;

/// How long a single voter may take to elect itself and apply what its log holds.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// This node's identity in the mesh, and its timers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The mesh's name.
    pub cluster: String,
    /// This node's id, never reused.
    pub node_id: u64,
    /// This node's record in the membership.
    pub member: Member,
    /// Raft's timers.
    pub timing: Timing,
}

/// Why Raft could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RaftStartError {
    /// openraft refuses the settings or the stores.
    #[error("Raft cannot start: {0}")]
    Core(String),
    /// The node did not elect itself and apply its log in time.
    #[error("this node was not ready to serve within {} s: {reason}", START_TIMEOUT.as_secs())]
    Late {
        /// What it was still waiting for.
        reason: String,
    },
}

fn core_error(error: impl std::fmt::Display) -> RaftStartError {
    RaftStartError::Core(error.to_string())
}

impl Settings {
    /// How openraft is set up.
    pub fn config(&self) -> Result<Config, RaftStartError> {
        let (heartbeat, election_min, election_max) = match self.timing {
            Timing::Lan => (150, 600, 1200),
            Timing::Wan => (500, 2000, 3500),
        };
        let config = Config {
            cluster_name: self.cluster.clone(),
            heartbeat_interval: heartbeat,
            election_timeout_min: election_min,
            election_timeout_max: election_max,
            // Entries are up to a MiB each; the log store caps a payload by bytes as well.
            max_payload_entries: 64,
            // `stores/trim.rs` asks for snapshots and purges by the log's size in bytes, which the number of entries
            // says little about.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1024,
            // A leader that restarts would be leader again without an election, in the same term: what it had sent but
            // lost in a power cut, it would send again under the same log id with other contents.
            enable_leader_restore: Some(false),
            // A node that was cut off and returns asks before it raises its term, and so deposes no healthy leader.
            enable_pre_vote: Some(true),
            // A leader that has lost its quorum pauses its heartbeats, so that the followers it still reaches can
            // elect another one with the others.
            quorum_loss_probe_interval: Some(2 * election_max),
            ..Config::default()
        };
        config.validate().map_err(core_error)
    }
}

impl Raft {
    /// Starts Raft; returns when everything this node ever acknowledged can be read again.
    ///
    /// The first start forms a mesh of this one node.
    pub async fn start<N>(settings: Settings, stores: Stores, network: N, scope: &Scope) -> Result<Self, RaftStartError>
    where
        N: RaftNetworkFactory<Types>,
        N::Network: NetSnapshot<Types, SnapshotData = SnapshotView>,
    {
        let config = Arc::new(settings.config()?);
        let revision = stores.revision.subscribe();
        let machine = Machine::new(
            stores.state.clone(),
            stores.flushed.clone(),
            Arc::new(stores.revision),
            stores.checkpoint.clone(),
            scope.fault().clone(),
        );
        let core = openraft::Raft::new(settings.node_id, config, network, stores.log.clone(), machine)
            .await
            .map_err(core_error)?;
        scope.spawn("the Raft watcher", watch_core(core.clone(), scope.clone()));
        let trimmer = Trimmer {
            core: core.clone(),
            log: stores.log,
            checkpoint: stores.checkpoint,
        };
        scope.spawn("the log trimmer", trimmer.run(stores.space.clone(), scope.clone()));
        if !core.is_initialized().await.map_err(core_error)? {
            let members = BTreeMap::from([(settings.node_id, settings.member)]);
            core.initialize(members).await.map_err(core_error)?;
        }
        lead(&core).await?;
        let proposer = Proposer { core };
        Ok(Self {
            batcher: Batcher::start(proposer.clone(), stores.state, stores.flushed, scope),
            proposer,
            revision,
            space: stores.space,
        })
    }
}

/// Elects this node and waits until it has applied its log. A single voter need not wait for an election time-out: no
/// other node can win. Once it has applied the blank entry of its own term, everything before it is applied too, so
/// that no read is older than an acknowledgement.
async fn lead(core: &Core) -> Result<(), RaftStartError> {
    core.trigger().elect(false).await.map_err(core_error)?;
    let wait = core.wait(Some(START_TIMEOUT));
    let leading = wait.metrics(
        |metrics| {
            let own_term = metrics
                .last_applied
                .is_some_and(|id| id.leader_id.term == metrics.current_term);
            metrics.state.is_leader() && own_term && metrics.last_applied.map(|id| id.index) == metrics.last_log_index
        },
        "the single voter leads and has applied its log",
    );
    leading.await.map(drop).map_err(|error| RaftStartError::Late {
        reason: error.to_string(),
    })
}

/// Reports a fault if openraft's core ends by itself: a node without its core must not look alive.
async fn watch_core(core: Core, scope: Scope) {
    let mut metrics = core.metrics();
    loop {
        let ended = metrics.borrow_and_update().running_state.clone().err();
        if let Some(ended) = ended {
            if !scope.is_stopping() {
                scope.fault().report(format!("Raft has ended: {ended}"));
            }
            return;
        }
        if metrics.changed().await.is_err() {
            // A core that returns has published why; one that closes the channel without a reason has panicked.
            if !scope.is_stopping() {
                scope
                    .fault()
                    .report("Raft has panicked; this is a defect of the program");
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_agreement_rests_on_hold_for_every_timing() {
        for timing in [Timing::Lan, Timing::Wan] {
            let settings = Settings {
                cluster: "any".to_owned(),
                node_id: 1,
                member: Member::default(),
                timing,
            };
            let config = settings.config().expect("valid settings");
            assert_eq!(config.enable_leader_restore, Some(false));
            assert_eq!(config.enable_pre_vote, Some(true));
            let probe = config
                .quorum_loss_probe_interval
                .expect("a leader without a quorum falls silent");
            assert!(probe >= 2 * config.election_timeout_max, "{timing:?}: {probe}");
            assert!(matches!(config.snapshot_policy, SnapshotPolicy::Never));
        }
    }
}
