//! The nats-servers of a NATS cluster, as plain data, and how many and how large they may be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::revision::Revision;

/// A nats-server of a NATS cluster, for as long as its process lives: each start has a new id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its key, `N...`.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// The name of its own cluster, as it says; may be empty.
    pub cluster: String,
    /// The version of nats-server.
    pub version: String,
    /// `None`: every change up to the NATS cluster's position is in force there. `Some(r)`: every change up to `r` is;
    /// a later one may not be.
    pub behind: Option<Revision>,
}

impl Server {
    /// Whether each text is short enough to be stored. Code that makes a server cuts its texts first.
    pub fn is_within_bounds(&self) -> bool {
        self.id.len() <= Self::MAX_ID_BYTES
            && self.name.len() <= Self::MAX_NAME_BYTES
            && self.cluster.len() <= Self::MAX_CLUSTER_BYTES
            && self.version.len() <= Self::MAX_VERSION_BYTES
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.id.len() + self.name.len() + self.cluster.len() + self.version.len()
    }

    /// The most bytes of an id: an nkey has 56 characters.
    pub const MAX_ID_BYTES: usize = 64;

    /// The most bytes of a name: a host's full name has at most 253.
    pub const MAX_NAME_BYTES: usize = 256;

    /// The most bytes of the name of a server's own cluster, which is chosen as a host's name is.
    pub const MAX_CLUSTER_BYTES: usize = 256;

    /// The most bytes of a version: `2.12.0-RC.1` and a long build tag.
    pub const MAX_VERSION_BYTES: usize = 64;
}

/// The most servers of a NATS cluster: more than the largest that we know of has, leaf nodes and restarts included. Their
/// rows are kept in memory, which takes 3 MB for usual names and 10 MB for the longest. Beyond it a new server is not
/// stored; the rows of those that are stored still change.
pub const MAX_SERVERS: usize = 10_000;

/// The most servers that an [`UpdateRoster`](super::UpdateRoster) sees, and the most that it removes: a third of a
/// megabyte of the longest texts each, so that an entry stays far below the largest token. A leader refuses more.
pub const MAX_SERVERS_OF_A_COMMAND: usize = 1_024;

/// The servers of each NATS cluster, by their ids.
pub type Rosters = BTreeMap<String, BTreeMap<String, Server>>;

/// A server's key in `servers_v1`. The name of a NATS cluster has no `/`.
pub(super) fn server_key(nats_cluster: &str, id: &str) -> String {
    format!("{nats_cluster}/{id}")
}
