//! Two probes: the one that nats-server sends when it starts, and a liveness check.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::answer::Shared;
use crate::http::error::{Refusal, not_ready};

/// `GET /jwt/v1/accounts`: the probe that nats-server sends when it starts. At anything but 200 that nats-server ends.
///
/// 503 only before this node is usable, when that nats-server would find no account here, and once it shuts down.
pub(super) async fn probe(State(state): State<Shared>) -> Response {
    if !state.resolver.view().ready {
        return Refusal::unavailable(not_ready(&state.resolver)).plain();
    }
    let mut answer = state.answer(StatusCode::OK, Bytes::new());
    let headers = answer.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(header::EXPIRES, HeaderValue::from_static("0"));
    answer
}

/// `GET /healthz`: 200 as long as the process answers.
pub(super) async fn alive() {}
