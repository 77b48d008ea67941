//! A NATS cluster of a simulated mesh, and who publishes to it: the node that holds the lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jwtmesh::nats::{Asked, Lease};
use jwtmesh::resolver::Resolver;
use jwtmesh::tasks::Scope;
use tokio::time::{Duration, Instant, sleep_until};

use crate::clients::{ACCOUNTS, Keys};
use crate::network::Network;
use crate::planted::Defect;

const NATS_CLUSTER: &str = "simulated";

/// The time between two positions that the mesh agrees on.
const MARK_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Inner {
    /// The newest revision of each account that it was sent.
    newest: BTreeMap<u8, u64>,
    /// Until when each node may publish, as it believes.
    held: BTreeMap<u64, Instant>,
    count: u64,
    is_closed: bool,
}

/// A NATS cluster. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct NatsCluster(Arc<Mutex<Inner>>);

impl NatsCluster {
    /// From now on nobody publishes to it.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap().is_closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().unwrap().is_closed
    }

    /// How often it was sent an account.
    pub(crate) fn count(&self) -> u64 {
        self.0.lock().unwrap().count
    }

    /// Node `node` believes that it may publish until then, or not at all. One may at a time.
    fn held(&self, node: u64, until: Option<Instant>) {
        let mut inner = self.0.lock().unwrap();
        inner.held.remove(&node);
        let Some(until) = until.filter(|until| *until > Instant::now()) else {
            return;
        };
        inner.held.insert(node, until);
        let holders: Vec<u64> = inner
            .held
            .iter()
            .filter(|(_, until)| **until > Instant::now())
            .map(|(node, _)| *node)
            .collect();
        assert!(holders.len() == 1, "nodes {holders:?} may publish at once");
    }

    /// Takes an account. Servers with a URL resolver take one of any age, so it must not be older than the one before.
    fn take(&self, from: u64, account: u8, revision: u64) {
        let mut inner = self.0.lock().unwrap();
        inner.count += 1;
        let newest = inner.newest.entry(account).or_default();
        assert!(
            *newest <= revision,
            "node {from} sends account {account} as of revision {revision} after it was sent as of {newest}"
        );
        *newest = revision;
    }

    /// What it was sent of `account` last; 0 if nothing.
    pub(crate) fn newest(&self, account: u8) -> u64 {
        self.0.lock().unwrap().newest.get(&account).copied().unwrap_or(0)
    }
}

/// The publisher of one life of a node.
pub(crate) struct Publisher {
    pub(crate) node: u64,
    pub(crate) life: u64,
    pub(crate) resolver: Resolver,
    pub(crate) network: Network,
    pub(crate) nats: NatsCluster,
    pub(crate) defect: Option<Defect>,
}

impl Publisher {
    /// Publishes while this node holds the lease, until `scope` is stopped.
    pub(crate) async fn run(self, scope: Scope) {
        let keys = Keys::new();
        let mut lease = Lease::new(self.resolver.clone(), NATS_CLUSTER);
        let mut revision = self.resolver.watch_revision();
        // The position as of when the lease was taken, and what was sent since.
        let mut begun: Option<u64> = None;
        let mut sent = BTreeMap::new();
        let (mut marked, mut sent_before) = (Instant::now(), 0);
        while !self.nats.is_closed() && self.network.is_alive(self.node, self.life) {
            let wake = lease.pursue();
            self.nats.held(self.node, lease.held_until());
            if self.network.ends_connection() {
                self.give_back(&mut lease).await;
            }
            if !self.may_send(&lease) {
                begun = None;
                sent.clear();
            } else if begun.is_none() {
                begun = Some(self.resolver.position(NATS_CLUSTER));
            }
            if let Some(position) = begun {
                let newest = *revision.borrow_and_update();
                let all = self.send_all(&keys, &mut lease, position, &mut sent).await;
                let is_news = sent.values().copied().max() > Some(sent_before);
                if all && is_news && marked.elapsed() >= MARK_EVERY {
                    (marked, sent_before) = (Instant::now(), newest);
                    // If it fails, the next one says more.
                    drop(self.resolver.mark_propagated(NATS_CLUSTER, newest).await);
                }
            }
            tokio::select! {
                biased;
                () = scope.stopping() => return,
                asked = driven(&mut lease) => lease.asked(asked),
                Ok(()) = revision.changed() => {}
                () = until(wake) => {}
            }
        }
    }

    /// The connection to the NATS cluster has ended.
    async fn give_back(&self, lease: &mut Lease) {
        self.nats.held(self.node, None);
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

    /// Sends what changed since `position`; whether all of it was sent.
    async fn send_all(&self, keys: &Keys, lease: &mut Lease, position: u64, sent: &mut BTreeMap<u8, u64>) -> bool {
        for account in 0..ACCOUNTS {
            // Looked up at the moment of sending. A disk whose power fails gives nothing.
            let Ok(row) = self.resolver.lookup(keys.account(account)).await else {
                return false;
            };
            let Some(revision) = row.map(|row| row.revision).filter(|revision| *revision > position) else {
                continue;
            };
            if sent.get(&account) >= Some(&revision) {
                continue;
            }
            if !self.may_send(lease) || !self.network.is_alive(self.node, self.life) {
                return false;
            }
            self.network.publish().await;
            self.nats.take(self.node, account, revision);
            sent.insert(account, revision);
        }
        true
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The end of the lease's attempt; waits for ever if there is none.
async fn driven(lease: &mut Lease) -> Asked {
    match &mut lease.asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}
