//! `GET /jwt/v1/pack`: many accounts at once, for a copy or an import. It is paced so that lookups stay fast.
//!
//! nats-account-server held its store's lock for the whole answer: one client reading it in a loop took lookups from
//! 12,500 a second to 300. Here a few rows are read at a time, the answer is never in memory as a whole, and only two
//! packs are read at once.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::answer::Shared;
use crate::http::error::Refusal;
use crate::http::request;
use crate::jwt::AccountKey;
use crate::resolver::{ReadError, Resolver};

/// Lines in one answer: the most, and the default without `max`. It is nats-account-server's `maxreplicationpack`.
const MAX_LINES: usize = 10_000;
/// Rows read in one step, about 25 KB; 16 of the largest tokens are 16 MiB.
const PAGE_ROWS: usize = 16;
/// After each step the pack rests this many times as long as the step took. One pack then uses at most a fifth of a
/// processor, and two leave enough for lookups on the smallest machine.
const REST_FACTOR: u32 = 4;
/// The shortest rest, so that other tasks run in between, and the longest, so that a slow disk does not stall the pack.
const MIN_REST: Duration = Duration::from_millis(1);
const MAX_REST: Duration = Duration::from_millis(50);
/// A client that reads nothing for this long is dropped, and its permit is free for another.
const STALL: Duration = Duration::from_secs(10);
/// Steps read ahead of the client.
const AHEAD: usize = 2;

/// `KEY|JWT` lines joined by line feeds; `?max=N` of them at most.
pub(super) async fn show(State(state): State<Shared>, uri: Uri) -> Response {
    match pack(&state, &uri).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.plain(),
    }
}

async fn pack(state: &Shared, uri: &Uri) -> Result<Response, Refusal> {
    let lines = match request::parameter(uri, "max") {
        Some(text) => limit(&text)?,
        None => MAX_LINES,
    };
    state.check_state()?;
    let Ok(permit) = state.packs.clone().try_acquire_owned() else {
        return Err(Refusal::busy(
            "other clients are reading packs from this node; try again",
        ));
    };
    let mut pages = Pages {
        resolver: state.resolver.clone(),
        now: state.resolver.now(),
        after: None,
        left: lines,
        written: false,
    };
    // The first step is read before the answer begins, so that its failure can still become a status.
    let (first, rest) = pages.paced().await;
    let first = first?.unwrap_or_default();
    let (sender, receiver) = mpsc::channel::<Part>(AHEAD);
    state.scope.spawn_for_client(async move {
        let (mut page, mut rest) = (Ok(Some(first)), rest);
        // Without `Part::End` the answer breaks off: a row could not be read, or the client reads nothing.
        while let Ok(lines) = page {
            let part = lines.map_or(Part::End, Part::Lines);
            let is_end = matches!(part, Part::End);
            if !matches!(timeout(STALL, sender.send(part)).await, Ok(Ok(()))) || is_end {
                break;
            }
            sleep(rest).await;
            (page, rest) = pages.paced().await;
        }
        drop(permit);
    });
    Ok(state
        .text(Bytes::new())
        .map(|_| Body::from_stream(whole(receiver).boxed())))
}

/// The body. It ends with an error unless [`Part::End`] came last.
fn whole(receiver: mpsc::Receiver<Part>) -> impl Stream<Item = io::Result<Bytes>> {
    futures::stream::unfold(Some(receiver), async |receiver| {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Part::Lines(lines)) => Some((Ok(lines), Some(receiver))),
            Some(Part::End) => None,
            // The status is sent already: only a broken answer can show the client that it is incomplete.
            None => Some((Err(io::Error::other("the pack was not read to its end")), None)),
        }
    })
}

/// What the reader of the store hands to the answer.
enum Part {
    Lines(Bytes),
    /// The pack is complete.
    End,
}

/// How many lines `?max=` asks for.
fn limit(text: &str) -> Result<usize, Refusal> {
    match text.parse::<usize>() {
        Ok(lines) if lines <= MAX_LINES => Ok(lines),
        Ok(_) => Err(Refusal::bad(
            "bad-parameter",
            format!("max is {text:?}, but a pack has at most {MAX_LINES} lines; `jwtmesh account pull` reads them all"),
        )),
        Err(_) => {
            let shown: String = text.chars().take(40).collect();
            Err(Refusal::bad(
                "bad-parameter",
                format!("max is {shown:?}; it must be a number from 0 to {MAX_LINES}"),
            ))
        }
    }
}

/// How far a pack has been read, in the order of the keys.
struct Pages {
    resolver: Resolver,
    now: i64,
    after: Option<AccountKey>,
    left: usize,
    written: bool,
}

impl Pages {
    /// The next lines, and how long to rest after them.
    async fn paced(&mut self) -> (Result<Option<Bytes>, Refusal>, Duration) {
        let began = Instant::now();
        let page = self.next().await;
        (page, (began.elapsed() * REST_FACTOR).clamp(MIN_REST, MAX_REST))
    }

    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        // If every token of a page has expired, the loop reads the next page instead of sending nothing.
        while self.left > 0 {
            let rows = self.resolver.accounts(self.after, PAGE_ROWS.min(self.left)).await?;
            let Some(last) = rows.last() else {
                break;
            };
            self.after = Some(last.account);
            let mut part = BytesMut::new();
            for listed in rows {
                // A copy that lacks an account must not look complete.
                let row = listed.row.map_err(|damage| Refusal::from(ReadError::Damaged(damage)))?;
                if row.expires_at != 0 && row.expires_at < self.now {
                    continue;
                }
                self.left -= 1;
                if self.written {
                    part.put_u8(b'\n');
                }
                self.written = true;
                part.put_slice(row.account.to_string().as_bytes());
                part.put_u8(b'|');
                part.put_slice(&row.token);
            }
            if !part.is_empty() {
                return Ok(Some(part.freeze()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy that was cut short and looked complete would lose accounts silently.
    #[tokio::test]
    async fn an_incomplete_pack_ends_with_an_error_and_a_complete_one_without() {
        for (parts, ends_well) in [
            (vec![Part::Lines(Bytes::from_static(b"A")), Part::End], true),
            (vec![Part::Lines(Bytes::from_static(b"A"))], false),
        ] {
            let (sender, receiver) = mpsc::channel(AHEAD);
            for part in parts {
                sender.try_send(part).expect("room");
            }
            drop(sender);
            let mut items: Vec<_> = whole(receiver).collect().await;
            assert_eq!(items.remove(0).expect("lines"), "A");
            assert_eq!(items.is_empty(), ends_well);
            assert!(items.iter().all(Result::is_err));
        }
    }

    #[test]
    fn g12_no_max_goes_past_the_limit() {
        assert_eq!(limit("0"), Ok(0));
        assert_eq!(limit("10000"), Ok(MAX_LINES));
        for text in ["10001", "-1", "foo", "", "1e3", "99999999999999999999"] {
            let refusal = limit(text).expect_err("not a limit");
            assert_eq!(refusal.status(), 400, "{text}");
            assert!(refusal.sentence().starts_with("max is \""), "{}", refusal.sentence());
        }
    }
}
