//! The steps of the demo, in order; each prints a line.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::certificates::{self, CA};
use super::folder::{Folder, Secrecy};
use super::keys::{Keys, token_file};
use super::mesh::Mesh;
use super::server::{self, NatsServer};
use super::stage::{Stage, Steps};
use super::{failover, guide, show};
use crate::cli::exit::{Exit, Failure};
use crate::cli::serve::{GRACE, LogFormat, StopSignals, node_runtime, start_log};
use crate::client::PublicClient;
use crate::clock::Clock;
use crate::config::Config;
use crate::jwt::AccountKey;
use crate::node::Node;

/// async-nats is off: it would report the disconnection and the refusal that the demo provokes.
const DEFAULT_LOG: &str = "off,jwtmesh=error,openraft=error";

/// Makes an operator, accounts, creds, certificates and a cluster.toml in a folder, and runs a node or a mesh on it.
///
/// If it finds a nats-server, it starts that too, connects a client, revokes the client's user and measures the time
/// until the client is disconnected. With several nodes it kills the leader before that, and starts it again at the end.
/// Then it prints commands to try next and serves until Ctrl-C. A second run continues with the same folder.
#[derive(Debug, Args)]
pub(in crate::cli) struct Demo {
    /// The demo's folder; created if it does not exist
    #[arg(long, value_name = "DIR", default_value = "jwtmesh-demo")]
    dir: PathBuf,
    /// How many nodes; several are processes of their own, with logs in the folder [default: as the folder has, or 1]
    #[arg(long, value_name = "N", value_parser = nodes_parser())]
    nodes: Option<usize>,
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

fn nodes_parser() -> impl TypedValueParser<Value = usize> {
    PossibleValuesParser::new(["1", "3", "5"]).try_map(|nodes| nodes.parse::<usize>())
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
    let signals = StopSignals::with_hangup()?;
    let mut steps = Steps(out);
    let folder = Folder::open(&demo.dir, demo.nodes)?;
    let keys = prepare(&folder, &clock, &mut steps)?;
    let stage = Stage {
        folder,
        keys,
        clock,
        program,
    };
    if stage.folder.ports.members().is_empty() {
        run_node(demo, &stage, signals, &mut steps).await
    } else {
        run_mesh(demo, &stage, signals, &mut steps).await
    }
}

/// Runs a single node in this process.
async fn run_node(
    demo: &Demo,
    stage: &Stage,
    mut signals: StopSignals,
    steps: &mut Steps<'_, impl Write>,
) -> Result<Exit, Failure> {
    let config = Config::load(&stage.folder.path("cluster.toml"), None)?;
    let node = tokio::select! {
        node = Node::start(config, stage.clock.clone()) => node?,
        _ = signals.next() => return Ok(Exit::Done),
    };
    let text = format!(
        "{} serves {} from {}",
        node.name(),
        node.public_url(),
        stage.folder.path("cluster.toml").display()
    );
    steps.line("node", &text)?;
    let mut server = None;
    let ended = tokio::select! {
        ended = serve_node(demo, stage, &mut server, steps) => ended,
        reason = node.ended() => Err(Failure::new(Exit::Failed, reason)),
        _ = signals.next() => Ok(()),
    };
    stop_server(server, steps).await;
    tokio::select! {
        stopped = node.shutdown(GRACE) => stopped?,
        signal = signals.next() => return Ok(Exit::Signal(signal)),
    }
    let _ = steps.line("ended", "the node; run the same command again to continue");
    ended.map(|()| Exit::Done)
}

/// Runs a mesh of processes.
async fn run_mesh(
    demo: &Demo,
    stage: &Stage,
    mut signals: StopSignals,
    steps: &mut Steps<'_, impl Write>,
) -> Result<Exit, Failure> {
    // On every return, those that still run are killed.
    let mut mesh = Mesh::of(&stage.folder)?;
    let mut server = None;
    let ended = tokio::select! {
        ended = serve_mesh(demo, stage, &mut mesh, &mut server, steps) => ended,
        _ = signals.next() => Ok(()),
    };
    stop_server(server, steps).await;
    let stopped = tokio::select! {
        stopped = mesh.stop() => stopped,
        signal = signals.next() => return Ok(Exit::Signal(signal)),
    };
    // The first failure is the one to report: what stops badly after it is often its consequence.
    ended?;
    stopped?;
    let _ = steps.line("ended", "the nodes; run the same command again to continue");
    Ok(Exit::Done)
}

async fn stop_server(server: Option<NatsServer>, steps: &mut Steps<'_, impl Write>) {
    let Some(server) = server else { return };
    let id = server.id();
    server.stop().await;
    // stdout may be closed by now; the nodes are shut down all the same.
    let _ = steps.line("ended", &format!("nats-server, process {id}"));
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
    folder.keep("cluster.toml", Secrecy::Open, || Ok(guide::cluster_toml(&folder.ports)))?;
    Ok(keys)
}

async fn serve_node(
    demo: &Demo,
    stage: &Stage,
    server: &mut Option<NatsServer>,
    steps: &mut Steps<'_, impl Write>,
) -> Result<(), Failure> {
    let folder = &stage.folder;
    let url = format!("https://127.0.0.1:{}", folder.ports.public);
    let node = PublicClient::new(&url, Some(&folder.path(CA)), None)?;
    submit_all(&node, stage, steps).await?;
    if start_server(stage, folder.ports.public, "", server, steps).await? {
        revoke_bob(stage, &node, steps).await?;
    }
    guide(stage, steps)?;
    if !demo.exit {
        steps.line("serving", "until Ctrl-C")?;
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn serve_mesh(
    demo: &Demo,
    stage: &Stage,
    mesh: &mut Mesh,
    server: &mut Option<NatsServer>,
    steps: &mut Steps<'_, impl Write>,
) -> Result<(), Failure> {
    failover::form(mesh, steps).await?;
    submit_all(mesh.public(0), stage, steps).await?;
    // The leader is going to be killed.
    let leader = mesh.leader().await?;
    let resolver = (leader + 1) % mesh.len();
    let public = stage.folder.ports.members()[resolver].public;
    let more = format!(", fetches accounts from {}", mesh.name(resolver));
    if start_server(stage, public, &more, server, steps).await? {
        failover::revoke_bob(stage, mesh, resolver, steps).await?;
    }
    guide(stage, steps)?;
    if !demo.exit {
        steps.line("serving", "until Ctrl-C")?;
        return Err(Failure::new(Exit::Failed, mesh.ended().await));
    }
    Ok(())
}

/// Writes nats-server's configuration, and starts it if there is one. It fetches accounts from the node with the public
/// port `public`; `more` ends the line about it.
async fn start_server(
    stage: &Stage,
    public: u16,
    more: &str,
    server: &mut Option<NatsServer>,
    steps: &mut Steps<'_, impl Write>,
) -> Result<bool, Failure> {
    let Stage { folder, keys, .. } = stage;
    // Rewritten by each run: it has the folder's absolute path, and the folder may have been moved.
    let config = guide::nats_server(folder, keys, public)?;
    folder.write(server::CONFIG, Secrecy::Open, &config)?;
    let Some(program) = &stage.program else {
        let leader = if folder.ports.members().is_empty() {
            ""
        } else {
            ", and no leader is killed"
        };
        let text = format!("none in PATH, so no revocation is shown{leader}; give one with --nats-server FILE");
        steps.line("nats-server", &text)?;
        return Ok(false);
    };
    let started = server.insert(NatsServer::start(program, folder).await?);
    let text = format!(
        "{}, process {}, port {}{more}",
        program.display(),
        started.id(),
        folder.ports.nats
    );
    steps.line("nats-server", &text)?;
    Ok(true)
}

/// Prints nats-server's configuration, and what to try next.
fn guide(stage: &Stage, steps: &mut Steps<'_, impl Write>) -> Result<(), Failure> {
    let Stage { folder, keys, .. } = stage;
    let config = folder.path(server::CONFIG);
    let text = std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    steps.block(&format!("nats-server's configuration, {}:", config.display()), &text)?;
    Ok(steps.block("Try next:", &guide::try_next(folder, keys, stage.program.is_some())?)?)
}

/// Submits the first tokens of all accounts.
async fn submit_all(node: &PublicClient, stage: &Stage, steps: &mut Steps<'_, impl Write>) -> Result<(), Failure> {
    let Stage { folder, keys, .. } = stage;
    for (name, account) in [("SYS", keys.system()?), ("APP", keys.app()?)] {
        submit_first(node, folder, name, account, steps).await?;
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
async fn revoke_bob(stage: &Stage, node: &PublicClient, steps: &mut Steps<'_, impl Write>) -> Result<(), Failure> {
    let Stage {
        folder, keys, clock, ..
    } = stage;
    let url = stage.nats_url();
    show::nodes_are_connected(&url, keys, clock, 1).await?;
    steps.line("connected", "the node to nats-server, with its system-account user")?;
    let mut client = show::Client::connect(&url, keys, folder, clock).await?;
    steps.line("connected", "a client as user bob")?;
    let measured = client.revoke(keys, node, clock).await?;
    steps.line(
        "revoked",
        &format!(
            "bob; on disk, answered after {} ms",
            measured.acknowledged_after.as_millis()
        ),
    )?;
    steps.line(
        "measured",
        &format!("client cut off after {} ms", measured.disconnected_after.as_millis()),
    )?;
    let refusal = client.reconnect_refused(&url).await?;
    Ok(steps.line("refused", &format!("bob's reconnect: {refusal}"))?)
}
