//! The public port, for nats-server, nsc and any other client of nats-account-server. No administrative requests.
//!
//! Paths and parameters are those of nats-account-server; `help.rs` describes them to people. A `GET` of an account
//! goes straight to `accounts.rs`, every other request through the table of routes below. All handlers share the state
//! in `answer.rs`, which also builds their answers.

mod accounts;
mod answer;
mod health;
mod help;
mod operator;
mod pack;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::future::RouteFuture;
use axum::routing::{MethodRouter, get};
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use tokio::net::TcpListener;
use tower::Service;

use answer::{PublicState, Shared};

use super::error::Refusal;
use super::request::{self, Entry};
use crate::clock::Clock;
use crate::listener::{self, Limits, Port};
use crate::resolver::Resolver;
use crate::tasks::Scope;
use crate::tls::ReloadableTls;

/// The public port, bound and not yet serving.
pub struct Public {
    listener: TcpListener,
    addr: SocketAddr,
    tls: Option<ReloadableTls>,
    limits: Limits,
}

impl Public {
    /// Binds `addr`. How many connections it takes depends on how many files this process may open.
    pub async fn bind(addr: SocketAddr, tls: Option<ReloadableTls>) -> io::Result<Self> {
        let listener = listener::bind(addr)?;
        let addr = listener.local_addr()?;
        Ok(Self {
            listener,
            addr,
            tls,
            limits: Limits::of_this_process(),
        })
    }

    /// The address as a URL, for `/v1/status` and for people.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Serves in `scope` until the scope stops, then until the requests in flight are answered or their time is up.
    pub fn serve(self, resolver: Resolver, clock: Clock, scope: &Scope) {
        let state = PublicState::new(resolver, self.limits, self.tls.is_some(), scope.clone());
        if let Some(tls) = self.tls.clone() {
            let watch = tls.warn_before_expiry(clock, scope.clone());
            scope.spawn("the watch over the certificate's expiry", watch);
        }
        let port = Port::new(
            "public",
            Entry::new(Routes::new(state), Refusal::plain),
            self.limits,
            self.tls,
            scope.clone(),
        );
        scope.spawn("the public port", port.run(self.listener));
    }
}

/// The path of an account's token, up to the account's key.
const ACCOUNT: &str = "/jwt/v1/accounts/";

/// Takes each request to its handler. Nearly every request is a lookup; it skips the table of routes, which would cost
/// a tenth of the whole answer.
#[derive(Clone)]
struct Routes {
    state: Shared,
    router: Router,
}

impl Routes {
    fn new(state: PublicState) -> Self {
        let state = Arc::new(state);
        Self {
            router: router(state.clone()),
            state,
        }
    }
}

impl Service<Request> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<BoxFuture<'static, Result<Response, Infallible>>, RouteFuture<Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let key = request.uri().path().strip_prefix(ACCOUNT);
        if request.method() == Method::GET && key.is_some_and(|key| !key.contains('/')) {
            Either::Left(Box::pin(accounts::show(State(self.state.clone()), request).map(Ok)))
        } else {
            Either::Right(self.router.call(request))
        }
    }
}

fn router(state: Shared) -> Router {
    const READ: &str = "GET, HEAD, OPTIONS";
    const WRITE: &str = "GET, HEAD, POST, OPTIONS";
    Router::new()
        .route(
            "/",
            get(help::root)
                .options(help::root)
                .fallback(async move |request| refuse(request, Refusal::wrong_method(READ)).await),
        )
        .route(
            &format!("{ACCOUNT}{{account}}"),
            only(get(accounts::show).post(accounts::submit), WRITE),
        )
        .route("/jwt/v1/accounts", only(get(health::probe), READ))
        .route("/jwt/v1/operator", only(get(operator::show), READ))
        .route("/jwt/v2/operator", only(get(operator::show_version_2), READ))
        .route("/jwt/v1/help", only(get(help::show), READ))
        .route("/jwt/v1/pack", only(get(pack::show), READ))
        .route("/healthz", only(get(health::alive), READ))
        .fallback(async |request| refuse(request, Refusal::unknown_path()).await)
        .with_state(state)
}

/// A path that takes these methods. `OPTIONS` lists them in `Allow`, as does the 405 for any other method.
fn only(methods: MethodRouter<Shared>, allow: &'static str) -> MethodRouter<Shared> {
    methods
        .options(async move || ([(header::ALLOW, HeaderValue::from_static(allow))], ()).into_response())
        .fallback(async move |request| refuse(request, Refusal::wrong_method(allow)).await)
}

async fn refuse(request: Request, refusal: Refusal) -> Response {
    let (parts, body) = request.into_parts();
    request::discard(&parts.headers, body).await;
    refusal.plain()
}
