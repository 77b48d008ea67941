//! The network between the simulated nodes: every message is delayed, some are lost, and links are cut one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use jwtmesh::raft::Member;
use jwtmesh::raft::peer::{CallError, Handler, Lane, Transport};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use crate::nats::SERVERS;
use crate::node::Disks;

/// The most that a sender waits: pieces of snapshots have long deadlines, and a simulated hour is soon over.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest that a message takes which is not lost, in microseconds.
pub(crate) const LONGEST_DELAY_US: u64 = 20_000;

/// Greetings are no longer than this, and whatever carries an account is.
const GREETING_BYTES: usize = 200;

/// What answers at a node.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// Which of the node's lives this is.
    pub(crate) life: u64,
    pub(crate) handler: Handler,
    pub(crate) disks: Disks,
}

struct Inner {
    endpoints: BTreeMap<u64, Endpoint>,
    cut: BTreeSet<(u64, u64)>,
    /// Whether the power of a node that receives a snapshot no longer fails.
    calm: bool,
    random: SmallRng,
    start: Instant,
    trace: blake3::Hasher,
    pieces: u64,
}

/// The network; clones are the same.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<Inner>>);

impl Network {
    pub(crate) fn new(random: SmallRng) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            endpoints: BTreeMap::new(),
            cut: BTreeSet::new(),
            calm: false,
            random,
            start: Instant::now(),
            trace: blake3::Hasher::new(),
            pieces: 0,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Notes something that a replay must repeat, at its time.
    pub(crate) fn note(&self, what: impl Display) {
        let mut inner = self.inner();
        let at = inner.start.elapsed();
        inner.trace.update(format!("{at:?} {what}\n").as_bytes());
    }

    /// The hash over everything that was noted.
    pub(crate) fn trace(&self) -> String {
        self.inner().trace.finalize().to_hex().to_string()
    }

    /// Pieces of snapshots that arrived somewhere.
    pub(crate) fn pieces(&self) -> u64 {
        self.inner().pieces
    }

    fn count_piece(&self) {
        self.inner().pieces += 1;
    }

    /// The power of a node that receives a piece of a snapshot may fail soon.
    fn light(&self, disks: &Disks) {
        let mut inner = self.inner();
        if !inner.calm && inner.random.gen_bool(0.1) {
            disks.light(60, &mut inner.random);
        }
    }

    pub(crate) fn connect(&self, node: u64, endpoint: Endpoint) {
        self.inner().endpoints.insert(node, endpoint);
    }

    pub(crate) fn disconnect(&self, node: u64) {
        self.inner().endpoints.remove(&node);
    }

    /// Loses what `from` sends to `to`.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.inner().cut.insert((from, to));
    }

    /// Ends every cut.
    pub(crate) fn heal(&self) {
        self.inner().cut.clear();
    }

    /// Ends every cut, and lets every snapshot arrive.
    pub(crate) fn calm_down(&self) {
        self.heal();
        self.inner().calm = true;
    }

    /// Whether `node` is still in its life `life`.
    pub(crate) fn is_alive(&self, node: u64, life: u64) -> bool {
        self.inner()
            .endpoints
            .get(&node)
            .is_some_and(|found| found.life == life)
    }

    /// How long one message to the NATS cluster takes, and which servers do not get it. Most are quick; a lease covers what
    /// takes longer.
    pub(crate) fn publish(&self) -> (Duration, [bool; SERVERS.len()]) {
        let mut inner = self.inner();
        let longest = if inner.random.gen_bool(0.02) { 990_000 } else { 10_000 };
        let delay = Duration::from_micros(inner.random.gen_range(100..longest));
        (delay, SERVERS.map(|_| inner.random.gen_bool(0.01)))
    }

    /// How long a publisher hangs before it has something agreed: mostly not at all, sometimes longer than its lease.
    pub(crate) fn stalls(&self, always: bool) -> Duration {
        let mut inner = self.inner();
        let longest = if always || inner.random.gen_bool(0.1) { 6_000 } else { 1 };
        Duration::from_millis(inner.random.gen_range(0..longest))
    }

    /// Whether the connection of a publisher to the NATS cluster ends now.
    pub(crate) fn ends_connection(&self) -> bool {
        self.inner().random.gen_bool(0.01)
    }

    /// Carries one message; `None` if it is lost, after the time that its sender waits for it.
    async fn carry(&self, from: u64, to: u64, what: impl Display, patience: Duration) -> Option<Endpoint> {
        self.note(format_args!("{from}>{to} {what}"));
        let (delay, lost) = {
            let mut inner = self.inner();
            let delay = Duration::from_micros(inner.random.gen_range(100..LONGEST_DELAY_US));
            (delay, inner.random.gen_bool(0.01) || inner.cut.contains(&(from, to)))
        };
        if lost {
            tokio::time::sleep(patience).await;
            return None;
        }
        tokio::time::sleep(delay).await;
        self.inner().endpoints.get(&to).cloned()
    }
}

/// The way of one node, in one of its lives, to the others.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) node: u64,
    /// Nothing is sent once it is over, whatever still runs of it.
    pub(crate) life: u64,
    pub(crate) network: Network,
}

fn lost() -> CallError {
    CallError::NoAnswer("lost".to_owned())
}

impl Transport for Way {
    /// Sends a request and brings its answer; both may be lost, and either node may die meanwhile.
    async fn call(&self, to: &Member, lane: Lane, body: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        let patience = patience.min(PATIENCE);
        if !self.network.is_alive(self.node, self.life) {
            tokio::time::sleep(patience).await;
            return Err(lost());
        }
        let target = number(&to.name);
        let what = blake3::hash(&body);
        let found = self.network.carry(self.node, target, what, patience).await;
        let found = found.ok_or_else(lost)?;
        let is_piece = lane == Lane::Bulk && body.len() > GREETING_BYTES;
        if is_piece {
            self.network.light(&found.disks);
        }
        let life = found.life;
        let answer = found.handler.handle(&[name(self.node)], &body).await;
        if !self.network.is_alive(target, life) {
            return Err(lost());
        }
        let what = answer
            .as_ref()
            .map_or_else(ToString::to_string, |bytes| blake3::hash(bytes).to_string());
        let back = self.network.carry(target, self.node, what, patience).await;
        back.ok_or_else(lost)?;
        if is_piece && answer.is_ok() {
            self.network.count_piece();
        }
        answer.map_err(|refusal| CallError::Refused(refusal.to_string()))
    }
}

/// The name of a node.
pub(crate) fn name(node: u64) -> String {
    format!("n{node}")
}

fn number(name: &str) -> u64 {
    name[1..].parse().expect("a name of ours")
}
