//! The native API, `/v1`, for administration: on a Unix socket only.
//!
//! There is no login. The socket's file mode decides who may connect, and every client that connects acts as an
//! administrator.
//! Answers have the JSON shapes of [`api`]; every failure is a problem document (RFC 9457).

mod accounts;
mod answer;
mod members;
mod nats;
mod operators;
mod propagation;
mod removals;
mod status;

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::routing::{MethodRouter, delete, get, post, put};

pub use answer::About;
use answer::AdminState;
use answer::Shared;

use super::error::Refusal;
use super::request::Entry;
use super::upload::Uploads;
use crate::api;
use crate::listener::Limits;
use crate::listener::Port;
use crate::listener::Socket;
use crate::resolver::Resolver;
use crate::tasks::Scope;

/// Connections at once. Each command opens one; a person has a few terminals, a script a few workers.
const CONNECTIONS: usize = 256;

/// The admin socket, bound and not yet serving.
pub struct Admin {
    socket: Socket,
    limits: Limits,
}

impl Admin {
    /// Binds `path`, see [`Socket::bind`]. To be called inside the runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::bind(path)?,
            limits: Limits {
                connections: CONNECTIONS,
                ..Limits::default()
            },
        })
    }

    /// Serves in `scope` until the scope stops, then removes the socket.
    pub fn serve(self, about: About, resolver: Resolver, scope: &Scope) {
        let limits = self.limits;
        let router = router(AdminState {
            about,
            resolver,
            limits,
            uploads: Uploads::default(),
        });
        let port = Port::new(
            "admin",
            Entry::new(router, Refusal::problem),
            limits,
            None,
            scope.clone(),
        );
        let (listener, file) = self.socket.into_parts();
        scope.spawn("the admin socket", async move {
            port.run(listener).await;
            file.remove();
        });
    }
}

fn router(state: AdminState) -> Router {
    let node = state.about.node.clone();
    const READ: &str = "GET, HEAD";
    let only = |methods: MethodRouter<Shared>, allow: &'static str| {
        methods.fallback(async move || Refusal::wrong_method(allow).problem())
    };
    Router::new()
        .route("/v1/status", only(get(status::show), READ))
        .route("/v1/members", only(get(members::list), READ))
        .route("/v1/mesh", only(post(members::form), "POST"))
        .route("/v1/nats", only(get(nats::list), READ))
        .route("/v1/nats/{name}/servers", only(get(nats::servers), READ))
        .route("/v1/nats/{name}/servers/{id}", only(delete(nats::forget), "DELETE"))
        .route(
            "/v1/accounts",
            only(get(accounts::list).delete(removals::delete), "GET, HEAD, DELETE"),
        )
        .route(
            "/v1/accounts/{account}",
            only(
                get(accounts::show)
                    .put(accounts::submit)
                    .post(accounts::submit)
                    .delete(removals::delete_one),
                "GET, HEAD, PUT, POST, DELETE",
            ),
        )
        .route("/v1/accounts/{account}/propagation", only(get(propagation::show), READ))
        .route(
            "/v1/accounts/{account}/closing",
            only(
                get(removals::closing).put(removals::keep).delete(removals::forget),
                "GET, HEAD, PUT, DELETE",
            ),
        )
        .route("/v1/accounts/{account}/kill", only(post(removals::kill), "POST"))
        .route("/v1/closings", only(get(removals::closings), READ))
        .route("/v1/operators", only(get(operators::list), READ))
        .route("/v1/operators/{operator}", only(put(operators::update), "PUT"))
        .route(
            "/v1/operators/{operator}/successor",
            only(put(operators::replace), "PUT"),
        )
        .fallback(async || Refusal::missing("unknown-path", "no such path under /v1").problem())
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let refused = meant_for_another(request.headers(), &node);
            async move {
                match refused {
                    Some(refusal) => refusal.problem(),
                    None => next.run(request).await,
                }
            }
        }))
        .with_state(Arc::new(state))
}

/// Why node `own` does not answer a request with these headers: in the `cluster.toml` of a mesh the nodes mostly have the
/// same data folder, each on its machine, so a caller may reach another node than the one that it named.
fn meant_for_another(headers: &HeaderMap, own: &str) -> Option<Refusal> {
    let meant = headers.get(api::NODE_HEADER)?.to_str().unwrap_or_default();
    (meant != own).then(|| {
        Refusal::misdirected(format!(
            "this is node {own:?}, not {meant:?}: run the command on the machine of {meant:?}, or name {own:?} (--node or JWTMESH_NODE)"
        ))
    })
}
