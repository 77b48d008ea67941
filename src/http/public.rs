//! The public port: what nats-server, nsc and nats-account-server's other clients speak. No administrative verb.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::future::RouteFuture;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::Service;

use super::accounts::Uploads;
use super::error::Refusal;
use super::request::{self, Entry};
use super::{accounts, health, operator, pack};
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

/// Large tokens that are printed for people at once, which takes as long as verifying them. Past it, 429.
const DECODINGS: usize = 2;
/// `pack` downloads at once: an import is one, and two leave a processor for lookups. Past it, 429.
const PACKS: usize = 2;

impl Public {
    /// Binds `addr`, with as many connections allowed as this process may have files for.
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

    /// The same port with other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The address it is bound to, with the port that the system chose for port 0.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address as a URL, for `/v1/status` and for people.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Serves in `scope` until it is told to stop, and then until the requests in flight are answered, or their time is
    /// over.
    pub fn serve(self, resolver: Resolver, clock: Clock, scope: &Scope) {
        let state = PublicState {
            resolver,
            clock,
            limits: self.limits,
            scope: scope.clone(),
            uploads: Uploads::default(),
            packs: Arc::new(Semaphore::new(PACKS)),
            decodings: Semaphore::new(DECODINGS),
        };
        if let Some(tls) = self.tls.clone() {
            let watch = tls.warn_before_expiry(state.clock.clone(), scope.clone());
            scope.spawn("the watch over the certificate's end", watch);
        }
        let port = Port::new(
            "public",
            Entry::new(Routes::new(state)),
            self.limits,
            self.tls,
            scope.clone(),
        );
        scope.spawn("the public port", port.run(self.listener));
    }
}

/// What the handlers of the public port share.
pub(super) struct PublicState {
    pub(super) resolver: Resolver,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) scope: Scope,
    pub(super) uploads: Uploads,
    pub(super) packs: Arc<Semaphore>,
    pub(super) decodings: Semaphore,
}

/// What handlers are given.
pub(super) type Shared = Arc<PublicState>;

/// Where an account's token is, before its key.
const ACCOUNT: &str = "/jwt/v1/accounts/";

/// The way from a request to its handler. Nearly every request is a lookup, which goes past the table of routes: that
/// costs a tenth of the whole answer.
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
            &format!("{ACCOUNT}{{account}}"),
            only(get(accounts::show).post(accounts::submit), WRITE),
        )
        .route("/jwt/v1/accounts", only(get(health::probe), READ))
        .route("/jwt/v1/operator", only(get(operator::show), READ))
        .route("/jwt/v2/operator", only(get(operator::show_version_2), READ))
        .route("/jwt/v1/help", only(get(operator::help), READ))
        .route("/jwt/v1/pack", only(get(pack::show), READ))
        .route("/healthz", only(get(health::alive), READ))
        .fallback(async |request| refuse(request, Refusal::unknown_path()).await)
        .with_state(state)
}

/// A path with these methods: `OPTIONS` lists them, any other is told them.
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

/// The answer carries the revision this node is at.
const REVISION: HeaderName = HeaderName::from_static("jwtmesh-revision");
/// The answer carries how many milliseconds ago this node heard from a leader; nothing, if it never has.
const LEADER_AGE: HeaderName = HeaderName::from_static("jwtmesh-leader-age-ms");
const JWT: HeaderValue = HeaderValue::from_static("application/jwt");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// May be kept, must be asked about before each use: an answer served from a cache without asking would undo a
/// revocation. nats-account-server's `max-age` up to the expiry did.
const ASK_FIRST: HeaderValue = HeaderValue::from_static("no-cache");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

impl PublicState {
    /// An answer with the headers that every answer under `/jwt` has; room for two more.
    pub(super) fn answer(&self, status: StatusCode, body: Bytes) -> Response {
        let view = self.resolver.view();
        let mut answer = Response::new(body.into());
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.reserve(6);
        headers.insert(REVISION, view.revision.into());
        if view.leader_age_ms != u64::MAX {
            headers.insert(LEADER_AGE, view.leader_age_ms.into());
        }
        answer
    }

    /// 200 with a token.
    pub(super) fn jwt(&self, token: Bytes) -> Response {
        let mut answer = self.answer(StatusCode::OK, token);
        answer.headers_mut().insert(header::CONTENT_TYPE, JWT);
        answer.headers_mut().insert(header::CACHE_CONTROL, ASK_FIRST);
        answer
    }

    /// 200 with text for people.
    pub(super) fn text(&self, text: impl Into<Bytes>) -> Response {
        let mut answer = self.answer(StatusCode::OK, text.into());
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, TEXT);
        headers.insert(header::CACHE_CONTROL, ASK_FIRST);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        answer
    }

    /// 304: the caller has these bytes.
    pub(super) fn unchanged(&self) -> Response {
        let mut answer = self.answer(StatusCode::NOT_MODIFIED, Bytes::new());
        answer.headers_mut().insert(header::CACHE_CONTROL, ASK_FIRST);
        answer
    }

    /// 200 for an upload: no body, because nsc prints one as if it mattered, and the revision that holds these bytes.
    pub(super) fn stored(&self, revision: u64) -> Response {
        let mut answer = self.answer(StatusCode::OK, Bytes::new());
        answer.headers_mut().insert(REVISION, revision.into());
        answer
    }
}
