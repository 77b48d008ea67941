//! `/v1/accounts`: lists, shows and submits accounts.

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use tokio::time::Instant;

use super::answer::{AdminState, Shared, answer, submitted};
use crate::api;
use crate::http::error::Refusal;
use crate::http::proof;
use crate::http::request;
use crate::http::upload;
use crate::jwt::{AccountKey, KeyError, Token, time};
use crate::resolver::{AccountRow, Listed, RowKind, Submitter};

/// Accounts in one page of a listing: the default, and the most that a caller may ask for.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Rows read in one step, and the token bytes after which a page ends early: 1,000 of the largest would be 1 GiB.
pub(super) const STEP_ROWS: usize = 64;
/// The same where one name is looked for, and the rows after which such a page ends early: reading them takes less than
/// a second.
const SEARCH_STEP_ROWS: usize = 1024;
const SEARCH_ROWS: usize = 64 * 1024;
pub(super) const PAGE_TOKEN_BYTES: usize = 8 * 1024 * 1024;

/// `GET /v1/accounts`.
pub(super) async fn list(State(state): State<Shared>, uri: Uri) -> Response {
    answer(page(&state, &uri).await)
}

async fn page(state: &AdminState, uri: &Uri) -> Result<api::Accounts, Refusal> {
    let bad = |sentence: String| Refusal::bad("bad-parameter", sentence);
    state.check_state()?;
    let mut after = request::after(uri)?;
    let limit = match request::parameter(uri, "limit") {
        Some(text) => text.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit)),
        None => Some(PAGE),
    };
    let limit = limit.ok_or_else(|| bad(format!("limit is a number from 1 to {MAX_PAGE}")))?;
    let with_token = request::is_on(uri, "token");
    let name = request::parameter(uri, "name");
    let (mut items, mut bytes, mut read) = (Vec::new(), 0, 0);
    loop {
        // One row more than asked for shows whether this page is the last.
        let wanted = match name {
            Some(_) => SEARCH_STEP_ROWS,
            None => STEP_ROWS.min(limit + 1 - items.len()),
        };
        let rows = state.resolver.accounts(after, wanted).await?;
        let is_end = rows.len() < wanted;
        for listed in rows {
            if items.len() == limit || bytes >= PAGE_TOKEN_BYTES || (name.is_some() && read >= SEARCH_ROWS) {
                let next = after.map(|last| last.to_string());
                return Ok(api::Accounts { items, next });
            }
            after = Some(listed.account);
            read += 1;
            items.push(match &listed.row {
                Ok(row) if name.as_ref().is_some_and(|name| *name != row.name) => continue,
                Ok(row) => {
                    bytes += if with_token { row.token.len() } else { 0 };
                    shown(state, row, with_token)
                }
                // It may have any name.
                Err(_) if name.is_some() => continue,
                Err(damage) => damaged(&listed, damage),
            });
        }
        if is_end {
            return Ok(api::Accounts { items, next: None });
        }
    }
}

fn shown(state: &AdminState, row: &AccountRow, with_token: bool) -> api::Account {
    api::Account {
        account: row.account.to_string(),
        name: row.name.clone(),
        operator: state.resolver.owner(row.operator).to_string(),
        issued_at: issued_at(row),
        expires_at: row.expires_at,
        revision: row.revision,
        etag: row.etag.clone(),
        // A stored token is ASCII: base64 and dots.
        token: (with_token && !row.is_deleted()).then(|| String::from_utf8_lossy(&row.token).into_owned()),
        opens_after: (row.kind == RowKind::Closing).then_some(row.issued_at),
        state: match row.kind {
            RowKind::Token => None,
            RowKind::Closing => Some("closing".to_owned()),
            RowKind::Tombstone => Some("deleted".to_owned()),
        },
        damage: None,
    }
}

/// When its token was issued. The row of an account that is shut has the later time of what was shut.
fn issued_at(row: &AccountRow) -> i64 {
    if row.kind != RowKind::Closing {
        return row.issued_at;
    }
    let claims = Token::parse(&row.token)
        .ok()
        .and_then(|token| token.unverified_claims());
    let own = claims.and_then(|claims| claims["iat"].as_i64());
    own.filter(|own| *own > 0).unwrap_or(row.issued_at)
}

/// An account whose row cannot be read: the listing says which one it is.
fn damaged(listed: &Listed, damage: &dyn std::error::Error) -> api::Account {
    api::Account {
        account: listed.account.to_string(),
        name: String::new(),
        operator: String::new(),
        issued_at: 0,
        expires_at: 0,
        revision: listed.revision,
        etag: String::new(),
        token: None,
        opens_after: None,
        state: None,
        damage: Some(damage.to_string()),
    }
}

/// `GET /v1/accounts/{account}`.
pub(super) async fn show(State(state): State<Shared>, uri: Uri) -> Response {
    answer(find(&state, &uri).await)
}

async fn find(state: &AdminState, uri: &Uri) -> Result<api::Account, Refusal> {
    let account = request::account(uri)?;
    state.check_state()?;
    match state.resolver.current(account).await? {
        Some(row) if row.is_deleted() && !request::is_on(uri, "deleted") => Err(gone(account, &row)),
        Some(row) => Ok(shown(state, &row, true)),
        None => Err(unknown(account)),
    }
}

/// The account that a part of a path names.
pub(super) fn key(text: &str) -> Result<AccountKey, Refusal> {
    text.parse()
        .map_err(|error: KeyError| Refusal::bad("malformed-key", error.to_string()))
}

fn gone(account: AccountKey, row: &AccountRow) -> Refusal {
    Refusal::missing(
        "deleted-account",
        format!(
            "account {account} was deleted at revision {}; a JWT issued after {} creates it again",
            row.revision,
            time(row.issued_at)
        ),
    )
}

pub(super) fn unknown(account: AccountKey) -> Refusal {
    Refusal::missing("unknown-account", format!("there is no account {account} in this mesh"))
}

/// `PUT` or `POST /v1/accounts/{account}`; with `?replace=true` the token is stored even if the stored one is newer, with
/// `If-Match` only in the place of that token. With `?wait=all`, and `&timeout=SECONDS`, the answer to one that was not stored
/// already is where it is in force.
pub(super) async fn submit(State(state): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let outcome = async {
        let account = request::account(&parts.uri)?;
        let (expected, wait) = (request::expected(&parts.headers)?, proof::wanted_wait(&parts.uri)?);
        let upload = upload::read(&parts, body, &state.uploads, state.limits.body).await?;
        let submitter = if request::is_on(&parts.uri, "replace") {
            Submitter::Insisting
        } else {
            Submitter::Administrator
        };
        let resolver = &state.resolver;
        if submitter == Submitter::Insisting && expected.is_some() {
            let sentence = "replace=true stores a JWT whatever is stored, If-Match only in a certain one's place: leave one of them out";
            return Err(Refusal::bad("bad-parameter", sentence));
        }
        let since = request::is_on(&parts.uri, "closed").then(Instant::now);
        let body = upload.bytes.clone();
        let done = resolver.submit_if(Some(account), body, submitter, expected).await?;
        let Some(wait) = wait.filter(|_| done.stored) else {
            return Ok(answer(Ok(submitted(done))));
        };
        let proof = proof::propagation(resolver, account, done.revision, wait, since).await;
        Ok(answer(Ok(proof)))
    };
    let refused = |refusal| answer::<()>(Err(upload::refused(&parts.uri, refusal)));
    outcome.await.unwrap_or_else(refused)
}
