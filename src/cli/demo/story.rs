//! What the demo does, step by step, a line for each.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;

use super::certificates::{self, CA};
use super::folder::{Folder, Secrecy};
use super::keys::{Keys, token_file};
use super::server::{self, NatsServer};
use super::{guide, show};
use crate::cli::exit::{Exit, Failure};
use crate::cli::serve::{Ending, GRACE, LogFormat, node_runtime, start_log};
use crate::client::PublicClient;
use crate::clock::Clock;
use crate::config::Config;
use crate::jwt::AccountKey;
use crate::node::Node;

/// async-nats reports what the show provokes: a client that is cut off and refused.
const DEFAULT_LOG: &str = "off,jwtmesh=error,openraft=error";

/// Makes an operator, accounts, creds, certificates and a cluster.toml in a folder, and runs a node on it.
///
/// Where a nats-server is found it starts one too, connects a client, revokes its user and tells how soon the
/// client is cut off. Then it prints what to try next and serves until Ctrl-C. Run again, it continues.
#[derive(Debug, Args)]
pub(in crate::cli) struct Demo {
    /// The folder; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "jwtmesh-demo")]
    dir: PathBuf,
    /// The nats-server to start [default: the one in PATH, if any]
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Stop after the show instead of serving until Ctrl-C
    #[arg(long)]
    exit: bool,
    /// What is logged on stderr
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

/// From the empty folder to the end.
async fn run(demo: &Demo, out: &mut impl Write) -> Result<Exit, Failure> {
    let clock = Clock::system();
    let program = server::find(demo.nats_server.as_deref())?;
    // Before anything is started, so that whatever is started is also ended.
    let mut ending = Ending::new()?;
    let mut told = Told(out);
    let folder = Folder::open(&demo.dir)?;
    let keys = prepare(&folder, &clock, &mut told)?;
    let config = Config::load(&folder.path("cluster.toml"), None)?;
    let node = tokio::select! {
        node = Node::start(config, clock.clone()) => node?,
        _ = ending.signal() => return Ok(Exit::Done),
    };
    told.line(
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
        ended = serve(demo, &folder, &keys, &clock, program.as_deref(), &mut server, &mut told) => ended,
        reason = node.ended() => Err(Failure::new(Exit::Failed, reason)),
        _ = ending.signal() => Ok(()),
    };
    if let Some(server) = server {
        let id = server.id();
        server.stop().await;
        // Nobody may be listening any more; the node is ended all the same.
        let _ = told.line("ended", &format!("nats-server, process {id}"));
    }
    tokio::select! {
        stopped = node.shutdown(GRACE) => stopped?,
        signal = ending.signal() => return Ok(Exit::Signal(signal)),
    }
    let _ = told.line("ended", "the node; run the same command again to continue");
    ended.map(|()| Exit::Done)
}

/// One line for each step, at once, also into a pipe.
struct Told<'o, W>(&'o mut W);

impl<W: Write> Told<'_, W> {
    fn line(&mut self, what: &str, text: &str) -> std::io::Result<()> {
        writeln!(self.0, "{what:<13} {text}")?;
        self.0.flush()
    }

    fn block(&mut self, head: &str, text: &str) -> std::io::Result<()> {
        writeln!(self.0, "\n{head}\n")?;
        for line in text.lines() {
            writeln!(self.0, "{}{line}", if line.is_empty() { "" } else { "  " })?;
        }
        writeln!(self.0)?;
        self.0.flush()
    }
}

fn prepare(folder: &Folder, clock: &Clock, told: &mut Told<impl Write>) -> Result<Keys, Failure> {
    let state = if folder.is_new { "new" } else { "continued" };
    told.line("folder", &format!("{} ({state})", folder.path("").display()))?;
    for name in ["keys", "trust", "accounts", "creds", "tls"] {
        folder.make_dir(name)?;
    }
    let keys = Keys::make(folder, clock.now())?;
    let operator = keys.operator();
    told.line(
        "operator",
        &format!(
            "demo {}, signing key {}",
            operator.operator,
            operator.signing_keys.join(" ")
        ),
    )?;
    told.line("account", &format!("SYS {}, the system account", keys.system()?))?;
    told.line("account", &format!("APP {}, with users alice and bob", keys.app()?))?;
    certificates::make(folder, clock.now())?;
    told.line("authority", &folder.path(CA).display().to_string())?;
    folder.keep("cluster.toml", Secrecy::Open, || Ok(guide::cluster_toml(folder.ports)))?;
    // Anew each time: it has the folder's absolute path, and folders are moved.
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
    told: &mut Told<'_, impl Write>,
) -> Result<(), Failure> {
    let node = PublicClient::new(
        &format!("https://127.0.0.1:{}", folder.ports.public),
        Some(&folder.path(CA)),
    )?;
    for (name, account) in [("SYS", keys.system()?), ("APP", keys.app()?)] {
        submit_first(&node, folder, name, account, told).await?;
    }
    if let Some(program) = program {
        let started = server.insert(NatsServer::start(program, folder).await?);
        told.line(
            "nats-server",
            &format!(
                "{}, process {}, port {}",
                program.display(),
                started.id(),
                folder.ports.nats
            ),
        )?;
        perform(folder, keys, &node, clock, told).await?;
    } else {
        told.line(
            "nats-server",
            "none in PATH, so no revocation is shown; give one with --nats-server FILE",
        )?;
    }
    let config = folder.path(server::CONFIG);
    let text = std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    told.block(&format!("nats-server's configuration, {}:", config.display()), &text)?;
    told.block("Try next:", &guide::try_next(folder, keys, program.is_some())?)?;
    if !demo.exit {
        told.line("serving", "until Ctrl-C")?;
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Submits an account's first token, unless the node has one: it may be newer.
async fn submit_first(
    node: &PublicClient,
    folder: &Folder,
    name: &str,
    account: AccountKey,
    told: &mut Told<'_, impl Write>,
) -> Result<(), Failure> {
    if node.lookup(account).await?.status == 200 {
        return Ok(told.line("kept", &format!("{name}, from an earlier run"))?);
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
    Ok(told.line("pushed", &format!("{name}, signed with the operator's signing key"))?)
}

/// The revocation.
async fn perform(
    folder: &Folder,
    keys: &Keys,
    node: &PublicClient,
    clock: &Clock,
    told: &mut Told<'_, impl Write>,
) -> Result<(), Failure> {
    let url = format!("nats://127.0.0.1:{}", folder.ports.nats);
    show::node_is_connected(&url, keys, clock).await?;
    told.line("connected", "the node to nats-server, with its system-account user")?;
    let mut client = show::Client::connect(&url, keys, folder, clock).await?;
    told.line("connected", "a client as user bob")?;
    let seen = client.revoke(keys, node, clock).await?;
    told.line(
        "revoked",
        &format!("bob; on disk after {} ms", seen.stored_after.as_millis()),
    )?;
    told.line(
        "measured",
        &format!("client cut off after {} ms", seen.cut_off_after.as_millis()),
    )?;
    let refusal = client.reconnect_refused(&url).await?;
    Ok(told.line("refused", &format!("bob's reconnect: {refusal}"))?)
}
