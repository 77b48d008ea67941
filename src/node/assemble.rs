//! The order of a start, from top to bottom: files, ports, stores, Raft, trust, and only then answers.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};

use super::life::{Node, StartError, blocking};
use super::runtime::AgreementRuntime;
use super::trust::{agree_on_operators, read_operators, submit_operators_if_possible};

use crate::clock::Clock;
use crate::config::{Config, DeleteWithStreams, OlderServers, Peering};
use crate::folder::Folder;
use crate::http::About;
use crate::http::Admin;
use crate::http::Public;
use crate::jwt::AccountKey;
use crate::jwt::OperatorClaims;
use crate::jwt::Verified;
use crate::nats;
use crate::raft::Member;
use crate::raft::Raft;
use crate::raft::Settings;
use crate::raft::peer::{Connections, NoPeers, Own, PeerPort, Uuid};
use crate::raft::stores::OpenDisk;
use crate::raft::stores::Stores;
use crate::raft::stores::real_disk;
use crate::resolver::{Protected, Resolver};
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
    /// Accounts that are neither deleted nor shut.
    protected: Vec<(AccountKey, Protected)>,
    tls: Option<ReloadableTls>,
    peer_tls: Option<ReloadableTls>,
    folder: Folder,
}

impl Found {
    fn read(config: Config) -> Result<Self, StartError> {
        let wrong = |error: TlsError| match error {
            // It was there when the configuration was read, so it may be there again.
            TlsError::Unreadable { .. } => StartError::Failed(error.into()),
            _ => StartError::Configuration(error.into()),
        };
        let tls = config.tls.as_ref().map(ReloadableTls::load).transpose();
        let tls = tls.map_err(wrong)?;
        let peer_tls = config
            .peering
            .as_ref()
            .map(|peering| ReloadableTls::for_peers(&peering.tls, &config.node));
        let peer_tls = peer_tls.transpose().map_err(wrong)?;
        let operators = read_operators(&config.operators)?;
        let configured = config.protected_accounts.iter().map(|key| key.parse::<AccountKey>());
        let configured = configured.collect::<Result<Vec<_>, _>>();
        let configured = configured.context("protected_accounts under [cluster]");
        let configured = configured.map_err(StartError::Configuration)?.into_iter();
        let own = nats::own_accounts(&config.nats).into_iter();
        let own = own.map(|account| (account, Protected::Own));
        let protected = own.chain(configured.map(|account| (account, Protected::Configured)));
        let protected = protected.collect();
        let folder = Folder::take(&config.data, &config.cluster, &config.node)?;
        Ok(Self {
            config,
            operators,
            protected,
            tls,
            peer_tls,
            folder,
        })
    }
}

async fn begin(found: Found, clock: Clock, fault: FaultHandle, disk: impl OpenDisk) -> Result<Node> {
    let Found {
        config,
        operators,
        protected,
        tls,
        peer_tls,
        folder,
    } = found;
    let public = Public::bind(config.public, tls.clone()).await?;
    // A node without peers cannot look dead to one, and one runtime is a tenth cheaper.
    let runtime = config.peering.as_ref().map(|_| AgreementRuntime::new()).transpose()?;
    let agreeing = match &runtime {
        Some(runtime) => Scope::on(runtime.handle(), fault.clone()),
        None => Scope::new(fault.clone()),
    };
    let peer_port = bind_peer_port(&config, peer_tls.as_ref(), &clock, &agreeing).await?;
    let reported = fault.clone();
    let opened = blocking(move || {
        let stores = Stores::open(&folder, &reported, disk)?;
        anyhow::Ok((folder, stores))
    });
    let (folder, (stores, threads)) = opened.await??;
    let state = stores.state.clone();
    let admin_path = folder.admin_socket();
    let raft = open(&config, &folder, stores, clock.clone(), &agreeing)?;
    let folder = Arc::new(Mutex::new(folder));
    let resolver = Resolver::new(raft.clone(), state, clock.clone(), fault.clone());
    configure(&resolver, &config, protected);
    join(&config, &raft, &folder).await?;
    raft.handler().set_leading(Arc::new(resolver.clone()));

    let serving = Scope::new(fault);
    if let Some(port) = peer_port {
        port.serve(raft.handler().clone(), &agreeing);
    }
    if config.peering.is_some() {
        let agreed = agree_on_operators(resolver.clone(), raft.clone(), operators, serving.clone());
        serving.spawn("the first trust", agreed);
    } else {
        submit_operators_if_possible(&resolver, &operators).await?;
    }
    let public_url = public.url();
    if let Some(admin) = bind_admin(&admin_path)? {
        admin.serve(about(&config, &public_url), resolver.clone(), &serving);
    }
    public.serve(resolver.clone(), clock.clone(), &serving);
    for tls in [&tls, &peer_tls].into_iter().flatten() {
        serving.spawn("the watch over the certificates", tls.clone().watch(serving.clone()));
    }
    if config.nats.is_empty() {
        tracing::warn!(
            "no [[nats]] in cluster.toml: changes are not sent to running nats-servers, only fetched by new ones"
        );
    }
    nats::start(&config.node, &config.nats, &resolver, &clock, &serving);
    nats::start_answering(&config.node, &config.nats, &resolver, &clock, &serving);
    Ok(Node {
        name: config.node,
        public_url,
        admin_path,
        resolver,
        raft,
        tls: [tls, peer_tls].into_iter().flatten().collect(),
        operators: config.operators,
        serving,
        agreeing,
        threads,
        _runtime: runtime,
        _folder: folder,
    })
}

/// What the configuration says of uploads and deletes.
fn configure(resolver: &Resolver, config: &Config, protected: Vec<(AccountKey, Protected)>) {
    if config.older_servers == OlderServers::Warn {
        resolver.take_what_older_servers_refuse();
    }
    if config.delete_with_streams == DeleteWithStreams::Refuse {
        resolver.refuse_deletes_with_streams();
    }
    for (account, why) in protected {
        resolver.protect([account], why);
    }
}

/// Binds the peer port, if this node is to have others.
async fn bind_peer_port(
    config: &Config,
    tls: Option<&ReloadableTls>,
    clock: &Clock,
    agreeing: &Scope,
) -> Result<Option<PeerPort>> {
    let (Some(peering), Some(tls)) = (&config.peering, tls) else {
        return Ok(None);
    };
    let watch = tls.clone().warn_before_expiry(clock.clone(), agreeing.clone());
    agreeing.spawn("the watch over the peer certificate's expiry", watch);
    let (address, tls) = (peering.nodes[&config.node].clone(), tls.clone());
    let bound = agreeing.within(async move { PeerPort::bind(&address, tls).await });
    Ok(Some(bound.await?))
}

/// What this node says of itself to administrators.
fn about(config: &Config, public_url: &str) -> About {
    About {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        public_url: public_url.to_owned(),
        client_required: config.tls.as_ref().is_some_and(|tls| tls.client_required),
    }
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

/// A handle on Raft over the stores. It is not started yet.
fn open(config: &Config, folder: &Folder, stores: Stores, clock: Clock, scope: &Scope) -> Result<Raft> {
    let identity = folder.identity();
    let nodes = config
        .peering
        .as_ref()
        .map(|peering| peering.nodes.clone())
        .unwrap_or_default();
    let settings = Settings {
        cluster: config.cluster.clone(),
        member: Member {
            name: config.node.clone(),
            peer: nodes.get(&config.node).cloned().unwrap_or_default(),
            store: identity.store.clone(),
        },
        timing: config.timing,
        acknowledge: config.acknowledge,
    };
    let own = Own {
        name: config.node.clone(),
        cluster: config.cluster.clone(),
        store: identity.store_bytes(),
        nodes,
        timing: config.timing,
    };
    let raft = match &config.peering {
        Some(Peering { tls, nodes }) => {
            let connections = Connections::new(tls.clone(), nodes.clone(), scope.clone());
            Raft::open(settings, own, stores, connections, clock, scope)
        }
        None => Raft::open(settings, own, stores, NoPeers, clock, scope),
    };
    Ok(raft?)
}

/// Starts Raft where this node is a member of a mesh; a node that is to be alone forms one. Alone, it returns when
/// everything ever acknowledged here can be read; with others lookups are answered at once.
async fn join(config: &Config, raft: &Raft, folder: &Arc<Mutex<Folder>>) -> Result<()> {
    let identity = locked(folder).identity().clone();
    if identity.formed {
        raft.begin(identity.mesh_bytes(), identity.node_id).await?;
        return Ok(raft.resume().await?);
    }
    if config.peering.is_none() {
        raft.begin(identity.mesh_bytes(), identity.node_id).await?;
        raft.form().await?;
        raft.resume().await?;
        let folder = folder.clone();
        return Ok(blocking(move || locked(&folder).set_formed()).await??);
    }
    tracing::warn!(
        "this node is not a member of a mesh yet: when all nodes run, run `jwtmesh member bootstrap` on one of them, or on the one \
         that has the accounts already"
    );
    let (folder, handle) = (folder.clone(), raft.clone());
    raft.handler().set_join(Box::new(move |mesh: Uuid, node_id| {
        let (folder, raft) = (folder.clone(), handle.clone());
        Box::pin(async move {
            let written = blocking(move || locked(&folder).set_member(mesh, node_id)).await;
            let written = written.and_then(|written| written.context("its identity cannot be written"));
            written.map_err(|error| format!("{error:#}"))?;
            raft.begin(mesh, node_id).await.map_err(|error| error.to_string())?;
            tracing::info!(node_id, "this node is a member of the mesh now");
            Ok(())
        })
    }));
    Ok(())
}

fn locked(folder: &Mutex<Folder>) -> std::sync::MutexGuard<'_, Folder> {
    folder.lock().unwrap_or_else(PoisonError::into_inner)
}
