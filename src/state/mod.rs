//! WHAT THE CLUSTER HAS AGREED. Deterministic: same commands, same bytes.
//!
//! [`State::apply`] decides and writes into the memtable, in memory alone; [`State::flush_step`] moves whole entries
//! into one redb file; [`State::checkpoint`] makes that durable, and only then may the log behind it go. Nothing here
//! runs by itself, looks at a clock or takes a token apart: the callers drive the steps, and the commands carry what
//! was verified. Which of memtable, cache and file a row lies in never shows.

mod accounts;
mod cache;
mod changes;
mod command;
mod fault;
mod flush;
mod memtable;
mod operators;
mod snapshot;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

pub use accounts::{AccountRow, Version};
pub use changes::Changes;
pub use command::{Command, Outcome, PutAccount, PutOperator, Revision, UnknownCommand};
pub use fault::Fault;
pub use operators::{OperatorRow, Trust};
pub use snapshot::SnapshotView;
pub use tables::Mark;

use cache::RowCache;
use memtable::{Change, Memtable};
use tables::{Lookups, Meta, Store};

/// The agreed state, as far as it is applied on this node. Clones are handles on the same one.
///
/// Invariants:
/// - what is applied moves as a whole entry: rows, trust, positions, membership and mark together (I4);
/// - an account's `iat` never goes backwards (I2);
/// - checkpoint <= flushed <= applied (I5), see `flush.rs`.
///
/// One entry is applied at a time, and one flush, checkpoint or installation runs at a time; lookups wait for neither.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    origin: Origin,
    cache: RowCache,
    live: RwLock<Live>,
    /// Held while an entry is decided. Taken before `flushing`.
    applying: Mutex<()>,
    /// Held while redb is written.
    flushing: Mutex<()>,
}

/// Where the file is, for an installation to build its own beside it.
enum Origin {
    File(PathBuf),
    Backend,
}

/// What changes. Locked for moments only, never across a read or write of redb.
struct Live {
    memtable: Memtable,
    store: Arc<Store>,
    /// redb as of the last flush: another one whenever rows go to redb or redb is replaced.
    lookups: Arc<Lookups>,
    flushed_meta: Meta,
    /// Flushed since the last checkpoint.
    flushed_bytes: u64,
    checkpointed: Option<u64>,
}

/// How a [`State`] is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The uuid of the store the file must belong to; a new file is given it.
    pub store: String,
    /// redb's page cache.
    pub cache_bytes: usize,
    /// Rows kept ready for lookups.
    pub row_cache_bytes: usize,
    /// What may be applied and not yet durable in redb.
    pub memtable_bytes: usize,
}

impl Options {
    /// The usual sizes: 146 MiB while serving, so that a node with a million accounts stays below 200 MB, and a
    /// memtable more at the worst moment of an upload. The operating system's page cache holds the rest of the file.
    pub fn new(store: impl Into<String>) -> Self {
        const MIB: usize = 1 << 20;
        Self {
            store: store.into(),
            // The index of a million accounts is 100 MB, its inner pages 1 MB: a larger cache only copies what the
            // operating system caches anyway.
            cache_bytes: 12 * MIB,
            // About 100,000 usual rows: a row that is not here costs a lookup 10 us more.
            row_cache_bytes: 134 * MIB,
            // About 35,000 uploads; at that, uploads wait for the disk.
            memtable_bytes: 64 * MIB,
        }
    }
}

/// What a log entry does to the state.
#[derive(Debug)]
pub enum Effect<'a> {
    /// Nothing but move the mark.
    Blank,
    /// New members, in a form that only the caller reads.
    Membership(Bytes),
    /// An encoded [`Command`].
    Command(&'a [u8]),
}

impl State {
    /// Opens the state file at `path`, or makes it. Refuses a file that is damaged, of another format or of another
    /// store. After a crash it holds what the last checkpoint made durable, or a later entry's end.
    pub fn open_file(path: &Path, options: Options) -> Result<Self, Fault> {
        let store = snapshot::open_or_make(path, &options)?;
        Self::open(store, Origin::File(path.to_owned()), options)
    }

    /// The same on something that behaves like a file.
    pub fn open_backend(backend: impl redb::StorageBackend, options: Options) -> Result<Self, Fault> {
        let store = Store::open_backend(backend, &options)?;
        Self::open(store, Origin::Backend, options)
    }

    fn open(store: Store, origin: Origin, options: Options) -> Result<Self, Fault> {
        let store = Arc::new(store);
        let held = SnapshotView::of(store.clone())?;
        let flushed_meta = held.meta().clone();
        let memtable = Memtable::new(flushed_meta.clone(), held.trust()?, held.positions()?);
        let checkpointed = flushed_meta.applied.as_ref().map(|mark| mark.index);
        drop(held);
        // What was found may have been written by a process that died before its sync: durable only from here on.
        store.checkpoint(checkpointed)?;
        let cache = RowCache::new(options.row_cache_bytes);
        let live = Live {
            memtable,
            lookups: Arc::new(Lookups::of(store.clone())?),
            store,
            flushed_meta,
            flushed_bytes: 0,
            checkpointed,
        };
        live.assert_order();
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                origin,
                cache,
                live: RwLock::new(live),
                applying: Mutex::new(()),
                flushing: Mutex::new(()),
            }),
        })
    }

    /// Applies the log entry at `mark`, which must be newer than what is applied, and gives the outcome of each item
    /// of its command. In memory: nothing is written, and a reader sees all of the entry or nothing.
    ///
    /// The caller looks at [`Self::is_full`] first. Whether entries come without a hole is for the log to say, which
    /// numbers them; here only the order can be held.
    pub fn apply(&self, mark: Mark, effect: Effect<'_>) -> Result<Vec<Outcome>, Fault> {
        let _applying = lock(&self.inner.applying);
        let (applied, trust) = {
            let memtable = &self.live().memtable;
            (memtable.applied.as_ref().map(|mark| mark.index), memtable.trust.clone())
        };
        if let Some(applied) = applied.filter(|applied| *applied >= mark.index) {
            return Err(Fault::Order {
                index: mark.index,
                applied,
            });
        }
        let index = mark.index;
        let mut change = Change::blank(mark);
        let outcomes = match effect {
            Effect::Blank => Vec::new(),
            Effect::Membership(membership) => {
                change.membership = Some(membership);
                Vec::new()
            }
            Effect::Command(encoded) => {
                let command = Command::decode(encoded).map_err(|cause| Fault::Entry { index, cause })?;
                self.decide(&mut change, &trust, command)?
            }
        };
        let mut live = self.live_mut();
        live.memtable.push(change);
        live.assert_order();
        Ok(outcomes)
    }

    fn decide(&self, change: &mut Change, trust: &Trust, command: Command) -> Result<Vec<Outcome>, Fault> {
        match command {
            Command::PutAccounts { trust_epoch, items } => {
                let mut outcomes = Vec::with_capacity(items.len());
                for item in items {
                    // A later item of the same entry sees the earlier ones.
                    let present = match change.rows.iter().rev().find(|row| row.account == item.account) {
                        Some(row) => Some(row.clone()),
                        None => self.account(item.account)?,
                    };
                    outcomes.push(accounts::put(change, trust, trust_epoch, present, item));
                }
                Ok(outcomes)
            }
            Command::PutOperators { items } => Ok(operators::put(change, trust, items)),
            Command::MarkPropagated { nats_cluster, position } => {
                let present = self.position(&nats_cluster);
                changes::mark_propagated(change, present, nats_cluster, position);
                Ok(vec![Outcome::Marked])
            }
        }
    }

    /// The last applied entry.
    pub fn applied(&self) -> Option<Mark> {
        self.live().memtable.applied.clone()
    }

    /// The members as of what is applied, as they were handed in.
    pub fn membership(&self) -> Option<Bytes> {
        self.live().memtable.membership.clone()
    }

    /// Whom the mesh trusts as of what is applied.
    pub fn trust(&self) -> Arc<Trust> {
        self.live().memtable.trust.clone()
    }

    /// Whether as much is applied beyond the last checkpoint as the memtable may hold. The caller then flushes and
    /// checkpoints before it applies more: a slow disk slows uploads and never eats memory.
    pub fn is_full(&self) -> bool {
        self.beyond_checkpoint() >= self.inner.options.memtable_bytes as u64
    }

    /// Whether nothing new should be proposed for now: three quarters of that. A start after a crash applies anew what
    /// lies beyond the checkpoint, and must not find the memtable full, or lookups would wait for the flush.
    pub fn is_crowded(&self) -> bool {
        self.beyond_checkpoint() >= self.inner.options.memtable_bytes as u64 / 4 * 3
    }

    fn beyond_checkpoint(&self) -> u64 {
        let live = self.live();
        live.memtable.bytes() as u64 + live.flushed_bytes
    }

    /// About how much memory the entries take that are applied and not yet flushed.
    pub fn unflushed_bytes(&self) -> usize {
        self.live().memtable.bytes()
    }

    fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.inner.live.read().expect(UNPOISONED)
    }

    fn live_mut(&self) -> RwLockWriteGuard<'_, Live> {
        self.inner.live.write().expect(UNPOISONED)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let live = self.live();
        write!(
            f,
            "State({}, applied {:?})",
            live.store.file,
            live.memtable.applied.as_ref().map(|mark| mark.index)
        )
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().expect(UNPOISONED)
}

const UNPOISONED: &str = "a thread that panics while it holds the state's lock takes the process with it";
