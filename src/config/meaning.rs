//! `cluster.toml` as it is meant: checked, complete, and resolved for one node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// The settings of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The mesh's name.
    pub cluster: String,
    /// Files with the JWTs of the operators to trust at the first start. Absolute or relative to the working directory.
    pub operators: Vec<PathBuf>,
    /// How patient Raft's timers are.
    pub timing: Timing,
    /// When an upload is answered.
    pub acknowledge: Acknowledge,
    /// What becomes of a JWT that a running nats-server would refuse.
    pub older_servers: OlderServers,
    /// What becomes of a request to delete an account that has JetStream streams.
    pub delete_with_streams: DeleteWithStreams,
    /// The public keys of accounts that are neither deleted nor shut.
    pub protected_accounts: Vec<String>,
    /// This node's name.
    pub node: String,
    /// This node's data folder.
    pub data: PathBuf,
    /// The address of the public port.
    pub public: SocketAddr,
    /// TLS of the public port; `None` means plain HTTP.
    pub tls: Option<PublicTls>,
    /// The mesh's nodes, and how this one speaks with the others; `None` for a mesh of this node alone.
    pub peering: Option<Peering>,
    /// The NATS clusters this node connects to.
    pub nats: Vec<NatsCluster>,
}

/// How the nodes of a mesh speak with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peering {
    /// The peer address of each node, HOST:PORT, by the node's name. This node is among them.
    pub nodes: BTreeMap<String, String>,
    /// Certificates of the peer port and of connections to others.
    pub tls: PeerTls,
}

/// Certificate files for connections between nodes, verified on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    /// PEM: the mesh's own authorities; two while one replaces the other.
    pub ca: PathBuf,
    /// PEM: this node's certificate, then its chain. It carries the node's name as a dNSName.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// Presets of Raft's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timing {
    /// Nodes within a few milliseconds of each other.
    #[default]
    Lan,
    /// Nodes on several continents.
    Wan,
}

/// When an upload is answered, which is on disk at a majority in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledge {
    /// When every voter that can be reached serves it, or half a second later.
    #[default]
    Reachable,
    /// When it is agreed on and the answering node serves it.
    Majority,
}

/// What becomes of an account JWT that an older nats-server which is sent accounts would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OlderServers {
    /// It is refused, with the server, its version and the rule.
    #[default]
    Refuse,
    /// It is taken, with a warning in the log.
    Warn,
}

/// What becomes of a request to delete an account that has JetStream streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeleteWithStreams {
    /// It is carried out, and no server is asked.
    #[default]
    Allow,
    /// It is refused, also where it cannot be found out whether there are any.
    Refuse,
}

/// Certificate files of the public port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicTls {
    /// PEM: the certificate, then its chain.
    pub cert: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
    /// PEM: authorities that client certificates are verified with; `None` if clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused. Only with `client_ca`.
    pub client_required: bool,
}

/// One NATS cluster that is sent every change, and whose requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsCluster {
    /// Its name, as it appears in logs and in the agreed position.
    pub name: String,
    /// URLs of its servers.
    pub servers: Vec<String>,
    /// The creds file of a system-account user.
    pub creds: PathBuf,
    /// PEM: authorities its servers' certificates are verified with, instead of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate that its servers are shown, and its key; `None` if they ask for none.
    pub client: Option<ClientCert>,
    /// Whether TLS begins before the servers introduce themselves.
    pub tls_first: bool,
    /// Whether requests that arrive over its system account are answered.
    pub respond: bool,
}

impl NatsCluster {
    /// Whether a connection must be encrypted, also where a URL says `nats://`. Each of these settings has a meaning
    /// only with TLS, so a plaintext connection is not what was meant.
    pub fn demands_tls(&self) -> bool {
        self.ca.is_some() || self.client.is_some() || self.tls_first
    }
}

/// Files with a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCert {
    /// PEM: the certificate, then its chain.
    pub cert: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}
