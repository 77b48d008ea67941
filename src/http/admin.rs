//! The beginning of `/v1`, on a Unix socket only: whoever may open the file is the administrator.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::accounts::{Uploads, account, read, refused};
use super::error::Refusal;
use super::listener::{Limits, Port};
use super::request;
use crate::api;
use crate::jwt::AccountKey;
use crate::jwt::OperatorClaims;
use crate::jwt::Verified;
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
/// What a path of a Unix socket may have, with its final NUL (`sun_path`, unix(7)).
const SOCKET_PATH_BYTES: usize = 108;

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
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    limits: Limits,
}

impl Admin {
    /// Binds `path` with mode 0600. A socket that nobody answers is replaced; one that answers, or any other file,
    /// is an error. Call it inside the runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let cannot = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("cannot make the admin socket {}: {error}", path.display()),
            )
        };
        let listener = replace(path).and_then(|()| bind_private(path)).map_err(cannot)?;
        let inode = fs::symlink_metadata(path).map_err(cannot)?.ino();
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
            limits: Limits {
                connections: CONNECTIONS,
                ..Limits::default()
            },
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
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
        let port = Port::new("admin", router, limits, None, scope.clone());
        scope.spawn("the admin socket", async move {
            port.run(self.listener).await;
            remove(&self.path, self.inode);
        });
    }
}

/// Removes this node's socket, and not that of a node that has been started here since.
fn remove(path: &Path, inode: u64) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.ino() == inode)
        && let Err(error) = fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), %error, "the admin socket stays behind; the next start replaces it");
    }
}

/// Removes what an ended process left at `path`, and nothing else.
fn replace(path: &Path) -> io::Result<()> {
    let length = path.as_os_str().len();
    if length >= SOCKET_PATH_BYTES {
        let limit = SOCKET_PATH_BYTES - 1;
        let sentence = format!("the path has {length} bytes, the system allows {limit}; choose a shorter data folder");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file of another kind; move it away",
        )),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers there; stop it first",
            )),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
        },
    }
}

/// Binds inside a folder that nobody else may enter, and moves the socket out once its mode is right: between `bind`
/// and `chmod` the mode is whatever the umask left, and the umask belongs to the whole process.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    // Shorter than "admin.sock", so that it fits where the path does.
    let folder = path.with_file_name(".admin");
    let inside = folder.join("s");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    DirBuilder::new().mode(0o700).create(&folder)?;
    let listener = UnixListener::bind(&inside)?;
    fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
    fs::rename(&inside, path)?;
    fs::remove_dir(&folder)?;
    Ok(listener)
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
    match state.resolver.lookup(account).await {
        Ok(Some(row)) => Ok(shown(&row, true)),
        Ok(None) => Err(Refusal::missing(
            "unknown-account",
            format!("there is no account {account} in this mesh"),
        )),
        Err(_) => Err(Refusal::internal()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_alone_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let _admin = Admin::bind(&path).expect("binds");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        std::os::unix::net::UnixStream::connect(&path).expect("answers under its final name");
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_answers_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let first = Admin::bind(&path).expect("binds");
        let error = Admin::bind(&path).err().expect("answered");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        drop(first);
        Admin::bind(&path).expect("left behind by the first");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "precious").expect("written");
        let error = Admin::bind(&path).err().expect("not ours");
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_named_before_anything_is_made() {
        let path = PathBuf::from(format!("/tmp/{}/admin.sock", "x".repeat(100)));
        let error = Admin::bind(&path).err().expect("too long");
        assert!(
            error.to_string().contains("has 116 bytes, the system allows 107"),
            "{error}"
        );
    }
}
