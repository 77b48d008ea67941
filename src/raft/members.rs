//! The members of the mesh, as this node knows them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;

use super::Raft;
use super::attend::NO_LEADER_AFTER;
use super::machine::members;
use super::peer::{FOREIGN, LOST, Lane, hex};
use super::runtime::Member;

/// How long another member may take to answer before it is called unreachable.
const PATIENCE: Duration = Duration::from_millis(800);

/// A node that has applied nothing for so long, although there was something, is behind.
const BEHIND_AFTER: Duration = Duration::from_secs(3);

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
    /// Whether a node of this name answers, with another store than the member's.
    pub has_lost_store: bool,
    /// Whether that is the store of another mesh.
    pub is_foreign: bool,
    /// Why it is not reachable, or what its `cluster.toml` says otherwise.
    pub trouble: Option<String>,
    /// The newest revision that can be read there; `None` if it does not answer.
    pub applied: Option<u64>,
    /// How long ago this node last heard from it; `None` if never. Of this node, zero.
    pub last_contact: Option<Duration>,
    /// The version of its program; empty if it does not answer.
    pub version: String,
}

impl MemberView {
    /// What is not as it should be with it, in a sentence.
    fn trouble(&self) -> Option<String> {
        let Self { name, peer, .. } = self;
        Some(match &self.trouble {
            _ if self.has_lost_store && self.is_foreign => format!("member {name:?} at {peer} {FOREIGN}"),
            _ if self.has_lost_store => format!("member {name:?} at {peer} {LOST}"),
            Some(reason) if !self.reachable => format!("member {name:?} at {peer} does not answer: {reason}"),
            Some(difference) => {
                format!(
                    "member {name:?} runs with another cluster.toml: {difference}. Give all nodes the same file, and restart them"
                )
            }
            None => return None,
        })
    }
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

    /// Why lookups cannot be answered here, one sentence; `None` if they can.
    pub fn why_no_state(&self) -> Option<String> {
        let own = self.0.handler.inner();
        if own.member.get().is_none() {
            return Some(own.contacts.no_member());
        }
        (!self.is_usable()).then(|| "this node has not caught up with the mesh yet".to_owned())
    }

    /// The name of the member that leads, as far as this node knows.
    pub fn leader(&self) -> Option<String> {
        let leader = self.known_leader()?;
        let member = self.0.handler.inner().member.get()?;
        let members = members(&member.core);
        members.membership().get_node(&leader).map(|node| node.name.clone())
    }

    /// The name of the member with this id.
    pub fn member_name(&self, id: u64) -> Option<String> {
        let member = self.0.handler.inner().member.get()?;
        members(&member.core)
            .membership()
            .get_node(&id)
            .map(|node| node.name.clone())
    }

    /// The id of the member that leads. Not one that no quorum has acknowledged for a while, and not the one that
    /// the disk names after a start.
    fn known_leader(&self) -> Option<u64> {
        let member = self.0.handler.inner().member.get()?;
        let leader = member.core.metrics().borrow_watched().current_leader?;
        let is_acknowledged = self.leader_age().is_some_and(|age| age < NO_LEADER_AFTER);
        is_acknowledged.then_some(leader)
    }

    /// What `cluster.toml` and the members that were agreed on say differently, and what is half done, one sentence each.
    /// `seen` is what [`Self::members`] gave just now.
    pub fn member_troubles(&self, seen: &[MemberView]) -> Vec<String> {
        let own = self.0.handler.inner();
        let Some(member) = own.member.get() else {
            return vec![own.contacts.no_member()];
        };
        let agreed = members(&member.core);
        let membership = agreed.membership();
        let mut said: Vec<String> = own.contacts.contradiction().into_iter().collect();
        if member.core.server_metrics().borrow_watched().state.is_leader() {
            // Of one that has lost its data it goes without saying.
            let others = seen.iter().filter(|member| !member.has_lost_store);
            said.extend(others.filter_map(|member| {
                let known = own.contacts.of(member.id);
                let reason = known.refusal()?;
                Some(format!(
                    "member {:?} takes no entries from this node, which leads: {reason}",
                    member.name
                ))
            }));
        }
        let lag = own.contacts.applied_age().zip(own.contacts.age());
        if let Some(lag) = lag
            .map(|(applied, heard)| applied.saturating_sub(heard))
            .filter(|lag| *lag > BEHIND_AFTER)
        {
            said.push(format!(
                "this node has not applied what was agreed on since {} s: lookups here are as old",
                lag.as_secs()
            ));
        }
        let is_disk_bad = |id: &u64| {
            let peer = own.contacts.of(*id);
            peer.is_disk_bad && peer.is_reachable()
        };
        said.extend(membership.nodes().filter(|(id, _)| is_disk_bad(id)).map(|(_, node)| {
            format!(
                "the disk of member {:?} is nearly full or hangs: it takes no uploads, and lookups there may be old",
                node.name
            )
        }));
        if membership.get_joint_config().len() > 1 {
            said.push(
                "a change of the members is half done: run `jwtmesh member bootstrap` again, on the node that leads"
                    .to_owned(),
            );
        }
        let names: BTreeSet<&String> = membership.nodes().map(|(_, node)| &node.name).collect();
        let configured: BTreeSet<&String> = own.own.nodes.keys().collect();
        let no_member = configured.difference(&names).map(|name| {
            format!("node {name:?} of cluster.toml is no member: run `jwtmesh member bootstrap` on the node that leads")
        });
        let unknown = names.difference(&configured).filter(|name| **name != &own.own.name);
        let unknown = unknown.map(|name| {
            format!("member {name:?} is not in this node's cluster.toml: put its [[node]] there, with its peer address, and restart")
        });
        said.extend(no_member);
        said.extend(unknown);
        said.extend(seen.iter().filter_map(MemberView::trouble));
        said
    }

    /// Every member; each is asked whether it answers.
    pub async fn members(&self) -> Vec<MemberView> {
        let Some(own) = self.0.handler.inner().member.get() else {
            return Vec::new();
        };
        let (members, leader) = (members(&own.core), self.known_leader());
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
            has_lost_store: false,
            is_foreign: false,
            trouble: None,
            applied: Some(*self.0.revision.borrow()),
            last_contact: Some(Duration::ZERO),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if id == own {
            return view;
        }
        let said = self.0.peers.hello(node, Lane::Bulk, PATIENCE).await;
        view.trouble = match &said {
            Ok(said) => said.difference(&self.0.handler.inner().own),
            Err(error) => Some(error.to_string()),
        };
        let said = said.ok();
        let mesh = self.0.handler.inner().member.get().map(|member| member.mesh);
        let other_mesh = said.as_ref().and_then(|said| said.member_of).map(|(mesh, _)| mesh);
        view.is_foreign = other_mesh.is_some() && other_mesh != mesh;
        let known = self.0.handler.inner().contacts.of(id);
        view.has_lost_store = said.as_ref().is_some_and(|said| hex(&said.store) != view.store);
        view.reachable = said.is_some() && !view.has_lost_store;
        view.applied = said.as_ref().filter(|_| view.reachable).map(|said| said.applied);
        view.last_contact = if view.reachable {
            Some(Duration::ZERO)
        } else {
            known.answered.max(known.heard).map(|at| at.elapsed())
        };
        view.version = said.map(|said| said.version).unwrap_or_default();
        view
    }
}
