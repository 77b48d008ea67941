//! The demo's folder: which folder may be used, and files that are made by the first run and kept by later ones.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cli::exit::{Exit, Failure};

/// Marks a folder as the demo's, and stores the ports, because tokens and files contain them.
const MARKER: &str = ".jwtmesh-demo";

/// Below 32768, where Linux's range for outgoing connections begins, so that these ports are free in the next run too.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A folder that the demo may write to.
pub(super) struct Folder {
    root: PathBuf,
    /// Whether it was made just now.
    pub(super) is_new: bool,
    /// The ports that the demo listens on.
    pub(super) ports: Ports,
}

/// Ports on 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    /// jwtmesh's public port; in a mesh, the first node's.
    pub(super) public: u16,
    /// nats-server's port.
    pub(super) nats: u16,
    /// What else a mesh needs; absent for a single node, also in a folder that was made before there were meshes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mesh: Option<MeshPorts>,
}

/// The other ports of a mesh's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MeshPorts {
    /// The public ports of all nodes but the first.
    others: Vec<u16>,
    /// Where each node listens for the others.
    peers: Vec<u16>,
}

/// A node of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) public: u16,
    pub(super) peer: u16,
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// Only its owner: the file has a private key.
    Secret,
    /// Every user who may enter the folder.
    Open,
}

impl Folder {
    /// Creates the folder for so many nodes, or opens one that an earlier demo created. `None` means as many as that one
    /// has, and one in a new folder.
    pub(super) fn open(root: &Path, nodes: Option<usize>) -> Result<Self, Failure> {
        let marker = root.join(MARKER);
        if let Ok(text) = fs::read_to_string(&marker) {
            let ports: Ports = serde_json::from_str(&text).map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!(
                        "{} is damaged ({error}): remove the folder and start again",
                        marker.display()
                    ),
                )
            })?;
            let found = ports.members().len().max(1);
            if nodes.is_some_and(|nodes| nodes != found) {
                return Err(Failure::new(
                    Exit::Usage,
                    format!(
                        "{} was made with --nodes {found}: continue it with that number, or give another folder with --dir",
                        root.display()
                    ),
                ));
            }
            return Ok(Self {
                root: root.to_owned(),
                is_new: false,
                ports,
            });
        }
        if fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{} is not empty and was not made by an earlier demo: give another folder with --dir",
                    root.display()
                ),
            ));
        }
        let folder = Self {
            root: root.to_owned(),
            is_new: true,
            ports: Ports::free(nodes.unwrap_or(1))?,
        };
        folder.make_dir("")?;
        let ports = serde_json::to_string(&folder.ports).context("cannot write the ports as JSON")?;
        // Written before any other file, so that the next run can continue an interrupted demo.
        folder.write(MARKER, Secrecy::Open, &ports)?;
        Ok(folder)
    }

    /// The path of `name` in the folder; relative if the administrator named the folder by a relative path.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The absolute path of `name`, for programs with another working directory.
    pub(super) fn absolute(&self, name: &str) -> anyhow::Result<PathBuf> {
        std::path::absolute(self.path(name)).with_context(|| format!("cannot make {} absolute", self.root.display()))
    }

    /// The text of the file `name`. If the file does not exist yet, `make` provides its text.
    pub(super) fn keep(
        &self,
        name: &str,
        secrecy: Secrecy,
        make: impl FnOnce() -> anyhow::Result<String>,
    ) -> anyhow::Result<String> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = make()?;
                self.write(name, secrecy, &text)?;
                Ok(text)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.path(name).display())),
        }
    }

    /// Writes the file `name`, whole or not at all.
    pub(super) fn write(&self, name: &str, secrecy: Secrecy, text: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        let mode = match secrecy {
            Secrecy::Secret => 0o600,
            Secrecy::Open => 0o644,
        };
        let write = || {
            let beside = path.with_extension("new");
            // A file left behind by an interrupted demo may have another mode.
            let _ = fs::remove_file(&beside);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&beside)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&beside, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Creates a folder inside it that only its owner may enter.
    pub(super) fn make_dir(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))
    }
}

impl Ports {
    /// Ports that no program listens on.
    fn free(nodes: usize) -> anyhow::Result<Self> {
        let wanted = if nodes > 1 { 2 * nodes + 1 } else { 2 };
        let mut found = Vec::new();
        for _ in 0..1000 {
            let port = PORTS.start + rand::random::<u16>() % (PORTS.end - PORTS.start);
            if !found.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                found.push(port);
            }
            if found.len() < wanted {
                continue;
            }
            let mut rest = found.split_off(2);
            let peers = rest.split_off(nodes - 1);
            return Ok(Self {
                public: found[0],
                nats: found[1],
                mesh: (nodes > 1).then_some(MeshPorts { others: rest, peers }),
            });
        }
        anyhow::bail!("no free port on 127.0.0.1 between {} and {}", PORTS.start, PORTS.end)
    }

    /// The nodes of the mesh; none if there is a single node.
    pub(super) fn members(&self) -> Vec<Member> {
        let Some(MeshPorts { others, peers }) = &self.mesh else {
            return Vec::new();
        };
        let publics = std::iter::once(&self.public).chain(others);
        let member = |(number, (public, peer)): (usize, (&u16, &u16))| Member {
            name: format!("demo-{number}"),
            public: *public,
            peer: *peer,
        };
        (1..).zip(publics.zip(peers)).map(member).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(root: &Path) -> Result<Folder, String> {
        Folder::open(root, None).map_err(|failure| failure.message)
    }

    #[test]
    fn a_folder_with_something_else_in_it_is_left_alone() {
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("thesis.tex"), "").unwrap();
        let refused = open(other.path()).err().expect("it is not ours");
        assert!(refused.contains("is not empty"), "{refused}");
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_run_finds_what_the_first_one_made() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("demo");
        let first = open(&root).unwrap();
        assert!(first.is_new);
        let made = first.keep("seed", Secrecy::Secret, || Ok("one".to_owned())).unwrap();
        let second = open(&root).unwrap();
        assert!(!second.is_new);
        assert_eq!(second.ports, first.ports);
        let kept = second.keep("seed", Secrecy::Secret, || Ok("two".to_owned())).unwrap();
        assert_eq!(made, kept);
    }

    #[test]
    fn a_folder_keeps_its_number_of_nodes() {
        let parent = tempfile::tempdir().unwrap();
        let (one, three) = (parent.path().join("one"), parent.path().join("three"));
        assert_eq!(open(&one).unwrap().ports.members(), []);
        let members = Folder::open(&three, Some(3)).unwrap_or_else(|failure| panic!("{failure:?}"));
        let members = members.ports.members();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["demo-1", "demo-2", "demo-3"]);
        assert_eq!(open(&three).unwrap().ports.members(), members);
        for (root, nodes, made) in [(&one, 3, 1), (&three, 1, 3), (&three, 5, 3)] {
            let refused = Folder::open(root, Some(nodes)).err().expect("another number");
            assert_eq!(refused.exit, Exit::Usage);
            assert!(refused.message.contains(&format!("--nodes {made}")), "{refused:?}");
        }
        // The marker of a demo from before there were meshes.
        fs::write(one.join(MARKER), r#"{"public":20001,"nats":20002}"#).unwrap();
        assert_eq!(open(&one).unwrap().ports.public, 20001);
    }

    #[test]
    fn a_file_with_a_private_key_is_readable_only_by_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let folder = open(&parent.path().join("demo")).unwrap();
        folder.write("seed", Secrecy::Secret, "s").unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(folder.path("seed")), 0o600);
        assert_eq!(mode(folder.path("")), 0o700);
    }
}
