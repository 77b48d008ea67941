//! Who publishes to the NATS cluster of a simulated mesh: the node that holds the lease. It sends what changed, sees which
//! servers have it, and has the mesh agree on that, under the term of its lease.

use std::collections::BTreeMap;
use std::pin::Pin;

use jwtmesh::nats::{Asked, Lease};
use jwtmesh::resolver::{Resolver, Server, UpdateRoster, UpdateRosterIf};
use jwtmesh::tasks::Scope;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::clients::{ACCOUNTS, Keys};
use crate::nats::{NATS_CLUSTER, NatsCluster, SERVERS};
use crate::network::Network;
use crate::planted::Defect;

/// The time between two agreements.
const MARK_EVERY: Duration = Duration::from_millis(300);

/// When an account that some server does not have is sent again.
const AGAIN: Duration = Duration::from_millis(300);

/// An agreement that goes on.
type Marking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The publisher of one life of a node.
pub(crate) struct Publisher {
    pub(crate) node: u64,
    pub(crate) life: u64,
    pub(crate) resolver: Resolver,
    pub(crate) network: Network,
    pub(crate) nats: NatsCluster,
    pub(crate) defect: Option<Defect>,
}

/// What this node knows while it publishes.
struct Term {
    term: u64,
    /// Up to which revision each server was known to have everything when this began.
    before: [u64; SERVERS.len()],
    /// The accounts as they were last looked up, and up to which revision nothing is missing there.
    rows: BTreeMap<u8, u64>,
    listed: u64,
    /// What was sent last of each account, and when it arrives.
    sent: BTreeMap<u8, (u64, Instant)>,
}

impl Publisher {
    /// Publishes while this node holds the lease, until `scope` is stopped.
    pub(crate) async fn run(self, scope: Scope) {
        let keys = Keys::new();
        let mut lease = Lease::new(self.resolver.clone(), NATS_CLUSTER);
        let mut revision = self.resolver.watch_revision();
        let (mut present, mut marking): (Option<Term>, Option<Marking>) = (None, None);
        let mut mark_at = Instant::now();
        while !self.nats.is_closed() && self.network.is_alive(self.node, self.life) {
            let wake = lease.pursue();
            self.nats.holds_lease(self.node, lease.held_until());
            if self.network.ends_connection() {
                self.give_back(&mut lease).await;
            }
            if !self.may_send(&lease) {
                present = None;
            } else if present.is_none() && marking.is_none() {
                // What was to be agreed before has come or will not.
                present = Some(self.begin());
            }
            let mut again = None;
            if let Some(term) = &mut present {
                term.listed = *revision.borrow_and_update();
                if self.send_all(&keys, &mut lease, term).await {
                    if marking.is_none() && Instant::now() >= mark_at {
                        marking = self.agree(term);
                        mark_at = Instant::now() + MARK_EVERY;
                    }
                    again = Some(Instant::now() + AGAIN);
                }
            }
            if self.defect == Some(Defect::RosterUnfenced)
                && let Some(marking) = marking.take()
            {
                scope.spawn_for_client(marking);
            }
            tokio::select! {
                biased;
                () = scope.stopping() => return,
                asked = driven(&mut lease) => lease.asked(asked),
                () = ended(&mut marking) => marking = None,
                Ok(()) = revision.changed() => {}
                () = until(wake) => {}
                () = until(again) => {}
            }
        }
    }

    /// The connection to the NATS cluster has ended.
    async fn give_back(&self, lease: &mut Lease) {
        self.nats.holds_lease(self.node, None);
        if self.defect == Some(Defect::LeaseOfAnotherGiven)
            && let Some(agreed) = self.resolver.lease(NATS_CLUSTER)
        {
            drop(self.resolver.take_lease(NATS_CLUSTER, agreed.granted, false).await);
        }
        lease.give_back(true).await;
    }

    fn may_send(&self, lease: &Lease) -> bool {
        lease.is_held() || self.defect == Some(Defect::LeaseIgnored)
    }

    fn term(&self) -> u64 {
        self.resolver.lease(NATS_CLUSTER).map_or(0, |lease| lease.term)
    }

    /// Goes on where the mesh has agreed.
    fn begin(&self) -> Term {
        let (position, known) = (
            self.resolver.position(NATS_CLUSTER),
            self.resolver.servers(NATS_CLUSTER),
        );
        let before = SERVERS.map(|id| {
            let known = known.iter().find(|server| server.id == id);
            known.map_or(0, |server| server.behind.unwrap_or(position))
        });
        Term {
            term: self.term(),
            before,
            rows: BTreeMap::new(),
            listed: 0,
            sent: BTreeMap::new(),
        }
    }

    /// Whether a server is known to have this revision of an account.
    fn has(&self, term: &Term, server: usize, account: u8, revision: u64) -> bool {
        let is_answered = term
            .sent
            .get(&account)
            .is_some_and(|(sent, arrives)| *sent == revision && *arrives <= Instant::now());
        revision <= term.before[server] || (is_answered && self.nats.held(server, account) >= revision)
    }

    /// Sends what some server does not have and can be sent; whether every account was looked at.
    async fn send_all(&self, keys: &Keys, lease: &mut Lease, term: &mut Term) -> bool {
        for account in 0..ACCOUNTS {
            // Looked up at the moment of sending. A disk whose power fails gives nothing.
            let Ok(row) = self.resolver.lookup(keys.account(account)).await else {
                return false;
            };
            let Some(revision) = row.map(|row| row.revision) else {
                continue;
            };
            term.rows.insert(account, revision);
            let is_due = match term.sent.get(&account) {
                Some((sent, arrives)) => *sent < revision || *arrives + AGAIN <= Instant::now(),
                None => true,
            };
            let lacks = |server: &usize| !self.has(term, *server, account, revision);
            let mut lacking = (0..SERVERS.len()).filter(lacks);
            let is_new = term.sent.get(&account).is_none_or(|(sent, _)| *sent < revision);
            if !is_due || !lacking.any(|server| is_new || self.nats.is_there(server)) {
                continue;
            }
            if !self.may_send(lease) || !self.network.is_alive(self.node, self.life) {
                return false;
            }
            let arrives = self.nats.send(&self.network, self.node, account, revision);
            term.sent.insert(account, (revision, arrives));
        }
        true
    }

    /// Has the mesh agree on what is known, if that is new.
    fn agree(&self, term: &Term) -> Option<Marking> {
        let open = term.rows.iter().filter(|(account, revision)| {
            let lacks = |server| !self.has(term, server, **account, **revision);
            (0..SERVERS.len()).all(lacks)
        });
        // Up to here every change was answered by one server at least.
        let answered = open.map(|(_, revision)| revision - 1).min().unwrap_or(term.listed);
        let agreed = self.resolver.position(NATS_CLUSTER);
        let position = answered.min(term.listed).max(agreed);
        let lacking = |server: usize| {
            let lacks = |(account, revision): &(&u8, &u64)| {
                **revision <= position && !self.has(term, server, **account, **revision)
            };
            term.rows.iter().filter(lacks).map(|(_, revision)| revision - 1).min()
        };
        let known = self.resolver.servers(NATS_CLUSTER);
        let found = SERVERS.iter().enumerate().map(|(server, id)| Server {
            id: (*id).to_owned(),
            name: (*id).to_owned(),
            cluster: String::new(),
            version: "2.15.1".to_owned(),
            behind: lacking(server),
        });
        let seen: Vec<Server> = found.filter(|server| !known.contains(server)).collect();
        let is_news = term
            .rows
            .values()
            .any(|revision| (agreed + 1..=position).contains(revision));
        if seen.is_empty() && !is_news {
            return None;
        }
        let update = UpdateRoster {
            nats_cluster: NATS_CLUSTER.to_owned(),
            term: term.term,
            position,
            seen,
            gone: Vec::new(),
        };
        let present = self.resolver.roster_revision(NATS_CLUSTER);
        let mut update = UpdateRosterIf { update, present };
        let (resolver, is_unfenced) = (self.resolver.clone(), self.defect == Some(Defect::RosterUnfenced));
        let stall = self.network.stalls(is_unfenced);
        Some(Box::pin(async move {
            sleep(stall).await;
            if is_unfenced {
                update.update.term = resolver.lease(NATS_CLUSTER).map_or(0, |lease| lease.term);
                update.present = resolver.roster_revision(NATS_CLUSTER);
            }
            // If it is not agreed, the next one says it again.
            drop(resolver.update_roster(update).await);
        }))
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The end of the lease's attempt; never returns if there is none.
async fn driven(lease: &mut Lease) -> Asked {
    match &mut lease.asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// The end of an agreement; never returns if there is none.
async fn ended(marking: &mut Option<Marking>) {
    match marking {
        Some(marking) => marking.await,
        None => std::future::pending().await,
    }
}
