//! The mesh as administrators see it: its members, and how it is formed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::handle::{Resolver, as_ms};
use crate::raft::{Formed, MemberView, Unformed};

/// How long the first trust of a mesh may take that was formed just now.
const FIRST_TRUST: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Resolver {
    /// Every member of the mesh; each is asked whether it answers.
    pub async fn members(&self) -> Vec<MemberView> {
        self.0.raft.members().await
    }

    /// The mesh, 32 hexadecimal digits; `None` while this node is not a member of one.
    pub fn mesh(&self) -> Option<String> {
        self.0.raft.mesh()
    }

    /// Whether there is a state that lookups can be answered from.
    pub fn has_state(&self) -> bool {
        self.0.raft.is_usable()
    }

    /// Why this node has no state that could be read, one sentence; `None` if it has.
    pub fn why_no_state(&self) -> Option<String> {
        self.0.raft.why_no_state()
    }

    /// What is not as it should be with the members, one sentence each. `seen` is what [`Self::members`] gave just now.
    pub fn member_troubles(&self, seen: &[MemberView]) -> Vec<String> {
        self.0.raft.member_troubles(seen)
    }

    /// The name of the member that leads, as far as this node knows.
    pub fn leader(&self) -> Option<String> {
        self.0.raft.leader()
    }

    /// Milliseconds since a quorum last acknowledged the leader that this node hears; `None` if it never heard one.
    pub fn leader_age_ms(&self) -> Option<u64> {
        self.0.raft.leader_age().map(as_ms)
    }

    /// Forms the mesh of all nodes in this node's configuration, unless `wanted` has other ones.
    pub async fn bootstrap(&self, wanted: Option<&BTreeMap<String, String>>) -> Result<Formed, Unformed> {
        let formed = self.0.raft.bootstrap(wanted).await?;
        // Before there is a trust no upload is taken. If it takes long, the node is busy, and uploads are answered so.
        let agreed = async {
            while self.trust().epoch == 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        drop(tokio::time::timeout(FIRST_TRUST, agreed).await);
        Ok(formed)
    }
}
