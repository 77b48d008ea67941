//! The agreed state on a disk that loses power or is slow.

use std::io::Error;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ::redb::backends::InMemoryBackend;
use jwtmesh::state::{Command, Fault, Options, State};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::model::{Model, Outcome, apply, flush, item, options, put, random_command, token_of, trust_operator};
use crate::redb::CrashingDisk;

/// One life of a state between two power cuts. The log outlives it, as Raft's does.
struct Life<'a> {
    state: State,
    log: &'a mut Vec<Command>,
    checkpointed: u64,
}

impl Life<'_> {
    /// Recovers, compares with the model at the index found, replays the rest of the log.
    fn begin<'a>(disk: &CrashingDisk, log: &'a mut Vec<Command>, checkpointed: u64) -> Result<Life<'a>, Fault> {
        let state = State::open_backend(disk.clone(), options())?;
        let recovered = state.applied().map_or(0, |mark| mark.index);
        assert!(
            recovered >= checkpointed,
            "recovered {recovered}, but {checkpointed} was durable"
        );
        let mut model = Model::after(&log[..usize::try_from(recovered).unwrap()]);
        model.expect(&state);
        model.expect_flushed(&state);
        for at in recovered + 1..=log.len() as u64 {
            let command = &log[usize::try_from(at).unwrap() - 1];
            assert_eq!(
                apply(&state, at, command),
                model.apply(at, command),
                "replayed entry {at}"
            );
        }
        let checkpointed = state.checkpointed().max(checkpointed);
        Ok(Life {
            state,
            log,
            checkpointed,
        })
    }

    fn live(&mut self, random: &mut SmallRng) -> Result<(), Fault> {
        let mut model = Model::after(self.log);
        for _ in 0..random.gen_range(1..25) {
            match random.gen_range(0..10) {
                0 => self.checkpointed = self.state.checkpoint()?,
                1..=3 => drop(self.state.flush_step(random.gen_range(1..12))?),
                _ => {
                    let command = random_command(random, &model);
                    self.log.push(command.clone());
                    let index = self.log.len() as u64;
                    let outcomes = apply(&self.state, index, &command);
                    assert_eq!(outcomes, model.apply(index, &command), "entry {index}");
                }
            }
        }
        model.expect(&self.state);
        Ok(())
    }
}

#[test]
fn g1_a_power_cut_leaves_the_state_at_the_end_of_an_entry_and_never_before_the_last_checkpoint() {
    let seeds = std::env::var("POWER_CUT_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        let random = &mut SmallRng::seed_from_u64(seed);
        let (mut disk, mut log, mut checkpointed, mut named) = (CrashingDisk::default(), Vec::new(), 0, false);
        for _ in 0..LIVES {
            if random.gen_bool(0.5) {
                disk.cut_after(random.gen_range(0..120));
            }
            // A life may end anywhere: while opening, within a flush or a checkpoint, or between two steps.
            match Life::begin(&disk, &mut log, checkpointed) {
                Ok(mut life) => {
                    named = true;
                    if let Err(fault) = life.live(random) {
                        assert!(disk.is_off(), "stopped: {fault:?}");
                    }
                    checkpointed = life.checkpointed;
                    disk = disk.power_cut(random);
                    drop(life);
                }
                Err(fault) => {
                    assert!(disk.is_off(), "refused to open: {fault:?}");
                    // A file gets its name only once its beginning is durable (see `State::open_file`).
                    disk = if named {
                        disk.power_cut(random)
                    } else {
                        CrashingDisk::default()
                    };
                }
            }
        }
        drop(Life::begin(&disk, &mut log, checkpointed).expect("opens after the last cut"));
    }
}

/// Twenty thousand power cuts in half a minute (`POWER_CUT_SEEDS` asks for more); each seed's log grows to some 300
/// entries.
const SEEDS: u64 = 500;
const LIVES: u32 = 40;

/// A disk that makes one thread wait, at a moment that the test chooses.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<(Mutex<Held>, Condvar)>);

#[derive(Debug, Default)]
struct Held {
    closed: bool,
    waiting: bool,
    gave_up: bool,
}

impl Gate {
    /// From here on the thread named "held" waits where it next reads or syncs.
    fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    fn open(&self) {
        let mut held = self.0.0.lock().unwrap();
        held.closed = false;
        self.0.1.notify_all();
        assert!(!held.gave_up, "what should go on meanwhile waited for the disk");
    }

    fn wait_until_held(&self) {
        let held = self.0.0.lock().unwrap();
        let (held, _) = self
            .0
            .1
            .wait_timeout_while(held, DEADLINE, |held| !held.waiting)
            .unwrap();
        assert!(held.waiting, "the held thread did not come to the disk");
    }

    fn pass(&self) {
        let mut held = self.0.0.lock().unwrap();
        if held.closed && std::thread::current().name() == Some("held") {
            held.waiting = true;
            self.0.1.notify_all();
            // This times out only if the test waits for this thread: the test shows that it does not.
            let (mut held, timed_out) = self.0.1.wait_timeout_while(held, DEADLINE, |held| held.closed).unwrap();
            held.waiting = false;
            if timed_out.timed_out() {
                held.gave_up = true;
                held.closed = false;
            }
        }
    }

    /// Runs `held` on the thread that waits at the disk, and `meanwhile` while it waits there.
    fn while_held<T: Send>(&self, held: impl FnOnce() -> T + Send, meanwhile: impl FnOnce()) -> T {
        std::thread::scope(|threads| {
            self.close();
            let held = std::thread::Builder::new()
                .name("held".to_owned())
                .spawn_scoped(threads, held)
                .unwrap();
            self.wait_until_held();
            meanwhile();
            self.open();
            held.join().unwrap()
        })
    }
}

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct GatedDisk(InMemoryBackend, Gate);

impl ::redb::StorageBackend for GatedDisk {
    fn len(&self) -> Result<u64, Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.1.pass();
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.1.pass();
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.0.write(offset, data)
    }
}

/// A state with two accounts, and so many others in redb that each table has more pages than its root, which stays in
/// memory. It has no page cache, so that every lookup reads the disk. The gate is open.
fn gated() -> (State, Gate) {
    let gate = Gate::default();
    let options = Options {
        cache_bytes: 0,
        ..options()
    };
    let state = State::open_backend(GatedDisk(InMemoryBackend::new(), gate.clone()), options).unwrap();
    apply(&state, 1, &trust_operator(1));
    let others = (20..=255).map(|n| item(n, 1, &"other ".repeat(80)));
    let items = [item(1, 1, "flushed"), item(2, 1, "also")].into_iter().chain(others);
    apply(&state, 2, &put(1, items.collect()));
    flush(&state);
    (state, gate)
}

#[test]
fn lookups_and_apply_go_on_while_a_checkpoint_waits_for_the_disk() {
    let (state, gate) = gated();
    let meanwhile = || {
        assert_eq!(token_of(&state, 1).as_deref(), Some("flushed"), "from redb");
        assert_eq!(token_of(&state, 9), None);
        apply(&state, 3, &put(1, vec![item(1, 2, "applied"), item(2, 0, "older")]));
        assert_eq!(token_of(&state, 1).as_deref(), Some("applied"));
        assert_eq!(state.checkpointed(), 0, "not before the sync");
    };
    assert_eq!(gate.while_held(|| state.checkpoint().unwrap(), meanwhile), 2);
    assert_eq!(state.checkpointed(), 2);
}

#[test]
fn a_row_stays_in_the_memtable_until_its_flush_has_committed() {
    let (state, gate) = gated();
    apply(&state, 3, &put(1, vec![item(1, 2, "newer"), item(3, 1, "third")]));
    let meanwhile = || {
        assert_eq!(token_of(&state, 1).as_deref(), Some("newer"));
        assert_eq!(token_of(&state, 3).as_deref(), Some("third"));
        assert_eq!(state.flushed(), 2, "not before the commit");
        apply(&state, 4, &put(1, vec![item(1, 3, "newest")]));
    };
    assert!(
        gate.while_held(|| state.flush_step(1).unwrap(), meanwhile),
        "entry 4 came too late for this step"
    );
    assert_eq!(state.flushed(), 3);
    assert_eq!(
        token_of(&state, 1).as_deref(),
        Some("newest"),
        "the older flush did not remove the newer row"
    );
    assert_eq!(token_of(&state, 3).as_deref(), Some("third"));
}

#[test]
fn g2_a_slow_reader_does_not_cache_what_was_replaced_while_it_read() {
    let (state, gate) = gated();
    let meanwhile = || {
        apply(&state, 3, &put(1, vec![item(1, 2, "newer")]));
        flush(&state);
    };
    let found = gate.while_held(|| token_of(&state, 1), meanwhile);
    assert!(found.is_some(), "either is right for a lookup that began before");
    assert_eq!(token_of(&state, 1).as_deref(), Some("newer"));
    let older = apply(&state, 4, &put(1, vec![item(1, 1, "between")]));
    assert_eq!(
        older,
        [Outcome::Superseded {
            stored_issued_at: 2,
            revision: 3
        }]
    );
}
