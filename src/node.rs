//! Puts the rooms together, starts and stops them. Whoever wants to know what runs reads this from top to bottom.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::clock::Clock;
use crate::config::Config;
use crate::folder::Folder;
use crate::folder::FolderError;
use crate::http::About;
use crate::http::Admin;
use crate::http::Public;
use crate::jwt::OperatorClaims;
use crate::jwt::Token;
use crate::jwt::Verified;
use crate::nats::NatsClusters;
use crate::raft::Member;
use crate::raft::NoPeers;
use crate::raft::ProposeError;
use crate::raft::Raft;
use crate::raft::Settings;
use crate::raft::stores::OpenDisk;
use crate::raft::stores::StoreThreads;
use crate::raft::stores::Stores;
use crate::raft::stores::real_disk;
use crate::resolver::OperatorOutcome;
use crate::resolver::Resolver;
use crate::resolver::SubmitError;
use crate::tasks::FaultHandle;
use crate::tasks::Scope;
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
    /// What serves and what propagates.
    serving: Scope,
    /// Agreement, which ends after that.
    agreeing: Scope,
    threads: StoreThreads,
    _folder: Folder,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What the configuration names holds something else than it should: starting again would only repeat it.
    #[error("{0:#}")]
    Configuration(anyhow::Error),
    /// Everything else.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<FolderError> for StartError {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Foreign { .. } => Self::Configuration(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

impl Node {
    /// Starts the node that `config` describes; returns when it serves and everything it ever acknowledged can be
    /// read. Dropped before that, it has served nobody and acknowledged nothing.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        Self::start_on(config, clock, real_disk).await
    }

    /// The same with the log on another disk than the real one.
    async fn start_on(config: Config, clock: Clock, disk: impl OpenDisk) -> Result<Self, StartError> {
        let found = blocking(move || {
            let files = read_files(&config).map_err(StartError::Configuration)?;
            let folder = Folder::take(&config.data, &config.cluster, &config.node)?;
            Ok::<_, StartError>((config, files, folder))
        });
        let (config, (operators, tls), folder) = found.await.map_err(StartError::Failed)??;
        let fault = FaultHandle::default();
        let begun = Self::begin(config, clock, operators, tls, folder, fault.clone(), disk).await;
        match begun {
            // Whatever fails after a fault fails because of it, and says less.
            Err(_) if fault.is_reported() => Err(StartError::Failed(anyhow!(fault.reported().await))),
            begun => begun.map_err(StartError::Failed),
        }
    }

    async fn begin(
        config: Config,
        clock: Clock,
        operators: Vec<Verified<OperatorClaims>>,
        tls: Option<ReloadableTls>,
        folder: Folder,
        fault: FaultHandle,
        disk: impl OpenDisk,
    ) -> Result<Self> {
        let public = Public::bind(config.public, tls.clone()).await?;
        let reported = fault.clone();
        let opened = blocking(move || {
            let stores = Stores::open(&folder, &reported, disk)?;
            anyhow::Ok((folder, stores))
        });
        let (mut folder, (stores, threads)) = opened.await??;
        let agreeing = Scope::new(fault.clone());
        let state = stores.state.clone();
        let raft = agree(&config, &folder, stores, &agreeing).await?;
        let folder = blocking(move || folder.set_formed().map(|()| folder)).await??;
        let resolver = Resolver::new(raft.clone(), state, clock.clone(), fault.clone());
        trust_first(&resolver, &operators).await?;

        let serving = Scope::new(fault);
        let public_url = public.url();
        let admin_path = folder.admin_socket();
        if let Some(admin) = bind_admin(&admin_path)? {
            let about = About {
                cluster: config.cluster.clone(),
                node: config.node.clone(),
                public_url: public_url.clone(),
            };
            admin.serve(about, resolver.clone(), &serving);
        }
        public.serve(resolver.clone(), clock, &serving);
        if let Some(tls) = &tls {
            serving.spawn("the watch over the certificates", tls.clone().watch(serving.clone()));
        }
        if config.nats.is_empty() {
            tracing::warn!("no [[nats]] in cluster.toml: running nats-servers will not hear of changes, only new ones");
        }
        NatsClusters::start(&config.node, &config.nats, resolver.clone(), &serving);
        Ok(Self {
            name: config.node,
            public_url,
            admin_path,
            resolver,
            raft,
            tls,
            serving,
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
        self.agreeing.fault().reported().await
    }

    /// Reads the certificates again.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// Finishes the requests under way, at most for `grace`, then leaves everything on disk.
    pub async fn shutdown(self, grace: Duration) -> Result<()> {
        self.shutdown_within(grace, CLOSE_TIMEOUT).await
    }

    async fn shutdown_within(self, grace: Duration, close: Duration) -> Result<()> {
        self.resolver.retire();
        self.serving.stop();
        if tokio::time::timeout(grace, self.serving.ended()).await.is_err() {
            tracing::warn!(
                seconds = grace.as_secs(),
                "some requests did not finish in time and are cut off"
            );
        }
        self.agreeing.stop();
        let fault = self.agreeing.fault().clone();
        let (raft, resolver, agreeing, threads) = (self.raft, self.resolver, self.agreeing, self.threads);
        let closed = async move {
            // Waits for the log's writer, and so for the disk, as everything here does.
            raft.shutdown().await;
            drop((raft, resolver));
            agreeing.ended().await;
            blocking(move || threads.join()).await
        };
        let closed = tokio::time::timeout(close, closed).await;
        if fault.is_reported() {
            bail!(fault.reported().await);
        }
        if closed.is_err() {
            bail!(
                "the stores did not close within {} s; nothing acknowledged is lost",
                close.as_secs()
            );
        }
        Ok(())
    }
}

/// The admin socket; none where the disk has no room even for that: lookups need it least.
fn bind_admin(path: &Path) -> Result<Option<Admin>> {
    match Admin::bind(path) {
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            tracing::error!("{error}; the node serves without it until it is started again");
            Ok(None)
        }
        bound => Ok(Some(bound?)),
    }
}

/// Runs what may wait for a disk away from the async workers: whoever waits for it can be dropped meanwhile, and hears
/// of signals.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a thread has panicked; this is a defect of the program")
}

/// Starts agreement over the stores; returns when everything ever acknowledged here can be read.
async fn agree(config: &Config, folder: &Folder, stores: Stores, scope: &Scope) -> Result<Raft> {
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
    Ok(Raft::start(settings, stores, NoPeers, scope).await?)
}

/// What the configuration names and a start needs. Small files, each read once.
fn read_files(config: &Config) -> Result<(Vec<Verified<OperatorClaims>>, Option<ReloadableTls>)> {
    let tls = config.tls.as_ref().map(ReloadableTls::load).transpose()?;
    Ok((read_operators(&config.operators)?, tls))
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
    let outcomes = match resolver.trust_operators(operators).await {
        // Lookups need no newer trust.
        Err(error @ SubmitError::NotAgreed(ProposeError::Unavailable { .. }))
            if !resolver.trust().keys.operators().is_empty() =>
        {
            tracing::error!(
                "the operators in the configuration are not looked at: {error}, by starting this node again"
            );
            return Ok(());
        }
        outcomes => outcomes?,
    };
    for (operator, outcome) in operators.iter().zip(outcomes) {
        let operator = operator.claims().operator;
        match outcome {
            OperatorOutcome::Stored { revision } => tracing::info!(%operator, revision, "operator trusted"),
            OperatorOutcome::Superseded { stored_issued_at, .. } => {
                tracing::warn!(%operator, stored_issued_at, "the operator JWT in the configuration is older than the agreed one, which stays");
            }
            OperatorOutcome::NotTrusted => tracing::warn!(
                %operator,
                "an operator in the configuration is not among the agreed ones, and is not trusted: the file gives the first trust only"
            ),
            OperatorOutcome::Unchanged { .. } => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;
    use crate::raft::log::Disk;
    use crate::raft::log::DiskFile;
    use crate::raft::log::RealDisk;
    use crate::raft::log::Room;
    use crate::state::MarkPropagated;

    /// Longer than anything here takes; what takes longer would take for ever.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// The real disk, but for its syncs.
    #[derive(Clone, Default)]
    struct SickDisk(Arc<(Mutex<Health>, Condvar)>);

    #[derive(Default)]
    struct Health {
        /// Syncs that still succeed; all of them if none is said.
        good: Option<u32>,
        /// Whether syncs wait, and how many do.
        hangs: bool,
        hanging: u32,
    }

    impl SickDisk {
        fn change<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
            let changed = change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
            changed
        }

        fn sync(&self) -> io::Result<()> {
            let (health, changed) = &*self.0;
            let mut health = health.lock().unwrap();
            health.hanging += 1;
            changed.notify_all();
            let mut health = changed.wait_while(health, |health| health.hangs).unwrap();
            health.hanging -= 1;
            match &mut health.good {
                Some(0) => Err(io::Error::other("the disk is gone")),
                Some(good) => {
                    *good -= 1;
                    Ok(())
                }
                None => Ok(()),
            }
        }

        /// Returns when somebody waits for a sync that hangs.
        fn wait_until_it_hangs(&self) {
            let (health, changed) = &*self.0;
            let waited = changed.wait_timeout_while(health.lock().unwrap(), PATIENCE, |health| health.hanging == 0);
            assert!(!waited.unwrap().1.timed_out(), "nobody syncs");
        }

        fn open(&self) -> impl OpenDisk {
            let health = self.clone();
            move |folder: &Path| {
                let real = RealDisk::open(folder)?;
                Ok(Arc::new(SickFolder { real, health }) as Arc<dyn Disk>)
            }
        }
    }

    struct SickFolder {
        real: RealDisk,
        health: SickDisk,
    }

    impl Disk for SickFolder {
        fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
            let real = self.real.open(name, create)?;
            let health = self.health.clone();
            Ok(Arc::new(SickFile { real, health }))
        }

        fn list(&self) -> io::Result<Vec<String>> {
            self.real.list()
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            self.real.remove(name)
        }

        fn sync_dir(&self) -> io::Result<()> {
            self.real.sync_dir()
        }

        fn room(&self) -> io::Result<Room> {
            self.real.room()
        }

        fn path(&self, name: &str) -> PathBuf {
            self.real.path(name)
        }
    }

    struct SickFile {
        real: Arc<dyn DiskFile>,
        health: SickDisk,
    }

    impl DiskFile for SickFile {
        fn preallocate(&self, _: u64, _: u64) -> io::Result<()> {
            // Only for speed, and it would cost the test much of that.
            Ok(())
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.real.write_at(offset, bytes)
        }

        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
            self.real.read_at(offset, into)
        }

        fn sync(&self) -> io::Result<()> {
            self.health.sync()
        }
    }

    fn config(folder: &Path) -> Config {
        let token = include_str!("../tests/vectors/accept/operator-plain.jwt");
        std::fs::write(folder.join("operator.jwt"), token).unwrap();
        let text = "[cluster]\nname = \"m\"\noperators = [\"operator.jwt\"]\n\n[[node]]\nname = \"n1\"\ndata = \"data\"\npublic = \"127.0.0.1:0\"\n";
        Config::parse(&folder.join("cluster.toml"), text, None).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_that_a_sick_disk_ends_names_the_disk_and_not_what_came_of_it() {
        for good in 0.. {
            let temp = tempfile::tempdir().unwrap();
            let disk = SickDisk::default();
            disk.change(|health| health.good = Some(good));
            let started = Node::start_on(config(temp.path()), Clock::system(), disk.open()).await;
            match started {
                Err(error) => assert!(
                    error.to_string().contains("the disk is gone"),
                    "after {good} syncs: {error}"
                ),
                Ok(_) => {
                    assert!(good > 2, "a start without a sync kept nothing");
                    break;
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_shutdown_does_not_wait_for_ever_for_a_disk_that_hangs() {
        let temp = tempfile::tempdir().unwrap();
        let disk = SickDisk::default();
        let node = Node::start_on(config(temp.path()), Clock::system(), disk.open())
            .await
            .unwrap();
        disk.change(|health| health.hangs = true);
        let raft = node.raft.clone();
        let mut proposed = tokio::task::JoinSet::new();
        proposed.spawn(async move {
            let mark = MarkPropagated {
                nats_cluster: "x".to_owned(),
                position: 1,
            };
            raft.propose(mark).await
        });
        let hanging = disk.clone();
        tokio::task::spawn_blocking(move || hanging.wait_until_it_hangs())
            .await
            .unwrap();
        let limit = Duration::from_millis(100);
        let ended = tokio::time::timeout(PATIENCE, node.shutdown_within(limit, limit)).await;
        // The threads that wait for it would keep the test from ending.
        disk.change(|health| health.hangs = false);
        proposed.abort_all();
        let error = ended
            .expect("it is bounded")
            .expect_err("nothing was closed")
            .to_string();
        assert!(error.contains("did not close"), "{error}");
    }
}
