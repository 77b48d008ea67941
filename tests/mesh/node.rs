//! One simulated node: its two disks, and one life on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jwtmesh::clock::Clock;
use jwtmesh::config::{Acknowledge, Timing};
use jwtmesh::raft::log::{LogStore, Options as LogOptions, Prepare, StoreId};
use jwtmesh::raft::peer::{Own, Peers, Uuid};
use jwtmesh::raft::stores::{Flusher, Space, Stores, Trimmer};
use jwtmesh::raft::{Core, Machine, Member, Raft, Settings};
use jwtmesh::resolver::Resolver;
use jwtmesh::state::{Options, State};
use jwtmesh::tasks::{FaultHandle, Scope, chain};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::disk::CrashDisk;
use crate::network::{Endpoint, Network, Way, name};
use crate::planted::{Defect, Doom, DoomedLog};
use crate::redb::CrashingDisk;
use crate::torn;

/// The room on a disk that is far from full, in MB.
pub(crate) const ROOMY: u64 = 900;

/// What is applied and not yet in the state's file takes this much memory at the most, in bytes.
pub(crate) const MEMTABLE: usize = 64 * 1024;

/// The two disks of a node. Their power fails together. Clones are the same disks.
#[derive(Clone)]
pub(crate) struct Disks {
    pub(crate) log: CrashDisk,
    pub(crate) state: CrashingDisk,
    /// Whether the log's writer gets nowhere.
    stalls: Arc<watch::Sender<bool>>,
}

impl Disks {
    pub(crate) fn new(seed: u64) -> Self {
        let new = Self {
            log: CrashDisk::new(seed),
            state: CrashingDisk::default(),
            stalls: Arc::default(),
        };
        new.leave(ROOMY);
        new
    }

    /// Leaves so much room: uploads stop below 125 MB, flushes below 31.
    pub(crate) fn leave(&self, free_mb: u64) {
        self.log.say_room(free_mb * 1_000_000, 1_000_000_000);
    }

    /// Whether the log's writer gets nowhere from now on: the disk hangs, or has no room for the next segment.
    pub(crate) fn stall(&self, stalls: bool) {
        self.stalls.send_replace(stalls);
    }

    /// Waits until the log's writer may go on.
    async fn answer(&self) {
        let mut stalls = self.stalls.subscribe();
        // Fails only once the sender is gone, and this holds it.
        let _ = stalls.wait_for(|stalls| !stalls).await;
    }

    /// What the next life finds.
    pub(crate) fn power_cut(&self, random: &mut SmallRng) -> Self {
        Self {
            log: self.log.power_cut(),
            state: self.state.power_cut(random),
            stalls: self.stalls.clone(),
        }
    }

    /// Puts out what [`Self::light`] lit, unless it has gone off already.
    pub(crate) fn put_out(&self) {
        self.log.survives();
        self.state.cut_after(u32::MAX);
    }

    /// Whether one of them has failed.
    pub(crate) fn have_failed(&self) -> bool {
        !self.log.survives() || self.state.is_off()
    }

    /// What a start with `defect` would take these disks for.
    fn spoil(&self, defect: Option<Defect>, doom: &Doom) {
        match defect {
            Some(Defect::DamageTakenForEnd) if doom.may_damage() => self.cut_short(&mut doom.random.lock().unwrap()),
            Some(Defect::TornTakenForWhole) => torn::make_whole(&self.log, STORE),
            _ => {}
        }
    }

    /// Loses the end of the log, as a start does that takes damage in its middle for a torn end.
    fn cut_short(&self, random: &mut SmallRng) {
        for name in self.log.names().into_iter().rev() {
            let mut bytes = self.log.bytes(&name);
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            if end > 1_024 {
                bytes[random.gen_range(end / 2..end)..].fill(0);
                return self.log.set_bytes(&name, bytes);
            }
        }
    }

    /// Lets the power fail at one of the next writes and syncs.
    pub(crate) fn light(&self, calls: u32, random: &mut SmallRng) {
        let calls = random.gen_range(1..=calls);
        if random.gen_bool(0.5) {
            self.log.die_at(calls.into());
        } else {
            self.state.cut_after(calls);
        }
    }
}

/// One life of a node.
pub(crate) struct Node {
    pub(crate) life: u64,
    pub(crate) core: Core,
    pub(crate) state: State,
    pub(crate) log: LogStore,
    pub(crate) resolver: Resolver,
    pub(crate) scope: Scope,
    pub(crate) raft: Raft,
    checkpoint: Arc<AtomicU64>,
    /// What the start applied again: it does not wait for the disk.
    pub(crate) resumed_bytes: usize,
}

/// Limits so small that a simulation reaches them.
fn small(defect: Option<Defect>) -> Options {
    Options {
        memtable_bytes: match defect {
            Some(Defect::MemoryUnbounded) => usize::MAX,
            _ => MEMTABLE,
        },
        row_cache_bytes: 64 * 1024,
        cache_bytes: 1024 * 1024,
        ..Options::new("simulated")
    }
}

pub(crate) fn member(node: u64) -> Member {
    Member {
        name: name(node),
        store: data_encoding::HEXLOWER.encode(&store(node)),
        ..Member::default()
    }
}

/// The mesh that all simulated nodes are of.
const MESH: Uuid = [7; 16];

/// The store that every log says it is of.
const STORE: StoreId = StoreId([3; 16]);

fn store(node: u64) -> Uuid {
    let mut store = [1; 16];
    store[0] = u8::try_from(node).expect("few nodes");
    store
}

/// The stores of a life, their writers running as tasks.
fn open(disks: &Disks, defect: Option<Defect>, scope: &Scope, sync_us: u64) -> Result<Stores, String> {
    let state = State::open_backend(disks.state.clone(), small(defect)).map_err(|e| chain(&e))?;
    let durable = match defect {
        Some(Defect::PurgeAheadOfCheckpoint) => u64::MAX,
        _ => state.checkpointed(),
    };
    let checkpoint = Arc::new(AtomicU64::new(durable));
    let log_options = LogOptions {
        segment_bytes: 16 * 1024,
        tail_bytes: 16 * 1024,
        prepare: Prepare::Inline,
        installed: match defect {
            Some(Defect::InstallWithoutMark) => None,
            Some(Defect::LeaderRestored) => Some(durable),
            _ => state.installed().map_err(|e| chain(&e))?,
        },
        ..LogOptions::new(STORE)
    };
    let reported = scope.fault().clone();
    let (log, mut writer) = LogStore::open(
        Arc::new(disks.log.clone()),
        &log_options,
        checkpoint.clone(),
        Arc::new(move |log_fault| reported.report(log_fault)),
    )
    .map_err(|e| e.to_string())?;
    let disk = disks.clone();
    scope.spawn("the log's writer", async move {
        while let Some(commands) = writer.wait().await {
            tokio::time::sleep(Duration::from_micros(sync_us)).await;
            disk.answer().await;
            if writer.step(commands).is_err() {
                break;
            }
        }
    });
    let space = Space::of(Arc::new(disks.log.clone()));
    let revision = watch::Sender::new(state.applied().map_or(0, |mark| mark.index));
    let flushing = watch::Sender::new(state.flushed());
    let flushed = flushing.subscribe();
    let flusher = Flusher::new(
        state.clone(),
        revision.subscribe(),
        flushing,
        checkpoint.clone(),
        space.clone(),
        scope.fault().clone(),
    );
    scope.spawn("the flusher", flusher.run());
    Ok(Stores {
        log,
        checkpoint,
        state,
        flushed,
        revision: Arc::new(revision),
        space,
    })
}

fn own(node: u64) -> Own {
    Own {
        name: name(node),
        cluster: "simulated".to_owned(),
        store: store(node),
        nodes: (1..=7).map(|node| (name(node), String::new())).collect(),
        timing: Timing::Lan,
    }
}

/// The second in which every simulation begins.
pub(crate) const BEGINNING: i64 = 1_700_000_000;

/// A clock that is `offset` seconds ahead.
fn clock(offset: i64) -> Clock {
    let start = Instant::now();
    Clock::from_source(move || {
        BEGINNING + offset + i64::try_from(start.elapsed().as_secs()).expect("a short simulation")
    })
}

/// What is drawn for each life of a node.
#[derive(Clone, Copy)]
pub(crate) struct Nature {
    /// How long its disk takes for a sync.
    pub(crate) sync_us: u64,
    /// How much its clock is ahead, in seconds.
    pub(crate) ahead: i64,
    pub(crate) acknowledge: Acknowledge,
}

impl Node {
    /// Starts a node on `disks`, as production does, but on one thread; an error if the power fails meanwhile.
    pub(crate) async fn boot(
        disks: &Disks,
        defect: Option<Defect>,
        doom: Doom,
        network: Network,
        nature: Nature,
    ) -> Result<Self, String> {
        let (node, life) = (doom.node, doom.life);
        disks.spoil(defect, &doom);
        let scope = Scope::new(FaultHandle::default());
        let stores = open(disks, defect, &scope, nature.sync_us)?;
        let (state, log) = (stores.state.clone(), stores.log.clone());
        let checkpoint = stores.checkpoint.clone();
        let machine = Machine::new(
            state.clone(),
            stores.flushed.clone(),
            stores.revision.clone(),
            checkpoint.clone(),
            scope.fault().clone(),
            log.committed(),
        );
        let settings = Settings {
            cluster: "simulated".to_owned(),
            member: member(node),
            timing: Timing::Lan,
            acknowledge: nature.acknowledge,
        };
        let mut config = settings.config().map_err(|e| e.to_string())?;
        // No node here forgets what it has acknowledged: the leader is to fail over one that does.
        config.allow_log_reversion = Some(false);
        if defect == Some(Defect::LeaderRestored) {
            config.enable_leader_restore = Some(true);
        }
        let way = Way {
            node,
            life,
            network: network.clone(),
        };
        let clock = clock(nature.ahead);
        let raft = Raft::open(settings, own(node), stores, way.clone(), clock.clone(), &scope);
        let raft = raft.map_err(|e| e.to_string())?;
        let doomed = DoomedLog {
            log: log.clone(),
            defect,
            doom: doom.clone(),
            scope: scope.clone(),
        };
        // Not begun by the handle, whose log has no doom.
        let peers = Peers::new(raft.handler().clone(), way);
        let core = Core::new(node, Arc::new(config), peers, doomed, machine)
            .await
            .map_err(|e| e.to_string())?;
        raft.attend(MESH, node, core.clone());
        let resolver = Resolver::new(raft.clone(), state.clone(), clock, scope.fault().clone());
        raft.handler().set_leading(Arc::new(resolver.clone()));
        let fault = scope.fault().clone();
        scope.spawn_for_client(async move {
            fault.reported().await;
            doom.strike();
        });
        let endpoint = Endpoint {
            life,
            handler: raft.handler().clone(),
            disks: disks.clone(),
        };
        network.connect(node, endpoint);
        Ok(Self {
            resumed_bytes: state.unflushed_bytes(),
            life,
            core,
            state,
            log,
            resolver,
            scope,
            raft,
            checkpoint,
        })
    }

    pub(crate) fn fault(&self) -> &FaultHandle {
        self.scope.fault()
    }

    /// Makes a checkpoint now, and purges the log behind it.
    pub(crate) fn purge(&self) {
        let trimmer = Trimmer {
            core: self.core.clone(),
            log: self.log.clone(),
            checkpoint: self.checkpoint.clone(),
        };
        match self.state.checkpoint() {
            Ok(index) => drop(self.checkpoint.fetch_max(index, Ordering::AcqRel)),
            Err(fault) => return self.fault().report(chain(&fault)),
        }
        let scope = self.scope.clone();
        self.scope
            .spawn_for_client(async move { scope.until_stop(trimmer.purge(2)).await });
    }

    /// Ends everything that still runs of this life, whose disks are gone.
    pub(crate) fn bury(self) {
        self.scope.stop();
        self.scope
            .clone()
            .spawn_for_client(async move { self.shutdown().await });
    }

    /// Ends it in peace.
    pub(crate) async fn shutdown(&self) {
        self.raft.shutdown().await;
    }
}
