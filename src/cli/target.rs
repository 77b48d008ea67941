//! Which node a command talks to.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Exit, Failure};
use crate::client::AdminClient;
use crate::config::{Config, ConfigError};
use crate::folder;

/// The file looked for where neither an option nor the environment names one.
const DEFAULT_CONFIG: &str = "cluster.toml";

/// Options of every command that asks a node.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The mesh's cluster.toml; the node's socket is in its data folder [default: ./cluster.toml if there is one]
    #[arg(long, value_name = "FILE", env = "JWTMESH_CONFIG")]
    config: Option<PathBuf>,
    /// Which node of the file; may be left out if it has one
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The node's admin.sock itself, instead of a cluster.toml
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
                    "which node? Give --config FILE or --socket PATH, set JWTMESH_CONFIG, or go to the folder with cluster.toml",
                ));
            }
        };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        // Parsed only: whoever asks a node need not be able to read its keys.
        let config = Config::parse(path, &text, self.node.as_deref())?;
        Ok(folder::admin_socket(&config.data))
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
        let socket = target(None).socket().map_err(|failure| failure.said);
        assert_eq!(socket, Ok(folder.path().join("d/n1/admin.sock")));
        let failure = target(Some("n2")).socket().expect_err("there is no n2");
        assert_eq!(failure.exit, Exit::Usage);
    }
}
