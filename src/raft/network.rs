//! The network to the peers. A mesh of one node has no peers, so every message is refused as unreachable.
//!
//! [`super::Raft::start`] takes its network as an argument, so that the same room runs over real connections and
//! over simulated ones.

use std::future::Future;

use openraft::RaftNetworkFactory;
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;

use super::runtime::{Member, Types, Vote};

/// The network of a mesh with one node: every peer is unreachable.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

#[derive(Debug, thiserror::Error)]
#[error("this mesh has one node: there is no peer to send to")]
struct Alone;

fn alone() -> Unreachable {
    Unreachable::new(&Alone)
}

impl RaftNetworkFactory<Types> for NoPeers {
    type Network = NoPeers;

    async fn new_client(&mut self, _target: u64, _node: &Member) -> NoPeers {
        NoPeers
    }
}

impl RaftNetwork<Types> for NoPeers {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        Err(alone().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        Err(alone().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot<Types>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        Err(alone().into())
    }
}
