//! `/v1/nats`: the NATS clusters, their servers, and forgetting one that was shut down for good.

use axum::extract::{Path, State};
use axum::response::Response;

use super::answer::{AdminState, Shared, answer};
use crate::api;
use crate::http::error::Refusal;
use crate::resolver::{NatsView, Server, Standing};

/// Servers named in one sentence.
const NAMED: usize = 8;

/// `GET /v1/nats`.
pub(super) async fn list(State(state): State<Shared>) -> Response {
    answer(state.check_state().map(|()| api::NatsClusters {
        items: state.resolver.nats_clusters().iter().map(cluster).collect(),
    }))
}

/// `GET /v1/nats/{name}/servers`.
pub(super) async fn servers(State(state): State<Shared>, Path(name): Path<String>) -> Response {
    answer(find(&state, &name).map(|view| {
        let mut items: Vec<_> = view.servers.iter().map(|server| shown(&view, server)).collect();
        items.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        api::NatsServers { items }
    }))
}

/// `DELETE /v1/nats/{name}/servers/{id}`: the server is waited for no longer. One that still runs is noticed again.
pub(super) async fn forget(State(state): State<Shared>, Path((name, id)): Path<(String, String)>) -> Response {
    let forgotten = async {
        let view = find(&state, &name)?;
        let missing = || Refusal::missing("unknown-server", format!("NATS cluster {name:?} has no server {id:?}"));
        let server = view.servers.iter().find(|server| server.id == id).ok_or_else(missing)?;
        let shown = shown(&view, server);
        if state.resolver.forget_server(&name, &id).await? {
            tracing::warn!(
                nats_cluster = %name,
                server = %shown.name,
                server_id = %shown.id,
                state = %shown.state,
                "an administrator had this server forgotten"
            );
            Ok(shown)
        } else {
            Err(missing())
        }
    };
    answer(forgotten.await)
}

fn find(state: &AdminState, name: &str) -> Result<NatsView, Refusal> {
    state.check_state()?;
    let all = state.resolver.nats_clusters();
    let names: Vec<&str> = all.iter().map(|view| view.name.as_str()).collect();
    let known = names.join(", ");
    all.iter().find(|view| view.name == name).cloned().ok_or_else(|| {
        Refusal::missing(
            "unknown-nats-cluster",
            format!("this node's cluster.toml has no NATS cluster {name:?}; it has {known:?}"),
        )
    })
}

fn cluster(view: &NatsView) -> api::NatsCluster {
    api::NatsCluster {
        name: view.name.clone(),
        publisher: view.publisher.clone(),
        connected: view.seen.connected.clone(),
        position: view.position,
        servers: view.servers.len(),
        behind: view.servers.iter().filter(|server| server.behind.is_some()).count(),
        problems: troubles(view),
    }
}

fn shown(view: &NatsView, server: &Server) -> api::NatsServer {
    let state = match (server.behind, view.seen.troubled.get(&server.id)) {
        (_, Some(Standing::Missing)) => "missing",
        (_, Some(Standing::Refuses)) => "refuses",
        (Some(_), _) => "behind",
        (None, _) => "up-to-date",
    };
    let found = view.seen.found.get(&server.id).copied().unwrap_or_default();
    api::NatsServer {
        nats: view.name.clone(),
        id: server.id.clone(),
        name: server.name.clone(),
        cluster: server.cluster.clone(),
        version: server.version.clone(),
        state: state.to_owned(),
        behind: server.behind,
        adopted: found.adopted,
        overruled: found.overruled,
    }
}

/// What is not as it should be with a NATS cluster, one sentence each.
pub(super) fn troubles(view: &NatsView) -> Vec<String> {
    let name = &view.name;
    let mut said = Vec::new();
    if view.publisher.is_none() {
        said.push(format!(
            "no node publishes to NATS cluster {name:?}: changes reach its servers when one does"
        ));
    }
    let behind: Vec<_> = view.servers.iter().filter(|server| server.behind.is_some()).collect();
    if !behind.is_empty() {
        let mut names: Vec<&str> = behind.iter().take(NAMED).map(|server| server.name.as_str()).collect();
        if behind.len() > NAMED {
            names.push("and others");
        }
        said.push(format!(
            "{} of {} servers of NATS cluster {name:?} may enforce older JWTs: {} (see `jwtmesh nats servers`)",
            behind.len(),
            view.servers.len(),
            names.join(", ")
        ));
    }
    let lacks = view.seen.lacks.iter();
    said.extend(lacks.map(|lack| format!("NATS cluster {name:?}: {lack} (deploy/nats/README.md has the permissions)")));
    said
}
