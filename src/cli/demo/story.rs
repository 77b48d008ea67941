//! The steps of the demo, in order; each prints a line.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;

use super::certificates::{self, CA};
use super::folder::{Folder, Secrecy};
use super::keys::{Keys, token_file};
use super::server::{self, NatsServer};
use super::stage::Steps;
use super::{guide, show};
use crate::cli::exit::{Exit, Failure};
use crate::cli::serve::{GRACE, LogFormat, StopSignals, node_runtime, start_log};
use crate::client::PublicClient;
use crate::clock::Clock;
use crate::config::Config;
use crate::jwt::AccountKey;
use crate::node::Node;

/// async-nats is off: it would report the disconnection and the refusal that the demo provokes.
const DEFAULT_LOG: &str = "off,jwtmesh=error,openraft=error";

/// Makes an operator, accounts, creds, certificates and a cluster.toml in a folder, and runs a node on it.
///
/// If it finds a nats-server, it starts that too, connects a client, revokes the client's user and measures the time
/// until the client is disconnected. Then it prints commands to try next and serves until Ctrl-C. A second run
/// continues with the same folder.
#[derive(Debug, Args)]
pub(in crate::cli) struct Demo {
    /// The demo's folder; created if it does not exist
    #[arg(long, value_name = "DIR", default_value = "jwtmesh-demo")]
    dir: PathBuf,
    /// The nats-server to start [default: the one in PATH, if any]
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Stop after the revocation instead of serving until Ctrl-C
    #[arg(long)]
    exit: bool,
    /// What to log on stderr
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = DEFAULT_LOG)]
    log: String,
}

impl Demo {
    pub(in crate::cli) fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        start_log(&self.log, LogFormat::Text)?;
        let runtime = node_runtime()?;
        let exit = runtime.block_on(run(&self, out));
        runtime.shutdown_background();
        exit
    }
}

/// Runs all steps, and stops everything that they started.
async fn run(demo: &Demo, out: &mut impl Write) -> Result<Exit, Failure> {
    let clock = Clock::system();
    let program = server::find(demo.nats_server.as_deref())?;
    // Installed before anything is started, so that everything that is started is also stopped.
    let mut signals = StopSignals::with_hangup()?;
    let mut steps = Steps(out);
    let folder = Folder::open(&demo.dir)?;
    let keys = prepare(&folder, &clock, &mut steps)?;
    let config = Config::load(&folder.path("cluster.toml"), None)?;
    let node = tokio::select! {
        node = Node::start(config, clock.clone()) => node?,
        _ = signals.next() => return Ok(Exit::Done),
    };
    steps.line(
        "node",
        &format!(
            "{} serves {} from {}",
            node.name(),
            node.public_url(),
            folder.path("cluster.toml").display()
        ),
    )?;
    let mut server = None;
    let ended = tokio::select! {
        ended = serve(demo, &folder, &keys, &clock, program.as_deref(), &mut server, &mut steps) => ended,
        reason = node.ended() => Err(Failure::new(Exit::Failed, reason)),
        _ = signals.next() => Ok(()),
    };
    if let Some(server) = server {
        let id = server.id();
        server.stop().await;
        // stdout may be closed by now; the node is shut down all the same.
        let _ = steps.line("ended", &format!("nats-server, process {id}"));
    }
    tokio::select! {
        stopped = node.shutdown(GRACE) => stopped?,
        signal = signals.next() => return Ok(Exit::Signal(signal)),
    }
    let _ = steps.line("ended", "the node; run the same command again to continue");
    ended.map(|()| Exit::Done)
}

fn prepare(folder: &Folder, clock: &Clock, steps: &mut Steps<impl Write>) -> Result<Keys, Failure> {
    let state = if folder.is_new { "new" } else { "continued" };
    steps.line("folder", &format!("{} ({state})", folder.path("").display()))?;
    for name in ["keys", "trust", "accounts", "creds", "tls"] {
        folder.make_dir(name)?;
    }
    let keys = Keys::make(folder, clock.now())?;
    let operator = keys.operator();
    steps.line(
        "operator",
        &format!(
            "demo {}, signing key {}",
            operator.operator,
            operator.signing_keys.join(" ")
        ),
    )?;
    steps.line("account", &format!("SYS {}, the system account", keys.system()?))?;
    steps.line("account", &format!("APP {}, with users alice and bob", keys.app()?))?;
    certificates::make(folder, clock.now())?;
    steps.line("authority", &folder.path(CA).display().to_string())?;
    folder.keep("cluster.toml", Secrecy::Open, || Ok(guide::cluster_toml(folder.ports)))?;
    // Rewritten by each run: it has the folder's absolute path, and the folder may have been moved.
    folder.write(server::CONFIG, Secrecy::Open, &guide::nats_server(folder, &keys)?)?;
    Ok(keys)
}

async fn serve(
    demo: &Demo,
    folder: &Folder,
    keys: &Keys,
    clock: &Clock,
    program: Option<&std::path::Path>,
    server: &mut Option<NatsServer>,
    steps: &mut Steps<'_, impl Write>,
) -> Result<(), Failure> {
    let node = PublicClient::new(
        &format!("https://127.0.0.1:{}", folder.ports.public),
        Some(&folder.path(CA)),
    )?;
    for (name, account) in [("SYS", keys.system()?), ("APP", keys.app()?)] {
        submit_first(&node, folder, name, account, steps).await?;
    }
    if let Some(program) = program {
        let started = server.insert(NatsServer::start(program, folder).await?);
        steps.line(
            "nats-server",
            &format!(
                "{}, process {}, port {}",
                program.display(),
                started.id(),
                folder.ports.nats
            ),
        )?;
        revoke_bob(folder, keys, &node, clock, steps).await?;
    } else {
        steps.line(
            "nats-server",
            "none in PATH, so no revocation is shown; give one with --nats-server FILE",
        )?;
    }
    let config = folder.path(server::CONFIG);
    let text = std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    steps.block(&format!("nats-server's configuration, {}:", config.display()), &text)?;
    steps.block("Try next:", &guide::try_next(folder, keys, program.is_some())?)?;
    if !demo.exit {
        steps.line("serving", "until Ctrl-C")?;
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Submits an account's first token, unless the node already has a token, which may be newer.
async fn submit_first(
    node: &PublicClient,
    folder: &Folder,
    name: &str,
    account: AccountKey,
    steps: &mut Steps<'_, impl Write>,
) -> Result<(), Failure> {
    if node.lookup(account).await?.status == 200 {
        return Ok(steps.line("kept", &format!("{name}, from an earlier run"))?);
    }
    let file = folder.path(&token_file(name));
    let token = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let answer = node.submit(account, Bytes::from(token)).await?;
    if answer.status != 200 {
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        return Err(Failure::new(
            Exit::Refused,
            format!("the node refused {name} with {}: {said}", answer.status),
        ));
    }
    Ok(steps.line("pushed", &format!("{name}, signed with the operator's signing key"))?)
}

/// Shows a revocation: connects a client, revokes its user, and measures.
async fn revoke_bob(
    folder: &Folder,
    keys: &Keys,
    node: &PublicClient,
    clock: &Clock,
    steps: &mut Steps<'_, impl Write>,
) -> Result<(), Failure> {
    let url = format!("nats://127.0.0.1:{}", folder.ports.nats);
    show::node_is_connected(&url, keys, clock).await?;
    steps.line("connected", "the node to nats-server, with its system-account user")?;
    let mut client = show::Client::connect(&url, keys, folder, clock).await?;
    steps.line("connected", "a client as user bob")?;
    let measured = client.revoke(keys, node, clock).await?;
    steps.line(
        "revoked",
        &format!("bob; on disk after {} ms", measured.stored_after.as_millis()),
    )?;
    steps.line(
        "measured",
        &format!("client cut off after {} ms", measured.disconnected_after.as_millis()),
    )?;
    let refusal = client.reconnect_refused(&url).await?;
    Ok(steps.line("refused", &format!("bob's reconnect: {refusal}"))?)
}
