//! The mesh as administrators see it: its members, and how it is formed.

use super::handle::Resolver;
use crate::raft::{Formed, MemberView, Unformed};

impl Resolver {
    /// Every member of the mesh; each is asked whether it answers.
    pub async fn members(&self) -> Vec<MemberView> {
        self.0.raft.members().await
    }

    /// The mesh, 32 hexadecimal digits; `None` while this node is not a member of one.
    pub fn mesh(&self) -> Option<String> {
        self.0.raft.mesh()
    }

    /// What is not as it should be with the members, one sentence each.
    pub fn member_troubles(&self) -> Vec<String> {
        self.0.raft.member_troubles()
    }

    /// The name of the member that leads, as far as this node knows.
    pub fn leader(&self) -> Option<String> {
        self.0.raft.leader()
    }

    /// Forms the mesh of all nodes in this node's configuration.
    pub async fn bootstrap(&self) -> Result<Formed, Unformed> {
        self.0.raft.bootstrap().await
    }
}
