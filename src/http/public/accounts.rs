//! `/jwt/v1/accounts/{account}`: looks up and submits one account's token.

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::answer::Shared;
use crate::http::error::{Refusal, not_ready};
use crate::http::proof;
use crate::http::request;
use crate::http::upload;
use crate::jwt::Token;
use crate::jwt::render_decoded;
use crate::jwt::time;
use crate::resolver::AccountRow;
use crate::resolver::INLINE_TOKEN_BYTES;
use crate::resolver::Submitter;

/// `GET`. Parameters are evaluated in nats-account-server's order.
pub(super) async fn show(State(state): State<Shared>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if let Err(refusal) = wait(&state, &parts).await {
        return state.refusal(refusal);
    }
    // Before the row: what is read is at least as new as the answer says.
    let revision = state.resolver.revision();
    let answer = match find(&state, &parts).await {
        Ok(answer) => answer,
        Err(refusal) => state.refusal(refusal),
    };
    state.as_of(revision, answer)
}

/// Waits until this node has what the request wants to see at least.
async fn wait(state: &Shared, request: &Parts) -> Result<(), Refusal> {
    match request::at_least(&request.headers)? {
        Some(wanted) => Ok(state.resolver.read_at_least(wanted).await?),
        None => Ok(()),
    }
}

async fn find(state: &Shared, request: &Parts) -> Result<Response, Refusal> {
    let uri = &request.uri;
    if uri.query().is_some() && request::parameter(uri, "jti").is_some_and(|jti| !jti.is_empty()) {
        return Err(Refusal::not_supported("lookup by jti is not supported; ask by account"));
    }
    let account = request::account(uri)?;
    // Looked at first: what a node finds while it catches up does not tell that an account does not exist.
    let has_state = state.resolver.has_state();
    let Some(row) = state.resolver.lookup(account).await? else {
        return Err(if has_state && state.resolver.view().ready {
            Refusal::missing(
                "unknown-account",
                format!("no matching account JWT: {account} is not stored here"),
            )
        } else {
            Refusal::unavailable(not_ready(&state.resolver))
        });
    };
    if uri.query().is_some() {
        if request::is_on(uri, "text") {
            return Ok(state.text(row.token.clone()));
        }
        if request::is_on(uri, "decode") {
            return Ok(state.text(decoded(state, row.token.clone()).await?));
        }
        let now = state.resolver.now();
        if request::is_on(uri, "check") && 0 < row.expires_at && row.expires_at < now {
            let sentence = format!(
                "the JWT of account {account} expired at {}, it is now {}",
                time(row.expires_at),
                time(now)
            );
            return Err(Refusal::missing("expired", sentence));
        }
    }
    if request::is_known(&request.headers, &row.etag) {
        return Ok(tagged(state.unchanged(), &row));
    }
    if uri.query().is_some() && request::is_on(uri, "notify") {
        state.resolver.republish(account);
    }
    Ok(tagged(state.jwt(row.token.clone()), &row))
}

/// A token's content as text for people. Large tokens are decoded off the threads that answer other requests.
async fn decoded(state: &Shared, token: Bytes) -> Result<String, Refusal> {
    let is_small = token.len() <= INLINE_TOKEN_BYTES;
    let print = move || Token::parse(&token).map(|token| render_decoded(&token));
    let printed = if is_small {
        print()
    } else {
        let Ok(_permit) = state.decodings.try_acquire() else {
            return Err(Refusal::busy("other large tokens are being decoded; try again"));
        };
        tokio::task::spawn_blocking(print)
            .await
            .map_err(|_| Refusal::internal())?
    };
    printed.map_err(|_| Refusal::internal())
}

fn tagged(mut answer: Response, row: &AccountRow) -> Response {
    let mut tag = BytesMut::with_capacity(row.etag.len() + 2);
    tag.extend_from_slice(b"\"");
    tag.extend_from_slice(row.etag.as_bytes());
    tag.extend_from_slice(b"\"");
    if let Ok(tag) = HeaderValue::from_maybe_shared(tag.freeze()) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

/// `POST`: 200 without a body once the token is on disk and applied here (G1). With `?wait=all`, and `&timeout=SECONDS`, as
/// soon as it is in force at every server, or after that time, with where it is; with `&closed=true` also how many connections
/// of revoked users were closed. With `If-Match` only in the place of that
/// token.
pub(super) async fn submit(State(state): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let outcome = async {
        let account = match request::account(&parts.uri) {
            Ok(account) => account,
            Err(refusal) => {
                request::discard(&parts.headers, body).await;
                return Err(refusal);
            }
        };
        let wanted = proof::wanted_wait(&parts.uri).and_then(|wait| Ok((wait, request::expected(&parts.headers)?)));
        let (wait, expected) = match wanted {
            Ok(wanted) => wanted,
            Err(refusal) => {
                request::discard(&parts.headers, body).await;
                return Err(refusal);
            }
        };
        let upload = upload::read(&parts, body, &state.uploads, state.limits.body).await?;
        let since = request::is_on(&parts.uri, "closed").then(Instant::now);
        let submitted = state
            .resolver
            .submit_if(Some(account), upload.bytes, Submitter::Anyone, expected)
            .await?;
        // Tokens are public: who sends a known one has not shown that they may sign for the account.
        let Some(wait) = wait.filter(|_| submitted.stored) else {
            return Ok((submitted, None));
        };
        let proof = proof::propagation(&state.resolver, account, submitted.revision, wait, since).await;
        Ok((submitted, Some(proof)))
    };
    match outcome.await {
        Ok((submitted, None)) => state.stored(submitted.revision),
        Ok((submitted, Some(proof))) => state.proven(submitted.revision, &proof),
        Err(refusal) => upload::refused(&parts.uri, refusal).plain(),
    }
}
