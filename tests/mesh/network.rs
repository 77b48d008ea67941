//! The network between the simulated nodes: every message is delayed, some are lost, and links are cut one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jwtmesh::raft::{Core, Member, Snapshot, Types, Vote};
use jwtmesh::state::SnapshotView;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use crate::node::{Disks, received};

/// What answers at a node.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// Which of the node's lives this is.
    pub(crate) life: u64,
    pub(crate) core: Core,
    pub(crate) disks: Disks,
}

struct Inner {
    endpoints: BTreeMap<u64, Endpoint>,
    cut: BTreeSet<(u64, u64)>,
    /// Whether the power of a node that receives a snapshot no longer fails.
    calm: bool,
    random: SmallRng,
    start: Instant,
    trace: blake3::Hasher,
    snapshots: u64,
}

/// The network; clones are the same.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<Inner>>);

impl Network {
    pub(crate) fn new(random: SmallRng) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            endpoints: BTreeMap::new(),
            cut: BTreeSet::new(),
            calm: false,
            random,
            start: Instant::now(),
            trace: blake3::Hasher::new(),
            snapshots: 0,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Notes something that a replay must repeat, at its time.
    pub(crate) fn note(&self, what: impl Display) {
        let mut inner = self.inner();
        let at = inner.start.elapsed();
        inner.trace.update(format!("{at:?} {what}\n").as_bytes());
    }

    /// The hash over everything that was noted.
    pub(crate) fn trace(&self) -> String {
        self.inner().trace.finalize().to_hex().to_string()
    }

    /// Snapshots that arrived somewhere.
    pub(crate) fn snapshots(&self) -> u64 {
        self.inner().snapshots
    }

    pub(crate) fn connect(&self, node: u64, endpoint: Endpoint) {
        self.inner().endpoints.insert(node, endpoint);
    }

    pub(crate) fn disconnect(&self, node: u64) {
        self.inner().endpoints.remove(&node);
    }

    /// Loses what `from` sends to `to`.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.inner().cut.insert((from, to));
    }

    /// Ends every cut.
    pub(crate) fn heal(&self) {
        self.inner().cut.clear();
    }

    /// Ends every cut, and lets every snapshot arrive.
    pub(crate) fn calm_down(&self) {
        self.heal();
        self.inner().calm = true;
    }

    /// Whether `node` is still in its life `life`.
    pub(crate) fn is_alive(&self, node: u64, life: u64) -> bool {
        self.inner()
            .endpoints
            .get(&node)
            .is_some_and(|found| found.life == life)
    }

    /// Carries one message; `None` if it is lost, after the time that its sender waits for it.
    async fn carry(&self, from: u64, to: u64, what: impl Display, patience: Duration) -> Option<Endpoint> {
        self.note(format_args!("{from}>{to} {what}"));
        let (delay, lost) = {
            let mut inner = self.inner();
            let delay = Duration::from_micros(inner.random.gen_range(100..20_000));
            (delay, inner.random.gen_bool(0.01) || inner.cut.contains(&(from, to)))
        };
        if lost {
            tokio::time::sleep(patience).await;
            return None;
        }
        tokio::time::sleep(delay).await;
        self.inner().endpoints.get(&to).cloned()
    }
}

/// Makes the connections of one node.
pub(crate) struct Factory {
    pub(crate) node: u64,
    pub(crate) life: u64,
    pub(crate) network: Network,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Link;

    async fn new_client(&mut self, to: u64, _: &Member) -> Link {
        Link {
            from: self.node,
            life: self.life,
            to,
            network: self.network.clone(),
        }
    }
}

/// One node's connection to another.
pub(crate) struct Link {
    from: u64,
    /// Nothing is sent once it is over, whatever still runs of it.
    life: u64,
    to: u64,
    network: Network,
}

fn lost() -> NetworkError<Types> {
    NetworkError::new(&io::Error::other("lost"))
}

impl Link {
    /// Sends a request and brings its answer; both may be lost, and either node may die meanwhile.
    async fn call<T, E, F, Answer>(&self, what: String, option: &RPCOption, ask: F) -> Result<T, Failed>
    where
        F: FnOnce(Endpoint) -> Answer,
        Answer: Future<Output = Result<T, E>>,
        E: std::error::Error + 'static,
    {
        let patience = option.hard_ttl();
        if !self.network.is_alive(self.from, self.life) {
            tokio::time::sleep(patience).await;
            return Err(Failed::Lost);
        }
        let target = self.network.carry(self.from, self.to, what, patience).await;
        let target = target.ok_or(Failed::Lost)?;
        let life = target.life;
        let answer = ask(target).await;
        if !self.network.is_alive(self.to, life) {
            return Err(Failed::Lost);
        }
        let back = self.network.carry(self.to, self.from, answer.is_ok(), patience).await;
        back.ok_or(Failed::Lost)?;
        answer.map_err(|error| Failed::Refused(Unreachable::new(&error)))
    }
}

enum Failed {
    Lost,
    Refused(Unreachable<Types>),
}

impl From<Failed> for RPCError<Types> {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Lost => lost().into(),
            Failed::Refused(refused) => refused.into(),
        }
    }
}

impl From<Failed> for StreamingError<Types> {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Lost => lost().into(),
            Failed::Refused(refused) => refused.into(),
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotView;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let what = request.to_string();
        let ask = |target: Endpoint| async move { target.core.append_entries(request).await };
        Ok(self.call(what, &option, ask).await?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let what = request.to_string();
        let ask = |target: Endpoint| async move { target.core.vote(request).await };
        Ok(self.call(what, &option, ask).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let what = format!("pre-vote {request}");
        let ask = |target: Endpoint| async move { target.core.pre_vote(request).await };
        Ok(self.call(what, &option, ask).await?)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let what = request.to_string();
        let ask = |target: Endpoint| async move { target.core.handle_transfer_leader(request).await };
        Ok(self.call(what, &option, ask).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let what = format!("snapshot {}", snapshot.meta);
        let (network, from, life) = (self.network.clone(), self.from, self.life);
        let sender = network.inner().endpoints.get(&from).cloned();
        let ask = |target: Endpoint| async move {
            // The view reads the sender's disk: it is gone with the sender.
            if sender.is_none_or(|sender| sender.disks.state.is_off()) || !network.is_alive(from, life) {
                return std::future::pending().await;
            }
            {
                let mut inner = network.inner();
                inner.snapshots += 1;
                if !inner.calm && inner.random.gen_bool(0.3) {
                    target.disks.light(60, &mut inner.random);
                }
            }
            // Its bytes have arrived: from here on they do not need the sender.
            let snapshot = Snapshot {
                meta: snapshot.meta,
                snapshot: received(&snapshot.snapshot),
            };
            target.core.install_full_snapshot(vote, snapshot).await
        };
        match tokio::time::timeout(option.hard_ttl(), self.call(what, &option, ask)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(lost().into()),
        }
    }
}
