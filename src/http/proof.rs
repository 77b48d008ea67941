//! At which servers an account's token is in force, as both ports answer it.

use std::time::Duration;

use axum::http::Uri;
use futures::future::join_all;
use tokio::time::Instant;

use super::error::Refusal;
use super::request;
use crate::api;
use crate::jwt::AccountKey;
use crate::resolver::{Answered, Enforcement, Resolver, Revision, Told};

/// The longest that an answer waits for: a revocation is confirmed within a second, a server that is restarted is back
/// within some.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Where `revision` of `account` is in force: as soon as it is everywhere, at the latest after `wait`. With `since`, the
/// time is taken since then, and the connections are counted that were closed because their users were revoked.
pub(super) async fn propagation(
    resolver: &Resolver,
    account: AccountKey,
    revision: Revision,
    wait: Duration,
    since: Option<Instant>,
) -> api::Propagation {
    let until = Instant::now() + wait.min(LONGEST_WAIT);
    let asked = resolver.nats_clusters().into_iter().map(|view| async move {
        let Answered {
            told,
            closed,
            elapsed_ms,
        } = resolver.in_force(&view.name, account, revision, until, since).await;
        let propagated = api::Propagated {
            name: view.name,
            servers: told.into_iter().map(enforced).collect(),
        };
        (propagated, closed, elapsed_ms)
    });
    let (mut nats, mut closed, mut elapsed) = (Vec::new(), Some(0), None);
    for (propagated, of_it, ms) in join_all(asked).await {
        nats.push(propagated);
        closed = closed.zip(of_it).map(|(sum, of_it)| sum + of_it);
        elapsed = elapsed.max(ms);
    }
    let servers = nats.iter().map(|nats| nats.servers.len()).sum();
    let is_in_force = |server: &&api::Enforced| server.state == IN_FORCE;
    let in_force = nats.iter().flat_map(|nats| &nats.servers).filter(is_in_force).count();
    // A NATS cluster without a known server was not reached yet.
    let is_reached = !nats.is_empty() && nats.iter().all(|nats| !nats.servers.is_empty());
    api::Propagation {
        account: account.to_string(),
        revision,
        confirmed: is_reached && in_force == servers,
        servers,
        in_force,
        closed: closed.filter(|_| is_reached),
        elapsed_ms: elapsed,
        nats,
    }
}

/// How long to wait, as a caller writes it.
pub(super) fn seconds(text: &str) -> Result<Duration, Refusal> {
    let most = LONGEST_WAIT.as_secs();
    let seconds = text.parse().ok().filter(|seconds| *seconds <= most);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        Refusal::bad(
            "bad-parameter",
            format!("the time to wait is a number of seconds, at most {most}"),
        )
    })
}

/// How long `?wait=all` waits, unless it says.
const WAIT: Duration = Duration::from_secs(10);

/// How long an uploader wants to wait for every server; `None` if not at all.
pub(super) fn wanted_wait(uri: &Uri) -> Result<Option<Duration>, Refusal> {
    let timeout = request::parameter(uri, "timeout");
    match request::parameter(uri, "wait").as_deref() {
        None => Ok(None),
        Some("all") => timeout.map_or(Ok(WAIT), |text| seconds(&text)).map(Some),
        Some(_) => Err(Refusal::bad("bad-parameter", "wait can only be \"all\"")),
    }
}

const IN_FORCE: &str = "in-force";

fn enforced(told: Told) -> api::Enforced {
    let state = match told.enforcement {
        Enforcement::InForce => IN_FORCE,
        Enforcement::NotLoaded => "not-loaded",
        Enforcement::Waiting => "waiting",
        Enforcement::Missing => "missing",
        Enforcement::Refused => "refused",
    };
    api::Enforced {
        name: told.server.name,
        id: told.server.id,
        version: told.server.version,
        state: state.to_owned(),
    }
}
