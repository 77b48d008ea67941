//! Several nodes that form a mesh: real processes with one cluster.toml, each with its own certificate.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::node::Node;
use super::process::{eventually, free_port};
use super::tls::Authority;

/// The nodes of a mesh, and what they share.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
    pub(crate) folder: Arc<TempDir>,
    pub(crate) authority: Authority,
}

/// The names of the nodes.
pub(crate) const NAMES: [&str; 7] = ["n1", "n2", "n3", "n4", "n5", "n6", "n7"];

impl Nodes {
    /// Starts `count` nodes that trust `operator_token`, and does not form a mesh of them.
    pub(crate) fn unformed(count: usize, operator_token: &str) -> Self {
        Self::unformed_with(count, operator_token, "")
    }

    /// The same with more in cluster.toml.
    pub(crate) fn unformed_with(count: usize, operator_token: &str, more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("jwtmesh-").tempdir();
        let folder = Arc::new(folder.expect("a temporary folder"));
        let authority = Authority::new(folder.path(), "mesh");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("the test's own folder is writable");
        };
        write("operator.jwt", operator_token);
        let mut text = format!(
            "[cluster]\nname = \"test\"\noperators = [\"operator.jwt\"]\n\n[peer]\ntls = {{ ca = {:?}, cert = \"{{node}}.pem\", \
             key = \"{{node}}.key\" }}\n",
            authority.cert()
        );
        let mut ports = Vec::new();
        for name in &NAMES[..count] {
            let (public, peer) = (free_port(), free_port());
            authority.issue_for_node(name);
            write!(
                text,
                "\n[[node]]\nname = \"{name}\"\ndata = \"{{node}}\"\npublic = \"127.0.0.1:{public}\"\npeer = \"127.0.0.1:{peer}\"\n"
            )
            .expect("text grows");
            ports.push(public);
        }
        text.push_str(more);
        write("cluster.toml", &text);
        let started = NAMES.iter().zip(ports);
        let mut nodes: Vec<Node> = started
            .map(|(name, port)| Node::member(folder.clone(), name, port))
            .collect();
        nodes.iter_mut().for_each(Node::wait_until_ready);
        Self {
            nodes,
            folder,
            authority,
        }
    }

    /// Starts `count` nodes, forms their mesh, and waits until each takes uploads.
    #[track_caller]
    pub(crate) fn formed(count: usize, operator_token: &str) -> Self {
        Self::unformed(count, operator_token).form()
    }

    /// Forms the mesh, and waits until each node takes uploads.
    #[track_caller]
    pub(crate) fn form(self) -> Self {
        let nodes = self;
        let formed = nodes.nodes[0].cli_json(&["member", "bootstrap"]);
        assert_eq!(formed["outcome"], "formed", "{formed}");
        nodes.wait_until_writable();
        nodes
    }

    /// Waits until every node takes uploads.
    #[track_caller]
    pub(crate) fn wait_until_writable(&self) {
        for node in &self.nodes {
            eventually("the node takes uploads", || {
                let status = status(node)?;
                (status["writable"] == true).then_some(())
            });
        }
    }

    /// Waits until a node hears a leader that a quorum follows.
    #[track_caller]
    pub(crate) fn wait_until_heard(&self, node: usize) {
        eventually("the node hears a leader", || {
            let status = status(&self.nodes[node])?;
            (status["leader_age_ms"].as_u64()? < 2_000).then_some(())
        });
    }

    /// The index of the node that leads, as the others and itself say.
    #[track_caller]
    pub(crate) fn leader(&self) -> usize {
        eventually("the nodes agree on a leader", || {
            let mut said = self
                .nodes
                .iter()
                .filter_map(status)
                .map(|status| status["leader"].clone());
            let first = said.next()?;
            let agreed = said.all(|leader| leader == first);
            NAMES.iter().position(|name| agreed && first == *name)
        })
    }
}

/// What a node says of itself; `None` if it does not answer.
pub(crate) fn status(node: &Node) -> Option<Value> {
    let done = node.cli(&["status", "--json"]);
    serde_json::from_slice(&done.stdout)
        .ok()
        .filter(|_| done.status.success())
}
