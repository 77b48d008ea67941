//! Which versions the servers have that are sent accounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::jwt::ServerVersion;
use crate::state::{Rosters, Server};

/// Of the servers of all NATS clusters one of each version, with the name of its NATS cluster.
#[derive(Debug, Default)]
pub(in crate::resolver) struct Versions {
    /// What they were taken from.
    pub(in crate::resolver) rosters: Arc<Rosters>,
    pub(in crate::resolver) servers: BTreeMap<ServerVersion, (String, Server)>,
}

impl Versions {
    pub(in crate::resolver) fn of(rosters: Arc<Rosters>) -> Self {
        let mut found = BTreeMap::new();
        for (nats_cluster, servers) in rosters.iter() {
            for server in servers.values() {
                // What does not say its version cannot be judged.
                if let Ok(version) = server.version.parse() {
                    found
                        .entry(version)
                        .or_insert_with(|| (nats_cluster.clone(), server.clone()));
                }
            }
        }
        Self {
            rosters,
            servers: found,
        }
    }
}
