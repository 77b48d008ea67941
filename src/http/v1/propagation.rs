//! `/v1/accounts/{account}/propagation`: at which servers an account's token is in force, once or as it changes.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::stream::unfold;
use tokio::time::{Instant, sleep};

use super::accounts::{key, unknown};
use super::answer::{Shared, answer};
use crate::api;
use crate::http::error::Refusal;
use crate::http::proof;
use crate::http::request;
use crate::jwt::AccountKey;

/// How often a caller of the stream is told what has changed, at most.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often a line is sent in which nothing has changed: half of what a silent connection may last.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a stream lasts at the most. A server that was shut down for good would keep it open.
const LONGEST_STREAM: Duration = Duration::from_secs(3600);

/// `GET /v1/accounts/{account}/propagation?wait=SECONDS`: where the account's token is in force, as soon as it is everywhere
/// or after so many seconds.
///
/// A caller that accepts `text/event-stream` gets an event `propagation` now and whenever something has changed, and the
/// end of the stream when it is in force everywhere, or an event `error` with a sentence. A newer token that is stored
/// meanwhile takes its place.
pub(super) async fn show(
    State(state): State<Shared>,
    Path(account): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let outcome = async {
        let account = key(&account)?;
        let wait = match request::parameter(&uri, "wait") {
            Some(text) => proof::seconds(&text)?,
            None => Duration::ZERO,
        };
        state.check_state()?;
        let is_stream = wants_events(&headers);
        let wait = if is_stream { Duration::ZERO } else { wait };
        Ok((account, is_stream, find(&state, account, wait).await?))
    };
    match outcome.await {
        Ok((account, true, found)) => {
            let events = events(state, account, found);
            let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
            Sse::new(events).keep_alive(keep_alive).into_response()
        }
        Ok((_, false, found)) => answer(Ok(found)),
        Err(refusal) => answer::<()>(Err(refusal)),
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut kinds = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','));
    kinds.any(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/event-stream")
}

async fn find(state: &Shared, account: AccountKey, wait: Duration) -> Result<api::Propagation, Refusal> {
    let row = state.resolver.current(account).await?;
    let row = row.ok_or_else(|| unknown(account))?;
    if row.is_deleted() && state.resolver.valid_closing(account).await?.is_none() {
        return Err(Refusal::conflict("no-closing-jwt", not_enforced(account)));
    }
    Ok(proof::propagation(&state.resolver, account, row.revision, wait, None).await)
}

/// Why nothing can be proven of a deleted account.
fn not_enforced(account: AccountKey) -> String {
    format!(
        "account {account} was deleted, and no valid closing JWT is kept for it, so nothing was sent to the NATS clusters: nats-servers \
         with a URL resolver that had loaded it go on with it until they are restarted, or until `jwtmesh account closing set` gives one"
    )
}

/// What a stream has to tell.
enum Telling {
    /// This, first.
    Now(api::Propagation),
    /// What differs from this.
    After(api::Propagation),
    Over,
}

fn events(
    state: Shared,
    account: AccountKey,
    found: api::Propagation,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let until = Instant::now() + LONGEST_STREAM;
    unfold(Telling::Now(found), move |telling| {
        let state = state.clone();
        async move {
            let found = match telling {
                Telling::Now(found) => Ok(found),
                Telling::After(before) => changed(&state, account, &before, until).await,
                Telling::Over => return None,
            };
            let event = match &found {
                Ok(found) => Event::default().event("propagation").json_data(found).ok()?,
                Err(sentence) => Event::default().event("error").data(sentence),
            };
            let next = match found {
                // Without a NATS cluster nothing ever changes.
                Ok(found) if !found.confirmed && !found.nats.is_empty() => Telling::After(found),
                _ => Telling::Over,
            };
            Some((Ok(event), next))
        }
    })
}

/// What differs from `before`, when something does; or why the stream ends.
async fn changed(
    state: &Shared,
    account: AccountKey,
    before: &api::Propagation,
    until: Instant,
) -> Result<api::Propagation, String> {
    while Instant::now() < until {
        // It does not wait for its streams.
        if !state.resolver.view().ready {
            return Err("this node shuts down, or is not ready: ask again, or another node".to_owned());
        }
        sleep(LOOK_EVERY).await;
        let found = find(state, account, Duration::ZERO).await;
        let found = found.map_err(|refusal| refusal.sentence().to_owned())?;
        if found != *before {
            return Ok(found);
        }
    }
    Err("it is not in force everywhere after an hour: ask again".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_accepts_an_event_stream_gets_one() {
        for (accept, wanted) in [
            (None, false),
            (Some("*/*"), false),
            (Some("application/json"), false),
            (Some("text/event-stream"), true),
            (Some("application/json;q=0.5, text/event-stream; q=1"), true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept.parse().expect("text"));
            }
            assert_eq!(wants_events(&headers), wanted, "{accept:?}");
        }
    }
}
