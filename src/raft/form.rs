//! How a mesh is formed: one node asks every other who it is, becomes the first member, and invites the others.
//!
//! A node becomes a member once, and its identity on disk says so before it answers any message of the mesh: so a node
//! that voted and crashed does not forget it. Whatever interrupts this, it can be repeated, on the same node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use super::Raft;
use super::machine::{Core, members};
use super::peer::{CallError, FOREIGN, Introduction, LOST, Lane, Membered, Own, Uuid, hex};
use super::runtime::Member;
use crate::config::Timing;

/// How long another node may take to say who it is, or to become a member.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a new member may take to have the whole state.
const CATCHING_UP: Duration = Duration::from_secs(600);

/// The pause before a new member that has not caught up is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long the members may take to agree that there are more of them.
const AGREEING: Duration = Duration::from_secs(30);

/// The id of the node that forms a mesh.
const FIRST: u64 = 1;

/// What forming a mesh came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formed {
    /// It is formed now.
    Now,
    /// Every node of the configuration was a voter already.
    Already,
}

/// Why a mesh cannot be formed. Nothing has to be undone: it can be tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unformed {
    /// A node does not answer.
    #[error("{0}")]
    Silent(String),
    /// Something has to be changed before, or went wrong.
    #[error("{0}")]
    Unfit(String),
}

impl Raft {
    /// Forms the mesh of all nodes in this node's configuration, or admits those that are missing. Refused where `wanted`,
    /// the peer address of each node by its name, says something else: then this node has not read what its caller has.
    pub async fn bootstrap(&self, wanted: Option<&BTreeMap<String, String>>) -> Result<Formed, Unformed> {
        let Ok(_forming) = self.0.forming.try_lock() else {
            return Err(Unformed::Unfit(
                "the mesh is being formed already: ask `jwtmesh member list`".to_owned(),
            ));
        };
        let own = &self.0.handler.inner().own;
        if let Some(difference) = wanted.and_then(|wanted| difference(&own.nodes, wanted)) {
            return Err(Unformed::Unfit(format!(
                "this node runs with another cluster.toml than yours: {difference}. Restart it, and every other node that has not read yours, \
                 one after the other, and repeat this (nothing was changed)"
            )));
        }
        let inner = self.0.handler.inner();
        if inner.member.get().is_none() && inner.contacts.is_missed() {
            return Err(lost(&own.name));
        }
        // Of two nodes that begin at once, one at least sees the other.
        let _says = self.0.handler.say_forming();
        if let Some(member) = self.0.handler.inner().member.get()
            && is_settled(&member.core)
            && own.nodes.keys().all(|name| voter(&member.core, name).is_some())
        {
            self.check_stores(&member.core).await?;
            return Ok(Formed::Already);
        }
        let others = self.introductions(own).await?;
        let member = match self.0.handler.inner().member.get() {
            // Interrupted after its identity was written and before there was a mesh.
            Some(member) if (member.mesh, member.node_id) == (own.store, FIRST) && !is_begun(&member.core).await? => {
                self.become_first(own).await?
            }
            Some(member) => member,
            None => self.become_first(own).await?,
        };
        // Alone it leads, although openraft may take a moment to say so.
        let is_alone = member.core.voter_ids().eq([member.node_id]);
        if !is_alone && member.core.metrics().borrow_watched().current_leader != Some(member.node_id) {
            return Err(Unformed::Unfit(
                "this node is a member and does not lead: repeat this on the node that does (`jwtmesh status`)"
                    .to_owned(),
            ));
        }
        for (node, introduction) in others {
            self.admit(member, node, &introduction).await?;
        }
        let all: Vec<u64> = members(&member.core).membership().nodes().map(|(id, _)| *id).collect();
        let changed = tokio::time::timeout(AGREEING, member.core.change_membership(all, false)).await;
        match changed {
            Ok(Ok(_)) => Ok(Formed::Now),
            Ok(Err(error)) => Err(Unformed::Unfit(format!(
                "the members do not agree that all of them vote: {error}"
            ))),
            Err(_) => Err(Unformed::Unfit(
                "the members do not agree in time that all of them vote".to_owned(),
            )),
        }
    }

    /// Says which member answers with another store than the one it became a member with.
    async fn check_stores(&self, core: &Core) -> Result<(), Unformed> {
        let agreed = members(core);
        let own = &self.0.handler.inner().own.name;
        let others = agreed
            .membership()
            .nodes()
            .map(|(_, node)| node)
            .filter(|node| node.name != *own);
        let asked = others.map(|node| async move {
            let said = self.0.peers.hello(node.clone(), Lane::Bulk, PATIENCE).await.ok()?;
            (hex(&said.store) != node.store).then(|| self.other(&node.name, &said))
        });
        match join_all(asked).await.into_iter().flatten().next() {
            Some(other) => Err(other),
            None => Ok(()),
        }
    }

    /// Every other node of the configuration with what it says of itself, if each can become a member of this mesh.
    async fn introductions(&self, own: &Own) -> Result<Vec<(Member, Introduction)>, Unformed> {
        let others = own.nodes.iter().filter(|(name, _)| **name != own.name);
        let asked = others.map(|(name, peer)| async move {
            let mut node = Member {
                name: name.clone(),
                peer: peer.clone(),
                store: String::new(),
            };
            let said = self.0.peers.hello(node.clone(), Lane::Bulk, PATIENCE).await;
            let said = said.map_err(|error| match error {
                CallError::Refused(reason) => {
                    Unformed::Unfit(format!("node {name:?} at {peer} refuses this one: {reason} (nothing was changed)"))
                }
                error => Unformed::Silent(format!(
                    "node {name:?} at {peer} does not answer: {error} (nothing was changed)"
                )),
            })?;
            if said.name != *name || said.cluster != own.cluster {
                return Err(Unformed::Unfit(format!(
                    "at {peer}, where node {name:?} should be, is node {:?} of mesh {:?}",
                    said.name, said.cluster
                )));
            }
            if said.is_forming {
                return Err(Unformed::Unfit(format!(
                    "node {name:?} forms the mesh at this moment: nothing was changed here. Form it from one node, and look at what \
                     came of it with `jwtmesh status`"
                )));
            }
            if let Some(difference) = said.difference(own) {
                return Err(Unformed::Unfit(format!(
                    "node {name:?} runs with another cluster.toml: {difference}. Give all nodes the same file, restart them, and repeat \
                     this (nothing was changed)"
                )));
            }
            self.check_distance(&node).await?;
            node.store = hex(&said.store);
            Ok((node, said))
        });
        let (mut others, mut unfit, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for asked in join_all(asked).await {
            match asked {
                Ok(fit) => others.push(fit),
                Err(Unformed::Unfit(reason)) => unfit.push(reason),
                Err(Unformed::Silent(reason)) => silent.push(reason),
            }
        }
        if !unfit.is_empty() {
            unfit.extend(silent);
            return Err(Unformed::Unfit(unfit.join("; ")));
        }
        if !silent.is_empty() {
            return Err(Unformed::Silent(silent.join("; ")));
        }
        let own_mesh = self.0.handler.inner().member.get().map(|member| member.mesh);
        for (node, said) in &others {
            let Some((mesh, _)) = said.member_of else { continue };
            if own_mesh == Some(mesh) {
                continue;
            }
            return Err(Unformed::Unfit(match own_mesh {
                None => format!(
                    "node {:?} is a member of a mesh already: repeat this there, and this node is admitted",
                    node.name
                ),
                Some(_) => format!("node {:?} {FOREIGN} (nothing was changed)", node.name),
            }));
        }
        Ok(others)
    }

    /// Refuses timers that cannot work: the nodes would elect leaders without end, or never.
    async fn check_distance(&self, node: &Member) -> Result<(), Unformed> {
        let mut shortest = None;
        // The first time they connected, and any one message may have been held up.
        for _ in 0..3 {
            let begun = Instant::now();
            if self.0.peers.hello(node.clone(), Lane::Bulk, PATIENCE).await.is_ok() {
                let taken = begun.elapsed();
                shortest = Some(shortest.map_or(taken, |shortest: Duration| shortest.min(taken)));
            }
        }
        let shortest = shortest
            .ok_or_else(|| Unformed::Silent(format!("node {:?} no longer answers: nothing was changed", node.name)))?;
        let settings = &self.0.settings;
        let longest = settings.longest_round_trip();
        if shortest <= longest {
            return Ok(());
        }
        let (timing, remedy) = match settings.timing {
            Timing::Lan => (
                "lan",
                "set timing = \"wan\" in the [cluster] of every node and restart them",
            ),
            Timing::Wan => ("wan", "nodes that are farther apart cannot agree in time"),
        };
        Err(Unformed::Unfit(format!(
            "a message to node {:?} and back takes {} ms, and with timing = {timing:?} it may take {} ms: {remedy}",
            node.name,
            shortest.as_millis(),
            longest.as_millis()
        )))
    }

    /// Makes this node the first member of a new mesh, which has the uuid of its store.
    async fn become_first(&self, own: &Own) -> Result<&Membered, Unformed> {
        let mesh: Uuid = own.store;
        self.0.handler.join(mesh, FIRST).await.map_err(Unformed::Unfit)?;
        let failed = |error: super::RaftStartError| Unformed::Unfit(error.to_string());
        self.form().await.map_err(failed)?;
        self.resume().await.map_err(failed)?;
        let member = self.0.handler.inner().member.get();
        member.ok_or_else(|| Unformed::Unfit("this node did not become a member".to_owned()))
    }

    /// What is said of the member `name`, where a node with another store answers.
    fn other(&self, name: &str, said: &Introduction) -> Unformed {
        match said.member_of {
            Some((mesh, _)) if Some(hex(&mesh)) != self.mesh() => Unformed::Unfit(format!("node {name:?} {FOREIGN}")),
            _ => lost(name),
        }
    }

    /// Admits `node` as a learner that has the whole state.
    async fn admit(&self, member: &Membered, node: Member, said: &Introduction) -> Result<(), Unformed> {
        let agreed = members(&member.core);
        let known = agreed.membership().nodes().find(|(_, known)| known.name == node.name);
        let node_id = match (known, said.member_of) {
            (Some((_, known)), _) if known.store != node.store => {
                return Err(self.other(&node.name, said));
            }
            (Some((id, _)), _) => *id,
            // Invited before something interrupted this.
            (None, Some((_, id))) => id,
            // The entry that admits it comes after all that are in the log, so that no id is given twice.
            (None, None) => {
                let last = member.core.metrics().borrow_watched().last_log_index;
                last.ok_or_else(|| Unformed::Unfit("this node has no mesh to admit others to".to_owned()))? + 1
            }
        };
        let name = node.name.clone();
        let invited = self.0.peers.invite(node.clone(), node_id, PATIENCE).await;
        invited.map_err(|error| match error {
            CallError::Refused(reason) => Unformed::Unfit(format!("node {name:?} did not become a member: {reason}")),
            error => Unformed::Silent(format!(
                "whether node {name:?} became a member is unknown: {error}; repeat this"
            )),
        })?;
        let admitted = async {
            let added = member.core.add_learner(node_id, node.clone(), true).await;
            added.map_err(|error| Unformed::Unfit(format!("node {name:?} cannot be admitted: {error}")))?;
            // openraft calls a node caught up that is thousands of entries behind.
            let wanted = *self.0.revision.borrow();
            loop {
                let applied = self.0.peers.applied(node_id, node.clone(), wanted, PATIENCE).await;
                if applied.is_ok_and(|applied| applied >= wanted) {
                    return Ok(());
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        let admitted = tokio::time::timeout(CATCHING_UP, admitted).await;
        admitted.unwrap_or_else(|_| Err(Unformed::Unfit(format!("node {name:?} did not catch up in time"))))
    }
}

/// What is said of a member that answers with another store than its own.
fn lost(name: &str) -> Unformed {
    Unformed::Unfit(format!("node {name:?} was a member and {LOST}"))
}

/// What `wanted` says otherwise than `known`, of the nodes' peer addresses by their names.
fn difference(known: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Option<String> {
    if known.is_empty() && !wanted.is_empty() {
        return Some("its own has no [peer]".to_owned());
    }
    let names: BTreeSet<&String> = known.keys().chain(wanted.keys()).collect();
    let said = names
        .into_iter()
        .filter_map(|name| match (known.get(name), wanted.get(name)) {
            (Some(known), Some(wanted)) if known == wanted => None,
            (Some(known), Some(wanted)) => Some(format!("yours has node {name:?} at {wanted}, its own at {known}")),
            (None, _) => Some(format!("its own has no node {name:?}")),
            (_, None) => Some(format!("yours has no node {name:?}")),
        });
    let said: Vec<String> = said.collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Whether no change of the members is half done: until it is whole, every agreement needs the members of before too.
fn is_settled(core: &Core) -> bool {
    members(core).membership().get_joint_config().len() == 1
}

/// Whether `core` has a mesh.
async fn is_begun(core: &Core) -> Result<bool, Unformed> {
    let begun = core.is_initialized().await;
    begun.map_err(|error| Unformed::Unfit(error.to_string()))
}

/// The id of the voter with this name.
fn voter(core: &Core, name: &str) -> Option<u64> {
    let members = members(core);
    let members = members.membership();
    members
        .voter_ids()
        .find(|id| members.get_node(id).is_some_and(|node| node.name == name))
}
