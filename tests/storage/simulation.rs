//! A whole node's agreement and storage under simulated time, on disks that lose what was not synced.
//!
//! openraft with one voter, the log's writer and the state's flusher run as tasks of one thread, and time passes only
//! while every task waits. Everything random follows from a seed: a failure prints its seed, which replays it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use jwtmesh::clock::Clock;
use jwtmesh::config::{Acknowledge, Timing};
use jwtmesh::jwt::{AccountKey, OperatorKey};
use jwtmesh::raft::log::{LogStore, Options as LogOptions, Prepare, StoreId};
use jwtmesh::raft::peer::{NoPeers, Own};
use jwtmesh::raft::stores::{Flusher, Space, Stores};
use jwtmesh::raft::{Member, ProposeError, Raft, RaftStartError, Runtime, Settings};
use jwtmesh::state::{AccountOutcome, Options, PutAccount, PutOperator, PutOperators, State};
use jwtmesh::tasks::{FaultHandle, Scope};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use crate::disk::CrashDisk;
use crate::redb::CrashingDisk;

const STORE: StoreId = StoreId([3; 16]);

/// Accounts of a simulated mesh: few, so that submissions often concern the same one.
const ACCOUNTS: u8 = 12;

/// What a client knows of one account: the newest token that was acknowledged, and those whose outcome is unknown.
#[derive(Default)]
struct Known {
    acknowledged: Option<(i64, Bytes)>,
    unsure: Vec<(i64, Bytes)>,
}

/// The two disks of a node between its lives, and what its clients know.
pub(crate) struct World {
    log: CrashDisk,
    pub(crate) state: CrashingDisk,
    /// Whether a start ever finished: before that a node begins anew, as its identity file says.
    formed: bool,
    known: BTreeMap<u8, Known>,
    random: SmallRng,
    clock: i64,
}

/// One life of the node.
pub(crate) struct Life {
    pub(crate) raft: Raft,
    pub(crate) state: State,
    scope: Scope,
}

impl Life {
    async fn trust_first_operator(&self) -> Result<(), String> {
        if self.state.trust().epoch == 0 {
            let first = self.raft.propose(trust_one()).await;
            first.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Starts Raft with one voter, as production does for a mesh of one node.
async fn alone(stores: Stores, scope: &Scope) -> Result<Raft, RaftStartError> {
    let settings = Settings {
        cluster: "simulated".to_owned(),
        member: Member::default(),
        timing: Timing::Lan,
        acknowledge: Acknowledge::Majority,
    };
    let own = Own {
        name: String::new(),
        cluster: "simulated".to_owned(),
        store: STORE.0,
        nodes: BTreeMap::new(),
        timing: Timing::Lan,
    };
    let raft = Raft::open(settings, own, stores, NoPeers, Clock::system(), scope)?;
    raft.begin(STORE.0, 1).await?;
    raft.form().await?;
    raft.resume().await?;
    Ok(raft)
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            log: CrashDisk::new(seed),
            state: CrashingDisk::default(),
            formed: false,
            known: BTreeMap::new(),
            random: SmallRng::seed_from_u64(seed),
            clock: 1_000,
        }
    }

    /// Starts the node on its disks; an error if the power fails meanwhile.
    pub(crate) async fn boot(&mut self) -> Result<Life, String> {
        let fault = FaultHandle::default();
        let scope = Scope::new(fault.clone());
        let state = State::open_backend(self.state.clone(), small()).map_err(|e| jwtmesh::tasks::chain(&e))?;
        let checkpoint = Arc::new(AtomicU64::new(state.checkpointed()));
        let log_options = LogOptions {
            segment_bytes: 64 * 1024,
            tail_bytes: 32 * 1024,
            prepare: Prepare::Inline,
            ..LogOptions::new(STORE)
        };
        let reported = fault.clone();
        let (log, mut writer) = LogStore::open(
            Arc::new(self.log.clone()),
            &log_options,
            checkpoint.clone(),
            Arc::new(move |log_fault| reported.report(log_fault)),
        )
        .map_err(|e| e.to_string())?;
        let sync_us = self.random.gen_range(50..2_000);
        scope.spawn_for_client(async move {
            while let Some(commands) = writer.wait().await {
                tokio::time::sleep(Duration::from_micros(sync_us)).await;
                if writer.step(commands).is_err() {
                    break;
                }
            }
        });
        let revision = watch::Sender::new(state.applied().map_or(0, |mark| mark.index));
        let flushing = watch::Sender::new(state.flushed());
        let flushed = flushing.subscribe();
        let space = Space::of(Arc::new(self.log.clone()));
        let flusher = Flusher::new(
            state.clone(),
            revision.subscribe(),
            flushing,
            checkpoint.clone(),
            space.clone(),
            fault.clone(),
        );
        scope.spawn_for_client(flusher.run());
        let stores = Stores {
            log,
            checkpoint,
            state: state.clone(),
            flushed,
            revision: Arc::new(revision),
            space,
        };
        let started = alone(stores, &scope).await;
        let raft = started.map_err(|error| error.to_string())?;
        let life = Life { raft, state, scope };
        life.trust_first_operator().await?;
        self.formed = true;
        Ok(life)
    }

    /// Checks that everything acknowledged is there, and nothing that was never submitted.
    fn check(&mut self, life: &Life) {
        for (account, known) in &mut self.known {
            let row = match life.state.account(key(*account)) {
                Ok(row) => row,
                // The power failed before this check; the next life makes it.
                Err(_) if self.state.is_off() => return,
                Err(error) => panic!("the state is not readable: {error}"),
            };
            let stored = row.map(|row| (row.issued_at, row.token.clone()));
            let acknowledged = known.acknowledged.clone();
            let allowed = stored == acknowledged || known.unsure.iter().any(|sent| Some(sent) == stored.as_ref());
            assert!(
                allowed,
                "account {account}: acknowledged {acknowledged:?}, unsure {:?}, stored {stored:?}",
                known.unsure
            );
            let older = stored.as_ref().map(|stored| stored.0) < acknowledged.as_ref().map(|newest| newest.0);
            assert!(
                !older,
                "account {account} went backwards from {acknowledged:?} to {stored:?}"
            );
            // What is readable now must stay: it may have been served.
            known.acknowledged = stored;
            known.unsure.clear();
        }
    }

    fn submission(&mut self) -> (u8, i64, PutAccount) {
        self.clock += self.random.gen_range(0..3);
        let account = self.random.gen_range(0..ACCOUNTS);
        // Sometimes an older token, sometimes one of the same second.
        let issued_at = self.clock
            - if self.random.gen_bool(0.2) {
                self.random.gen_range(0..20)
            } else {
                0
            };
        let length = self.random.gen_range(20..3_000);
        let mut token = vec![0; length];
        self.random.fill(&mut token[..]);
        let item = PutAccount {
            account: key(account),
            operator: operator(),
            issued_at,
            expires_at: 0,
            name: String::new(),
            token: token.into(),
        };
        (account, issued_at, item)
    }

    /// Submits until the power fails, or `uploads` times; several at once.
    async fn upload(&mut self, life: &Life, uploads: usize) {
        for _ in 0..uploads.div_ceil(4) {
            let batch: Vec<_> = (0..self.random.gen_range(1..8)).map(|_| self.submission()).collect();
            let sent = batch.iter().map(|(_, _, item)| life.raft.submit(1, item.clone()));
            let outcomes = futures::future::join_all(sent).await;
            let mut lost = false;
            for ((account, issued_at, item), outcome) in batch.into_iter().zip(outcomes) {
                let known = self.known.entry(account).or_default();
                match outcome {
                    Ok(AccountOutcome::Stored { .. }) => {
                        assert!(
                            known.acknowledged.as_ref().is_none_or(|newest| newest.0 <= issued_at),
                            "account {account}: an older token was stored"
                        );
                        known.acknowledged = Some((issued_at, item.token));
                    }
                    Ok(AccountOutcome::Unchanged { .. } | AccountOutcome::Superseded { .. }) => {}
                    Ok(other) => panic!("{other:?}"),
                    Err(ProposeError::OutcomeUnknown | ProposeError::NoLeader | ProposeError::Unavailable { .. }) => {
                        known.unsure.push((issued_at, item.token));
                        lost = true;
                    }
                    Err(ProposeError::Busy) => {}
                    Err(error @ ProposeError::Refused { .. }) => panic!("{error}"),
                }
            }
            if lost || self.state.is_off() {
                return;
            }
            tokio::time::sleep(Duration::from_micros(self.random.gen_range(0..20_000))).await;
        }
    }

    /// One life: starts, checks, uploads until the power fails at a random write or sync, and drops everything.
    async fn live(&mut self) {
        let calls: u32 = self.random.gen_range(1..400);
        if self.random.gen_bool(0.5) {
            self.log.die_at(calls.into())
        } else {
            self.state.cut_after(calls)
        }
        if let Ok(life) = self.boot().await {
            self.check(&life);
            let uploads = self.random.gen_range(1..120);
            self.upload(&life, uploads).await;
            life.scope.stop();
            // The power fails now: what is still running, and what is dropped, must not write into the next life.
            self.state = self.state.power_cut(&mut self.random);
            drop(life.raft);
        }
    }

    fn power_cut(&mut self) {
        self.log = self.log.power_cut();
        self.state = self.state.power_cut(&mut self.random);
        if !self.formed {
            assert!(self.known.is_empty(), "acknowledged before it was formed");
            self.log = CrashDisk::new(self.random.r#gen());
            self.state = CrashingDisk::default();
        }
    }
}

/// Limits so small that a simulation reaches them.
fn small() -> Options {
    Options {
        memtable_bytes: 64 * 1024,
        row_cache_bytes: 64 * 1024,
        cache_bytes: 1024 * 1024,
        ..Options::new("simulated")
    }
}

pub(crate) fn operator() -> OperatorKey {
    OperatorKey::from_bytes([9; 32])
}

fn trust_one() -> PutOperators {
    PutOperators {
        items: vec![PutOperator {
            operator: operator(),
            issued_at: 1,
            token: Bytes::from_static(b"operator"),
        }],
    }
}

fn key(account: u8) -> AccountKey {
    AccountKey::from_bytes([account; 32])
}

/// Runs `future` with simulated time and every random choice seeded.
fn simulate<T>(seed: u64, future: impl Future<Output = T>) -> T {
    Runtime::seed(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime");
    runtime.block_on(future)
}

/// `lives` lives of one node, each ended by a power cut.
fn history(seed: u64, lives: usize) -> World {
    let mut world = World::new(seed);
    for life in 0..lives as u64 {
        // A runtime of its own, dropped with all its tasks, as a crash does.
        simulate(seed ^ life, world.live());
        world.power_cut();
    }
    simulate(seed, async {
        let life = world.boot().await;
        let life = life.unwrap_or_else(|error| panic!("the node does not start: {error}"));
        world.check(&life);
        life.raft.shutdown().await;
    });
    world
}

fn with_seed<T>(seed: u64, run: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        eprintln!("seed {seed} fails; SEED={seed} runs it alone");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn g1_nothing_acknowledged_is_lost_in_power_cuts_of_a_whole_node_and_nothing_goes_backwards() {
    const LIVES: usize = 50;
    // Log and state are each tested alone with 20,000 (`crashes.rs`, `crash.rs`); fewer show how they work together.
    const CUTS: u64 = 4_000;
    let only: Option<u64> = std::env::var("SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = only.map_or(0..CUTS / LIVES as u64, |seed| seed..seed + 1);
    let survivors = |seed| {
        history(seed, LIVES)
            .known
            .into_values()
            .filter(|known| known.acknowledged.is_some())
            .count()
    };
    let acknowledged: usize = seeds.map(|seed| with_seed(seed, || survivors(seed))).sum();
    assert!(
        only.is_some() || acknowledged > 500,
        "only {acknowledged} accounts survived: the simulation does nothing"
    );
}

#[test]
fn g12_a_node_on_a_full_disk_refuses_uploads_serves_lookups_and_goes_on_when_there_is_room() {
    const MIB: u64 = 1024 * 1024;
    simulate(5, async {
        let mut world = World::new(5);
        let life = world.boot().await.expect("a start");
        world.upload(&life, 20).await;
        let (account, acknowledged) = world
            .known
            .iter()
            .find_map(|(account, known)| Some((*account, known.acknowledged.clone()?)))
            .expect("something was stored");
        let stored = || {
            life.state
                .account(key(account))
                .unwrap()
                .map(|row| (row.issued_at, row.token.clone()))
        };

        world.log.say_room(0, 1_000 * MIB);
        let refused = async {
            loop {
                let (_, _, item) = world.submission();
                if let Err(ProposeError::Unavailable { reason }) = life.raft.submit(1, item).await {
                    return reason;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let reason = tokio::time::timeout(Duration::from_secs(60), refused).await;
        assert!(reason.expect("refused").contains("nearly full"));
        let applied = life.state.applied().expect("something is applied").index;
        let before = world.state.bytes();
        // Long enough for several checks of the disk and for a checkpoint to become due.
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(
            world.state.bytes() == before,
            "nothing is written to a disk without room"
        );
        assert!(stored() >= Some(acknowledged.clone()), "lookups go on");

        world.log.say_room(900 * MIB, 1_000 * MIB);
        let flushed = async {
            while life.state.checkpointed() < applied {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), flushed)
            .await
            .expect("what was held back reaches the disk");
        let (_, _, item) = world.submission();
        assert!(life.raft.submit(1, item).await.is_ok(), "uploads are taken again");
        life.raft.shutdown().await;
    });
}

#[test]
fn g12_a_node_that_starts_on_a_full_disk_serves_everything_acknowledged_and_goes_on_when_there_is_room() {
    const MIB: u64 = 1024 * 1024;
    for seed in 0..10 {
        let mut world = World::new(seed);
        simulate(seed, async {
            let life = world.boot().await.expect("a start");
            world.upload(&life, 60).await;
            // Killed, some of it not yet in the state file, or not yet durable there.
            life.scope.stop();
            world.log = world.log.killed();
            world.state = CrashingDisk::holding(world.state.bytes());
            drop(life.raft);
        });
        world.log.say_room(0, 1_000 * MIB);
        world.state.fill(true);
        simulate(seed, async {
            let life = world.boot().await.expect("a start on a full disk");
            world.check(&life);
            assert!(!world.known.is_empty(), "something was acknowledged");
            let (_, _, item) = world.submission();
            let refused = life.raft.submit(1, item).await.expect_err("there is no room");
            assert!(refused.to_string().contains("nearly full"), "{refused}");
            // Long enough for a checkpoint to become due.
            tokio::time::sleep(Duration::from_secs(120)).await;
            world.check(&life);
            assert!(!life.scope.fault().is_reported());

            world.state.fill(false);
            world.log.say_room(900 * MIB, 1_000 * MIB);
            let applied = life.state.applied().expect("something is applied").index;
            let committed = async {
                while life.state.checkpointed() < applied {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let committed = tokio::time::timeout(Duration::from_secs(120), committed).await;
            committed.expect("what was held back reaches the disk");
            world.upload(&life, 8).await;
            world.check(&life);
            life.raft.shutdown().await;
        });
    }
}

#[test]
fn a_seed_replays_to_the_same_bytes() {
    for seed in [1, 2, 3] {
        let end = |world: World| {
            (
                world.log.names(),
                world
                    .log
                    .names()
                    .iter()
                    .map(|name| world.log.bytes(name))
                    .collect::<Vec<_>>(),
                world.state.bytes(),
                world.clock,
            )
        };
        assert!(
            end(history(seed, 10)) == end(history(seed, 10)),
            "seed {seed} ran differently the second time"
        );
    }
}
