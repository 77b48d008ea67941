//! A simulated mesh: its nodes, its clients, what happens to them, and what must hold all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jwtmesh::config::Acknowledge;
use jwtmesh::raft::{Entry, Payload, Runtime};
use jwtmesh::state::{Command, OverrideAccount, PutAccountIf, PutAccounts};
use jwtmesh::tasks::{FaultHandle, Scope};
use openraft::async_runtime::WatchReceiver;
use openraft::{EntryPayload, RaftLogReader};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;

use crate::clients::{ACCOUNTS, At, History, Keys, etag, versions};
use crate::nats::{NatsCluster, SERVERS};
use crate::network::Network;
use crate::node::{BEGINNING, Disks, MEMTABLE, Nature, Node, ROOMY, member};
use crate::panics;
use crate::planted::{Defect, Doom};
use crate::publisher::Publisher;

/// Rounds of a simulation, each up to 400 ms long.
const ROUNDS: usize = 150;
/// How long a start may take, whatever state the disk is in: nothing is looked up before it.
const STARTING: Duration = Duration::from_secs(20);
/// How long a mesh may take to agree once everything works.
const HEALING: Duration = Duration::from_secs(60);

/// What a run did, so that a test can say that it did something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// A hash over everything that happened, and everything on the disks at the end.
    pub(crate) trace: String,
    pub(crate) acknowledged: u64,
    /// Uploads that a follower answered.
    pub(crate) forwarded: u64,
    /// Strong reads that were answered.
    pub(crate) reads: u64,
    /// Accounts that the NATS cluster was sent, each time it was.
    pub(crate) published: u64,
    pub(crate) crashes: u64,
    pub(crate) pieces: u64,
    pub(crate) transfers: u64,
    /// Disks that were nearly full for a while.
    pub(crate) full: u64,
    /// Disks to which no log was written for a while.
    pub(crate) stalls: u64,
}

pub(crate) struct World {
    voters: u64,
    defect: Option<Defect>,
    random: SmallRng,
    pub(crate) network: Network,
    disks: BTreeMap<u64, Disks>,
    pub(crate) nodes: BTreeMap<u64, Node>,
    /// Nodes without power, and the rounds until they start.
    down: BTreeMap<u64, u32>,
    lives: u64,
    armed: Arc<AtomicBool>,
    /// Where a node asks for its death, in one of its lives.
    dooms: mpsc::UnboundedSender<(u64, u64)>,
    deaths: mpsc::UnboundedReceiver<(u64, u64)>,
    clients: Scope,
    pub(crate) keys: Keys,
    history: History,
    nats: NatsCluster,
    /// How much the clock of each node is ahead, in seconds.
    ahead: BTreeMap<u64, i64>,
    acknowledge: Acknowledge,
    /// Whether logs are purged far earlier than a node does by itself, also of what a peer needs.
    is_purged_early: bool,
    /// The revision of each account as last seen at a node in its present life.
    seen: BTreeMap<(u64, u64, u8), u64>,
    clock: i64,
    report: Report,
}

/// Runs a mesh of `voters` nodes; panics, naming the seed, when something does not hold.
pub(crate) fn run(seed: u64, voters: u64, defect: Option<Defect>) -> Report {
    simulated(seed, async move {
        let mut world = World::new(seed, voters, defect);
        world.form().await;
        world.armed.store(true, Ordering::Relaxed);
        for _ in 0..ROUNDS {
            world.round().await;
        }
        world.end().await
    })
}

/// Runs `simulation` under simulated time, with every random choice of the runtime following from `seed`.
pub(crate) fn simulated<T>(seed: u64, simulation: impl Future<Output = T>) -> T {
    panics::watch();
    Runtime::seed(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    builder.build().expect("a runtime").block_on(simulation)
}

impl World {
    pub(crate) fn new(seed: u64, voters: u64, defect: Option<Defect>) -> Self {
        let (dooms, deaths) = mpsc::unbounded_channel();
        let mut random = SmallRng::seed_from_u64(!seed);
        let mut ahead: BTreeMap<u64, i64> = (1..=voters).map(|node| (node, random.gen_range(-3..4))).collect();
        if random.gen_bool(0.3) {
            // Hours off.
            let wrong = random.gen_range(1..=voters);
            ahead.insert(wrong, if random.r#gen() { 7_200 } else { -7_200 });
        }
        let acknowledge = if random.r#gen() {
            Acknowledge::Majority
        } else {
            Acknowledge::Reachable
        };
        let is_purged_early = random.gen_bool(0.7);
        Self {
            voters,
            defect,
            random,
            network: Network::new(SmallRng::seed_from_u64(seed)),
            disks: (1..=voters).map(|node| (node, Disks::new(seed ^ node))).collect(),
            nodes: BTreeMap::new(),
            down: BTreeMap::new(),
            lives: 0,
            armed: Arc::default(),
            dooms,
            deaths,
            clients: Scope::new(FaultHandle::default()),
            keys: Keys::new(),
            history: History::default(),
            nats: NatsCluster::default(),
            ahead,
            acknowledge,
            is_purged_early,
            seen: BTreeMap::new(),
            clock: BEGINNING - 2_000,
            report: Report::default(),
        }
    }

    /// Starts every node, forms the mesh, and waits until it trusts an operator.
    pub(crate) async fn form(&mut self) {
        for node in 1..=self.voters {
            self.boot(node).await;
        }
        let members: BTreeMap<_, _> = (1..=self.voters).map(|node| (node, member(node))).collect();
        self.nodes[&1].core.initialize(members).await.expect("a mesh is formed");
        let trust = Payload(Command::from(self.keys.trust()).encode());
        let trusted = async {
            loop {
                if let Some(leader) = self.leader()
                    && self.nodes[&leader].core.client_write(trust.clone()).await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let trusted = tokio::time::timeout(HEALING, trusted).await;
        trusted.expect("a new mesh elects a leader");
    }

    /// Starts a node. Its power may fail meanwhile; that it does not start for another reason is a failure.
    async fn boot(&mut self, node: u64) {
        self.lives += 1;
        let doom = Doom {
            node,
            life: self.lives,
            armed: self.armed.clone(),
            deaths: self.dooms.clone(),
            random: Arc::new(Mutex::new(SmallRng::seed_from_u64(self.random.r#gen()))),
        };
        let disks = &self.disks[&node];
        if self.armed.load(Ordering::Relaxed) && self.random.gen_bool(0.4) {
            disks.light(400, &mut self.random);
        }
        let nature = Nature {
            // Some disks are slow.
            sync_us: if self.random.gen_bool(0.1) {
                self.random.gen_range(2_000..130_000)
            } else {
                self.random.gen_range(50..2_000)
            },
            ahead: self.ahead[&node],
            acknowledge: self.acknowledge,
        };
        let booting = Node::boot(disks, self.defect, doom, self.network.clone(), nature);
        let booted = tokio::time::timeout(STARTING, booting).await;
        match booted.unwrap_or_else(|_| panic!("node {node} does not start: it waits")) {
            Ok(booted) => {
                self.network.note(format_args!("{node} starts"));
                let publisher = Publisher {
                    node,
                    life: booted.life,
                    resolver: booted.resolver.clone(),
                    network: self.network.clone(),
                    nats: self.nats.clone(),
                    defect: self.defect,
                };
                booted.scope.spawn("the publisher", publisher.run(booted.scope.clone()));
                self.nodes.insert(node, booted);
            }
            Err(reason) => {
                assert!(disks.have_failed(), "node {node} does not start: {reason}");
                self.cut_power(node);
            }
        }
    }

    /// Cuts the power of a node; what still runs of it cannot reach what its next life finds.
    pub(crate) fn cut_power(&mut self, node: u64) {
        self.report.crashes += 1;
        self.network.note(format_args!("{node} dies"));
        self.network.disconnect(node);
        let found = self.disks[&node].power_cut(&mut self.random);
        self.disks.insert(node, found);
        if let Some(dead) = self.nodes.remove(&node) {
            dead.bury();
        }
        // Often at once: a node that forgot something does the most harm while the others still act on it.
        let rounds = if self.random.gen_bool(0.5) {
            0
        } else {
            self.random.gen_range(0..16)
        };
        self.down.insert(node, rounds);
    }

    /// Lets `time` pass; nodes whose disks fail, or who are doomed, die at that moment.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while let Ok(Some((node, life))) = tokio::time::timeout_at(until, self.deaths.recv()).await {
            let Some(dying) = self.nodes.get(&node).filter(|found| found.life == life) else {
                continue;
            };
            if dying.fault().is_reported() && !self.disks[&node].have_failed() {
                let reason = dying.fault().reported().await;
                panic!("node {node} ended by itself: {reason}");
            }
            self.cut_power(node);
        }
        panics::check();
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        let leaders = self.nodes.iter().filter_map(|(node, found)| {
            let metrics = found.core.metrics();
            let metrics = metrics.borrow_watched();
            metrics.state.is_leader().then_some((metrics.current_term, *node))
        });
        leaders.max().map(|(_, node)| node)
    }

    async fn round(&mut self) {
        let micros = if self.random.gen_bool(0.5) {
            self.random.gen_range(0..60_000)
        } else {
            self.random.gen_range(1_000..400_000)
        };
        self.pass(Duration::from_micros(micros)).await;
        self.disturb().await;
        if self.down.is_empty() && self.random.gen_bool(0.08) {
            let everybody = self.random.gen_range(0..4) == 0;
            let victims: Vec<u64> = if everybody {
                (1..=self.voters).collect()
            } else if self.random.gen_bool(0.5) {
                self.leader().into_iter().collect()
            } else {
                vec![self.random.gen_range(1..=self.voters)]
            };
            for node in victims {
                self.cut_power(node);
            }
        }
        let due: Vec<u64> = self
            .down
            .iter()
            .filter(|(_, wait)| **wait == 0)
            .map(|(node, _)| *node)
            .collect();
        self.down.values_mut().for_each(|wait| *wait = wait.saturating_sub(1));
        for node in due {
            self.down.remove(&node);
            self.boot(node).await;
        }
        if self.is_purged_early && self.random.gen_bool(0.2) {
            let living: Vec<u64> = self.nodes.keys().copied().collect();
            if let Some(node) = living.choose(&mut self.random) {
                self.nodes[node].purge();
            }
        }
        self.look_back();
        self.look_at_memory();
        self.ask();
    }

    /// Cuts and heals links, moves the leadership, fills disks and stops them.
    async fn disturb(&mut self) {
        let voters = self.voters;
        match self.random.gen_range(0..20) {
            0 => {
                let alone = self.random.gen_range(1..=voters);
                for other in (1..=voters).filter(|other| *other != alone) {
                    self.network.cut(alone, other);
                    self.network.cut(other, alone);
                }
            }
            1 => {
                let deaf = self.random.gen_range(1..=voters);
                self.network.cut(deaf % voters + 1, deaf);
            }
            2..=5 => self.network.heal(),
            7 => {
                let full = self.random.gen_range(1..=voters);
                self.disks[&full].leave(self.random.gen_range(1..125));
                self.report.full += 1;
            }
            8 | 10 => self.mend_disks(),
            9 => {
                let stalling = self.random.gen_range(1..=voters);
                self.disks[&stalling].stall(true);
                self.report.stalls += 1;
            }
            6 => {
                if let Some(leader) = self.leader() {
                    self.report.transfers += 1;
                    let to = leader % voters + 1;
                    // Fails if the core has just ended.
                    let _ = self.nodes[&leader].core.trigger().transfer_leader(to).await;
                }
            }
            11 | 12 => self.nats.cut(self.random.gen_range(0..SERVERS.len()), true),
            13 => self.nats_heals(),
            _ => {}
        }
    }

    fn nats_heals(&self) {
        (0..SERVERS.len()).for_each(|server| self.nats.cut(server, false));
    }

    /// Every disk has room and gets on.
    fn mend_disks(&self) {
        for disks in self.disks.values() {
            disks.leave(ROOMY);
            disks.stall(false);
        }
    }

    /// No account goes backwards at a living node, and what it knows of the NATS cluster's servers is true.
    fn look_back(&mut self) {
        for (node, living) in &self.nodes {
            let mut rows = BTreeMap::new();
            for account in 0..ACCOUNTS {
                // Its power may have failed.
                let Ok(Some(row)) = living.state.account(self.keys.account(account)) else {
                    continue;
                };
                let seen = self.seen.entry((*node, living.life, account)).or_default();
                assert!(
                    *seen <= row.revision,
                    "account {account} went from revision {seen} back to {} at node {node}",
                    row.revision
                );
                *seen = row.revision;
                rows.insert(account, row.revision);
            }
            self.nats.check(*node, &living.resolver, &rows);
        }
    }

    /// However little a disk takes, memory is bounded. One step may go over it, by what it applies, and a start goes as far as
    /// its log.
    fn look_at_memory(&self) {
        for (node, living) in &self.nodes {
            let (bytes, most) = (living.state.unflushed_bytes(), living.resumed_bytes.max(2 * MEMTABLE));
            assert!(bytes <= most, "{bytes} bytes at node {node} wait for its disk");
        }
    }

    /// Where a client is connected: half of them to the leader.
    fn at(&mut self) -> Option<At> {
        let leader = self.leader().filter(|_| self.random.r#gen());
        let living: Vec<u64> = self.nodes.keys().copied().collect();
        let node = leader.or_else(|| living.choose(&mut self.random).copied())?;
        let found = &self.nodes[&node];
        Some(At {
            node,
            life: found.life,
            resolver: found.resolver.clone(),
            raft: found.raft.clone(),
            network: self.network.clone(),
            defect: self.defect,
        })
    }

    /// Some clients upload one account each, or read one.
    fn ask(&mut self) {
        for _ in 0..self.random.gen_range(1..6) {
            let account = self.random.gen_range(0..ACCOUNTS);
            let Some(at) = self.at() else { return };
            if self.random.gen_bool(0.3) {
                let reading = self.history.clone().read(account, self.keys.account(account), at);
                self.clients.spawn_for_client(reading);
                continue;
            }
            let earlier = self.random.gen_bool(0.2).then(|| self.random.gen_range(0..4));
            let token = earlier.and_then(|back| self.history.earlier(account, back));
            let token = token.unwrap_or_else(|| self.token(account));
            let again = self.random.gen_bool(0.5).then(|| self.at()).flatten();
            let uploading = self.history.clone().upload(account, token, at, again);
            self.clients.spawn_for_client(uploading);
        }
    }

    /// A new token of `account`: sometimes older than others, sometimes of the same second.
    fn token(&mut self, account: u8) -> bytes::Bytes {
        self.clock += self.random.gen_range(0..3);
        let back = if self.random.gen_bool(0.2) {
            self.random.gen_range(0..20)
        } else {
            0
        };
        let issued_at = self.clock - back;
        let mut words = vec![0; self.random.gen_range(10..1_000)];
        self.random.fill(&mut words[..]);
        let words = data_encoding::BASE64.encode(&words);
        let token = self.keys.token(account, issued_at, &words);
        self.history.uploading(account, issued_at, &token);
        token
    }

    /// Repairs everything, waits until all nodes hold the same, and checks it.
    async fn end(mut self) -> Report {
        self.armed.store(false, Ordering::Relaxed);
        self.network.calm_down();
        self.nats_heals();
        self.disks.values().for_each(Disks::put_out);
        self.mend_disks();
        self.pass(Duration::from_millis(1)).await;
        let agreed = tokio::time::Instant::now() + HEALING;
        loop {
            self.pass(Duration::from_millis(200)).await;
            for node in std::mem::take(&mut self.down).into_keys() {
                self.boot(node).await;
            }
            if self.nodes.len() as u64 == self.voters {
                if self.is_published() {
                    self.nats.close();
                }
                if self.nats.is_closed() && self.is_agreed() {
                    break;
                }
            }
            let states: Vec<_> = self.nodes.iter().map(|(node, found)| describe(*node, found)).collect();
            assert!(
                tokio::time::Instant::now() < agreed,
                "the mesh does not heal: {states:#?}"
            );
        }
        self.check().await;
        self.report.forwarded = self.history.forwarded();
        self.report.reads = self.history.reads();
        self.report.published = self.nats.count();
        for node in self.nodes.values() {
            node.shutdown().await;
        }
        for disks in self.disks.values() {
            for name in disks.log.names() {
                self.network.note(blake3::hash(&disks.log.bytes(&name)));
            }
            self.network.note(blake3::hash(&disks.state.bytes()));
        }
        self.report.pieces = self.network.pieces();
        self.report.trace = self.network.trace();
        self.report
    }

    /// Whether every server has everything that was acknowledged, and every node knows it.
    fn is_published(&self) -> bool {
        let has = |server, account| self.nats.held(server, account) >= self.history.newest(account);
        let is_everywhere = |account| (0..SERVERS.len()).all(|server| has(server, account));
        let mut resolvers = self.nodes.values().map(|node| &node.resolver);
        (0..ACCOUNTS).all(is_everywhere) && resolvers.all(NatsCluster::is_proven)
    }

    /// Whether every node has applied the same and has it in its file.
    fn is_agreed(&self) -> bool {
        let applied: BTreeSet<_> = self
            .nodes
            .values()
            .map(|node| node.state.applied().map(|mark| mark.index))
            .collect();
        let settled = |node: &Node| {
            let metrics = node.core.metrics();
            let metrics = metrics.borrow_watched();
            let applied = metrics.last_applied.map(|id| id.index);
            applied == metrics.last_log_index && applied == Some(node.state.flushed())
        };
        applied.len() == 1 && self.nodes.values().all(settled)
    }

    async fn check(&mut self) {
        let digests: BTreeSet<_> = self
            .nodes
            .values()
            .map(|node| node.state.digest().expect("a digest"))
            .collect();
        assert_eq!(digests.len(), 1, "the states differ");
        let mut agreed = BTreeMap::new();
        for (node, found) in &self.nodes {
            let entries = found.log.clone().try_get_log_entries(..).await.expect("a readable log");
            for entry in entries {
                let earlier = agreed.entry(entry.log_id.index).or_insert_with(|| entry.clone());
                assert!(*earlier == entry, "node {node} has another entry {}", entry.log_id);
            }
        }
        let agreed: BTreeMap<u64, Vec<bytes::Bytes>> = agreed
            .into_iter()
            .map(|(index, entry)| (index, tokens(&entry)))
            .collect();
        let one = self.nodes.values().next().expect("a node");
        for (token, upload) in self.history.uploads() {
            let key = self.keys.account(upload.account);
            if upload.acknowledged.is_empty() {
                let refused = upload.refused.is_some() && upload.unknown == 0;
                assert!(
                    !refused || !versions(&one.state, key).contains(&etag(&token)),
                    "it was stored, although each client was told that it was not: {upload:?}"
                );
                continue;
            }
            self.report.acknowledged += 1;
            for (node, found) in &self.nodes {
                let row = found.state.account(key).expect("a readable row");
                let row = row.unwrap_or_else(|| panic!("acknowledged {upload:?} is not at node {node}"));
                assert!(
                    row.revision >= self.history.newest(upload.account) && row.issued_at >= upload.issued_at,
                    "node {node} lost {upload:?}: its row has revision {}, issued at {}",
                    row.revision,
                    row.issued_at
                );
            }
            for revision in &upload.acknowledged {
                let carries = agreed.get(revision).is_none_or(|tokens| tokens.contains(&token));
                assert!(
                    carries,
                    "acknowledged {upload:?}, but the logs hold another entry there"
                );
            }
        }
    }
}

/// The tokens that an entry carries.
fn tokens(entry: &Entry) -> Vec<bytes::Bytes> {
    let EntryPayload::Normal(payload) = &entry.payload else {
        return Vec::new();
    };
    match Command::decode(&payload.0).expect("a command") {
        Command::PutAccounts(PutAccounts { items, .. }) => items.into_iter().map(|item| item.token).collect(),
        Command::OverrideAccount(OverrideAccount { item, .. }) | Command::PutAccountIf(PutAccountIf { item, .. }) => {
            vec![item.token]
        }
        _ => Vec::new(),
    }
}

fn describe(node: u64, found: &Node) -> String {
    let metrics = found.core.metrics();
    let metrics = metrics.borrow_watched();
    format!(
        "node {node}: {:?} in term {}, log to {:?}, applied {:?}, flushed {}, {:?}",
        metrics.state,
        metrics.current_term,
        metrics.last_log_index,
        metrics.last_applied.map(|id| id.index),
        found.state.flushed(),
        metrics.running_state
    )
}
