//! The questions of those who only want to know whether somebody is there.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::answer::Shared;
use crate::http::error::{NOT_READY, Refusal};

/// `GET /jwt/v1/accounts`: nats-server's question at its start. Anything but 200 ends that nats-server.
///
/// 503 only before this node is usable, when that nats-server would be told of no account, and once it is ending.
pub(super) async fn probe(State(state): State<Shared>) -> Response {
    if !state.resolver.view().ready {
        return Refusal::unavailable(NOT_READY).plain();
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

/// `GET /healthz`: the process answers.
pub(super) async fn alive() {}
