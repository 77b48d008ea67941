//! The members of the mesh, as this node knows them.

use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;

use super::Raft;
use super::peer::hex;
use super::runtime::Member;

/// How long another member may take to answer before it is called unreachable.
const PATIENCE: Duration = Duration::from_millis(800);

/// A member, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its name in `cluster.toml`.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// Whether it votes.
    pub role: Role,
    /// Where other nodes reach it.
    pub peer: String,
    /// Its store.
    pub store: String,
    /// Whether it leads, as far as this node knows.
    pub leader: bool,
    /// Whether it answers this node now.
    pub reachable: bool,
    /// The newest revision that can be read there; 0 if it does not answer and never did.
    pub applied: u64,
    /// When it last answered this node; `None` if never. Of this node, zero.
    pub last_contact: Option<Duration>,
    /// The version of its program; empty if it does not answer.
    pub version: String,
}

/// What a member has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It votes.
    Voter,
    /// It only follows.
    Learner,
}

impl Raft {
    /// The mesh, 32 hexadecimal digits; `None` while this node is not a member of one.
    pub fn mesh(&self) -> Option<String> {
        self.0.handler.inner().member.get().map(|member| hex(&member.mesh))
    }

    /// The name of the member that leads, as far as this node knows.
    pub fn leader(&self) -> Option<String> {
        let member = self.0.handler.inner().member.get()?;
        let metrics = member.core.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let members = metrics.membership_config.membership();
        members.get_node(&leader).map(|node| node.name.clone())
    }

    /// Every member; each is asked whether it answers.
    pub async fn members(&self) -> Vec<MemberView> {
        let Some(own) = self.0.handler.inner().member.get() else {
            return Vec::new();
        };
        let (members, leader) = {
            let metrics = own.core.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.membership_config.clone(), metrics.current_leader)
        };
        let members = members.membership();
        let voters: Vec<u64> = members.voter_ids().collect();
        let nodes = members.nodes().map(|(id, node)| (*id, node.clone()));
        let seen = nodes.map(|(id, node)| {
            let role = if voters.contains(&id) {
                Role::Voter
            } else {
                Role::Learner
            };
            self.seen(own.node_id, id, node, role, leader == Some(id))
        });
        join_all(seen).await
    }

    /// Where this node reaches `node`: its own configuration counts, since addresses move.
    fn address(&self, node: &Member) -> String {
        let nodes = &self.0.handler.inner().own.nodes;
        nodes.get(&node.name).unwrap_or(&node.peer).clone()
    }

    async fn seen(&self, own: u64, id: u64, node: Member, role: Role, leader: bool) -> MemberView {
        let mut view = MemberView {
            name: node.name.clone(),
            id,
            role,
            peer: self.address(&node),
            store: node.store.clone(),
            leader,
            reachable: true,
            applied: *self.0.revision.borrow(),
            last_contact: Some(Duration::ZERO),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if id == own {
            return view;
        }
        let said = self.0.peers.hello(node, PATIENCE).await.ok();
        let known = self.0.handler.inner().contacts.of(id);
        view.reachable = said.as_ref().is_some_and(|said| hex(&said.store) == view.store);
        view.applied = said.as_ref().map_or(known.applied, |said| said.applied);
        view.last_contact = if view.reachable {
            Some(Duration::ZERO)
        } else {
            known.answered.map(|at| at.elapsed())
        };
        view.version = said.map(|said| said.version).unwrap_or_default();
        view
    }
}
