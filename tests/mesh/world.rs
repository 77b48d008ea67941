//! A simulated mesh: its nodes, its clients, what happens to them, and what must hold all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jwtmesh::jwt::{AccountKey, OperatorKey};
use jwtmesh::raft::{LogId, Payload, Runtime};
use jwtmesh::state::{AccountOutcome, Command, Outcomes, PutAccount, PutAccounts, PutOperator, PutOperators};
use jwtmesh::tasks::{FaultHandle, Scope};
use openraft::async_runtime::WatchReceiver;
use openraft::{EntryPayload, RaftLogReader};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;

use crate::network::Network;
use crate::node::{Disks, Node, member};
use crate::panics;
use crate::planted::{Defect, Doom};

/// Accounts of a simulated mesh: few, so that submissions often concern the same one.
const ACCOUNTS: u8 = 12;
/// Rounds of a simulation, each up to 400 ms long.
const ROUNDS: usize = 150;
/// How long a mesh may take to agree once everything works.
const HEALING: Duration = Duration::from_secs(60);

/// An upload that was acknowledged.
#[derive(Clone)]
struct Acknowledged {
    id: LogId,
    payload: Payload,
    account: u8,
    issued_at: i64,
}

/// What a run did, so that a test can say that it did something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// A hash over everything that happened, and everything on the disks at the end.
    pub(crate) trace: String,
    pub(crate) acknowledged: u64,
    pub(crate) crashes: u64,
    pub(crate) pieces: u64,
    pub(crate) transfers: u64,
}

struct World {
    voters: u64,
    defect: Option<Defect>,
    random: SmallRng,
    network: Network,
    disks: BTreeMap<u64, Disks>,
    nodes: BTreeMap<u64, Node>,
    /// Nodes without power, and the rounds until they start.
    down: BTreeMap<u64, u32>,
    lives: u64,
    armed: Arc<AtomicBool>,
    /// Where a node asks for its death, in one of its lives.
    dooms: mpsc::UnboundedSender<(u64, u64)>,
    deaths: mpsc::UnboundedReceiver<(u64, u64)>,
    clients: Scope,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    /// The revision of each account as last seen at a node in its present life.
    seen: BTreeMap<(u64, u64, u8), u64>,
    clock: i64,
    report: Report,
}

/// Runs a mesh of `voters` nodes; panics, naming the seed, when something does not hold.
pub(crate) fn run(seed: u64, voters: u64, defect: Option<Defect>) -> Report {
    panics::watch();
    Runtime::seed(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime");
    runtime.block_on(async move {
        let mut world = World::new(seed, voters, defect);
        world.form().await;
        world.armed.store(true, Ordering::Relaxed);
        for _ in 0..ROUNDS {
            world.round().await;
        }
        world.end().await
    })
}

fn key(account: u8) -> AccountKey {
    AccountKey::from_bytes([account; 32])
}

fn operator() -> OperatorKey {
    OperatorKey::from_bytes([9; 32])
}

impl World {
    fn new(seed: u64, voters: u64, defect: Option<Defect>) -> Self {
        let (dooms, deaths) = mpsc::unbounded_channel();
        Self {
            voters,
            defect,
            random: SmallRng::seed_from_u64(!seed),
            network: Network::new(SmallRng::seed_from_u64(seed)),
            disks: (1..=voters).map(|node| (node, Disks::new(seed ^ node))).collect(),
            nodes: BTreeMap::new(),
            down: BTreeMap::new(),
            lives: 0,
            armed: Arc::default(),
            dooms,
            deaths,
            clients: Scope::new(FaultHandle::default()),
            acknowledged: Arc::default(),
            seen: BTreeMap::new(),
            clock: 1_000,
            report: Report::default(),
        }
    }

    /// Starts every node, forms the mesh, and waits until it trusts an operator.
    async fn form(&mut self) {
        for node in 1..=self.voters {
            self.boot(node).await;
        }
        let members: BTreeMap<_, _> = (1..=self.voters).map(|node| (node, member(node))).collect();
        self.nodes[&1].core.initialize(members).await.expect("a mesh is formed");
        let trust = PutOperators {
            items: vec![PutOperator {
                operator: operator(),
                issued_at: 1,
                token: Bytes::from_static(b"operator"),
            }],
        };
        let trust = Payload(Command::from(trust).encode());
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
        let sync_us = self.random.gen_range(50..2_000);
        let booted = Node::boot(disks, self.defect, doom, self.network.clone(), sync_us).await;
        match booted {
            Ok(booted) => {
                self.network.note(format_args!("{node} starts"));
                self.nodes.insert(node, booted);
            }
            Err(reason) => {
                assert!(disks.have_failed(), "node {node} does not start: {reason}");
                self.cut_power(node);
            }
        }
    }

    /// Cuts the power of a node; what still runs of it cannot reach what its next life finds.
    fn cut_power(&mut self, node: u64) {
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
    async fn pass(&mut self, time: Duration) {
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

    fn leader(&self) -> Option<u64> {
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
        if self.random.gen_bool(0.2) {
            let living: Vec<u64> = self.nodes.keys().copied().collect();
            if let Some(node) = living.choose(&mut self.random) {
                self.nodes[node].purge();
            }
        }
        self.look_back();
        self.upload();
    }

    /// Cuts and heals links, and moves the leadership.
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
            6 => {
                if let Some(leader) = self.leader() {
                    self.report.transfers += 1;
                    let to = leader % voters + 1;
                    // Fails if the core has just ended.
                    let _ = self.nodes[&leader].core.trigger().transfer_leader(to).await;
                }
            }
            _ => {}
        }
    }

    /// No account goes backwards at a living node.
    fn look_back(&mut self) {
        for (node, living) in &self.nodes {
            for account in 0..ACCOUNTS {
                // Its power may have failed.
                let Ok(Some(row)) = living.state.account(key(account)) else {
                    continue;
                };
                let seen = self.seen.entry((*node, living.life, account)).or_default();
                assert!(
                    *seen <= row.revision,
                    "account {account} went from revision {seen} back to {} at node {node}",
                    row.revision
                );
                *seen = row.revision;
            }
        }
    }

    /// Some clients upload one account each to the leader.
    fn upload(&mut self) {
        let Some(leader) = self.leader() else {
            return;
        };
        for _ in 0..self.random.gen_range(1..6) {
            self.clock += self.random.gen_range(0..3);
            let account = self.random.gen_range(0..ACCOUNTS);
            // Sometimes an older token, sometimes one of the same second.
            let back = if self.random.gen_bool(0.2) {
                self.random.gen_range(0..20)
            } else {
                0
            };
            let issued_at = self.clock - back;
            let mut token = vec![0; self.random.gen_range(20..3_000)];
            self.random.fill(&mut token[..]);
            let item = PutAccount {
                account: key(account),
                operator: operator(),
                issued_at,
                expires_at: 0,
                name: String::new(),
                token: token.into(),
            };
            let command = PutAccounts {
                trust_epoch: 1,
                items: vec![item],
            };
            let payload = Payload(Command::from(command).encode());
            self.submit(leader, account, issued_at, payload);
        }
    }

    fn submit(&self, node: u64, account: u8, issued_at: i64, payload: Payload) {
        let (core, life) = (self.nodes[&node].core.clone(), self.nodes[&node].life);
        let (network, acknowledged) = (self.network.clone(), self.acknowledged.clone());
        self.clients.spawn_for_client(async move {
            let proposed = tokio::time::timeout(Duration::from_secs(2), core.client_write(payload.clone())).await;
            if !network.is_alive(node, life) {
                return;
            }
            let Ok(Ok(applied)) = proposed else {
                network.note("refused or unknown");
                return;
            };
            network.note(format_args!("acknowledged {}", applied.log_id));
            let Outcomes::Accounts(outcomes) = &applied.data.0 else {
                panic!("{:?}", applied.data);
            };
            if matches!(outcomes[..], [AccountOutcome::Stored { .. }]) {
                acknowledged.lock().unwrap().push(Acknowledged {
                    id: applied.log_id,
                    payload,
                    account,
                    issued_at,
                });
            }
        });
    }

    /// Repairs everything, waits until all nodes hold the same, and checks it.
    async fn end(mut self) -> Report {
        self.armed.store(false, Ordering::Relaxed);
        self.network.calm_down();
        self.disks.values().for_each(Disks::put_out);
        self.pass(Duration::from_millis(1)).await;
        let agreed = tokio::time::Instant::now() + HEALING;
        loop {
            self.pass(Duration::from_millis(200)).await;
            for node in std::mem::take(&mut self.down).into_keys() {
                self.boot(node).await;
            }
            if self.nodes.len() as u64 == self.voters && self.is_agreed() {
                break;
            }
            let states: Vec<_> = self.nodes.iter().map(|(node, found)| describe(*node, found)).collect();
            assert!(
                tokio::time::Instant::now() < agreed,
                "the mesh does not heal: {states:#?}"
            );
        }
        self.check().await;
        for node in self.nodes.values() {
            node.core.shutdown().await.expect("a node ends");
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
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        self.report.acknowledged = acknowledged.len() as u64;
        let mut agreed = BTreeMap::new();
        for (node, found) in &self.nodes {
            let entries = found.log.clone().try_get_log_entries(..).await.expect("a readable log");
            for entry in entries {
                let earlier = agreed.entry(entry.log_id.index).or_insert_with(|| entry.clone());
                assert!(*earlier == entry, "node {node} has another entry {}", entry.log_id);
            }
            for upload in &acknowledged {
                let row = found.state.account(key(upload.account)).expect("a readable row");
                let row = row.unwrap_or_else(|| panic!("acknowledged {} is not at node {node}", upload.id));
                assert!(
                    row.revision >= upload.id.index && row.issued_at >= upload.issued_at,
                    "node {node} lost {}: account {} is at revision {}, issued at {} and not {}",
                    upload.id,
                    upload.account,
                    row.revision,
                    row.issued_at,
                    upload.issued_at
                );
            }
        }
        for upload in &acknowledged {
            let Some(entry) = agreed.get(&upload.id.index) else {
                continue;
            };
            let same = matches!(&entry.payload, EntryPayload::Normal(payload) if *payload == upload.payload);
            assert!(
                same && entry.log_id == upload.id,
                "acknowledged {}, but the logs hold {} there",
                upload.id,
                entry.log_id
            );
        }
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
