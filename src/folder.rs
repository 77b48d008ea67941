//! A node's data folder: its layout, its identity, and the lock that keeps a second process out.
//!
//! It holds `identity.json`, `lock`, `admin.sock`, the log's segments in `log/`, and the state in `state.redb`.
//! [`Folder::take`] locks it and checks that it belongs to this node and has all its parts: once the mesh is formed, a
//! missing part is refused, since replacing it by an empty one would lose what was acknowledged. Before that nothing
//! was acknowledged, and a first start begins anew. Nothing here reads the log or the state.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::RngCore;
use serde::{Deserialize, Serialize};

/// Which store this is: the content of `identity.json`. The same uuid is in the log and in the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The number of this file's format.
    pub format: u32,
    /// The mesh's name when the store was made.
    pub cluster: String,
    /// The node's name when the store was made.
    pub node: String,
    /// The node's id in the membership, never reused.
    pub node_id: u64,
    /// Random, 32 hexadecimal digits: a wiped folder gets another one.
    pub store: String,
    /// Whether the mesh was formed on this store. Before that nothing was ever acknowledged.
    pub formed: bool,
    /// The mesh: the store of the member that formed it. Left out, it is this store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
}

impl Identity {
    /// The store's uuid as bytes.
    pub fn store_bytes(&self) -> [u8; 16] {
        bytes(&self.store)
    }

    /// The mesh's uuid as bytes.
    pub fn mesh_bytes(&self) -> [u8; 16] {
        bytes(self.mesh.as_ref().unwrap_or(&self.store))
    }
}

fn bytes(uuid: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    // Cannot fail: the length is checked where the identity is read, and right where it is made.
    let _ = data_encoding::HEXLOWER.decode_mut(uuid.as_bytes(), &mut bytes);
    bytes
}

fn is_uuid(text: &str) -> bool {
    let uuid = data_encoding::HEXLOWER.decode(text.as_bytes());
    uuid.is_ok_and(|uuid| uuid.len() == 16)
}

/// What is written. The first format had no `mesh`.
const FORMAT: u32 = 2;
const OLDEST_FORMAT: u32 = 1;

/// The id of the node that forms a mesh; later ones get the log index of the entry that admits them.
const FIRST_NODE_ID: u64 = 1;

/// A data folder in use. Dropping it releases the lock.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("{} is in use by another jwtmesh process: stop that one first, or give this node its own data folder", .0.display())]
    InUse(PathBuf),
    /// `identity.json` is not a valid identity.
    #[error("{} is damaged: {defect}. Restore the data folder from a backup, or move it away to begin an empty node", path.display())]
    Damaged {
        /// `identity.json`.
        path: PathBuf,
        /// What is wrong.
        defect: String,
    },
    /// It belongs to another node or mesh.
    #[error(
        "{} holds the store of node {found_node:?} in mesh {found_cluster:?}, not of node {node:?} in mesh {cluster:?}: correct \
         `data` or the names in cluster.toml",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The node that it belongs to.
        found_node: String,
        /// The mesh of that node.
        found_cluster: String,
        /// This node.
        node: String,
        /// This node's mesh.
        cluster: String,
    },
    /// A part of the store is missing.
    #[error(
        "{} is missing, but the rest of the store is there: restore the data folder from a backup as a whole, or move it away to \
         begin an empty node",
        .0.display()
    )]
    Incomplete(PathBuf),
}

impl Folder {
    /// Takes the folder at `path` for `node` of `cluster`; makes it if there is none.
    pub fn take(path: &Path, cluster: &str, node: &str) -> Result<Self, FolderError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Io { what, path, source }
        };
        let mut folders = DirBuilder::new();
        // Tokens are not secret, but the socket in the folder gives administrative access.
        folders.recursive(true).mode(0o700);
        let new: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
        folders.create(path).map_err(io("make the data folder", path))?;
        // If a power cut loses the name of one of them, everything below it is lost too.
        for folder in new {
            let parent = match folder.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                Some(_) => Path::new("."),
                None => continue,
            };
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(io("sync", parent))?;
        }
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(FolderError::InUse(path.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => return Err(io("lock", &lock_path)(source)),
        }
        let identity = read_identity(path)?;
        let mut folder = Self {
            path: path.to_owned(),
            identity: Identity {
                format: FORMAT,
                cluster: cluster.to_owned(),
                node: node.to_owned(),
                node_id: FIRST_NODE_ID,
                store: random_hex(),
                formed: false,
                mesh: None,
            },
            _lock: lock,
        };
        match identity {
            Some(found) if found.formed => folder.adopt(found, cluster, node)?,
            // Nothing was acknowledged yet: what an interrupted first start left is removed.
            Some(_unformed) => folder.begin()?,
            None if folder.log().exists() => return Err(FolderError::Incomplete(folder.identity_file())),
            None if folder.state().exists() => return Err(FolderError::Incomplete(folder.identity_file())),
            None => folder.begin()?,
        }
        Ok(folder)
    }

    fn adopt(&mut self, found: Identity, cluster: &str, node: &str) -> Result<(), FolderError> {
        if found.cluster != cluster || found.node != node {
            return Err(FolderError::Foreign {
                path: self.path.clone(),
                found_node: found.node,
                found_cluster: found.cluster,
                node: node.to_owned(),
                cluster: cluster.to_owned(),
            });
        }
        for part in [self.log(), self.state()] {
            if !part.exists() {
                return Err(FolderError::Incomplete(part));
            }
        }
        self.identity = found;
        Ok(())
    }

    fn begin(&mut self) -> Result<(), FolderError> {
        let log = self.log();
        let state = self.state();
        self.write_identity()?;
        for (what, removed) in [
            ("remove", removed(std::fs::remove_dir_all(&log)).map_err(|e| (log, e))),
            ("remove", removed(std::fs::remove_file(&state)).map_err(|e| (state, e))),
        ] {
            removed.map_err(|(path, source)| FolderError::Io { what, path, source })?;
        }
        Ok(())
    }

    /// Records that the mesh is formed: from now on the stores must be there.
    pub fn set_formed(&mut self) -> Result<(), FolderError> {
        if !self.identity.formed {
            self.identity.formed = true;
            self.write_identity()?;
        }
        Ok(())
    }

    /// Records that this node is member `node_id` of `mesh`, for good.
    pub fn set_member(&mut self, mesh: [u8; 16], node_id: u64) -> Result<(), FolderError> {
        self.identity.format = FORMAT;
        self.identity.mesh = Some(data_encoding::HEXLOWER.encode(&mesh));
        self.identity.node_id = node_id;
        self.identity.formed = true;
        self.write_identity()
    }

    /// Writes the file whole or not at all: a temporary file, synced, renamed over it, and the folder synced.
    fn write_identity(&self) -> Result<(), FolderError> {
        let target = self.identity_file();
        let temporary = self.path.join("identity.json.new");
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            serde_json::to_writer_pretty(&mut file, &self.identity)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&temporary, &target)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| FolderError::Io {
            what: "write",
            path: target.clone(),
            source,
        })
    }

    /// Which store this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn identity_file(&self) -> PathBuf {
        self.path.join("identity.json")
    }

    /// The folder of the log's segments.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The state's redb file.
    pub fn state(&self) -> PathBuf {
        self.path.join("state.redb")
    }

    /// The socket for administration.
    pub fn admin_socket(&self) -> PathBuf {
        admin_socket(&self.path)
    }
}

/// The socket for administration in the data folder `data`.
pub fn admin_socket(data: &Path) -> PathBuf {
    data.join("admin.sock")
}

fn removed(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_identity(folder: &Path) -> Result<Option<Identity>, FolderError> {
    let path = folder.join("identity.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let what = "read";
            return Err(FolderError::Io { what, path, source });
        }
    };
    let damaged = |defect: String| FolderError::Damaged {
        path: path.clone(),
        defect,
    };
    let identity: Identity = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if !(OLDEST_FORMAT..=FORMAT).contains(&identity.format) {
        return Err(damaged(format!(
            "its format is {}, this version reads {OLDEST_FORMAT} to {FORMAT}; it was written by another version of the program",
            identity.format
        )));
    }
    for (what, uuid) in [("store", Some(&identity.store)), ("mesh", identity.mesh.as_ref())] {
        if let Some(wrong) = uuid.filter(|uuid| !is_uuid(uuid)) {
            return Err(damaged(format!("its {what} {wrong:?} is not 32 hexadecimal digits")));
        }
    }
    Ok(Some(identity))
}

fn random_hex() -> String {
    let mut bytes = [0; 16];
    rand::rngs::OsRng.fill_bytes(&mut bytes);
    data_encoding::HEXLOWER.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formed(path: &Path) {
        let mut folder = Folder::take(path, "m", "n1").unwrap();
        std::fs::create_dir(folder.log()).unwrap();
        std::fs::write(folder.state(), b"").unwrap();
        folder.set_formed().unwrap();
    }

    #[test]
    fn a_formed_store_keeps_its_identity_and_refuses_other_nodes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        formed(&path);
        let first = Folder::take(&path, "m", "n1").unwrap();
        assert!(first.identity().formed);
        assert!(matches!(Folder::take(&path, "m", "n1"), Err(FolderError::InUse(_))));
        let store = first.identity().store.clone();
        drop(first);
        assert_eq!(Folder::take(&path, "m", "n1").unwrap().identity().store, store);
        assert!(matches!(
            Folder::take(&path, "m", "n2"),
            Err(FolderError::Foreign { .. })
        ));
        assert!(matches!(
            Folder::take(&path, "other", "n1"),
            Err(FolderError::Foreign { .. })
        ));
    }

    #[test]
    fn a_store_that_lost_a_part_is_refused_and_named() {
        for part in ["log", "state.redb", "identity.json"] {
            let temp = tempfile::tempdir().unwrap();
            formed(temp.path());
            let lost = temp.path().join(part);
            if lost.is_dir() {
                std::fs::remove_dir(&lost)
            } else {
                std::fs::remove_file(&lost)
            }
            .unwrap();
            let error = Folder::take(temp.path(), "m", "n1").expect_err(part).to_string();
            assert!(error.contains(part) && error.contains("missing"), "{error}");
        }
    }

    #[test]
    fn a_damaged_identity_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        formed(temp.path());
        std::fs::write(temp.path().join("identity.json"), b"{\"format\":1").unwrap();
        let error = Folder::take(temp.path(), "m", "n1")
            .expect_err("half a file")
            .to_string();
        assert!(error.contains("identity.json is damaged"), "{error}");
    }

    #[test]
    fn an_interrupted_first_start_is_begun_anew() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::take(temp.path(), "m", "n1").unwrap();
        std::fs::create_dir(folder.log()).unwrap();
        let store = folder.identity().store.clone();
        drop(folder);
        let again = Folder::take(temp.path(), "m", "n1").unwrap();
        assert_ne!(again.identity().store, store);
        assert!(!again.log().exists());
    }
}
