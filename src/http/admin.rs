//! The beginning of `/v1`, on a Unix socket only: whoever may open the file is the administrator.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};

use super::accounts::{Uploads, account, read, refused};
use super::error::Refusal;
use super::request::{self, Entry};
use crate::api;
use crate::jwt::AccountKey;
use crate::jwt::OperatorClaims;
use crate::jwt::Verified;
use crate::listener::Limits;
use crate::listener::Port;
use crate::listener::Socket;
use crate::resolver::AccountRow;
use crate::resolver::Resolver;
use crate::tasks::Scope;

/// Commands at once: a person has a few terminals, a script a few workers.
const CONNECTIONS: usize = 256;
/// Accounts in one page of a listing, where the caller does not say, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Rows read in one step, and the token bytes after which a page ends early: a thousand of the largest would be 1 GiB.
const STEP_ROWS: usize = 64;
const PAGE_TOKEN_BYTES: usize = 8 * 1024 * 1024;

/// Which node answers.
#[derive(Debug)]
pub struct About {
    /// The mesh's name.
    pub cluster: String,
    /// The node's name in `cluster.toml`.
    pub node: String,
    /// Where nats-servers and nsc reach it.
    pub public_url: String,
}

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

    /// Serves in `scope` until it is told to stop, then removes the socket.
    pub fn serve(self, about: About, resolver: Resolver, scope: &Scope) {
        let limits = self.limits;
        let router = router(AdminState {
            about,
            resolver,
            limits,
            uploads: Uploads::default(),
        });
        let port = Port::new("admin", Entry::new(router), limits, None, scope.clone());
        let (listener, file) = self.socket.into_parts();
        scope.spawn("the admin socket", async move {
            port.run(listener).await;
            file.remove();
        });
    }
}

struct AdminState {
    about: About,
    resolver: Resolver,
    limits: Limits,
    uploads: Uploads,
}

type Shared = Arc<AdminState>;

fn router(state: AdminState) -> Router {
    const READ: &str = "GET, HEAD";
    const WRITE: &str = "GET, HEAD, PUT, POST";
    let only = |methods: MethodRouter<Shared>, allow: &'static str| {
        methods.fallback(async move || Refusal::wrong_method(allow).problem())
    };
    Router::new()
        .route("/v1/status", only(get(status), READ))
        .route("/v1/accounts", only(get(list), READ))
        .route(
            "/v1/accounts/{account}",
            only(get(show).put(submit).post(submit), WRITE),
        )
        .route("/v1/operators", only(get(operators), READ))
        .fallback(async || Refusal::missing("unknown-path", "no such path under /v1").problem())
        .with_state(Arc::new(state))
}

fn answer<T: serde::Serialize>(outcome: Result<T, Refusal>) -> Response {
    match outcome {
        Ok(found) => Json(found).into_response(),
        Err(refusal) => refusal.problem(),
    }
}

async fn status(State(state): State<Shared>) -> Response {
    let view = state.resolver.view();
    answer(Ok(api::Status {
        cluster: state.about.cluster.clone(),
        node: state.about.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        ready: view.ready,
        revision: view.revision,
        leader_age_ms: view.leader_age_ms,
        public: state.about.public_url.clone(),
    }))
}

async fn list(State(state): State<Shared>, uri: Uri) -> Response {
    answer(page(&state, &uri).await)
}

async fn page(state: &AdminState, uri: &Uri) -> Result<api::Accounts, Refusal> {
    let bad = |sentence: String| Refusal::bad("bad-parameter", sentence);
    let mut after = match request::parameter(uri, "after") {
        Some(text) => Some(
            text.parse::<AccountKey>()
                .map_err(|error| bad(format!("after: {error}")))?,
        ),
        None => None,
    };
    let limit = match request::parameter(uri, "limit") {
        Some(text) => text.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit)),
        None => Some(PAGE),
    };
    let limit = limit.ok_or_else(|| bad(format!("limit is a number from 1 to {MAX_PAGE}")))?;
    let with_token = request::is_on(uri, "token");
    let (mut items, mut bytes) = (Vec::new(), 0);
    loop {
        // One more than asked for, which tells whether this page is the last.
        let wanted = STEP_ROWS.min(limit + 1 - items.len());
        let rows = state.resolver.accounts(after, wanted).await?;
        let is_end = rows.len() < wanted;
        for row in rows {
            if items.len() == limit || bytes >= PAGE_TOKEN_BYTES {
                let next = after.map(|last| last.to_string());
                return Ok(api::Accounts { items, next });
            }
            after = Some(row.account);
            bytes += if with_token { row.token.len() } else { 0 };
            items.push(shown(&row, with_token));
        }
        if is_end {
            return Ok(api::Accounts { items, next: None });
        }
    }
}

fn shown(row: &AccountRow, with_token: bool) -> api::Account {
    api::Account {
        account: row.account.to_string(),
        name: row.name.clone(),
        operator: row.operator.to_string(),
        issued_at: row.issued_at,
        expires_at: row.expires_at,
        revision: row.revision,
        // A stored token is ASCII: base64 and dots.
        token: with_token.then(|| String::from_utf8_lossy(&row.token).into_owned()),
    }
}

async fn show(State(state): State<Shared>, uri: Uri) -> Response {
    answer(find(&state, &uri).await)
}

async fn find(state: &AdminState, uri: &Uri) -> Result<api::Account, Refusal> {
    let account = account(uri)?;
    match state.resolver.lookup(account).await? {
        Some(row) => Ok(shown(&row, true)),
        None => Err(Refusal::missing(
            "unknown-account",
            format!("there is no account {account} in this mesh"),
        )),
    }
}

async fn submit(State(state): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let outcome = async {
        let account = account(&parts.uri)?;
        let upload = read(&parts.headers, body, &state.uploads, state.limits.body).await?;
        let submitted = state.resolver.submit(Some(account), upload.bytes.clone()).await?;
        let outcome = if submitted.stored { "stored" } else { "unchanged" };
        Ok(api::Submitted {
            outcome: outcome.into(),
            revision: submitted.revision,
        })
    };
    answer(outcome.await.map_err(|refusal| refused(&parts.uri, refusal)))
}

async fn operators(State(state): State<Shared>) -> Response {
    let trust = state.resolver.trust();
    let items = trust.keys.operators().iter().map(operator).collect();
    answer(Ok(api::Operators {
        trust_epoch: trust.epoch,
        items,
    }))
}

fn operator(verified: &Verified<OperatorClaims>) -> api::Operator {
    let claims = verified.claims();
    api::Operator {
        operator: claims.operator.to_string(),
        name: claims.name.clone(),
        issued_at: claims.issued_at,
        signing_keys: claims.signing_keys.iter().map(ToString::to_string).collect(),
        strict_signing_key_usage: claims.strict_signing_key_usage,
        system_account: claims.system_account.map(|account| account.to_string()),
        account_server_url: claims.account_server_url.clone(),
        token: verified.token().as_str().into(),
    }
}
