//! `serve`: runs a node until a signal or a fault ends it.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::exit::{Exit, Failure};
use crate::clock::Clock;
use crate::config::Config;
use crate::node::Node;

/// How long a node may take to finish what it has begun. The stores close after that,
/// which the systemd unit gives a minute for.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// The log of a node at work. Of the libraries only openraft, about what it cannot go on with: the others warn of
/// whatever a client sends them, once for every packet (h2 of stray PINGs, rustls of odd names), so that anybody could
/// fill the log; what they cannot do is an error of ours, told once.
const DEFAULT_LOG: &str = "off,jwtmesh=info,openraft=error";

/// Runs a node. When it is ready it prints one line on stdout:
/// `jwtmesh ready: node=NAME public=URL admin=SOCKET`. Logs go to stderr.
///
/// SIGTERM and SIGINT end it gracefully, a second one at once; SIGHUP reads the certificates again.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The mesh's cluster.toml, the same file on every machine
    #[arg(long, value_name = "FILE", env = "JWTMESH_CONFIG", default_value = "cluster.toml")]
    config: PathBuf,
    /// Which node of the file this is; may be left out if it has one
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged, such as `off,jwtmesh=debug`; a level alone is that of every library too
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = DEFAULT_LOG)]
    log: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line, for log collectors
    Json,
}

impl Serve {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        start_log(&self.log, self.log_format)?;
        let config = Config::load(&self.config, self.node.as_deref())?;
        let runtime = node_runtime()?;
        let exit = runtime.block_on(run(config));
        // After a graceful end nothing is left to wait for; after a second signal nothing may be waited for.
        runtime.shutdown_background();
        exit
    }
}

/// Threads for what waits for a disk or takes long: lookups while the disk hangs, scans, large tokens. Each holds a
/// megabyte or so once it was used; what finds none waits for one.
const BLOCKING_THREADS: usize = 64;

/// Two at the least: where one waits for the disk, the other answers from memory.
const LEAST_WORKERS: usize = 2;

/// All cores, for the node's work.
pub(super) fn node_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(
            std::thread::available_parallelism()
                .map_or(1, usize::from)
                .max(LEAST_WORKERS),
        )
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start a runtime: {error}")))
}

pub(super) fn start_log(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("--log or RUST_LOG {filter:?}: {error}. Write a level (error, warn, info, debug, trace) or module=level, with commas between"),
        )
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that cannot be written is no reason to end (`serve 2>&1 | tee`, and tee is gone): reporting that on
        // the same stderr would be a panic of whoever logged.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn run(config: Config) -> Result<Exit, Failure> {
    // Before the node, so that a signal during a long start is not lost.
    let mut ending = Ending::new()?;
    let mut reload = listen(SignalKind::hangup())?;
    let node = tokio::select! {
        node = Node::start(config, Clock::system()) => node?,
        signal = ending.signal() => {
            // What still waits for a disk ends with the process: as after a power cut, nothing acknowledged is lost.
            tracing::info!(signal, "ended before the start was complete");
            return Ok(Exit::Done);
        }
    };
    announce(&node);
    let fault = loop {
        tokio::select! {
            reason = node.ended() => break Some(reason),
            signal = ending.signal() => {
                tracing::info!(signal, grace_seconds = GRACE.as_secs(), "ending; a second signal ends at once");
                break None;
            }
            _ = reload.recv() => {
                tracing::info!("reading the certificates again");
                node.reload();
            }
        }
    };
    let ended = tokio::select! {
        ended = node.shutdown(GRACE) => ended,
        signal = ending.signal() => return Ok(Exit::Signal(signal)),
    };
    match (fault, ended) {
        (Some(reason), _) => Err(Failure::new(Exit::Failed, reason)),
        (None, ended) => Ok(ended.map(|()| Exit::Done)?),
    }
}

fn announce(node: &Node) {
    let mut out = std::io::stdout();
    // Whoever started the node may have closed its stdout; that is no reason not to serve.
    let _ = writeln!(
        out,
        "jwtmesh ready: node={} public={} admin={}",
        node.name(),
        node.public_url(),
        node.admin_path().display()
    )
    .and_then(|()| out.flush());
}

/// The signals that end the program.
pub(super) struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

impl Ending {
    /// Takes the signals over; from here on they no longer kill.
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The number of the next one.
    pub(super) async fn signal(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        };
        // Signal numbers are below 65.
        u8::try_from(kind.as_raw_value()).unwrap_or(u8::MAX)
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("cannot listen for signals: {error}")))
}
