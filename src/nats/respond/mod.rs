//! WHO IS ANSWERED: the requests of the resolver protocol that arrive over a NATS cluster's system account.
//!
//! nsc, controllers and nats-servers with a cache or full resolver ask here what others ask over HTTP. Each NATS cluster
//! has one responder on each node (`responder.rs`), on a connection of its own. All nodes are in one queue group, so that
//! one of them gets each request, and answers it:
//!
//! | subject | answer |
//! |---|---|
//! | `$SYS.REQ.CLAIMS.UPDATE` | stored or refused, as by HTTP, within 700 ms (`update.rs`) |
//! | `$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP` | the account's JWT, or nothing (`lookup.rs`) |
//! | `$SYS.REQ.CLAIMS.LIST` | the keys of all accounts (`lookup.rs`) |
//! | `$SYS.REQ.CLAIMS.PACK` | all accounts, if they differ from those of the sender (`pack.rs`, `digest.rs`) |
//! | `$SYS.REQ.CLAIMS.DELETE` | all of its accounts deleted, or none, within 700 ms (`update.rs`) |
//!
//! What senders give to every nats-server themselves (`$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE`, `$SYS.ACCOUNT.*.CLAIMS.UPDATE`) is
//! not answered, since they count the servers' answers. The publisher hears it, and hands it over to `published.rs`: a server
//! with a URL resolver takes a JWT of any age there, so a newer one is adopted, and one that is refused here is overruled: our
//! publishers are asked to send the present one again, until they are (`overrule.rs`).
//!
//! This room promises that a request is answered in time, with an error where no majority agrees (G7). These get no answer:
//! a lookup of an account that is not stored here, since an empty answer counts as that of a nats-server, and can end its
//! search before another server, which has the account, has answered; a lookup whose row cannot be read; what is beyond the
//! limits of lookups and packs, and of errors on their way (`limits.rs`); a pack that lacks an account, which gets no end.
//!
//! It sends nothing that is not stored here, and never what another resolver says: it asks none. It publishes no update,
//! which is left to the publishers. Requests wait in bounded numbers and bytes (`limits.rs`); beyond them the answer is
//! an error, or none.

mod answers;
mod digest;
mod limits;
mod lookup;
mod notices;
mod overrule;
mod pack;
mod pages;
mod published;
mod responder;
mod update;

pub(super) use published::Published;
pub(super) use update::{is_final, unverified};

use super::connection::Route;
use crate::clock::Clock;
use crate::config::NatsCluster;
use crate::resolver::Resolver;
use crate::tasks::Scope;
use digest::Digest;
use limits::Limits;
use notices::Notices;
use overrule::Refusals;
use pack::SentPacks;
use responder::Responder;

/// Starts a responder for each of `clusters` whose requests are to be answered, in `scope`; it runs until the scope stops.
/// The NATS clusters need not be reachable yet. `clock` is what the answers are dated with.
pub fn start(node: &str, clusters: &[NatsCluster], resolver: &Resolver, clock: &Clock, scope: &Scope) {
    let digest = Digest::new(resolver.clone());
    for cluster in clusters.iter().filter(|cluster| cluster.respond) {
        let notices = Notices::new(&cluster.name);
        let responder = Responder {
            node: node.to_owned(),
            cluster: cluster.clone(),
            resolver: resolver.clone(),
            clock: clock.clone(),
            route: Route::new(&cluster.servers),
            limits: Limits::default(),
            digest: digest.clone(),
            sent: SentPacks::default(),
            refusals: Refusals::start(resolver, &notices, scope),
            notices,
        };
        scope.spawn("the responder of a NATS cluster", responder.run(scope.clone()));
    }
}
