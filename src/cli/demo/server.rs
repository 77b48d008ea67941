//! The demo's own nats-server: found, started, stopped.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::folder::Folder;
use crate::cli::exit::{Exit, Failure};

/// The file of its configuration.
pub(super) const CONFIG: &str = "nats-server.conf";
/// The file of its log.
const LOG: &str = "nats-server.log";

/// It starts in a tenth of a second; the rest is for a busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running nats-server. Dropping it kills the process.
pub(super) struct NatsServer {
    child: Child,
}

/// The program to start: the one given, or the first in PATH.
pub(super) fn find(given: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    if let Some(given) = given {
        if given.is_file() {
            return Ok(Some(given.to_owned()));
        }
        return Err(Failure::new(
            Exit::Usage,
            format!("there is no nats-server at {}", given.display()),
        ));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::split_paths(&path)
        .map(|dir| dir.join("nats-server"))
        .find(|file| file.is_file()))
}

impl NatsServer {
    /// Starts it and waits until it accepts connections.
    pub(super) async fn start(program: &Path, folder: &Folder) -> anyhow::Result<Self> {
        let address = ("127.0.0.1", folder.ports.nats);
        if TcpStream::connect(address).await.is_ok() {
            anyhow::bail!(
                "another program already listens on 127.0.0.1:{}, perhaps an earlier demo's nats-server: stop it and try again",
                folder.ports.nats
            );
        }
        let log_path = folder.path(LOG);
        let log = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&log_path)
                .with_context(|| format!("cannot write {}", log_path.display()))
        };
        let child = Command::new(program)
            .arg("-c")
            .arg(folder.absolute(CONFIG)?)
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            // Its own process group, so that Ctrl-C on the terminal reaches only the demo, which then stops it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = server.child.try_wait()? {
                anyhow::bail!("nats-server ended ({status}): see {}", log_path.display());
            }
            if TcpStream::connect(address).await.is_ok() {
                return Ok(server);
            }
            if Instant::now() > deadline {
                anyhow::bail!(
                    "nats-server does not accept connections after {} seconds: see {}",
                    START_LIMIT.as_secs(),
                    log_path.display()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The id of the process.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills it at once, which is safe: it stores nothing.
    pub(super) async fn stop(mut self) {
        // An error means that it had already exited.
        let _ = self.child.kill().await;
    }
}
