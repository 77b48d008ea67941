//! Deletes accounts by a signed request, keeps the JWT with which an account can be shut, and shuts it.

use axum::extract::{Path, Request, State};
use axum::http::Uri;
use axum::response::Response;

use super::accounts::{PAGE_TOKEN_BYTES, STEP_ROWS, key};
use super::answer::{Shared, answer, submitted};
use crate::api;
use crate::http::error::Refusal;
use crate::http::request;
use crate::http::upload;
use crate::jwt::AccountKey;
use crate::resolver::{Closing, Deleted, DeletedAccount, Submitter};

/// Closing JWTs in one page of a listing.
const PAGE: usize = 1000;

/// `DELETE /v1/accounts`: deletes all accounts that the signed request in the body names; with `?dry_run=true` it only says
/// what would become of it.
pub(super) async fn delete(State(state): State<Shared>, request: Request) -> Response {
    answer(deleted(&state, None, request).await)
}

/// `DELETE /v1/accounts/{account}`: the same, where the request names this account and no other.
pub(super) async fn delete_one(State(state): State<Shared>, Path(account): Path<String>, request: Request) -> Response {
    let outcome = async { deleted(&state, Some(key(&account)?), request).await };
    answer(outcome.await)
}

async fn deleted(state: &Shared, path: Option<AccountKey>, request: Request) -> Result<api::Deleted, Refusal> {
    let (parts, body) = request.into_parts();
    let upload = upload::read(&parts, body, &state.uploads, state.limits.body).await?;
    state.check_state()?;
    let (resolver, body) = (&state.resolver, upload.bytes.clone());
    // A process that may open the socket is an administrator.
    let deleted = if request::is_on(&parts.uri, "dry_run") {
        resolver.preview_delete(path, body, Submitter::Administrator).await
    } else {
        resolver.delete(path, body, Submitter::Administrator).await
    };
    Ok(shown(&deleted?))
}

fn shown(deleted: &Deleted) -> api::Deleted {
    let account = |account: &DeletedAccount| api::DeletedAccount {
        account: account.account.to_string(),
        name: account.name.clone(),
        outcome: if account.was_there { "deleted" } else { "absent" }.to_owned(),
        closing: account.has_closing,
    };
    let warning = match deleted.left_open() {
        0 => None,
        count => Some(format!(
            "{count} of the accounts had no valid closing JWT: nats-servers with a URL resolver that have loaded them go on with them \
             until they are restarted, or until `jwtmesh account closing set` gives one"
        )),
    };
    api::Deleted {
        operator: deleted.operator.to_string(),
        revision: deleted.revision,
        accounts: deleted.accounts.iter().map(account).collect(),
        warnings: warning.into_iter().collect(),
    }
}

/// `GET /v1/accounts/{account}/closing`.
pub(super) async fn closing(State(state): State<Shared>, Path(account): Path<String>) -> Response {
    let outcome = async {
        let account = key(&account)?;
        state.check_state()?;
        let closing = state
            .resolver
            .closing(account)
            .await?
            .ok_or_else(|| none_kept(account))?;
        Ok(shown_closing(&closing))
    };
    answer(outcome.await)
}

fn shown_closing(closing: &Closing) -> api::Closing {
    api::Closing {
        account: closing.account.to_string(),
        name: closing.name.clone(),
        operator: closing.operator.to_string(),
        issued_at: closing.issued_at,
        expires_at: closing.expires_at,
        revision: closing.revision,
        token: String::from_utf8_lossy(&closing.token).into_owned(),
        damage: None,
    }
}

/// `GET /v1/closings`: one page of the closing JWTs that are kept.
pub(super) async fn closings(State(state): State<Shared>, uri: Uri) -> Response {
    answer(page(&state, &uri).await)
}

async fn page(state: &Shared, uri: &Uri) -> Result<api::Closings, Refusal> {
    state.check_state()?;
    let (mut after, mut items, mut bytes) = (request::after(uri)?, Vec::new(), 0);
    // A page may be empty only if it is the last.
    while bytes < PAGE_TOKEN_BYTES && items.len() < PAGE {
        let page = state.resolver.closings(after, STEP_ROWS).await?;
        let is_end = page.len() < STEP_ROWS;
        for listed in page {
            after = Some(listed.account);
            let shown = match listed.closing {
                Ok(closing) => shown_closing(&closing),
                Err(damage) => api::Closing {
                    account: listed.account.to_string(),
                    damage: Some(damage.to_string()),
                    ..api::Closing::default()
                },
            };
            bytes += shown.token.len();
            items.push(shown);
        }
        if is_end {
            return Ok(api::Closings { items, next: None });
        }
    }
    let next = after.map(|last| last.to_string());
    Ok(api::Closings { items, next })
}

fn none_kept(account: AccountKey) -> Refusal {
    Refusal::missing(
        "no-closing-jwt",
        format!("no closing JWT is kept for account {account}"),
    )
}

/// `PUT /v1/accounts/{account}/closing`: keeps the JWT in the body.
pub(super) async fn keep(State(state): State<Shared>, Path(account): Path<String>, request: Request) -> Response {
    let outcome = async {
        let account = key(&account)?;
        let (parts, body) = request.into_parts();
        let upload = upload::read(&parts, body, &state.uploads, state.limits.body).await?;
        Ok(submitted(
            state.resolver.keep_closing(account, upload.bytes.clone()).await?,
        ))
    };
    answer(outcome.await)
}

/// `DELETE /v1/accounts/{account}/closing`.
pub(super) async fn forget(State(state): State<Shared>, Path(account): Path<String>) -> Response {
    let outcome = async {
        let account = key(&account)?;
        match state.resolver.forget_closing(account).await? {
            true => Ok(serde_json::json!({ "outcome": "removed" })),
            false => Err(none_kept(account)),
        }
    };
    answer(outcome.await)
}

/// `POST /v1/accounts/{account}/kill`: the JWT that is kept for it becomes its current one; with `?dry_run=true` it only
/// says whether that would be done.
pub(super) async fn kill(State(state): State<Shared>, Path(account): Path<String>, uri: Uri) -> Response {
    let outcome = async {
        let account = key(&account)?;
        state.check_state()?;
        let dry_run = request::is_on(&uri, "dry_run");
        Ok(submitted(state.resolver.kill(account, dry_run).await?))
    };
    answer(outcome.await)
}
