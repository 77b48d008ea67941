//! The order of a start, from top to bottom: files, ports, stores, Raft, trust, and only then answers.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, anyhow};

use super::life::{Node, StartError, blocking};
use super::trust::{read_operators, submit_operators};

use crate::clock::Clock;
use crate::config::Config;
use crate::folder::Folder;
use crate::http::About;
use crate::http::Admin;
use crate::http::Public;
use crate::jwt::OperatorClaims;
use crate::jwt::Verified;
use crate::nats;
use crate::raft::Member;
use crate::raft::NoPeers;
use crate::raft::Raft;
use crate::raft::Settings;
use crate::raft::stores::OpenDisk;
use crate::raft::stores::Stores;
use crate::raft::stores::real_disk;
use crate::resolver::Resolver;
use crate::tasks::FaultHandle;
use crate::tasks::Scope;
use crate::tls::ReloadableTls;
use crate::tls::TlsError;

impl Node {
    /// Starts the node that `config` describes; returns when it serves requests and everything it ever acknowledged can
    /// be read. If the future is dropped before that, the node has served no request and acknowledged nothing.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        start_on(config, clock, real_disk).await
    }
}

/// Starts a node whose log is on `disk`.
pub(super) async fn start_on(config: Config, clock: Clock, disk: impl OpenDisk) -> Result<Node, StartError> {
    let found = blocking(move || Found::read(config))
        .await
        .map_err(StartError::Failed)??;
    let fault = FaultHandle::default();
    match begin(found, clock, fault.clone(), disk).await {
        // After a fault any other error is a consequence of it, and says less.
        Err(_) if fault.is_reported() => Err(StartError::Failed(anyhow!(fault.reported().await))),
        begun => begun.map_err(StartError::Failed),
    }
}

/// What a start reads and locks before it binds or opens anything: small files, each read once, and the data folder.
struct Found {
    config: Config,
    operators: Vec<Verified<OperatorClaims>>,
    tls: Option<ReloadableTls>,
    folder: Folder,
}

impl Found {
    fn read(config: Config) -> Result<Self, StartError> {
        let tls = config.tls.as_ref().map(ReloadableTls::load).transpose();
        let tls = tls.map_err(|error| match error {
            // It was there when the configuration was read, so it may be there again.
            TlsError::Unreadable { .. } => StartError::Failed(error.into()),
            _ => StartError::Configuration(error.into()),
        })?;
        let operators = read_operators(&config.operators)?;
        let folder = Folder::take(&config.data, &config.cluster, &config.node)?;
        Ok(Self {
            config,
            operators,
            tls,
            folder,
        })
    }
}

async fn begin(found: Found, clock: Clock, fault: FaultHandle, disk: impl OpenDisk) -> Result<Node> {
    let Found {
        config,
        operators,
        tls,
        folder,
    } = found;
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
    submit_operators(&resolver, &operators).await?;

    let serving = Scope::new(fault);
    let public_url = public.url();
    let admin_path = folder.admin_socket();
    if let Some(admin) = bind_admin(&admin_path)? {
        let about = About {
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            public_url: public_url.clone(),
            client_required: config.tls.as_ref().is_some_and(|tls| tls.client_required),
        };
        admin.serve(about, resolver.clone(), &serving);
    }
    public.serve(resolver.clone(), clock.clone(), &serving);
    if let Some(tls) = &tls {
        serving.spawn("the watch over the certificates", tls.clone().watch(serving.clone()));
    }
    if config.nats.is_empty() {
        tracing::warn!(
            "no [[nats]] in cluster.toml: changes are not sent to running nats-servers, only fetched by new ones"
        );
    }
    nats::start(&config.node, &config.nats, &resolver, &clock, &serving);
    Ok(Node {
        name: config.node,
        public_url,
        admin_path,
        resolver,
        raft,
        tls,
        operators: config.operators,
        serving,
        agreeing,
        threads,
        _folder: folder,
    })
}

/// Binds the admin socket. `None` if the disk has no room for it: a node without it still serves lookups.
fn bind_admin(path: &Path) -> Result<Option<Admin>> {
    match Admin::bind(path) {
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            tracing::error!("{error}; the node serves without the admin socket until it is started again");
            Ok(None)
        }
        bound => Ok(Some(bound?)),
    }
}

/// Starts Raft on the stores; returns when everything ever acknowledged here can be read.
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
