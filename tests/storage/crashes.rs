//! Lives that end in a power cut, a kill or a failing disk, at any call, one after another on the same files.

use futures::future::{BoxFuture, FutureExt, join_all};
use jwtmesh::raft::log::{LogFault, Options};
use jwtmesh::raft::{LogId, Vote};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::disk::CrashDisk;
use crate::driven::{Contents, Log, blank, id, membership, normal, options};

/// Small, so that a life of a few calls begins and removes segments.
const SEGMENT_BYTES: u64 = 8 * 1024;

/// What the log must hold: the contents after each call, of which those up to `acknowledged` are certain.
struct Expected {
    after: Vec<Contents>,
    acknowledged: usize,
    /// The last id that openraft saved as committed, and after a restart at most the last one in the log: what is on
    /// disk is never beyond it.
    committed: Option<LogId>,
    term: u64,
}

impl Expected {
    fn newest(&self) -> &Contents {
        &self.after[self.after.len() - 1]
    }

    fn push(&mut self, contents: Contents) -> usize {
        self.after.push(contents);
        self.after.len() - 1
    }

    /// Checks that a restart may have found what it found, and continues from there.
    fn restart(&mut self, log: &mut Log, seed: u64) {
        let found = log.contents();
        let possible = self.after[self.acknowledged..].contains(&found);
        assert!(
            possible,
            "seed {seed}: found {found:?}\n\nacknowledged {:?}\n\nnewest {:?}",
            self.after[self.acknowledged],
            self.newest()
        );
        let committed = log.read_committed();
        assert!(
            committed <= self.committed,
            "seed {seed}: {committed:?} was never committed"
        );
        assert!(
            committed <= found.last(),
            "seed {seed}: committed {committed:?}, but the log ends before it"
        );
        self.committed = self.committed.min(found.last());
        self.after = vec![found];
        self.acknowledged = 0;
    }
}

type Call = BoxFuture<'static, (usize, bool)>;

/// Queues some calls at once, as they gather while a sync runs. Returns whether all succeeded.
fn some_calls(log: &mut Log, expected: &mut Expected, rng: &mut SmallRng) -> bool {
    let mut calls: Vec<Call> = Vec::new();
    while calls.len() < 3 {
        let mut store = log.store.clone();
        let mut now = expected.newest().clone();
        let floor = now.first().max(expected.committed.map_or(0, |id| id.index + 1));
        match rng.gen_range(0..12) {
            0..=5 => {
                let entries: Vec<_> = (now.next()..)
                    .take(rng.gen_range(1..=3))
                    .map(|index| match rng.gen_range(0..8) {
                        0 => blank(expected.term, index),
                        1 => membership(expected.term, index),
                        2 => normal(expected.term, index, rng.gen_range(0..6000)),
                        _ => normal(expected.term, index, rng.gen_range(0..900)),
                    })
                    .collect();
                now.entries
                    .extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
                let at = expected.push(now);
                calls.push(async move { (at, store.blocking_append(entries).await.is_ok()) }.boxed());
            }
            6 | 7 => {
                expected.term += 1;
                let vote = Vote::new(expected.term, 1);
                now.vote = Some(vote);
                let at = expected.push(now);
                calls.push(async move { (at, store.save_vote(&vote).await.is_ok()) }.boxed());
            }
            8 if now.next() > floor => {
                let from = rng.gen_range(floor..now.next());
                now.entries.split_off(&from);
                let last = now
                    .entries
                    .last_key_value()
                    .map(|(_, entry)| entry.log_id)
                    .or(now.purged);
                expected.push(now);
                calls.push(async move { (0, store.truncate_after(last).await.is_ok()) }.boxed());
            }
            9 => {
                let snapshot = rng.gen_range(0..10) == 0;
                let upto = match expected.committed {
                    // A leader's snapshot may be ahead of everything here.
                    _ if snapshot => id(expected.term, now.next() + rng.gen_range(0..5)),
                    Some(committed) if committed.index >= now.first() => {
                        let index = rng.gen_range(now.first()..=committed.index);
                        now.entries.get(&index).map_or(committed, |entry| entry.log_id)
                    }
                    _ => continue,
                };
                now.entries = now.entries.split_off(&(upto.index + 1));
                now.purged = Some(upto);
                expected.committed = expected.committed.max(Some(upto));
                expected.push(now);
                calls.push(async move { (0, store.purge(upto).await.is_ok()) }.boxed());
            }
            _ => {
                let ahead = rng.gen_range(0..4);
                let Some(committed) = now.entries.range(floor..).nth(ahead).map(|(_, entry)| entry.log_id) else {
                    continue;
                };
                expected.committed = Some(committed);
                calls.push(async move { (0, store.save_committed(Some(committed)).await.is_ok()) }.boxed());
            }
        }
    }
    let done = log.run(async { join_all(calls).await });
    log.settle();
    // One stream: an acknowledged call proves that everything before it is durable.
    let acknowledged = done.iter().filter(|(_, ok)| *ok).map(|(at, _)| *at).max().unwrap_or(0);
    expected.acknowledged = expected.acknowledged.max(acknowledged);
    done.iter().all(|(_, ok)| *ok) && log.faults.lock().unwrap().is_empty()
}

/// Opens the log; the disk may die while it does, again and again.
fn open(mut disk: CrashDisk, rng: &mut SmallRng, seed: u64, cuts: &mut u64) -> (CrashDisk, Log) {
    loop {
        if rng.gen_range(0..3) == 0 {
            disk.die_at(rng.gen_range(1..40));
        }
        // Entries in memory and entries on disk must form one log, wherever the boundary between them is.
        let tail_bytes = [0, 2_000, 20_000][rng.gen_range(0..3)];
        // One command a group, or all that are queued.
        let group_bytes = [1, 8 << 20][rng.gen_range(0..2)];
        let options = Options {
            tail_bytes,
            group_bytes,
            ..options(SEGMENT_BYTES)
        };
        match Log::open_with(&disk, &options) {
            Ok(log) if disk.survives() => return (disk, log),
            Ok(_) | Err(LogFault::Io { .. }) => disk = next_life(&disk, rng, cuts),
            Err(fault) => panic!("seed {seed}: {fault}"),
        }
    }
}

fn next_life(disk: &CrashDisk, rng: &mut SmallRng, power_cuts: &mut u64) -> CrashDisk {
    if rng.gen_range(0..4) == 0 {
        return disk.killed();
    }
    *power_cuts += 1;
    disk.power_cut()
}

/// One seed: many lives on the same files.
fn lives(seed: u64) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut disk = CrashDisk::new(seed);
    let mut expected = Expected {
        after: vec![Contents::default()],
        acknowledged: 0,
        committed: None,
        term: 1,
    };
    let mut cuts = 0;
    for _ in 0..12 {
        let mut log;
        (disk, log) = open(disk, &mut rng, seed, &mut cuts);
        expected.restart(&mut log, seed);
        let readable = rng.gen_range(0..3) == 0;
        match rng.gen_range(0..3) {
            0 if readable => {}
            _ if readable => disk.fail_sync_at(rng.gen_range(1..20)),
            _ => disk.die_at(rng.gen_range(1..60)),
        }
        for _ in 0..rng.gen_range(1..30) {
            if !some_calls(&mut log, &mut expected, &mut rng) {
                break;
            }
            if readable {
                assert_eq!(&log.contents(), expected.newest(), "seed {seed}");
            }
        }
        drop(log);
        disk = next_life(&disk, &mut rng, &mut cuts);
    }
    cuts
}

#[test]
fn g1_nothing_acknowledged_is_missing_after_any_crash() {
    let mut cuts = 0;
    let mut seed = 0;
    while cuts < 20_000 {
        cuts += lives(seed);
        seed += 1;
    }
}
