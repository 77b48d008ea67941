//! Starts openraft on the two stores and waits until everything that was ever acknowledged here can be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::Config;
use tokio::sync::Mutex;

use super::machine::{Core, Machine};
use super::peer::{Handler, Health, Own, Peers, Speak, Transport, Uuid};
use super::propose::{Agree, Batcher, Proposer, Route, Settle};
use super::settings::{RaftStartError, START_TIMEOUT, Settings, core_error};
use super::stores::Stores;
use super::{Begin, Inner, Raft};
use crate::clock::Clock;
use crate::tasks::Scope;

/// After this long a write of the log hangs. Disks of busy machines stall for a tenth of a second.
const HANGING_AFTER: Duration = Duration::from_millis(800);

/// How long a start waits until what was committed is applied: lookups are to be answered within a second.
const RESUME_PATIENCE: Duration = Duration::from_millis(700);

impl Raft {
    /// A handle on Raft over the stores of the node `own`, whose messages `transport` carries. openraft is not started
    /// yet: see [`Self::begin`].
    pub fn open<T: Transport>(
        settings: Settings,
        own: Own,
        stores: Stores,
        transport: T,
        clock: Clock,
        scope: &Scope,
    ) -> Result<Self, RaftStartError> {
        let config = Arc::new(settings.config()?);
        let revision = stores.revision.subscribe();
        let handler = Handler::new(
            own,
            stores.log.clone(),
            stores.state.clone(),
            revision.clone(),
            Health::new(stores.log.clone(), stores.space.clone(), HANGING_AFTER),
            clock,
            scope,
        );
        let network = Peers::new(handler.clone(), transport);
        let peers: Arc<dyn Speak> = Arc::new(network.clone());
        let proposer = Proposer {
            handler: handler.clone(),
        };
        let route = Route {
            proposer: proposer.clone(),
            peers: peers.clone(),
            revision: revision.clone(),
            stale_after: Duration::from_millis(config.election_timeout_max),
            rounds: Arc::default(),
        };
        let batcher = |agree: Agree| {
            let (state, flushed) = (stores.state.clone(), stores.flushed.clone());
            Batcher::start(agree, state, flushed, settings.timing, scope)
        };
        let forwards = batcher({
            let route = route.clone();
            Box::new(move |accounts| {
                let route = route.clone();
                Box::pin(async move { route.forward_all(accounts).await })
            })
        });
        let batcher = batcher({
            let proposer = proposer.clone();
            Box::new(move |accounts| {
                let proposer = proposer.clone();
                Box::pin(async move { proposer.propose_all(accounts).await })
            })
        });
        let settle = Settle::new(handler.clone(), peers.clone(), scope.clone());
        let (space, checkpoint) = (stores.space.clone(), stores.checkpoint.clone());
        let (own_scope, scope) = (scope.clone(), scope.clone());
        let begin: Begin = Box::new(move |node_id| Box::pin(begin(node_id, config, network, stores, scope)));
        Ok(Self(Arc::new(Inner {
            handler,
            proposer,
            batcher,
            forwards,
            route,
            settle,
            revision,
            checkpoint,
            space,
            peers,
            begin: Mutex::new(Some(begin)),
            forming: Mutex::default(),
            settings,
            scope: own_scope,
        })))
    }

    /// Starts openraft as member `node_id` of `mesh`. To be called once, when the node's identity on disk says so.
    pub async fn begin(&self, mesh: Uuid, node_id: u64) -> Result<(), RaftStartError> {
        let begin = self.0.begin.lock().await.take();
        let begin = begin.ok_or_else(|| core_error("it was started before"))?;
        let raft = self.clone();
        // A caller may stop waiting, such as a node whose invitation took too long; this can be done once.
        let begun = self.0.scope.within(async move {
            let core = begin(node_id).await?;
            raft.attend(mesh, node_id, core);
            Ok(())
        });
        begun.await
    }

    /// Forms a mesh of this node alone, unless it is a member of one already, as it must be after its first start.
    pub async fn form(&self) -> Result<(), RaftStartError> {
        let member = self.0.handler.inner().member.get();
        let member = member.ok_or_else(|| core_error("it was not started"))?;
        if member.core.is_initialized().await.map_err(core_error)? {
            return Ok(());
        }
        let members = BTreeMap::from([(member.node_id, self.0.settings.member.clone())]);
        member.core.initialize(members).await.map_err(core_error)
    }

    /// Returns when what this node served before can be read again. Alone, it leads first, and then everything that it
    /// ever acknowledged can be read. With other voters it does not wait for them: what it knows to be committed is applied,
    /// or, where that takes long, is being applied.
    pub async fn resume(&self) -> Result<(), RaftStartError> {
        let member = self.0.handler.inner().member.get();
        let member = member.ok_or_else(|| core_error("it was not started"))?;
        let core = &member.core;
        let found = core.with_raft_state(|state| {
            let voters: Vec<u64> = state.membership_state.effective().voter_ids().collect();
            (voters, state.local_committed().copied())
        });
        let (voters, committed) = found.await.map_err(core_error)?;
        if voters == [member.node_id] {
            return lead(core).await;
        }
        let applied = core.wait(Some(RESUME_PATIENCE));
        let applied = applied.metrics(
            |metrics| metrics.last_applied >= committed,
            "what was committed is applied",
        );
        // Lookups are answered all the same.
        drop(applied.await);
        // A member votes once it has caught up: its state is one to answer from.
        if voters.contains(&member.node_id) {
            self.0.handler.inner().contacts.set_caught_up();
        }
        Ok(())
    }
}

async fn begin<T: Transport>(
    node_id: u64,
    config: Arc<Config>,
    network: Peers<T>,
    stores: Stores,
    scope: Scope,
) -> Result<Core, RaftStartError> {
    let machine = Machine::new(
        stores.state.clone(),
        stores.flushed.clone(),
        stores.revision,
        stores.checkpoint,
        scope.fault().clone(),
        stores.log.committed(),
    );
    // openraft's tasks run where it is made.
    let made = scope.within(async move { Core::new(node_id, config, network, stores.log, machine).await });
    made.await.map_err(core_error)
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
