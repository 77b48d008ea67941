//! Puts openraft together over the two stores and brings it to the point where reads are right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, RaftNetworkFactory, SnapshotPolicy};

use super::Raft;
use super::machine::Machine;
use super::propose::Batcher;
use super::propose::Proposer;
use super::runtime::{Member, Types};
use super::stores::{Stores, trim};
use crate::config::Timing;
use crate::tasks::Scope;

/// How long a single voter may take to elect itself and apply what its log holds.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Who this node is in the mesh.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The mesh's name.
    pub cluster: String,
    /// This node's id, never reused.
    pub node_id: u64,
    /// What the membership says of it.
    pub member: Member,
    /// Raft's timers.
    pub timing: Timing,
}

/// Why agreement cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// openraft refuses the settings or the stores.
    #[error("Raft cannot start: {0}")]
    Core(String),
    /// Nobody was elected in time.
    #[error("this node did not become able to serve within {} s: {reason}", START_TIMEOUT.as_secs())]
    Late {
        /// What it waits for.
        reason: String,
    },
}

fn core_error(error: impl std::fmt::Display) -> StartError {
    StartError::Core(error.to_string())
}

impl Settings {
    fn config(&self) -> Result<Config, StartError> {
        // 0.9 drives append requests with the heartbeat interval as their time-out: it must exceed the round trip
        // by far, or nothing is ever agreed on.
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
            // Whoever watches the log's size asks for snapshots and purges; entries say little about bytes.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1024,
            ..Config::default()
        };
        config.validate().map_err(core_error)
    }
}

impl Raft {
    /// Starts agreement; returns when everything this node had acknowledged can be read again.
    ///
    /// The first start forms a mesh of this one node.
    pub async fn start<N: RaftNetworkFactory<Types>>(
        settings: Settings,
        stores: Stores,
        network: N,
        scope: &Scope,
    ) -> Result<Self, StartError> {
        let config = Arc::new(settings.config()?);
        let revision = stores.revision.subscribe();
        let machine = Machine::new(
            stores.state.clone(),
            stores.flushed.clone(),
            Arc::new(stores.revision),
            scope.fault().clone(),
        );
        let core = openraft::Raft::new(settings.node_id, config, network, stores.log.clone(), machine)
            .await
            .map_err(core_error)?;
        scope.spawn("the watch over Raft", watch_core(core.clone(), scope.clone()));
        let trimming = trim(
            core.clone(),
            stores.log,
            stores.checkpoint,
            stores.space.clone(),
            scope.clone(),
        );
        scope.spawn("the trimming of the log", trimming);
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

/// A single voter need not wait for an election time-out: nobody else can win. Once it has applied the blank entry
/// of its own term, everything before it is applied too, so that no read is older than an acknowledgement.
async fn lead(core: &openraft::Raft<Types>) -> Result<(), StartError> {
    core.trigger().elect().await.map_err(core_error)?;
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
    leading.await.map(drop).map_err(|error| StartError::Late {
        reason: error.to_string(),
    })
}

/// A core that has ended by itself is a fault: a dead one must not leave a node that looks alive.
async fn watch_core(core: openraft::Raft<Types>, scope: Scope) {
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
            // A core that returns says why first; one that panicked says nothing any more.
            if !scope.is_stopping() {
                scope
                    .fault()
                    .report("Raft has panicked; this is a defect of the program");
            }
            return;
        }
    }
}
