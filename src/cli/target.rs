//! Which node a command talks to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Exit, Failure};
use crate::client::AdminClient;
use crate::config::{Config, ConfigError};
use crate::folder;

/// The configuration file that is used if neither an option nor the environment names one.
const DEFAULT_CONFIG: &str = "cluster.toml";

/// The environment variables that stand for `--config` and `--node`. clap does not read them: for it they would be given on the
/// command line, and so conflict with options that take their place there.
const CONFIG_VARIABLE: &str = "JWTMESH_CONFIG";
const NODE_VARIABLE: &str = "JWTMESH_NODE";

/// Options of every command that asks a node.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The mesh's cluster.toml, to find the node's data folder [env: JWTMESH_CONFIG] [default:
    /// ./cluster.toml if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The name of the node in the file; optional if one node of the file runs on this machine [env:
    /// JWTMESH_NODE]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The path of the node's admin.sock, instead of a cluster.toml
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Target {
    /// A client of that node. If it is named, no other one answers.
    pub(super) fn client(&self) -> Result<AdminClient, Failure> {
        let client = AdminClient::new(self.socket()?);
        Ok(match self.node() {
            Some(name) => client.for_node(&name),
            None => client,
        })
    }

    /// The peer address of each node in the file, by its name; `None` if no file is read.
    pub(super) fn peers(&self) -> Result<Option<BTreeMap<String, String>>, Failure> {
        if self.socket.is_some() {
            return Ok(None);
        }
        let (path, text) = self.file()?;
        let names = Config::nodes(&path, &text)?;
        let node = self.node();
        let any = node.as_ref().or(names.first()).map(String::as_str);
        let peering = Config::parse(&path, &text, any)?.peering;
        Ok(Some(peering.map(|peering| peering.nodes).unwrap_or_default()))
    }

    fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let (path, text) = self.file()?;
        // Only parsed: a user who asks a node need not be able to read the keys that its configuration names.
        let socket = |node: Option<&str>| -> Result<PathBuf, Failure> {
            let config = Config::parse(&path, &text, node)?;
            Ok(folder::admin_socket(&config.data))
        };
        let node = self.node();
        if node.is_none() {
            // The nodes of a mesh mostly have the same data folder, each on its machine. Where they do not, mostly one of
            // them runs on this one.
            let names = Config::nodes(&path, &text)?;
            let mut sockets: BTreeSet<PathBuf> = names.iter().filter_map(|name| socket(Some(name)).ok()).collect();
            if sockets.len() > 1 {
                sockets.retain(|socket| socket.exists());
            }
            if sockets.len() == 1
                && let Some(only) = sockets.pop_first()
            {
                return Ok(only);
            }
        }
        socket(node.as_deref())
    }

    /// The name that is asked for. A socket that is given names its node itself, whatever the environment says.
    fn node(&self) -> Option<String> {
        let named = || variable(NODE_VARIABLE).map(|name| name.to_string_lossy().into_owned());
        self.node.clone().or_else(|| named().filter(|_| self.socket.is_none()))
    }

    /// The path of cluster.toml and what is in it.
    fn file(&self) -> Result<(PathBuf, String), Failure> {
        let path = match self
            .config
            .clone()
            .or_else(|| variable(CONFIG_VARIABLE).map(PathBuf::from))
        {
            Some(path) => path,
            None if Path::new(DEFAULT_CONFIG).exists() => PathBuf::from(DEFAULT_CONFIG),
            None => {
                return Err(Failure::new(
                    Exit::Usage,
                    "no node is named: give --config FILE or --socket PATH, set JWTMESH_CONFIG, or change to the folder of cluster.toml",
                ));
            }
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok((path, text)),
            Err(source) => Err(ConfigError::Unreadable { path, source }.into()),
        }
    }
}

/// The environment variable of this name, unless it is empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "[cluster]\nname = \"m\"\noperators = [\"missing.jwt\"]\n\
                         [peer]\ntls = { ca = \"ca\", cert = \"cert\", key = \"key\" }\n\
                         [[node]]\nname = \"n1\"\ndata = \"DATA\"\npublic = \"127.0.0.1:0\"\npeer = \"h1:1\"\n\
                         [[node]]\nname = \"n2\"\ndata = \"DATA\"\npublic = \"127.0.0.1:0\"\npeer = \"h2:1\"\n";

    fn target(config: &Path, node: Option<&str>) -> Target {
        Target {
            config: Some(config.to_owned()),
            node: node.map(str::to_owned),
            socket: None,
        }
    }

    #[test]
    fn the_socket_is_in_the_data_folder_that_the_file_names() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("cluster.toml");
        std::fs::write(&config, NODES.replace("DATA", "d/{node}")).unwrap();
        let socket = |node| target(&config, node).socket().map_err(|failure| failure.exit);
        assert_eq!(socket(Some("n1")), Ok(folder.path().join("d/n1/admin.sock")));
        assert_eq!(socket(Some("n3")), Err(Exit::Usage));
        assert_eq!(socket(None), Err(Exit::Usage), "none runs here, or both");
        let there = folder.path().join("d/n2/admin.sock");
        std::fs::create_dir_all(there.parent().unwrap()).unwrap();
        std::fs::write(&there, "").unwrap();
        assert_eq!(socket(None), Ok(there));
    }

    #[test]
    fn nodes_with_one_path_for_their_data_need_not_be_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("cluster.toml");
        std::fs::write(&config, NODES.replace("DATA", "/var/lib/of-the-test")).unwrap();
        let socket = target(&config, None).socket().map_err(|failure| failure.message);
        assert_eq!(socket, Ok(PathBuf::from("/var/lib/of-the-test/admin.sock")));
        let peers = target(&config, None).peers().map_err(|failure| failure.message);
        let peers = peers.unwrap().unwrap();
        assert_eq!(peers.get("n2").map(String::as_str), Some("h2:1"));
    }
}
