//! Several nodes that form a mesh, each a program of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::authority::Authority;
use super::mint::Operator;
use super::node::binary;
use super::process::{Program, eventually, free_port};
use super::proxy::{Direction, Proxy};

/// A mesh that has formed.
pub(crate) struct Mesh {
    /// The nodes' programs.
    pub(crate) programs: Vec<Program>,
    /// The nodes' public ports.
    pub(crate) addresses: Vec<SocketAddr>,
    folder: PathBuf,
    _links: Vec<Proxy>,
}

/// What differs between benches.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// How many nodes.
    pub(crate) nodes: usize,
    /// `reachable` or `majority`.
    pub(crate) acknowledge: &'static str,
    /// How long a message takes from one node to another, on top of what the machine itself takes.
    pub(crate) one_way: Duration,
}

impl Shape {
    /// `lan` or `wan`.
    fn timing(self) -> &'static str {
        if self.one_way.is_zero() { "lan" } else { "wan" }
    }
}

impl Mesh {
    /// Starts the nodes and forms their mesh.
    pub(crate) fn start(folder: &Path, operator: &Operator, shape: Shape) -> Self {
        Self::start_with(folder, operator, shape, "")
    }

    /// The same with more in each cluster.toml.
    pub(crate) fn start_with(folder: &Path, operator: &Operator, shape: Shape, more: &str) -> Self {
        let mut mesh = Self::prepare(folder, operator, shape, more);
        (0..shape.nodes).for_each(|node| mesh.launch(node));
        mesh.form();
        mesh
    }

    /// Writes what the nodes need.
    fn prepare(folder: &Path, operator: &Operator, shape: Shape, more: &str) -> Self {
        let write = |name: String, text: String| {
            fs::write(folder.join(name), text).expect("the bench's own folder is writable");
        };
        write("operator.jwt".to_owned(), operator.token());
        let authority = Authority::new(folder, "mesh");
        (0..shape.nodes).for_each(|node| drop(authority.issue_for_node(&name(node))));
        let ports = || -> Vec<SocketAddr> {
            let address = |_| SocketAddr::from(([127, 0, 0, 1], free_port()));
            (0..shape.nodes).map(address).collect()
        };
        let (addresses, peers) = (ports(), ports());
        let mut links = Vec::new();
        for node in 0..shape.nodes {
            let mut seen = peers.clone();
            for other in (0..shape.nodes).filter(|other| *other != node && !shape.one_way.is_zero()) {
                let link = Proxy::to(peers[other]);
                for direction in Direction::BOTH {
                    link.delay(direction, shape.one_way);
                }
                seen[other] = link.address();
                links.push(link);
            }
            write(format!("{node}.toml"), configuration(shape, &addresses, &seen) + more);
        }
        Self {
            programs: Vec::new(),
            addresses,
            folder: folder.to_owned(),
            _links: links,
        }
    }

    /// Starts the node of this number, for the first time or again, and waits until it serves.
    pub(crate) fn launch(&mut self, node: usize) {
        let mut program = Program::start(self.run(node, &["serve"]), &self.folder, &name(node));
        program.wait_until(|program| program.output().contains(" admin="));
        if node < self.programs.len() {
            self.programs[node] = program;
        } else {
            self.programs.push(program);
        }
    }

    /// Forms the mesh, and waits until each node takes uploads.
    fn form(&self) {
        eventually("the mesh forms", || self.command(0, &["member", "bootstrap"]));
        for node in 0..self.programs.len() {
            eventually("the node takes uploads", || self.command(node, &["ready", "--write"]));
        }
    }

    /// What a command says on the machine of this node, if it succeeds.
    pub(crate) fn command(&self, node: usize, arguments: &[&str]) -> Option<String> {
        let done = self.run(node, arguments).output().expect("the program runs");
        done.status
            .success()
            .then(|| String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// The number of the node that leads, as the first of them that answers says.
    pub(crate) fn leader(&self) -> usize {
        eventually("the mesh has a leader", || {
            let mut said = (0..self.programs.len()).filter_map(|node| self.command(node, &["status", "--json"]));
            let status: serde_json::Value = serde_json::from_str(&said.next()?).expect("status is JSON");
            (0..self.programs.len()).find(|node| status["leader"] == name(*node))
        })
    }

    /// Every node.
    pub(crate) fn all(&self) -> Vec<&Program> {
        self.programs.iter().collect()
    }

    fn run(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .arg("--config")
            .arg(self.folder.join(format!("{node}.toml")))
            .args(["--node", &name(node)]);
        command
    }
}

fn name(node: usize) -> String {
    format!("n{node}")
}

fn configuration(shape: Shape, publics: &[SocketAddr], peers: &[SocketAddr]) -> String {
    let mut text = format!(
        "[cluster]\nname = \"bench\"\noperators = [\"operator.jwt\"]\ntiming = \"{}\"\nacknowledge = \"{}\"\n\n[peer]\n\
         tls = {{ ca = \"mesh-ca.pem\", cert = \"{{node}}.pem\", key = \"{{node}}.key\" }}\n",
        shape.timing(),
        shape.acknowledge
    );
    for (node, (public, peer)) in publics.iter().zip(peers).enumerate() {
        let name = name(node);
        write!(
            text,
            "\n[[node]]\nname = \"{name}\"\ndata = \"{{node}}\"\npublic = \"{public}\"\npeer = \"{peer}\"\n"
        )
        .expect("text grows");
    }
    text
}
