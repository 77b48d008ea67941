//! Puts the rooms together, starts and stops them. Whoever wants to know what runs reads this from top to bottom.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Config;
use crate::fault::FaultHandle;
use crate::folder::Folder;
use crate::http::Admin;
use crate::http::Public;
use crate::jwt::OperatorClaims;
use crate::jwt::Token;
use crate::jwt::Verified;
use crate::nats::NatsClusters;
use crate::raft::Flusher;
use crate::raft::Member;
use crate::raft::NoPeers;
use crate::raft::Parts;
use crate::raft::Raft;
use crate::raft::Settings;
use crate::raft::log::LogStore;
use crate::raft::log::Options as LogOptions;
use crate::raft::log::RealDisk;
use crate::raft::log::StoreId;
use crate::resolver::Resolver;
use crate::state::Options as StateOptions;
use crate::state::Outcome;
use crate::state::State;
use crate::tls::ReloadableTls;

/// How long the end of agreement and the last flush may take once nobody is served any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// A running node. Ends by [`Node::shutdown`], or by a fault that [`Node::ended`] tells.
#[derive(Debug)]
pub struct Node {
    name: String,
    public_url: String,
    admin_path: PathBuf,
    resolver: Resolver,
    raft: Raft,
    tls: Option<ReloadableTls>,
    fault: FaultHandle,
    /// Ends what serves and what propagates.
    stop_serving: CancellationToken,
    serving: TaskTracker,
    /// Ends agreement, after that.
    stop_agreeing: CancellationToken,
    agreeing: TaskTracker,
    threads: Vec<JoinHandle<()>>,
    _folder: Folder,
}

impl Node {
    /// Starts the node that `config` describes; returns when it serves and everything it ever acknowledged can be
    /// read.
    pub async fn start(config: Config, clock: Clock) -> Result<Self> {
        let operators = read_operators(&config.operators)?;
        let tls = config.tls.as_ref().map(ReloadableTls::load).transpose()?;
        let mut folder = Folder::take(&config.data, &config.cluster, &config.node)?;
        let public = Public::bind(config.public, tls.clone()).await?;
        let fault = FaultHandle::default();
        let mut stores = Stores::open(&folder, &fault)?;
        let agreeing = TaskTracker::new();
        let stop_agreeing = CancellationToken::new();
        let state = stores.state.clone();
        let threads = std::mem::take(&mut stores.threads);
        let raft = agree(&config, &folder, stores, &fault, &agreeing, &stop_agreeing).await?;
        folder.set_formed()?;
        let resolver = Resolver::new(raft.clone(), state, clock.clone(), fault.clone());
        trust_first(&resolver, &operators).await?;

        let serving = TaskTracker::new();
        let stop_serving = CancellationToken::new();
        let public_url = public.url();
        let admin = Admin::bind(&folder.admin_socket())?;
        let admin_path = admin.path().to_owned();
        admin.serve(
            config.cluster.clone(),
            config.node.clone(),
            public_url.clone(),
            resolver.clone(),
            &serving,
            stop_serving.clone(),
        );
        public.serve(resolver.clone(), clock, &serving, stop_serving.clone());
        if let Some(tls) = &tls {
            serving.spawn(tls.clone().watch(stop_serving.clone()));
        }
        if config.nats.is_empty() {
            tracing::warn!("no [[nats]] in cluster.toml: running nats-servers will not hear of changes, only new ones");
        }
        NatsClusters::start(
            &config.node,
            &config.nats,
            resolver.clone(),
            &serving,
            stop_serving.clone(),
            &fault,
        );
        Ok(Self {
            name: config.node,
            public_url,
            admin_path,
            resolver,
            raft,
            tls,
            fault,
            stop_serving,
            serving,
            stop_agreeing,
            agreeing,
            threads,
            _folder: folder,
        })
    }

    /// Where nats-servers and nsc reach it: `http://ADDRESS` or `https://ADDRESS`.
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// The socket for administration.
    pub fn admin_path(&self) -> &Path {
        &self.admin_path
    }

    /// Its name in `cluster.toml`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until a fault ends it, and gives the reason.
    pub async fn ended(&self) -> String {
        self.fault.reported().await
    }

    /// Reads the certificates again.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// Finishes the requests under way, at most for `grace`, then leaves everything on disk.
    pub async fn shutdown(self, grace: Duration) -> Result<()> {
        self.resolver.retire();
        self.stop_serving.cancel();
        self.serving.close();
        if tokio::time::timeout(grace, self.serving.wait()).await.is_err() {
            tracing::warn!(
                seconds = grace.as_secs(),
                "some requests did not finish in time and are cut off"
            );
        }
        self.stop_agreeing.cancel();
        self.raft.shutdown().await;
        drop((self.raft, self.resolver));
        self.agreeing.close();
        let threads = self.threads;
        let closed = async {
            self.agreeing.wait().await;
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join()))).await
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            bail!(
                "the stores did not close within {} s; nothing acknowledged is lost",
                CLOSE_TIMEOUT.as_secs()
            );
        }
        if self.fault.is_reported() {
            bail!(self.fault.reported().await);
        }
        Ok(())
    }
}

/// Starts agreement over the stores; returns when everything ever acknowledged here can be read.
async fn agree(
    config: &Config,
    folder: &Folder,
    stores: Stores,
    fault: &FaultHandle,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Raft> {
    let settings = Settings {
        cluster: config.cluster.clone(),
        node_id: folder.identity().node_id,
        member: Member {
            name: config.node.clone(),
            peer: String::new(),
            store: folder.identity().store.clone(),
        },
        timing: config.timing,
    };
    let parts = Parts {
        log: stores.log,
        checkpoint: stores.checkpoint,
        state: stores.state,
        network: NoPeers,
        flushed: stores.flushed,
        revision: stores.revision,
        fault: fault.clone(),
    };
    Ok(Raft::start(settings, parts, tracker, stop.clone()).await?)
}

/// The two stores of a node, with the threads that write them.
struct Stores {
    log: LogStore,
    checkpoint: Arc<AtomicU64>,
    state: State,
    flushed: watch::Receiver<u64>,
    revision: watch::Sender<u64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stores {
    fn open(folder: &Folder, fault: &FaultHandle) -> Result<Self> {
        let store = StoreId(folder.identity().store_bytes());
        let state = State::open_file(&folder.state(), StateOptions::new(store.to_string()))?;
        let checkpoint = Arc::new(AtomicU64::new(state.checkpointed()));
        let disk = RealDisk::open(&folder.log()).with_context(|| format!("cannot open {}", folder.log().display()))?;
        let options = LogOptions {
            must_exist: folder.identity().formed,
            ..LogOptions::new(store)
        };
        let reported = fault.clone();
        let on_fault = Arc::new(move |log_fault| reported.report(log_fault));
        let (log, writer) = LogStore::open(Arc::new(disk), &options, checkpoint.clone(), on_fault)?;
        let (revision, applied) = watch::channel(state.applied().map_or(0, |mark| mark.index));
        let (flushing, flushed) = watch::channel(state.flushed());
        let flusher = Flusher::new(state.clone(), applied, flushing, checkpoint.clone(), fault.clone());
        let guard = fault.clone();
        let threads = vec![
            std::thread::Builder::new()
                .name("log-writer".to_owned())
                .spawn(move || guard.guard_thread("the log's writer", || writer.run_blocking()))
                .context("cannot start the thread that writes the log")?,
            flusher
                .spawn_thread()
                .context("cannot start the thread that flushes the state")?,
        ];
        Ok(Self {
            log,
            checkpoint,
            state,
            flushed,
            revision,
            threads,
        })
    }
}

fn read_operators(paths: &[PathBuf]) -> Result<Vec<Verified<OperatorClaims>>> {
    let read = |path: &PathBuf| -> Result<_> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the operator JWT {}", path.display()))?;
        let verified = Token::from_file_text(&text).and_then(Verified::<OperatorClaims>::verify);
        verified.with_context(|| format!("{} is no operator JWT", path.display()))
    };
    paths.iter().map(read).collect()
}

/// The operators of the file are the mesh's first trust; later they only bring newer tokens of trusted ones.
async fn trust_first(resolver: &Resolver, operators: &[Verified<OperatorClaims>]) -> Result<()> {
    let outcomes = resolver.trust_operators(operators).await?;
    for (operator, outcome) in operators.iter().zip(outcomes) {
        let operator = operator.claims().operator;
        match outcome {
            Outcome::Stored { revision } => tracing::info!(%operator, revision, "operator trusted"),
            Outcome::Superseded { stored_issued_at, .. } => {
                tracing::warn!(%operator, stored_issued_at, "the operator JWT in the configuration is older than the agreed one, which stays");
            }
            Outcome::NotTrusted => tracing::warn!(
                %operator,
                "an operator in the configuration is not among the agreed ones, and is not trusted: the file gives the first trust only"
            ),
            Outcome::Unchanged { .. } | Outcome::StaleTrust { .. } | Outcome::Marked => {}
        }
    }
    Ok(())
}
