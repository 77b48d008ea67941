//! The peers, whatever carries the messages: what the rest of the room asks of them.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::messages::{Introduction, NotProposed, Proposed};
use super::network::{Lane, Peers, Transport};
use super::refusal::CallError;
use crate::raft::runtime::Member;
use crate::state::Revision;

/// Asks one peer something.
pub(in crate::raft) trait Speak: Send + Sync {
    /// Who it is. It need not be a member.
    fn hello(&self, peer: Member, lane: Lane, patience: Duration) -> BoxFuture<'_, Result<Introduction, CallError>>;

    /// Whether the member `to` answers. The contact is remembered.
    fn greet(&self, to: u64, peer: Member, lane: Lane, patience: Duration) -> BoxFuture<'_, Result<(), CallError>>;

    /// Has it become member `node_id` of this node's mesh.
    fn invite(&self, peer: Member, node_id: u64, patience: Duration) -> BoxFuture<'_, Result<(), CallError>>;

    /// Has the leader `to` propose `command`.
    fn propose(
        &self,
        to: u64,
        peer: Member,
        command: Bytes,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Result<Proposed, NotProposed>, CallError>>;

    /// The revision that can be read at `to`, once it is `wanted` or some time has passed there.
    fn applied(
        &self,
        to: u64,
        peer: Member,
        wanted: Revision,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Revision, CallError>>;

    /// The revision that has everything that was acknowledged before, as the leader `to` says.
    fn newest(&self, to: u64, peer: Member, patience: Duration) -> BoxFuture<'_, Result<Revision, CallError>>;

    /// Tells `to` that an account is to be sent again to the NATS clusters that it publishes to.
    fn resend(&self, to: u64, peer: Member, account: [u8; 32]) -> BoxFuture<'static, Result<(), CallError>>;

    /// Asks the publishers of `to` something; `None` if it does not publish.
    fn question(
        &self,
        to: u64,
        peer: Member,
        question: Bytes,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Option<Bytes>, CallError>>;
}

impl<T: Transport> Speak for Peers<T> {
    fn hello(&self, peer: Member, lane: Lane, patience: Duration) -> BoxFuture<'_, Result<Introduction, CallError>> {
        Box::pin(async move { self.say_hello(&peer, lane, patience).await })
    }

    fn greet(&self, to: u64, peer: Member, lane: Lane, patience: Duration) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move { self.greet_member(to, &peer, lane, patience).await })
    }

    fn invite(&self, peer: Member, node_id: u64, patience: Duration) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move { self.join(&peer, node_id, patience).await })
    }

    fn propose(
        &self,
        to: u64,
        peer: Member,
        command: Bytes,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Result<Proposed, NotProposed>, CallError>> {
        Box::pin(async move { self.forward(to, &peer, command, patience).await })
    }

    fn applied(
        &self,
        to: u64,
        peer: Member,
        wanted: Revision,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Revision, CallError>> {
        let peers = self.clone();
        Box::pin(async move { peers.wait_applied(to, &peer, wanted, patience).await })
    }

    fn newest(&self, to: u64, peer: Member, patience: Duration) -> BoxFuture<'_, Result<Revision, CallError>> {
        Box::pin(async move { self.ask_newest(to, &peer, patience).await })
    }

    fn resend(&self, to: u64, peer: Member, account: [u8; 32]) -> BoxFuture<'static, Result<(), CallError>> {
        let peers = self.clone();
        Box::pin(async move { peers.tell_resend(to, &peer, account).await })
    }

    fn question(
        &self,
        to: u64,
        peer: Member,
        question: Bytes,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Option<Bytes>, CallError>> {
        Box::pin(async move { self.question(to, &peer, question, patience).await })
    }
}
