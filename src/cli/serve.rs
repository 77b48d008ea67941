//! `serve`: runs a node until a signal or a fault ends it.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::exit::{Exit, Failure};
use super::output::{log_line, to_stderr};
use crate::clock::Clock;
use crate::config::Config;
use crate::node::{NOISY_TARGET, Node};
use crate::panics;

/// How long a node may take to finish the requests in progress. After that it closes the stores; the systemd unit
/// allows one minute for both.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// What a node logs by default. Of the libraries only openraft may log, and only its errors. The others warn about what
/// clients send, once for every packet (h2 about stray PINGs, rustls about odd names), so that any client could fill
/// the log. If a library fails, jwtmesh logs that failure itself, once.
const DEFAULT_LOG: &str = "off,jwtmesh=info,openraft=error";

/// Runs a node. When it serves lookups it prints one line on stdout:
/// `jwtmesh ready: node=NAME public=URL admin=SOCKET`. A node that must first join a mesh or catch up prints the same with
/// `started` in place of `ready` before. Logs go to stderr. With `--log-format json` every
/// line on both is a JSON object.
///
/// SIGTERM and SIGINT shut it down gracefully; a second signal stops it at once. SIGHUP reads
/// the certificates and the operators' files again.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The mesh's cluster.toml, the same file on every machine
    #[arg(long, value_name = "FILE", env = "JWTMESH_CONFIG", default_value = "cluster.toml")]
    config: PathBuf,
    /// The name of this node in the file; optional if the file has one node
    #[arg(long, value_name = "NAME", env = "JWTMESH_NODE")]
    node: Option<String>,
    /// The format of log lines
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What to log, such as `off,jwtmesh=debug`; a level alone also applies to every library, which log debug at most
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = DEFAULT_LOG)]
    log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line, for log collectors
    Json,
}

impl Serve {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let format = self.log_format;
        self.ended().map_err(|failure| in_format(format, failure))
    }

    fn ended(self) -> Result<Exit, Failure> {
        start_log(&self.log, self.log_format)?;
        let config = Config::load(&self.config, self.node.as_deref())?;
        let runtime = node_runtime()?;
        let exit = runtime.block_on(run(config, self.log_format));
        // After a graceful shutdown nothing is left to wait for; after a second signal the process must not wait.
        runtime.shutdown_background();
        exit
    }
}

/// Threads for work that waits for a disk or takes long: lookups while the disk hangs, scans, large tokens. Each thread
/// keeps about a megabyte once it has been used. Work that finds no free thread waits for one.
const BLOCKING_THREADS: usize = 64;

/// At least two, so that one worker still answers from memory while the other waits for the disk.
const LEAST_WORKERS: usize = 2;

/// A runtime for a node, with a worker for each core.
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
            format!("--log or RUST_LOG {filter:?}: {error}. Write a level (error, warn, info, debug, trace) or module=level, separated by commas"),
        )
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that cannot be written must not stop the node (`serve 2>&1 | tee`, and tee has exited): reporting that
        // on the same stderr would panic in the task that logged.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // At level trace, libraries print what passes through them: tokens, signatures, the system user's JWT.
    let no_contents = filter_fn(|of| {
        let is_own = of.target().starts_with("jwtmesh");
        is_own || (*of.level() < Level::TRACE && !of.target().starts_with(NOISY_TARGET))
    });
    match format {
        LogFormat::Text => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .finish()
            .with(no_contents)
            .init(),
        LogFormat::Json => log.json().flatten_event(true).finish().with(no_contents).init(),
    }
    panics::log_all();
    Ok(())
}

async fn run(config: Config, format: LogFormat) -> Result<Exit, Failure> {
    // Installed before the node starts, so that a signal during a long start is not lost.
    let mut signals = StopSignals::new()?;
    let mut reload = listen(SignalKind::hangup())?;
    let node = tokio::select! {
        node = Node::start(config, Clock::system()) => node?,
        signal = signals.next() => {
            // Work that waits for a disk ends with the process; as after a power cut, nothing acknowledged is lost.
            tracing::info!(signal, "ended before the start was complete");
            return Ok(Exit::Done);
        }
    };
    let mut is_ready = node.is_ready();
    announce(&node, if is_ready { "ready" } else { "started" }, format);
    let fault = loop {
        tokio::select! {
            () = node.ready(), if !is_ready => {
                is_ready = true;
                announce(&node, "ready", format);
            }
            reason = node.ended() => break Some(reason),
            signal = signals.next() => {
                tracing::info!(
                    signal,
                    grace_seconds = GRACE.as_secs(),
                    "shutting down; a second signal stops the node at once"
                );
                break None;
            }
            _ = reload.recv() => {
                tracing::info!("reading the certificates and the operators again");
                node.reload();
            }
        }
    };
    let ended = tokio::select! {
        ended = node.shutdown(GRACE) => ended,
        signal = signals.next() => return Ok(Exit::Signal(signal)),
    };
    match (fault, ended) {
        (Some(reason), _) => Err(Failure::new(Exit::Failed, reason)),
        (None, ended) => Ok(ended.map(|()| Exit::Done)?),
    }
}

fn announce(node: &Node, what: &str, format: LogFormat) {
    let (name, public, admin) = (node.name(), node.public_url(), node.admin_path().display().to_string());
    let mut line = format!("jwtmesh {what}: node={name} public={public} admin={admin}");
    if format == LogFormat::Json {
        line = log_line("INFO", &line, &[("node", name), ("public", public), ("admin", &admin)]);
    }
    let mut out = std::io::stdout();
    // The node serves even if the parent process has closed its stdout.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The failure of a node as the last line of its log: printed here if that is in JSON, else by the caller.
fn in_format(format: LogFormat, failure: Failure) -> Failure {
    if format == LogFormat::Text || failure.message.is_empty() {
        return failure;
    }
    to_stderr(&log_line("ERROR", &failure.message, &[]));
    Failure::new(failure.exit, "")
}

/// The signals that stop the program: SIGTERM and SIGINT, and perhaps SIGHUP.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Installs the handlers; from here on the signals no longer kill the process.
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// The same with SIGHUP, which the program gets when its terminal is closed.
    pub(super) fn with_hangup() -> Result<Self, Failure> {
        Ok(Self {
            hangup: Some(listen(SignalKind::hangup())?),
            ..Self::new()?
        })
    }

    /// Waits for the next signal and returns its number.
    pub(super) async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = hangup => SignalKind::hangup(),
        };
        // Signal numbers are below 65.
        u8::try_from(kind.as_raw_value()).unwrap_or(u8::MAX)
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("cannot listen for signals: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = "JWTMESH_TEST_OF_A_PANIC";

    #[test]
    fn a_panic_is_a_line_of_the_log_in_json() {
        if std::env::var_os(CHILD).is_some() {
            start_log(DEFAULT_LOG, LogFormat::Json).expect("a filter");
            let panicked = std::thread::Builder::new().spawn(|| panic!("on \"purpose\"\nin two lines"));
            panicked.expect("a thread").join().expect_err("it panics");
            assert_eq!(
                panics::caught(|| -> u8 { panic!("expected") }),
                Err("expected".to_owned())
            );
            return;
        }
        // The hook is the process's own, so the panic is made in another process: this test once more.
        let name = "cli::serve::tests::a_panic_is_a_line_of_the_log_in_json";
        let mut child = std::process::Command::new(std::env::current_exe().expect("this test"));
        let done = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output();
        let done = done.expect("this test again");
        let text = String::from_utf8(done.stderr).expect("text");
        assert!(done.status.success(), "{text}");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        assert_eq!(lines.len(), 1, "{text}");
        let message = lines[0]["message"].as_str().expect("a message");
        assert!(
            message.contains("has panicked") && message.contains("in two lines"),
            "{message}"
        );
    }
}
