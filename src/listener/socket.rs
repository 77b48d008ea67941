//! A Unix socket that only its owner may open, from the moment it exists. Its file is removed at the end.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The most bytes that the path of a Unix socket may have, including its final NUL (`sun_path`, unix(7)).
const SOCKET_PATH_BYTES: usize = 108;

/// A bound socket.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds `path` with mode 0600. A socket on which no process answers is replaced; one on which a process answers,
    /// or any other file, is an error. To be called inside the Tokio runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let cannot = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("cannot make the admin socket {}: {error}", path.display()),
            )
        };
        let listener = remove_stale(path).and_then(|()| bind_private(path)).map_err(cannot)?;
        let inode = fs::symlink_metadata(path).map_err(cannot)?.ino();
        let path = path.to_owned();
        Ok(Self {
            listener,
            file: SocketFile { path, inode },
        })
    }

    /// The listener, and the file to remove after it is closed.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl SocketFile {
    /// Removes this node's socket, but not that of a node that has been started here since.
    pub fn remove(self) {
        let Self { path, inode } = self;
        if fs::symlink_metadata(&path).is_ok_and(|found| found.ino() == inode)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(
                path = %path.display(),
                %error,
                "cannot remove the admin socket; the next start replaces it"
            );
        }
    }
}

/// Removes the socket that an ended process left at `path`, if there is one. Anything else at `path` is an error.
fn remove_stale(path: &Path) -> io::Result<()> {
    let length = path.as_os_str().len();
    if length >= SOCKET_PATH_BYTES {
        let limit = SOCKET_PATH_BYTES - 1;
        let sentence = format!("the path has {length} bytes, the system allows {limit}; choose a shorter data folder");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file of another kind; move it away",
        )),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers there; stop it first",
            )),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
        },
    }
}

/// Binds inside a folder that no other user may enter, and moves the socket out once its mode is right: between `bind`
/// and `chmod` the mode is whatever the umask left, and the umask belongs to the whole process.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    // ".admin/s" is shorter than "admin.sock", so this path fits wherever the final one does.
    let folder = path.with_file_name(".admin");
    let inside = folder.join("s");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    DirBuilder::new().mode(0o700).create(&folder)?;
    let listener = UnixListener::bind(&inside)?;
    fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
    fs::rename(&inside, path)?;
    fs::remove_dir(&folder)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_its_owner_may_open_the_socket_and_binding_leaves_no_other_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let _socket = Socket::bind(&path).expect("binds");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        std::os::unix::net::UnixStream::connect(&path).expect("answers under its final name");
    }

    #[tokio::test]
    async fn only_a_socket_on_which_no_process_answers_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let first = Socket::bind(&path).expect("binds");
        let error = Socket::bind(&path).expect_err("answered");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        drop(first);
        Socket::bind(&path).expect("left behind by the first");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "precious").expect("written");
        let error = Socket::bind(&path).expect_err("not ours");
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_refused_before_anything_is_made() {
        let path = PathBuf::from(format!("/tmp/{}/admin.sock", "x".repeat(100)));
        let error = Socket::bind(&path).expect_err("too long");
        assert!(
            error.to_string().contains("has 116 bytes, the system allows 107"),
            "{error}"
        );
    }
}
