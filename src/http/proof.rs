//! At which servers an account's token is in force, as both ports answer it.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::error::Refusal;
use crate::api;
use crate::jwt::AccountKey;
use crate::resolver::{Enforcement, Resolver, Revision, Told};

/// The longest that an answer waits for: a revocation is confirmed within a second, a server that is restarted is back
/// within some.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Where `revision` of `account` is in force: as soon as it is everywhere, at the latest after `wait`.
pub(super) async fn propagation(
    resolver: &Resolver,
    account: AccountKey,
    revision: Revision,
    wait: Duration,
) -> api::Propagation {
    let until = Instant::now() + wait.min(LONGEST_WAIT);
    let asked = resolver.nats_clusters().into_iter().map(|view| async move {
        let told = resolver.in_force(&view.name, account, revision, until).await;
        api::Propagated {
            name: view.name,
            servers: told.into_iter().map(enforced).collect(),
        }
    });
    let nats: Vec<api::Propagated> = join_all(asked).await;
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
