//! `/v1/status`: which node this is, and how current its view of the state is.

use axum::extract::State;
use axum::response::Response;

use super::answer::{Shared, answer};
use crate::api;

/// `GET /v1/status`.
pub(super) async fn show(State(state): State<Shared>) -> Response {
    let view = state.resolver.view();
    let refused = state.resolver.check_writable().err();
    answer(Ok(api::Status {
        cluster: state.about.cluster.clone(),
        node: state.about.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        ready: view.ready,
        writable: view.ready && refused.is_none(),
        problems: refused.iter().map(ToString::to_string).collect(),
        revision: view.revision,
        leader_age_ms: view.leader_age_ms,
        public: state.about.public_url.clone(),
        client_required: state.about.client_required,
    }))
}
