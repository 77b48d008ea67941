//! `/jwt/v1/accounts/{account}`: one account's token out, and in.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::Refusal;
use super::health;
use super::public::Shared;
use super::request;
use crate::jwt::AccountKey;
use crate::jwt::MAX_TOKEN_BYTES;
use crate::jwt::Token;
use crate::jwt::render_decoded;
use crate::resolver::AccountRow;
use crate::resolver::INLINE_TOKEN_BYTES;

/// Room behind the largest token for the line end that editors and scripts append.
const LINE_END_BYTES: usize = 16;

/// `GET`: in the order of nats-account-server.
pub(super) async fn show(State(state): State<Shared>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match find(&state, &parts).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.plain(),
    }
}

async fn find(state: &Shared, request: &Parts) -> Result<Response, Refusal> {
    let uri = &request.uri;
    if uri.query().is_some() && request::parameter(uri, "jti").is_some_and(|jti| !jti.is_empty()) {
        return Err(Refusal::gone("lookup by jti is not supported; ask by account"));
    }
    let account = account(uri)?;
    let Some(row) = state.resolver.lookup(account).await? else {
        // A member that has not caught up knows of no absence.
        return Err(if state.resolver.view().ready {
            Refusal::missing(
                "unknown-account",
                format!("no matching account JWT: {account} is not stored here"),
            )
        } else {
            Refusal::unavailable(health::NOT_READY)
        });
    };
    if uri.query().is_some() {
        if request::is_on(uri, "text") {
            return Ok(state.text(row.token.clone()));
        }
        if request::is_on(uri, "decode") {
            return Ok(state.text(decoded(state, row.token.clone()).await?));
        }
        let now = state.clock.now();
        if request::is_on(uri, "check") && 0 < row.expires_at && row.expires_at < now {
            let sentence = format!(
                "the JWT of account {account} expired at {}, it is now {now}",
                row.expires_at
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

/// What a token says, for people. The large ones not on the threads that answer everyone else.
async fn decoded(state: &Shared, token: Bytes) -> Result<String, Refusal> {
    let is_small = token.len() <= INLINE_TOKEN_BYTES;
    let print = move || Token::parse(&token).map(|token| render_decoded(&token));
    let printed = if is_small {
        print()
    } else {
        let Ok(_place) = state.decodings.try_acquire() else {
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

/// The account that the path names.
pub(super) fn account(uri: &Uri) -> Result<AccountKey, Refusal> {
    let text = request::last_segment(uri);
    text.parse().map_err(|error| {
        Refusal::bad(
            "malformed-key",
            format!("{error}; the path ends in the account's public key, A and 55 more"),
        )
    })
}

/// `POST`: 200 without a body once it is durable.
pub(super) async fn submit(State(state): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let outcome = async {
        let account = match account(&parts.uri) {
            Ok(account) => account,
            Err(refusal) => {
                request::discard(&parts.headers, body).await;
                return Err(refusal);
            }
        };
        let upload = read(&parts.headers, body, &state.uploads, state.limits.body).await?;
        Ok(state.resolver.submit(Some(account), upload.bytes).await?)
    };
    match outcome.await {
        Ok(submitted) => state.stored(submitted.revision),
        Err(refusal) => refused(&parts.uri, refusal).plain(),
    }
}

/// Notes a refused submission. Not louder: anyone can cause as many as he likes.
pub(super) fn refused(uri: &Uri, refusal: Refusal) -> Refusal {
    // Only what is a key: whatever else stands in the path may be a seed or a whole token.
    let account = account(uri).map_or_else(|_| "-".to_owned(), |key| key.to_string());
    tracing::debug!(
        account,
        status = refusal.status().as_u16(),
        "submission refused: {}",
        refusal.sentence()
    );
    refusal
}

/// The memory for bodies that are being read. Two pools, so that a few slow senders of large bodies do not keep the usual
/// token of 2 KB out: the first 16 KiB of each body are of the one, all behind them is of the other.
#[derive(Clone)]
pub(super) struct Uploads {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// What every body may take of the first pool.
const SMALL_KIB: usize = 16;
/// The first pool: two thousand bodies, or sixteen thousand usual ones.
const ALL_SMALL_KIB: usize = 32 * 1024;
/// The second: sixty-four of the largest.
const ALL_LARGE_KIB: usize = 64 * 1024;

impl Default for Uploads {
    fn default() -> Self {
        Self::new(ALL_SMALL_KIB, ALL_LARGE_KIB)
    }
}

impl Uploads {
    fn new(small_kib: usize, large_kib: usize) -> Self {
        Self {
            small: Arc::new(Semaphore::new(small_kib)),
            large: Arc::new(Semaphore::new(large_kib)),
        }
    }
}

/// What one body was granted.
#[derive(Debug, Default)]
struct Granted {
    small: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
}

impl Granted {
    /// Grants memory for `length` bytes in all; false where there is none left.
    fn grow(&mut self, uploads: &Uploads, length: usize) -> bool {
        let kib = length.div_ceil(1024);
        grow(&mut self.small, &uploads.small, kib.min(SMALL_KIB))
            && grow(&mut self.large, &uploads.large, kib.saturating_sub(SMALL_KIB))
    }
}

fn grow(granted: &mut Option<OwnedSemaphorePermit>, pool: &Arc<Semaphore>, kib: usize) -> bool {
    let lacking = kib - granted.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    if lacking == 0 {
        return true;
    }
    let Ok(more) = pool
        .clone()
        .try_acquire_many_owned(u32::try_from(lacking).unwrap_or(u32::MAX))
    else {
        return false;
    };
    match granted {
        Some(granted) => granted.merge(more),
        None => *granted = Some(more),
    }
    true
}

/// A body that was read, and the memory it was granted.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) bytes: Bytes,
    _granted: Granted,
}

/// Reads a token's body: no longer than a token, no slower than `time`, no more at once than `uploads` has room for.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    uploads: &Uploads,
    time: Duration,
) -> Result<Upload, Refusal> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let outcome = if declared.is_some_and(|length| length > MAX_TOKEN_BYTES + LINE_END_BYTES) {
        Err(Refusal::too_large(MAX_TOKEN_BYTES))
    } else {
        match timeout(time, collect(&mut body, uploads)).await {
            Ok(outcome) => outcome,
            Err(_) => return Err(Refusal::slow_body(time.as_secs())),
        }
    };
    if outcome.is_err() {
        request::discard(headers, body).await;
    }
    outcome
}

async fn collect(body: &mut Body, uploads: &Uploads) -> Result<Upload, Refusal> {
    let mut granted = Granted::default();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame
            .map_err(|_| Refusal::bad("broken-body", "the body broke off; send it again"))?
            .into_data()
        else {
            continue;
        };
        let length = bytes.len() + part.len();
        if length > MAX_TOKEN_BYTES + LINE_END_BYTES {
            return Err(Refusal::too_large(MAX_TOKEN_BYTES));
        }
        // Granted as it arrives: a declared length costs its sender nothing.
        if !granted.grow(uploads, length) {
            return Err(Refusal::busy("too many uploads at once on this node; try again"));
        }
        bytes.extend_from_slice(&part);
    }
    match bytes.trim_ascii_end().len() {
        0 => Err(Refusal::bad(
            "empty-body",
            "the body is empty; send the account's JWT as nsc wrote it",
        )),
        length if length > MAX_TOKEN_BYTES => Err(Refusal::too_large(MAX_TOKEN_BYTES)),
        _ => Ok(Upload {
            bytes: bytes.freeze(),
            _granted: granted,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads(kib: usize) -> Uploads {
        Uploads::new(kib, kib)
    }

    async fn outcome(body: Body, uploads: &Uploads) -> Result<Upload, Refusal> {
        read(&HeaderMap::new(), body, uploads, Duration::from_secs(60)).await
    }

    #[tokio::test]
    async fn g12_a_body_may_be_as_long_as_a_token_and_no_longer() {
        let plenty = uploads(4096);
        let longest = "x".repeat(MAX_TOKEN_BYTES) + "\r\n";
        let upload = outcome(Body::from(longest.clone()), &plenty)
            .await
            .expect("as long as a token may be");
        assert_eq!(upload.bytes.len(), longest.len());
        for longer in ["x".repeat(MAX_TOKEN_BYTES + 1), "x".repeat(2 * 1024 * 1024)] {
            let refusal = outcome(Body::from(longer), &plenty).await.expect_err("longer");
            assert_eq!(refusal, Refusal::too_large(MAX_TOKEN_BYTES));
        }
    }

    #[tokio::test]
    async fn g12_a_declared_length_is_refused_before_a_byte_is_read() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, "99999999999".parse().expect("a number"));
        headers.insert(header::EXPECT, "100-continue".parse().expect("a word"));
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let refusal = read(&headers, never, &uploads(1), Duration::from_secs(60))
            .await
            .expect_err("longer");
        assert_eq!(refusal, Refusal::too_large(MAX_TOKEN_BYTES));
    }

    #[tokio::test]
    async fn g12_uploads_share_a_bounded_memory_and_give_it_back() {
        let small = uploads(3);
        let first = outcome(Body::from("x".repeat(2 * 1024)), &small).await.expect("fits");
        let refusal = outcome(Body::from("x".repeat(2 * 1024)), &small)
            .await
            .expect_err("does not fit beside it");
        assert_eq!(refusal.status(), 429);
        drop(first);
        outcome(Body::from("x".repeat(2 * 1024)), &small)
            .await
            .expect("fits again");
        assert_eq!(small.small.available_permits(), 3);
    }

    #[tokio::test]
    async fn g12_slow_senders_of_large_bodies_leave_the_usual_ones_their_room() {
        let pools = Uploads::new(64, 64);
        let large = outcome(Body::from("x".repeat((SMALL_KIB + 60) * 1024)), &pools)
            .await
            .expect("fits");
        let refusal = outcome(Body::from("x".repeat((SMALL_KIB + 8) * 1024)), &pools).await;
        assert_eq!(refusal.expect_err("no room for a second large one").status(), 429);
        outcome(Body::from("x".repeat(SMALL_KIB * 1024)), &pools)
            .await
            .expect("a usual one fits beside it");
        drop(large);
        assert_eq!(
            (pools.small.available_permits(), pools.large.available_permits()),
            (64, 64)
        );
    }

    #[tokio::test]
    async fn g12_a_body_that_does_not_come_is_given_up() {
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let outcome = read(&HeaderMap::new(), never, &uploads(1), Duration::from_millis(1)).await;
        assert_eq!(outcome.expect_err("late").status(), 408);
    }

    #[tokio::test]
    async fn an_empty_body_is_named() {
        for body in ["", "\n", " \r\n"] {
            let refusal = outcome(Body::from(body), &uploads(1)).await.expect_err("empty");
            assert!(refusal.sentence().starts_with("the body is empty"), "{body:?}");
        }
    }
}
