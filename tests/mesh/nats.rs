//! The NATS cluster of a simulated mesh: its servers, what is on the way to them, and a subscriber who sees all of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jwtmesh::resolver::{Resolver, Server};
use tokio::time::Instant;

use crate::network::Network;

pub(crate) const NATS_CLUSTER: &str = "simulated";

/// The servers, which have numbers here and these ids.
pub(crate) const SERVERS: [&str; 2] = ["s0", "s1"];

/// A message that has not arrived.
struct Message {
    arrives: Instant,
    from: u64,
    account: u8,
    revision: u64,
    /// Which servers it will not reach, although they are there.
    lost: [bool; SERVERS.len()],
}

#[derive(Default)]
struct Inner {
    /// In the order of their arrival.
    on_its_way: Vec<Message>,
    /// The newest revision of each account that the subscriber saw.
    seen: BTreeMap<u8, u64>,
    /// What each server holds.
    held: [BTreeMap<u8, u64>; SERVERS.len()],
    /// The servers that nothing reaches.
    away: [bool; SERVERS.len()],
    /// Until when each node may publish, as it believes.
    holders: BTreeMap<u64, Instant>,
    count: u64,
    is_closed: bool,
}

impl Inner {
    /// Lets everything arrive whose time has come. Servers with a URL resolver take an account of any age, so none may be
    /// older than the one before, whoever sent it.
    fn arrive(&mut self) {
        let now = Instant::now();
        let due = self.on_its_way.partition_point(|message| message.arrives <= now);
        for message in self.on_its_way.drain(..due) {
            let Message {
                from,
                account,
                revision,
                lost,
                ..
            } = message;
            self.count += 1;
            let seen = self.seen.entry(account).or_default();
            assert!(
                *seen <= revision,
                "node {from} sends account {account} as of revision {revision} after it was sent as of {seen}"
            );
            *seen = revision;
            for server in (0..SERVERS.len()).filter(|server| !self.away[*server] && !lost[*server]) {
                self.held[server].insert(account, revision);
            }
        }
    }
}

/// A NATS cluster. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct NatsCluster(Arc<Mutex<Inner>>);

impl NatsCluster {
    /// As of now.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.0.lock().unwrap();
        inner.arrive();
        inner
    }

    /// From now on no node publishes to it.
    pub(crate) fn close(&self) {
        self.inner().is_closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner().is_closed
    }

    /// How often it was sent an account.
    pub(crate) fn count(&self) -> u64 {
        self.inner().count
    }

    /// From now on nothing reaches this server, or everything does.
    pub(crate) fn cut(&self, server: usize, is_away: bool) {
        self.inner().away[server] = is_away;
    }

    pub(crate) fn is_there(&self, server: usize) -> bool {
        !self.inner().away[server]
    }

    /// Node `node` believes that it may publish until then, or not at all. One may at a time.
    pub(crate) fn holds_lease(&self, node: u64, until: Option<Instant>) {
        let mut inner = self.inner();
        inner.holders.remove(&node);
        let now = Instant::now();
        let Some(until) = until.filter(|until| *until > now) else {
            return;
        };
        inner.holders.insert(node, until);
        let holders: Vec<u64> = inner
            .holders
            .iter()
            .filter(|(_, until)| **until > now)
            .map(|(node, _)| *node)
            .collect();
        assert!(holders.len() == 1, "nodes {holders:?} may publish at once");
    }

    /// Takes an account from a node, behind whatever that node sent before; gives when it arrives.
    pub(crate) fn send(&self, network: &Network, from: u64, account: u8, revision: u64) -> Instant {
        let mut inner = self.inner();
        let (delay, lost) = network.publish();
        let sent = Instant::now() + delay;
        let before = inner.on_its_way.iter().filter(|message| message.from == from);
        let arrives = before.map(|message| message.arrives).max().unwrap_or(sent).max(sent);
        let at = inner.on_its_way.partition_point(|message| message.arrives <= arrives);
        let message = Message {
            arrives,
            from,
            account,
            revision,
            lost,
        };
        inner.on_its_way.insert(at, message);
        arrives
    }

    /// What a server holds of `account`; 0 if nothing. A publisher learns it from the server's answer.
    pub(crate) fn held(&self, server: usize, account: u8) -> u64 {
        self.inner().held[server].get(&account).copied().unwrap_or(0)
    }

    /// What the mesh has agreed on holds: no server is said to enforce a change that it has not. `rows` are the revisions
    /// of the accounts at the same moment.
    pub(crate) fn check(&self, node: u64, resolver: &Resolver, rows: &BTreeMap<u8, u64>) {
        let position = resolver.position(NATS_CLUSTER);
        for Server { id, behind, .. } in resolver.servers(NATS_CLUSTER) {
            let server = SERVERS.iter().position(|own| *own == id).expect("a server of ours");
            let up_to = behind.unwrap_or(position);
            for (account, revision) in rows.iter().filter(|(_, revision)| **revision <= up_to) {
                let held = self.held(server, *account);
                assert!(
                    held >= *revision,
                    "node {node} knows that {id} enforces every change up to {up_to}; account {account} changed at \
                     {revision}, and {id} has it as of {held}"
                );
            }
        }
    }

    /// Whether the mesh, as this node sees it, has agreed that every server enforces everything.
    pub(crate) fn is_proven(resolver: &Resolver) -> bool {
        let servers = resolver.servers(NATS_CLUSTER);
        servers.len() == SERVERS.len() && servers.iter().all(|server| server.behind.is_none())
    }
}
