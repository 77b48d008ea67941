//! Reads the body of a submission. Its length, its time and the memory of all bodies together are bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Uri, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::error::Refusal;
use super::request;
use crate::jwt::MAX_TOKEN_BYTES;
use crate::listener::Origin;

/// Bytes allowed after the largest token, for the line end that editors and scripts append.
const LINE_END_BYTES: usize = 16;

/// Logs a refused submission. At level debug only: any client can cause any number of them.
pub(super) fn refused(uri: &Uri, refusal: Refusal) -> Refusal {
    // Only a valid key is logged: any other text in the path may be a seed or a whole token.
    let account = request::account(uri).map_or_else(|_| "-".to_owned(), |key| key.to_string());
    tracing::debug!(
        account,
        status = refusal.status().as_u16(),
        "submission refused: {}",
        refusal.sentence()
    );
    refusal
}

/// The memory for bodies that are being read, in two pools: the first 16 KiB of each body come from the small pool, the
/// rest from the large one, so that a few slow senders of large bodies cannot block the usual token of 2 KB.
///
/// Of each pool an address is given at most as much as it leaves free: the first one half of it, the next half of the
/// rest. Clients that hold back what they began to send stop their own address, never the others.
#[derive(Clone)]
pub(super) struct Uploads {
    small: Pool,
    large: Pool,
}

/// KiB of each body that come from the small pool.
const SMALL_KIB: usize = 16;
/// The small pool: enough for two thousand bodies, or sixteen thousand of the usual size; half of that for one address.
/// Past it, 429.
const ALL_SMALL_KIB: usize = 32 * 1024;
/// The large pool: enough for sixty-four of the largest bodies; half of that for one address. Past it, 429.
const ALL_LARGE_KIB: usize = 64 * 1024;

impl Default for Uploads {
    fn default() -> Self {
        Self::new(ALL_SMALL_KIB, ALL_LARGE_KIB)
    }
}

impl Uploads {
    fn new(small_kib: usize, large_kib: usize) -> Self {
        Self {
            small: Pool::new(small_kib),
            large: Pool::new(large_kib),
        }
    }
}

/// Memory that is shared, in KiB. Clones are the same pool.
#[derive(Debug, Clone)]
struct Pool(Arc<Mutex<Shares>>);

#[derive(Debug)]
struct Shares {
    free: usize,
    /// What each origin holds; none that holds nothing.
    held: HashMap<Origin, usize>,
}

impl Pool {
    fn new(kib: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares {
            free: kib,
            held: HashMap::new(),
        })))
    }

    /// Takes `kib` for `origin`; `false` if that would exceed its share, or what is left.
    fn take(&self, origin: Origin, kib: usize) -> bool {
        let mut shares = self.shares();
        let held = shares.held.get(&origin).copied().unwrap_or(0);
        let is_fair = origin == Origin::Local || held + kib <= shares.free.saturating_sub(kib);
        if kib > shares.free || !is_fair {
            return false;
        }
        shares.free -= kib;
        shares.held.insert(origin, held + kib);
        true
    }

    fn give_back(&self, origin: Origin, kib: usize) {
        let mut shares = self.shares();
        shares.free += kib;
        let left = shares.held.get(&origin).map_or(0, |held| held - kib);
        if left == 0 {
            shares.held.remove(&origin);
        } else {
            shares.held.insert(origin, left);
        }
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        // What is under the lock cannot panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory that one body was granted; given back when this is dropped.
#[derive(Debug)]
struct Granted {
    origin: Origin,
    small: (Pool, usize),
    large: (Pool, usize),
}

impl Granted {
    fn nothing(uploads: &Uploads, origin: Origin) -> Self {
        Self {
            origin,
            small: (uploads.small.clone(), 0),
            large: (uploads.large.clone(), 0),
        }
    }

    /// Grants memory for `length` bytes in total; `false` if a pool does not have enough left.
    fn grow(&mut self, length: usize) -> bool {
        let kib = length.div_ceil(1024);
        grow(&mut self.small, self.origin, kib.min(SMALL_KIB))
            && grow(&mut self.large, self.origin, kib.saturating_sub(SMALL_KIB))
    }
}

fn grow((pool, granted): &mut (Pool, usize), origin: Origin, kib: usize) -> bool {
    let lacking = kib - *granted;
    let is_granted = lacking == 0 || pool.take(origin, lacking);
    if is_granted {
        *granted = kib;
    }
    is_granted
}

impl Drop for Granted {
    fn drop(&mut self) {
        for (pool, kib) in [&self.small, &self.large] {
            if *kib > 0 {
                pool.give_back(self.origin, *kib);
            }
        }
    }
}

/// A body that was read, and the memory it was granted.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) bytes: Bytes,
    _granted: Granted,
}

/// Reads the body of a submission. Refused with 413 if it is longer than a token may be, with 408 if it takes longer
/// than `time`, with 429 if `uploads` has no memory left for it or for its address, and with 400 if it is empty or breaks
/// off.
pub(super) async fn read(parts: &Parts, mut body: Body, uploads: &Uploads, time: Duration) -> Result<Upload, Refusal> {
    let origin = parts.extensions.get::<Origin>().copied().unwrap_or_default();
    let declared = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let outcome = if declared.is_some_and(|length| length > MAX_TOKEN_BYTES + LINE_END_BYTES) {
        Err(Refusal::too_large(MAX_TOKEN_BYTES))
    } else {
        match timeout(time, collect(&mut body, uploads, origin)).await {
            Ok(outcome) => outcome,
            Err(_) => return Err(Refusal::slow_body(time.as_secs())),
        }
    };
    if outcome.is_err() {
        request::discard(&parts.headers, body).await;
    }
    outcome
}

async fn collect(body: &mut Body, uploads: &Uploads, origin: Origin) -> Result<Upload, Refusal> {
    let mut granted = Granted::nothing(uploads, origin);
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
        // Granted as bytes arrive, not by the declared length, which costs the sender nothing.
        if !granted.grow(length) {
            return Err(Refusal::busy(
                "too many uploads at once from your address, or on this node; try again",
            ));
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
        outcome_from(Origin::Local, body, uploads).await
    }

    async fn outcome_from(origin: Origin, body: Body, uploads: &Uploads) -> Result<Upload, Refusal> {
        read(&parts(origin), body, uploads, Duration::from_secs(60)).await
    }

    fn parts(origin: Origin) -> Parts {
        let request = axum::http::Request::builder().extension(origin).body(());
        request.expect("a request").into_parts().0
    }

    fn free(pool: &Pool) -> usize {
        pool.shares().free
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
        let mut parts = parts(Origin::Local);
        let headers = &mut parts.headers;
        headers.insert(header::CONTENT_LENGTH, "99999999999".parse().expect("a number"));
        headers.insert(header::EXPECT, "100-continue".parse().expect("a word"));
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let refusal = read(&parts, never, &uploads(1), Duration::from_secs(60))
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
        assert_eq!((free(&small.small), small.small.shares().held.len()), (3, 0));
    }

    #[tokio::test]
    async fn g12_slow_senders_of_large_bodies_do_not_block_small_ones() {
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
        assert_eq!((free(&pools.small), free(&pools.large)), (64, 64));
    }

    #[tokio::test]
    async fn g12_an_address_that_holds_all_it_is_given_leaves_room_for_every_other() {
        let origin = |last: u8| Origin::of(std::net::IpAddr::from([192, 0, 2, last]));
        for kib in [2, SMALL_KIB, SMALL_KIB + 100] {
            let pools = Uploads::default();
            let mut held = Vec::new();
            for greedy in 0..4 {
                let before = held.len();
                while let Ok(upload) = outcome_from(origin(greedy), Body::from("x".repeat(kib * 1024)), &pools).await {
                    held.push(upload);
                }
                assert!(held.len() > before, "address {greedy} gets a share too");
                let refused = outcome_from(origin(greedy), Body::from("x".repeat(kib * 1024)), &pools).await;
                assert_eq!(refused.expect_err("its share is used up").status(), 429);
            }
            outcome_from(origin(9), Body::from("x".repeat(kib * 1024)), &pools)
                .await
                .expect("room for another address");
            drop(held);
            assert_eq!((free(&pools.small), free(&pools.large)), (ALL_SMALL_KIB, ALL_LARGE_KIB));
            assert!(pools.small.shares().held.is_empty() && pools.large.shares().held.is_empty());
        }
    }

    #[tokio::test]
    async fn g12_a_body_that_does_not_arrive_in_time_is_refused() {
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let outcome = read(&parts(Origin::Local), never, &uploads(1), Duration::from_millis(1)).await;
        assert_eq!(outcome.expect_err("late").status(), 408);
    }

    #[tokio::test]
    async fn an_empty_body_is_refused_as_empty() {
        for body in ["", "\n", " \r\n"] {
            let refusal = outcome(Body::from(body), &uploads(1)).await.expect_err("empty");
            assert!(refusal.sentence().starts_with("the body is empty"), "{body:?}");
        }
    }
}
