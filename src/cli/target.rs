//! Which node a command talks to.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Exit, Failure};
use crate::client::AdminClient;
use crate::config::{Config, ConfigError};
use crate::folder;

/// The configuration file that is used if neither an option nor the environment names one.
const DEFAULT_CONFIG: &str = "cluster.toml";

/// Options of every command that asks a node.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The mesh's cluster.toml, to find the node's data folder [default: ./cluster.toml if there is one]
    #[arg(long, value_name = "FILE", env = "JWTMESH_CONFIG")]
    config: Option<PathBuf>,
    /// The name of the node in the file; optional if one node of the file runs on this machine
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The path of the node's admin.sock, instead of a cluster.toml
    #[arg(long, value_name = "PATH", conflicts_with = "node")]
    socket: Option<PathBuf>,
}

impl Target {
    /// A client of that node.
    pub(super) fn client(&self) -> Result<AdminClient, Failure> {
        self.socket().map(AdminClient::new)
    }

    fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let path = match &self.config {
            Some(path) => path,
            None if Path::new(DEFAULT_CONFIG).exists() => Path::new(DEFAULT_CONFIG),
            None => {
                return Err(Failure::new(
                    Exit::Usage,
                    "no node is named: give --config FILE or --socket PATH, set JWTMESH_CONFIG, or change to the folder of cluster.toml",
                ));
            }
        };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        // Only parsed: a user who asks a node need not be able to read the keys that its configuration names.
        let socket = |node: Option<&str>| -> Result<PathBuf, Failure> {
            let config = Config::parse(path, &text, node)?;
            Ok(folder::admin_socket(&config.data))
        };
        if self.node.is_none() {
            // Of a mesh's nodes mostly one runs on this machine.
            let names = Config::nodes(path, &text)?;
            let mut here: Vec<PathBuf> = names.iter().filter_map(|name| socket(Some(name)).ok()).collect();
            here.retain(|socket| socket.exists());
            if let [only] = &here[..] {
                return Ok(only.clone());
            }
        }
        socket(self.node.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_data_folder_that_the_file_names() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("cluster.toml");
        std::fs::write(
            &config,
            "[cluster]\nname = \"m\"\noperators = [\"missing.jwt\"]\n[[node]]\nname = \"n1\"\ndata = \"d/{node}\"\npublic = \"127.0.0.1:0\"\n",
        )
        .unwrap();
        let target = |node: Option<&str>| Target {
            config: Some(config.clone()),
            node: node.map(str::to_owned),
            socket: None,
        };
        let socket = target(None).socket().map_err(|failure| failure.message);
        assert_eq!(socket, Ok(folder.path().join("d/n1/admin.sock")));
        let failure = target(Some("n2")).socket().expect_err("there is no n2");
        assert_eq!(failure.exit, Exit::Usage);
    }
}
