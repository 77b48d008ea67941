//! Several nodes that form a mesh: real processes, each with its own certificate, whose messages to each other pass
//! proxies that a test can cut.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::node::Node;
use super::process::{eventually, free_port};
use super::proxy::{Direction, Proxy};
use super::tls::Authority;

/// The nodes of a mesh, and what they share.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
    pub(crate) folder: Arc<TempDir>,
    pub(crate) authority: Authority,
    /// What each node sends to each other one passes a proxy of its own, if the test asked for that.
    links: BTreeMap<(usize, usize), Proxy>,
}

/// The names of the nodes.
pub(crate) const NAMES: [&str; 7] = ["n1", "n2", "n3", "n4", "n5", "n6", "n7"];

/// The text of a cluster.toml whose nodes have these public ports and reach each other at `peers`.
fn configuration(authority: &Path, publics: &[u16], peers: &[SocketAddr], timing: &str, more: &str) -> String {
    let mut text = format!(
        "[cluster]\nname = \"test\"\ntiming = \"{timing}\"\noperators = [\"operator.jwt\"]\n\n[peer]\ntls = {{ ca = {authority:?}, cert = \"{{node}}.pem\", \
         key = \"{{node}}.key\" }}\n"
    );
    for ((name, public), peer) in NAMES.iter().zip(publics).zip(peers) {
        write!(
            text,
            "\n[[node]]\nname = \"{name}\"\ndata = \"{{node}}\"\npublic = \"127.0.0.1:{public}\"\npeer = \"{peer}\"\n"
        )
        .expect("text grows");
    }
    text + more
}

impl Nodes {
    /// Starts `count` nodes that trust `operator_token`, and does not form a mesh of them.
    pub(crate) fn unformed(count: usize, operator_token: &str) -> Self {
        Self::begin(count, operator_token, "lan", "", None)
    }

    /// The same with more in cluster.toml.
    pub(crate) fn unformed_with(count: usize, operator_token: &str, more: &str) -> Self {
        Self::begin(count, operator_token, "lan", more, None)
    }

    /// Starts nodes whose messages pass proxies, if `one_way` is given, and take that long.
    fn begin(count: usize, operator_token: &str, timing: &str, more: &str, one_way: Option<Duration>) -> Self {
        let folder = tempfile::Builder::new().prefix("jwtmesh-").tempdir();
        let folder = Arc::new(folder.expect("a temporary folder"));
        let authority = Authority::new(folder.path(), "mesh");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("the test's own folder is writable");
        };
        write("operator.jwt", operator_token);
        let publics: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let peers: Vec<SocketAddr> = (0..count)
            .map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())))
            .collect();
        NAMES[..count]
            .iter()
            .for_each(|name| drop(authority.issue_for_node(name)));
        write(
            "cluster.toml",
            &configuration(&authority.cert(), &publics, &peers, timing, more),
        );
        let mut links = BTreeMap::new();
        let mut nodes = Vec::new();
        for (from, (name, public)) in NAMES.iter().zip(&publics).enumerate() {
            let mut config = "cluster.toml".to_owned();
            if let Some(one_way) = one_way {
                let mut seen = peers.clone();
                for to in (0..count).filter(|to| *to != from) {
                    let link = Proxy::to(peers[to]);
                    for direction in Direction::BOTH {
                        link.delay(direction, one_way);
                    }
                    seen[to] = link.address();
                    links.insert((from, to), link);
                }
                config = format!("{name}.toml");
                write(
                    &config,
                    &configuration(&authority.cert(), &publics, &seen, timing, more),
                );
            }
            nodes.push(Node::member(folder.clone(), &config, name, *public));
        }
        nodes.iter_mut().for_each(Node::wait_until_ready);
        Self {
            nodes,
            folder,
            authority,
            links,
        }
    }

    /// Starts `count` nodes, forms their mesh, and waits until each takes uploads.
    #[track_caller]
    pub(crate) fn formed(count: usize, operator_token: &str) -> Self {
        Self::unformed(count, operator_token).form()
    }

    /// The same with links that can be cut.
    #[track_caller]
    pub(crate) fn linked(count: usize, operator_token: &str) -> Self {
        Self::begin(count, operator_token, "lan", "", Some(Duration::ZERO)).form()
    }

    /// Nodes that are not formed, with this time for a message between any two of them.
    #[track_caller]
    pub(crate) fn apart(count: usize, operator_token: &str, timing: &str, one_way: Duration) -> Self {
        Self::begin(count, operator_token, timing, "", Some(one_way))
    }

    /// From now on every link loses this many of a thousand chunks.
    pub(crate) fn lose(&self, permille: u32) {
        self.links.values().for_each(|link| link.loss(permille));
    }

    /// Forms the mesh, and waits until each node takes uploads.
    #[track_caller]
    pub(crate) fn form(self) -> Self {
        let formed = self.nodes[0].cli_json(&["member", "bootstrap"]);
        assert_eq!(formed["outcome"], "formed", "{formed}");
        self.wait_until_writable();
        self
    }

    /// From now on nothing arrives that `from` sends to `to`, neither requests nor answers.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.links[&(from, to)].cut(Direction::ToTarget);
        self.links[&(to, from)].cut(Direction::FromTarget);
    }

    /// From now on `node` and the others are apart.
    pub(crate) fn isolate(&self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Everything arrives again.
    pub(crate) fn heal(&self) {
        self.links.values().for_each(Proxy::heal);
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
        self.leader_of(&(0..self.nodes.len()).collect::<Vec<_>>())
    }

    /// The same as these nodes say.
    #[track_caller]
    pub(crate) fn leader_of(&self, nodes: &[usize]) -> usize {
        eventually("the nodes agree on a leader", || {
            let mut said = nodes
                .iter()
                .filter_map(|node| status(&self.nodes[*node]))
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
