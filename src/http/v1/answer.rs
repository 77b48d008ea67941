//! The state that the handlers of `/v1` share, and how they answer.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};

use crate::api;
use crate::http::error::Refusal;
use crate::http::upload::Uploads;
use crate::listener::Limits;
use crate::resolver::Resolver;
use crate::resolver::Submitted;

/// The node that answers.
#[derive(Debug)]
pub struct About {
    /// The mesh's name.
    pub cluster: String,
    /// The node's name in `cluster.toml`.
    pub node: String,
    /// Where nats-servers and nsc reach it.
    pub public_url: String,
    /// Whether clients of that port need a certificate.
    pub client_required: bool,
}

/// The state that the handlers share.
pub(super) struct AdminState {
    pub(super) about: About,
    pub(super) resolver: Resolver,
    pub(super) limits: Limits,
    pub(super) uploads: Uploads,
}

impl AdminState {
    /// Refuses a node that has no state: an empty answer would look like a mesh without accounts.
    pub(super) fn check_state(&self) -> Result<(), Refusal> {
        self.resolver
            .why_no_state()
            .map_or(Ok(()), |why| Err(Refusal::no_state(why)))
    }
}

/// The state as each handler receives it.
pub(super) type Shared = Arc<AdminState>;

/// The outcome of a submission that succeeded.
pub(super) fn submitted(submitted: Submitted) -> api::Submitted {
    let outcome = if submitted.stored { "stored" } else { "unchanged" };
    api::Submitted {
        outcome: outcome.into(),
        revision: submitted.revision,
    }
}

/// 200 with JSON, or the refusal as a problem document.
pub(super) fn answer<T: serde::Serialize>(outcome: Result<T, Refusal>) -> Response {
    match outcome {
        Ok(found) => Json(found).into_response(),
        Err(refusal) => refusal.problem(),
    }
}
