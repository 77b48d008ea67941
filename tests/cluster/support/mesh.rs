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
use tempfile::{NamedTempFile, TempDir};

use super::disks::SmallDisk;
use super::mint::{Account, Operator, User};
use super::node::{NatsLink, Node, Options};
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
    /// What the first node's data is on, if not what the others' is.
    small_disk: Option<Arc<SmallDisk>>,
}

/// What is special about a mesh.
#[derive(Default)]
struct Special<'s> {
    timing: Option<&'s str>,
    /// More in cluster.toml.
    more: &'s str,
    /// Instead of that for each node, where messages pass proxies.
    each: &'s [String],
    /// Messages pass proxies, and take that long.
    one_way: Option<Duration>,
    /// The first node's data is on a disk of so many MiB.
    first_disk_mib: Option<u32>,
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
        Self::begin(count, operator_token, &Special::default())
    }

    /// The same with more in cluster.toml.
    pub(crate) fn unformed_with(count: usize, operator_token: &str, more: &str) -> Self {
        let special = Special {
            more,
            ..Special::default()
        };
        Self::begin(count, operator_token, &special)
    }

    fn begin(count: usize, operator_token: &str, special: &Special<'_>) -> Self {
        let (timing, more) = (special.timing.unwrap_or("lan"), special.more);
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
        let small_disk = special.first_disk_mib;
        let small_disk = small_disk.map(|mib| Arc::new(SmallDisk::at(&folder.path().join(NAMES[0]), mib)));
        let mut links = BTreeMap::new();
        let mut nodes = Vec::new();
        for (from, (name, public)) in NAMES.iter().zip(&publics).enumerate() {
            let mut config = "cluster.toml".to_owned();
            if let Some(one_way) = special.one_way {
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
                let own = special.each.get(from).map_or(more, String::as_str);
                write(&config, &configuration(&authority.cert(), &publics, &seen, timing, own));
            }
            let disk = small_disk.clone().filter(|_| from == 0);
            nodes.push(Node::member(folder.clone(), &config, name, *public, disk));
        }
        nodes.iter_mut().for_each(Node::wait_until_started);
        Self {
            nodes,
            folder,
            authority,
            links,
            small_disk,
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
        Self::linked_with(count, operator_token, "")
    }

    /// The same with more in cluster.toml.
    #[track_caller]
    pub(crate) fn linked_with(count: usize, operator_token: &str, more: &str) -> Self {
        let special = Special {
            more,
            one_way: Some(Duration::ZERO),
            ..Special::default()
        };
        Self::begin(count, operator_token, &special).form()
    }

    /// The same for as many nodes, with this in the cluster.toml of each.
    #[track_caller]
    pub(crate) fn linked_each(operator_token: &str, each: &[String]) -> Self {
        let special = Special {
            each,
            one_way: Some(Duration::ZERO),
            ..Special::default()
        };
        Self::begin(each.len(), operator_token, &special).form()
    }

    /// A mesh whose first node's data is on a disk of so many MiB.
    #[track_caller]
    pub(crate) fn with_small_disk(count: usize, operator_token: &str, mib: u32) -> Self {
        let special = Special {
            first_disk_mib: Some(mib),
            ..Special::default()
        };
        Self::begin(count, operator_token, &special).form()
    }

    /// That disk.
    pub(crate) fn small_disk(&self) -> Arc<SmallDisk> {
        self.small_disk.clone().expect("a mesh with a small disk")
    }

    /// Nodes that are not formed, with this time for a message between any two of them.
    #[track_caller]
    pub(crate) fn apart(count: usize, operator_token: &str, timing: &str, one_way: Duration) -> Self {
        let special = Special {
            timing: Some(timing),
            one_way: Some(one_way),
            ..Special::default()
        };
        Self::begin(count, operator_token, &special)
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

    /// From now on no request of `from` arrives at `to`, whose own requests are answered.
    pub(crate) fn cut_requests(&self, from: usize, to: usize) {
        self.links[&(from, to)].cut(Direction::ToTarget);
    }

    /// How many connections `from` has to `to`.
    pub(crate) fn connections(&self, from: usize, to: usize) -> usize {
        self.links[&(from, to)].open()
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

    /// Waits until every node serves this token of `account`.
    #[track_caller]
    pub(crate) fn wait_until_served(&self, account: &Account, token: &str) {
        for (name, node) in NAMES.iter().zip(&self.nodes) {
            eventually(&format!("{name} serves it"), || {
                (node.get_account(&account.id()).text() == token).then_some(())
            });
        }
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

/// The `[[nats]]` of a cluster.toml for the server at `port`, and the file with its creds.
pub(crate) fn nats_link(operator: &Operator, port: u16) -> (NamedTempFile, String) {
    nats_link_as(&operator.system.propagating_user(), port)
}

/// The same as this user.
pub(crate) fn nats_link_as(user: &User, port: u16) -> (NamedTempFile, String) {
    let creds = NamedTempFile::new().expect("a temporary file");
    fs::write(creds.path(), user.creds()).expect("the test's own file is writable");
    let link = format!(
        "\n[[nats]]\nname = \"test\"\nservers = [\"nats://127.0.0.1:{port}\"]\ncreds = {:?}\n",
        creds.path()
    );
    (creds, link)
}

/// A node that is connected as `user` to the servers at `ports`.
pub(crate) fn node_for(operator: &Operator, user: &User, ports: &[u16], respond: bool) -> Node {
    let servers = ports.iter().map(|port| format!("nats://127.0.0.1:{port}"));
    let link = NatsLink {
        respond,
        ..NatsLink::plain(servers.collect(), user.creds())
    };
    let options = Options {
        nats: vec![link],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node
}

/// Each of so many servers enforces every change.
#[track_caller]
pub(crate) fn wait_until_up_to_date(node: &Node, count: usize) {
    eventually("the servers are up to date", || {
        let servers = node.cli_json(&["nats", "servers"]);
        let items = servers["items"].as_array()?;
        let are = items.iter().all(|server| server["state"] == "up-to-date");
        (items.len() == count && are).then_some(())
    });
}
