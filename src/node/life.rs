//! A running node, and the order of its shutdown, from top to bottom: it is no longer ready, another node leads, requests and publishers
//! finish, Raft ends, the stores are written and closed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::runtime::AgreementRuntime;
use crate::folder::Folder;
use crate::folder::FolderError;
use crate::raft::Raft;
use crate::raft::stores::StoreThreads;
use crate::resolver::Resolver;
use crate::tasks::{Scope, chain};
use crate::tls::ReloadableTls;

/// How long the end of Raft and the last flush may take, once no request is served any more. Past it the shutdown
/// fails; nothing acknowledged is lost.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a node that does not serve lookups yet looks whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running node. Ends by [`Node::shutdown`], or by a fault that [`Node::ended`] reports.
#[derive(Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) public_url: String,
    pub(super) admin_path: PathBuf,
    pub(super) resolver: Resolver,
    pub(super) raft: Raft,
    pub(super) tls: Vec<ReloadableTls>,
    /// The files with the operators that the configuration names.
    pub(super) operators: Vec<PathBuf>,
    /// The tasks that serve and propagate.
    pub(super) serving: Scope,
    /// The tasks of Raft, which end after those.
    pub(super) agreeing: Scope,
    pub(super) threads: StoreThreads,
    pub(super) _runtime: Option<AgreementRuntime>,
    pub(super) _folder: Arc<Mutex<Folder>>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that the configuration names has the wrong content. Starting again would only repeat the error.
    #[error("{}", chain(.0.as_ref()))]
    Configuration(anyhow::Error),
    /// Everything else.
    #[error("{}", chain(.0.as_ref()))]
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

    /// Whether it serves lookups: it is a member of a mesh, and has caught up with it once.
    pub fn is_ready(&self) -> bool {
        self.resolver.view().ready
    }

    /// Waits until it serves lookups.
    pub async fn ready(&self) {
        while !self.is_ready() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for a fault, which ends this node, and gives its reason.
    pub async fn ended(&self) -> String {
        self.agreeing.fault().reported().await
    }

    /// Finishes the requests under way, at most for `grace`, then leaves everything on disk. An error if a fault was
    /// reported, or if the stores do not close in time; nothing acknowledged is lost.
    pub async fn shutdown(self, grace: Duration) -> Result<()> {
        self.shutdown_within(grace, CLOSE_TIMEOUT).await
    }

    pub(super) async fn shutdown_within(self, grace: Duration, close: Duration) -> Result<()> {
        self.resolver.retire();
        // First, so that uploads under way elsewhere find the next leader.
        self.raft.hand_over().await;
        self.serving.stop();
        if tokio::time::timeout(grace, self.serving.ended()).await.is_err() {
            tracing::warn!(
                seconds = grace.as_secs(),
                "some requests did not finish in time and are aborted"
            );
        }
        self.agreeing.stop();
        let fault = self.agreeing.fault().clone();
        let (raft, resolver, agreeing, threads) = (self.raft, self.resolver, self.agreeing, self.threads);
        let closed = async move {
            // Waits for the log's writer, and so for the disk, like everything in this block.
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

/// Runs work that may wait for a disk on a thread of its own. The caller can be dropped meanwhile, so that a signal
/// ends a start or a shutdown that waits for a hanging disk.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a thread has panicked; this is a defect of the program")
}
