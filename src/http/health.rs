//! The questions of those who only want to know whether somebody is there.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::error::Refusal;
use super::public::Shared;

/// `GET /jwt/v1/accounts`: nats-server's question at its start. Anything but 200 ends that nats-server.
///
/// 503 only while this node has never been usable: a nats-server that starts now would be told of no account.
pub(super) async fn probe(State(state): State<Shared>) -> Response {
    if !state.resolver.view().ready {
        return Refusal::unavailable("this node is still catching up; ask again, or ask another node").plain();
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
