//! `/v1/status`: which node this is, how current its view of the state is, and the mesh as it knows it.

use axum::extract::State;
use axum::response::Response;

use super::answer::{AdminState, Shared, answer};
use super::{members, nats};
use crate::api;
use crate::resolver::{CLOCK_TOLERANCE_SECONDS, MemberView};

/// `GET /v1/status`.
pub(super) async fn show(State(state): State<Shared>) -> Response {
    let members = state.resolver.members().await;
    let view = state.resolver.view();
    let refused = state.resolver.check_writable().err();
    // Before there is a mesh, that is all there is to say.
    let is_refused = refused.as_ref().filter(|_| state.resolver.mesh().is_some());
    let mut problems: Vec<String> = is_refused
        .map(|error| format!("uploads are refused: {error}"))
        .into_iter()
        .collect();
    problems.extend(troubles(&state, &members));
    answer(Ok(api::Status {
        cluster: state.about.cluster.clone(),
        cluster_id: state.resolver.mesh(),
        node: state.about.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        ready: view.ready,
        writable: view.ready && refused.is_none(),
        problems,
        revision: view.revision,
        leader: state.resolver.leader(),
        leader_age_ms: state.resolver.leader_age_ms(),
        age_ms: view.age_ms,
        members: members::shown(members),
        public: state.about.public_url.clone(),
        client_required: state.about.client_required,
    }))
}

/// What is not as it should be in the mesh, one sentence each.
fn troubles(state: &AdminState, members: &[MemberView]) -> Vec<String> {
    let mut said = Vec::new();
    // What there is to say of a node that is no member comes with the members.
    said.extend(
        state
            .resolver
            .why_no_state()
            .filter(|_| state.resolver.mesh().is_some()),
    );
    said.extend(state.resolver.member_troubles(members));
    said.extend(state.resolver.candidates().operators().iter().map(|operator| {
        format!(
            "this node's cluster.toml names operator {:?}, which the mesh does not trust: its log says what that may mean",
            operator.claims().name
        )
    }));
    said.extend(state.resolver.nats_clusters().iter().flat_map(nats::troubles));
    let offset = state.resolver.time_offset();
    if offset.abs() > CLOCK_TOLERANCE_SECONDS {
        said.push(format!(
            "this node's clock is {} s {} the mesh's time, which is the median of the members': set it right",
            offset.abs(),
            if offset < 0 { "ahead of" } else { "behind" }
        ));
    }
    said
}
