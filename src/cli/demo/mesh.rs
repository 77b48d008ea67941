//! The nodes of the demo's mesh: child processes, so that one of them can be killed as a power cut would.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use futures::future::{join_all, pending, select_all};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::certificates::CA;
use super::folder::Folder;
use super::guide::MESH_DATA;
use crate::api::{Bootstrapped, Status};
use crate::client::{AdminClient, PublicClient};
use crate::folder::admin_socket;

/// A node is ready within a second; the rest is for a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Far longer than an election, a takeover or catching up takes here; beyond it something is broken.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

/// Short beside what is measured with it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Longer than a node's own limits for its shutdown.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// What a node logs when it begins to publish to nats-server, and when it no longer does.
const PUBLISHES: &str = "this node publishes to this NATS cluster now";
const NO_LONGER_PUBLISHES: &str = "another node may publish to this NATS cluster now";

/// The nodes. Dropping it kills those that run.
pub(super) struct Mesh {
    program: PathBuf,
    config: PathBuf,
    nodes: Vec<Node>,
}

/// A node, which may run or not.
struct Node {
    name: String,
    url: String,
    public: PublicClient,
    admin: AdminClient,
    log: PathBuf,
    /// Where the log of its current process begins.
    log_from: u64,
    child: Option<Child>,
}

impl Mesh {
    /// The mesh of the folder. Nothing is started yet.
    pub(super) fn of(folder: &Folder) -> anyhow::Result<Self> {
        let nodes = folder.ports.members().into_iter().map(|member| {
            let url = format!("https://127.0.0.1:{}", member.public);
            anyhow::Ok(Node {
                public: PublicClient::new(&url, Some(&folder.path(CA)), None)?,
                admin: AdminClient::new(admin_socket(&folder.path(MESH_DATA).join(&member.name))),
                log: folder.path(&format!("{}.log", member.name)),
                log_from: 0,
                name: member.name,
                url,
                child: None,
            })
        });
        Ok(Self {
            nodes: nodes.collect::<Result<_, _>>()?,
            program: std::env::current_exe().context("cannot find the program's own file")?,
            config: folder.path("cluster.toml"),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn name(&self, at: usize) -> &str {
        &self.nodes[at].name
    }

    /// The URL of a node's public port.
    pub(super) fn url(&self, at: usize) -> &str {
        &self.nodes[at].url
    }

    /// A client of a node's public port.
    pub(super) fn public(&self, at: usize) -> &PublicClient {
        &self.nodes[at].public
    }

    /// The id of a node's process.
    pub(super) fn id(&self, at: usize) -> u32 {
        let child = self.nodes[at].child.as_ref();
        child.and_then(Child::id).unwrap_or_default()
    }

    /// Starts every node, and waits until each is ready: it serves what it has, formed or not.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        for at in 0..self.len() {
            self.spawn(at)?;
        }
        for at in 0..self.len() {
            self.ready(at).await?;
        }
        Ok(())
    }

    /// Forms the mesh as `member bootstrap` does, unless it is formed.
    pub(super) async fn form(&self) -> anyhow::Result<Bootstrapped> {
        Ok(self.nodes[0].admin.bootstrap(None).await?)
    }

    /// Kills a node with SIGKILL; it has ended when this returns.
    pub(super) async fn kill(&mut self, at: usize) -> anyhow::Result<()> {
        let mut child = self.nodes[at].child.take().context("the node does not run")?;
        child.kill().await.context("cannot kill a node")
    }

    /// Starts a node again that was killed, and waits until it has everything.
    pub(super) async fn bring_back(&mut self, at: usize, leader: usize) -> anyhow::Result<()> {
        self.spawn(at)?;
        self.ready(at).await?;
        let everything = self.nodes[leader].admin.status().await?.revision;
        let deadline = Instant::now() + CHANGE_LIMIT;
        let has_everything = |status: &Status| status.writable && status.revision >= everything;
        while !self.status(at).await.as_ref().is_some_and(has_everything) {
            self.pause(deadline, "the node that was killed has not caught up")
                .await?;
        }
        Ok(())
    }

    /// Stops a node as an administrator does, so that it hands the leadership over, and starts it again.
    pub(super) async fn restart(&mut self, at: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.nodes[at].child.take() {
            terminate(&mut child).await?;
        }
        self.spawn(at)?;
        self.ready(at).await
    }

    /// The node that leads, as soon as every node that runs says the same and takes uploads.
    pub(super) async fn leader(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + CHANGE_LIMIT;
        loop {
            let running = (0..self.len()).filter(|at| self.nodes[*at].child.is_some());
            let said = join_all(running.map(|at| self.status(at))).await;
            let mut leaders = said.iter().map(|status| self.leader_in(status.as_ref()));
            if let Some(Some(first)) = leaders.next()
                && leaders.all(|leader| leader == Some(first))
            {
                return Ok(first);
            }
            self.pause(deadline, "the nodes do not agree on a leader").await?;
        }
    }

    /// The next leader after `killed`, as soon as a node that is left takes uploads with it.
    pub(super) async fn leader_after(&self, killed: usize) -> anyhow::Result<usize> {
        let deadline = Instant::now() + CHANGE_LIMIT;
        loop {
            for at in (0..self.len()).filter(|at| *at != killed) {
                let leader = self.leader_in(self.status(at).await.as_ref());
                if let Some(leader) = leader.filter(|leader| *leader != killed) {
                    return Ok(leader);
                }
            }
            self.pause(deadline, "no other node leads").await?;
        }
    }

    /// The node that publishes to nats-server, as soon as one of those that run does.
    pub(super) async fn publisher(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + CHANGE_LIMIT;
        loop {
            let running = (0..self.len()).filter(|at| self.nodes[*at].child.is_some());
            for at in running {
                if self.nodes[at].publishes()? {
                    return Ok(at);
                }
            }
            self.pause(deadline, "no node publishes to nats-server").await?;
        }
    }

    /// Waits until a node ends, which none should, and says which one.
    pub(super) async fn ended(&mut self) -> String {
        let running = self.nodes.iter_mut().filter_map(|node| {
            let (child, name, log) = (node.child.as_mut()?, &node.name, &node.log);
            Some(Box::pin(async move { ended(name, log, child.wait().await) }))
        });
        let running: Vec<_> = running.collect();
        if running.is_empty() {
            return pending().await;
        }
        select_all(running).await.0
    }

    /// Stops all nodes that run. An error names one that did not stop as it should.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let stopping = self.nodes.iter_mut().map(|node| async {
            let Some(child) = node.child.as_mut() else {
                return Ok(());
            };
            let stopped = terminate(child).await?;
            // The signal itself ends a process that is too young to handle it.
            let as_asked = stopped.success() || stopped.signal() == Some(Signal::TERM.as_raw());
            anyhow::ensure!(as_asked, ended(&node.name, &node.log, Ok(stopped)));
            Ok(())
        });
        join_all(stopping).await.into_iter().collect()
    }

    fn spawn(&mut self, at: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[at];
        let log = OpenOptions::new().create(true).append(true).open(&node.log);
        let log = log.with_context(|| format!("cannot write {}", node.log.display()))?;
        node.log_from = log.metadata().context("cannot look at a log")?.len();
        let child = Command::new(&self.program)
            .args(["serve", "--node", &node.name, "--config"])
            .arg(&self.config)
            // It is meant for what the demo itself logs, on stderr.
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Its own process group, so that Ctrl-C on the terminal reaches only the demo, which then stops it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        node.child = Some(child);
        Ok(())
    }

    /// Waits until a node prints that it is ready, which is its only line on stdout.
    async fn ready(&mut self, at: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[at];
        let child = node.child.as_mut().context("the node was not started")?;
        let out = child.stdout.take().context("the node's stdout is taken")?;
        match timeout(START_LIMIT, BufReader::new(out).lines().next_line()).await {
            Ok(Ok(Some(_))) => Ok(()),
            Ok(_) => anyhow::bail!(ended(&node.name, &node.log, child.wait().await)),
            Err(_) => anyhow::bail!(
                "{} is not ready after {} seconds: see {}",
                node.name,
                START_LIMIT.as_secs(),
                node.log.display()
            ),
        }
    }

    /// What a node says of itself; `None` if it does not answer.
    async fn status(&self, at: usize) -> Option<Status> {
        self.nodes[at].admin.status().await.ok()
    }

    /// The leader with which the node takes uploads that has this status.
    fn leader_in(&self, status: Option<&Status>) -> Option<usize> {
        let status = status.filter(|status| status.writable)?;
        let leader = status.leader.as_ref()?;
        self.nodes.iter().position(|node| node.name == *leader)
    }

    /// Waits a moment; an error that begins with `what` if it is too late for that.
    async fn pause(&self, deadline: Instant, what: &str) -> anyhow::Result<()> {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{what} after {} seconds: see {}",
            CHANGE_LIMIT.as_secs(),
            self.nodes[0].log.with_file_name("demo-*.log").display()
        );
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }
}

impl Node {
    /// Whether its process publishes to nats-server, as it last said in its log.
    fn publishes(&self) -> anyhow::Result<bool> {
        let read = || {
            let mut log = std::fs::File::open(&self.log)?;
            log.seek(SeekFrom::Start(self.log_from))?;
            let mut text = Vec::new();
            log.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        let said: std::io::Result<String> = read();
        let said = said.with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(said.rfind(PUBLISHES) > said.rfind(NO_LONGER_PUBLISHES))
    }
}

fn ended(name: &str, log: &Path, how: std::io::Result<ExitStatus>) -> String {
    match how {
        Ok(status) => format!("{name} ended ({status}): see {}", log.display()),
        Err(error) => format!("{name} cannot be waited for: {error}"),
    }
}

/// Stops a node with SIGTERM, or with SIGKILL if it takes too long, and says how it ended.
async fn terminate(child: &mut Child) -> anyhow::Result<ExitStatus> {
    // Without an id it has been waited for; with one, the id is its own until then.
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(id) = id {
        kill_process(id, Signal::TERM).context("cannot stop a node")?;
    }
    match timeout(STOP_LIMIT, child.wait()).await {
        Ok(status) => status.context("cannot wait for a node"),
        Err(_) => {
            child.kill().await.context("cannot kill a node")?;
            child.wait().await.context("cannot wait for a node")
        }
    }
}
