//! The program under measurement: one node with a folder of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::mint::{Minted, Operator};
use super::process::{Program, free_port, settle};
use super::tls::Identity;
use super::upload::{Requests, upload};

/// A running node.
pub(crate) struct Node {
    /// The process.
    pub(crate) program: Program,
    /// Its public port.
    pub(crate) address: SocketAddr,
    folder: PathBuf,
}

/// What differs between benches.
#[derive(Default)]
pub(crate) struct Settings<'a> {
    /// The public port with TLS instead of plain.
    pub(crate) tls: Option<&'a Identity>,
    /// A NATS cluster to tell of changes: its URL, and the text of creds.
    pub(crate) nats: Option<(String, String)>,
    /// Another program than the one that was built for this bench.
    pub(crate) program: Option<PathBuf>,
}

impl Node {
    /// Starts one on `folder`, where an earlier one may have left its data, and waits until it is ready.
    pub(crate) fn start(folder: &Path, operator: &Operator, settings: &Settings<'_>) -> Self {
        let mut node = Self::launch(folder, operator, settings);
        node.program
            .wait_until(|program| program.output().contains("jwtmesh ready:"));
        node
    }

    /// The same without waiting.
    pub(crate) fn launch(folder: &Path, operator: &Operator, settings: &Settings<'_>) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let operator_file = folder.join("operator.jwt");
        if !operator_file.exists() {
            fs::write(operator_file, operator.token()).expect("the bench's own folder is writable");
        }
        let mut config = String::from("[cluster]\nname = \"bench\"\noperators = [\"operator.jwt\"]\n");
        if let Some(identity) = settings.tls {
            let (cert, key) = (identity.cert.display(), identity.key.display());
            config += &format!("[public]\ntls = {{ cert = \"{cert}\", key = \"{key}\" }}\n");
        }
        config += &format!("[[node]]\nname = \"bench-1\"\ndata = \"data\"\npublic = \"{address}\"\n");
        if let Some((url, creds)) = &settings.nats {
            fs::write(folder.join("system.creds"), creds).expect("the bench's own folder is writable");
            config += &format!("[[nats]]\nname = \"bench\"\nservers = [\"{url}\"]\ncreds = \"system.creds\"\n");
        }
        fs::write(folder.join("cluster.toml"), config).expect("the bench's own folder is writable");
        let mut command = Command::new(settings.program.clone().unwrap_or_else(binary));
        command
            .arg("serve")
            .arg("--config")
            .arg(folder.join("cluster.toml"))
            .current_dir(folder);
        Self {
            program: Program::start(command, folder, "jwtmesh"),
            address,
            folder: folder.to_owned(),
        }
    }

    /// Loads `accounts` by uploading them; the seconds it took until the last was acknowledged.
    pub(crate) fn load(&self, accounts: &[Minted]) -> f64 {
        const CLIENTS: usize = 64;
        const LONG_ENOUGH: Duration = Duration::from_secs(3_600);
        let uploaded = upload(&[self.address], CLIENTS, &Requests::posts(accounts), LONG_ENOUGH);
        assert_eq!(uploaded.count, accounts.len(), "every account was acknowledged");
        uploaded.seconds
    }

    /// Waits until it has nothing left to do.
    pub(crate) fn settle(&self) {
        settle(&[&self.program]);
    }

    /// Bytes that its data folder takes on the disk.
    pub(crate) fn stored_bytes(&self) -> f64 {
        stored_bytes(&self.folder.join("data")) as f64
    }
}

/// The program: the one built for this bench, or the one named by `JWTMESH`.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("JWTMESH").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_jwtmesh")), PathBuf::from)
}

/// Bytes that a folder takes on the disk.
pub(crate) fn stored_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).expect("the node's data folder is there");
    let size = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("the node's data folder is readable");
        // A file may go while we look: the log removes what it no longer needs.
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => stored_bytes(&entry.path()),
            // stat(2) counts blocks of 512 bytes whatever the file system's own are.
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        }
    };
    entries.map(size).sum()
}

/// The body of a GET over plain HTTP, if it was answered 200.
pub(crate) fn get(server: SocketAddr, path: &str) -> Option<String> {
    ask(
        server,
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").as_bytes(),
    )
}

/// The body of the answer to one request, if it was 200. The request must ask for the connection to be closed.
pub(crate) fn ask(server: SocketAddr, request: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(server).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.write_all(request).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// Milliseconds until `account` was served, byte for byte; asked again and again from `begun` on.
pub(crate) fn until_served(server: SocketAddr, account: &Minted, begun: Instant) -> f64 {
    let path = format!("/jwt/v1/accounts/{}", account.id);
    while get(server, &path).as_deref() != Some(account.token.as_str()) {
        assert!(begun.elapsed() < Duration::from_secs(600), "{path} is served some time");
        std::thread::sleep(Duration::from_millis(1));
    }
    begun.elapsed().as_secs_f64() * 1e3
}
