//! WHAT THE MESH HAS AGREED. Deterministic: the same commands give the same bytes.
//!
//! # What it promises
//!
//! - The same log gives the same rows on every node, byte by byte (I3); [`State::digest`] compares them.
//! - An older token never replaces a newer one (G2): decided in `apply/accounts.rs`, with
//!   `AccountRow::supersedes` in `rows.rs`. Callers may look earlier to answer sooner; only this decision counts.
//! - An entry is applied whole or not at all, in memory and in redb (I4). After a crash the file holds the state at the
//!   end of some entry, at or after the last checkpoint.
//! - A lookup waits for no entry, flush or checkpoint. In which of memtable, cache and file a row lies never shows.
//!
//! # How an entry passes
//!
//! [`State::apply`] decides what the command does and puts the result into the memtable, in memory alone: from then on
//! readers see it. Later [`State::flush_step`] moves whole entries into one redb file, and [`State::checkpoint`] makes
//! that durable. Only then may the log drop them. A full memtable ([`State::is_full`]) makes the caller wait before it
//! applies more.
//!
//! # How a lookup passes
//!
//! It asks the memtable, then the cache ([`State::account_at_hand`]), then redb as of the last flush
//! ([`State::account_in_file`]). All reads are methods of [`State`] in this file.
//!
//! # What it never does
//!
//! It runs nothing by itself: no task and no thread, the callers drive each step. It looks at no clock, draws no random
//! number and reads no configuration. It never verifies or interprets a token: the commands carry what was verified. It
//! never answers from a row that is not as it was stored: that is a [`Fault`], of that read alone.
//!
//! # The parts
//!
//! | part | what |
//! |---|---|
//! | [`command`](Command) | what can happen: each command, its outcome, its bytes in the log |
//! | `rows`, `roster` | what is agreed, as plain data |
//! | `apply/` | what each command does: pure functions |
//! | `recent/` | what is applied and not yet in redb, and the steps that move it there |
//! | `file/` | the redb file: tables, encodings, one moment of it, replacing it whole |

mod apply;
mod command;
mod fault;
mod file;
mod options;
mod recent;
mod revision;
mod roster;
mod rows;

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

pub use command::{
    AccountOutcome, Barred, ClosingOutcome, Command, DeleteAccounts, DeleteOutcome, ForgetServer, KillAccount,
    MAX_DELETED, MarkPropagated, OperatorOutcome, Outcomes, OverrideAccount, Proposal, PutAccount, PutAccountIf,
    PutAccounts, PutClosing, PutOperator, PutOperators, RemoveClosing, ReplaceOperator, Revision, TakeLease,
    UnknownCommand, UpdateRoster, UpdateRosterIf,
};
pub use fault::Fault;
pub use file::{Export, Import, ImportError, Listed, ListedClosing, MAX_PIECE_BYTES, SnapshotView};
pub use options::Options;
pub use roster::{MAX_SERVERS, MAX_SERVERS_OF_A_COMMAND, Rosters, Server};
pub use rows::{AccountRow, Changes, Closing, Lease, Mark, OperatorRow, ReplacedOperator, RowKind, Trust, Version};

use apply::{Before, Present};
use file::Store;
use recent::{Change, Flush, Live, RowCache};
use rows::{forgotten_name, lease_names, roster_name};

use crate::jwt::AccountKey;

/// The agreed state, as far as it is applied on this node. Clones are handles on the same one.
///
/// Invariants:
/// - what is applied moves as a whole entry: rows, trust, positions, membership and mark together (I4);
/// - an account's `iat` never goes backwards (I2);
/// - checkpoint <= flushed <= applied (I5), see `recent/live.rs`.
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

/// Where redb's file is. An installation builds its own file beside that one.
enum Origin {
    File(PathBuf),
    Backend,
}

/// What a log entry does to the state.
#[derive(Debug)]
pub enum Effect<'a> {
    /// It only moves the mark.
    Blank,
    /// A new membership, in an encoding that only the caller reads.
    Membership(Bytes),
    /// An encoded [`Command`].
    Command(&'a [u8]),
}

/// Opening, and what changes the state.
impl State {
    /// Opens the state file at `path`, or makes it. Refuses a file that is damaged, of another format or of another
    /// store. After a crash it holds what the last checkpoint made durable, or a later entry's end.
    pub fn open_file(path: &Path, options: Options) -> Result<Self, Fault> {
        let store = file::open_or_make(path, &options).map_err(Fault::fatal)?;
        Self::open(store, Origin::File(path.to_owned()), options)
    }

    /// Opens or makes a state on `backend`, as [`Self::open_file`] does on a file.
    pub fn open_backend(backend: impl redb::StorageBackend, options: Options) -> Result<Self, Fault> {
        let store = Store::open_backend(backend, &options).map_err(Fault::fatal)?;
        Self::open(store, Origin::Backend, options)
    }

    fn open(store: Store, origin: Origin, options: Options) -> Result<Self, Fault> {
        let store = Arc::new(store);
        let live = store.reading(|| Live::on(store.clone())).map_err(Fault::fatal)?;
        // What was found may have been written by a process that died before its sync: this makes it durable. It is no
        // checkpoint, because that takes room, and a node must start on a full disk.
        store.sync()?;
        let cache = RowCache::new(options.row_cache_bytes);
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

    /// Applies the log entry at `mark`, which must be newer than what is applied, and returns the outcome of each item
    /// of its command. In memory: nothing is written, and a reader sees all of the entry or nothing.
    ///
    /// The caller checks [`Self::is_full`] first. Only the order is checked here: that no entry is missing is for the
    /// log to ensure, which numbers them.
    pub fn apply(&self, mark: Mark, effect: Effect<'_>) -> Result<Outcomes, Fault> {
        let _applying = lock(&self.inner.applying);
        let index = mark.index;
        if let Some(applied) = self.live().applied().filter(|applied| *applied >= index) {
            return Err(Fault::Order { index, applied });
        }
        let mut change = Change::blank(mark);
        let outcomes = match effect {
            Effect::Blank => Outcomes::None,
            Effect::Membership(membership) => {
                change.membership = Some(membership);
                Outcomes::None
            }
            Effect::Command(encoded) => {
                let command = Command::decode(encoded).map_err(|cause| Fault::Entry { index, cause })?;
                apply::decide(&mut change, self, command).map_err(Fault::fatal)?
            }
        };
        let mut live = self.live_mut();
        live.memtable.push(change);
        live.assert_order();
        Ok(outcomes)
    }

    /// Moves the oldest entries, whole and in order, about `rows` rows, into redb; returns whether more are waiting.
    /// Not durable until the next [`Self::checkpoint`]: a crash before it leaves an older prefix of the log, never half
    /// an entry. Readers and `apply` go on meanwhile.
    pub fn flush_step(&self, rows: usize) -> Result<bool, Fault> {
        let _flushing = lock(&self.inner.flushing);
        let Some(flush) = Flush::next(&self.live(), rows) else {
            return Ok(false);
        };
        let lookups = flush.write()?;
        // Declared before the lock, so that the entries are freed after it is released.
        let _flushed;
        let mut live = self.live_mut();
        _flushed = flush.finish(lookups, &mut live, &self.inner.cache);
        Ok(!live.memtable.is_empty())
    }

    /// Makes durable what is flushed; returns the index up to which the log may be purged. Readers and `apply` go on
    /// meanwhile.
    pub fn checkpoint(&self) -> Result<u64, Fault> {
        let _flushing = lock(&self.inner.flushing);
        let (store, index, bytes) = {
            let live = self.live();
            (live.store.clone(), live.flushed(), live.flushed_bytes)
        };
        store.checkpoint(index)?;
        let mut live = self.live_mut();
        live.checkpointed = index;
        live.flushed_bytes -= bytes;
        live.assert_order();
        Ok(index.unwrap_or(0))
    }

    /// Replaces the whole state with what `view` shows, durably. A crash at any moment leaves either the old state or
    /// the new one, whole. Lookups are answered meanwhile, from the old state; `apply` waits.
    pub fn install(&self, view: SnapshotView) -> Result<(), Fault> {
        let _applying = lock(&self.inner.applying);
        let _flushing = lock(&self.inner.flushing);
        let (store, applied) = {
            let live = self.live();
            (live.store.clone(), live.applied())
        };
        let index = view.mark().map(|mark| mark.index);
        if index < applied {
            return Err(Fault::Order {
                index: index.unwrap_or(0),
                applied: applied.unwrap_or(0),
            });
        }
        let store = match &self.inner.origin {
            Origin::File(path) if file::is_received(path, &view) => {
                let received = view.store_handle();
                file::put_received(path, &received)?;
                received
            }
            Origin::File(path) => Arc::new(file::build_beside(path, &self.inner.options, &view)?),
            Origin::Backend => {
                file::replace(&store, &view)?;
                store
            }
        };
        let installed = Live::on(store)?;
        let mut live = self.live_mut();
        *live = installed;
        // Under the lock: no reader may find a row of the old state in the cache of the new one.
        self.inner.cache.clear();
        Ok(())
    }

    /// Begins to receive a snapshot, which [`Self::install`] can then put in its place.
    pub fn begin_import(&self) -> Result<Import, Fault> {
        match &self.inner.origin {
            Origin::File(path) => Import::beside(path, &self.inner.options),
            Origin::Backend => Import::in_memory(&self.inner.options),
        }
    }

    /// About how many bytes of memory the entries take that are applied and not yet flushed.
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

/// Every read.
impl State {
    /// The agreed row of `account`, a tombstone too, as of what is applied here, if no file need be read for it. `None` does not mean
    /// that there is no such account: then ask [`Self::account_in_file`], on a thread that may block where the disk may
    /// hang.
    pub fn account_at_hand(&self, account: AccountKey) -> Option<Arc<AccountRow>> {
        let cached = {
            let live = self.live();
            if let Some(unflushed) = live.memtable.account(account) {
                return Some(unflushed.clone());
            }
            // Under the same lock, so that a flush cannot move the account out of the memtable in between.
            self.inner.cache.get(account)
        };
        cached?.row()
    }

    /// The agreed row of `account` as of what is applied here. Waits for no entry or flush, but it may read the disk.
    pub fn account(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault> {
        match self.account_at_hand(account) {
            Some(row) => Ok(Some(row)),
            None => self.account_in_file(account),
        }
    }

    /// The row of `account` in redb, for callers that have tried [`Self::account_at_hand`]: a row that was applied
    /// since the last flush may be missing.
    pub fn account_in_file(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault> {
        let lookups = self.live().lookups.clone();
        let Some((row, encoded)) = lookups.row(account)? else {
            return Ok(None);
        };
        let row = Arc::new(row);
        // A flush since the read may have replaced the row, so it is cached only if redb has not moved. The lock is
        // held across the insertion, so that a flush that ends after it finds and removes the cached row.
        let live = self.live();
        if Arc::ptr_eq(&live.lookups, &lookups) {
            self.inner.cache.insert(&row, encoded);
        }
        drop(live);
        Ok(Some(row))
    }

    /// Whether a token of `account`, whose row cannot be read, may be submitted in its place: by what remains of the
    /// row it is the one that was stored, or newer. `false` if nothing remains, since then any older token would do.
    pub fn may_replace_damaged(&self, account: AccountKey, issued_at: i64, token: &[u8]) -> bool {
        let remains = self.remains(account);
        remains.is_some_and(|remains| remains.is_of(token) || !remains.supersedes(issued_at, token))
    }

    fn remains(&self, account: AccountKey) -> Option<AccountRow> {
        let lookups = self.live().lookups.clone();
        lookups.remains(account)
    }

    /// Up to `limit` accounts in the order of their keys, beginning behind `after`; one whose row cannot be read is
    /// listed with the reason. Reads what the flush has reached.
    pub fn accounts(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<Listed>, Fault> {
        self.snapshot()?.accounts(after, limit)
    }

    /// The keys of up to `limit` accounts, in their order, and how many accounts there are. Reads what the flush has
    /// reached, and no row.
    pub fn account_keys(&self, limit: usize) -> Result<(Vec<AccountKey>, u64), Fault> {
        let view = self.snapshot()?;
        Ok((view.keys(limit)?, view.len()))
    }

    /// The versions of `account` that are kept, newest first; empty if there is no such account. Reads what the
    /// flush has reached.
    pub fn history(&self, account: AccountKey) -> Result<Vec<Version>, Fault> {
        self.snapshot()?.history(account)
    }

    /// The closing token that is kept for `account`. May read the disk.
    pub fn closing(&self, account: AccountKey) -> Result<Option<Arc<Closing>>, Fault> {
        let store = {
            let live = self.live();
            if let Some(unflushed) = live.memtable.closing(account) {
                return Ok(unflushed);
            }
            live.store.clone()
        };
        Ok(SnapshotView::of(store)?.closing(account)?.map(Arc::new))
    }

    /// Up to `limit` closing tokens in the order of their accounts, beginning behind `after`; one that cannot be read is listed
    /// with the reason. Reads what the flush has reached.
    pub fn closings(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<ListedClosing>, Fault> {
        self.snapshot()?.closings(after, limit)
    }

    /// The last applied entry.
    pub fn applied(&self) -> Option<Mark> {
        self.live().memtable.applied.clone()
    }

    /// The members as of what is applied, as they were handed in.
    pub fn membership(&self) -> Option<Bytes> {
        self.live().memtable.membership.clone()
    }

    /// The trusted operators as of what is applied.
    pub fn trust(&self) -> Arc<Trust> {
        self.live().memtable.trust.clone()
    }

    /// Whether as much is applied beyond the last checkpoint as the memtable may hold. The caller then flushes and
    /// checkpoints before it applies more: a slow disk slows uploads and never grows memory.
    pub fn is_full(&self) -> bool {
        self.live().beyond_checkpoint() >= self.inner.options.memtable_bytes as u64
    }

    /// Whether nothing new should be proposed for now: three quarters of what [`Self::is_full`] allows. A start after a
    /// crash applies again what lies beyond the checkpoint, and must not find the memtable full, or lookups would wait
    /// for the flush.
    pub fn is_crowded(&self) -> bool {
        self.live().beyond_checkpoint() >= self.inner.options.memtable_bytes as u64 / 4 * 3
    }

    /// The outcomes of proposing `operators`, if none of them would be stored; `None` if one would.
    pub fn outcomes_without_change(&self, operators: PutOperators) -> Option<Vec<OperatorOutcome>> {
        apply::outcomes_without_change(&self.trust(), operators)
    }

    /// What applying `command` here would give, if it were the next one.
    pub fn judge_delete(&self, command: &DeleteAccounts) -> Result<DeleteOutcome, Fault> {
        apply::judge_delete(self, command)
    }

    /// The agreed position of the NATS cluster: every change up to this revision is finished there
    /// ([`MarkPropagated::position`]); 0 if none is agreed.
    pub fn position(&self, nats_cluster: &str) -> Revision {
        self.live().memtable.positions.get(nats_cluster).copied().unwrap_or(0)
    }

    /// Who may publish to a NATS cluster; `None` if no node ever could.
    pub fn lease(&self, nats_cluster: &str) -> Option<Lease> {
        let live = self.live();
        let [holder, granted, term] = lease_names(nats_cluster).map(|name| live.memtable.positions.get(&name).copied());
        Some(Lease {
            holder: holder?,
            granted: granted?,
            term: term.unwrap_or(0),
        })
    }

    /// The servers of a NATS cluster, in the order of their ids.
    pub fn servers(&self, nats_cluster: &str) -> Vec<Server> {
        let live = self.live();
        let servers = live.memtable.rosters.get(nats_cluster);
        servers.map_or_else(Vec::new, |servers| servers.values().cloned().collect())
    }

    /// The revision at which servers of a NATS cluster were last updated, by an [`UpdateRosterIf`]; 0 if never.
    pub fn roster_revision(&self, nats_cluster: &str) -> Revision {
        self.position(&roster_name(nats_cluster))
    }

    /// The servers of all NATS clusters, by the names of those and by their ids. Another value after each change.
    pub fn rosters(&self) -> Arc<Rosters> {
        self.live().memtable.rosters.clone()
    }

    /// The revision at which a server of a NATS cluster was last forgotten ([`ForgetServer`]); 0 if none ever was.
    pub fn forgotten(&self, nats_cluster: &str) -> Revision {
        self.position(&forgotten_name(nats_cluster))
    }

    /// The same as [`Self::rows_since`] while all of it is still in memory, without waiting for the flush; `None` if
    /// some of it is in redb only.
    pub fn recent_changes(&self, after: Revision, limit: usize) -> Option<Changes> {
        self.live().memtable.since(after, limit)
    }

    /// The accounts that changed after revision `after`, about `limit` of them. Reads what the flush has reached.
    pub fn rows_since(&self, after: Revision, limit: usize) -> Result<Changes, Fault> {
        self.snapshot()?.rows_since(after, limit)
    }

    /// What redb holds now: every entry up to [`Self::flushed`]. A caller that needs a later one waits for the flush to
    /// reach it.
    pub fn snapshot(&self) -> Result<SnapshotView, Fault> {
        let store = self.live().store.clone();
        SnapshotView::of(store)
    }

    /// [`SnapshotView::digest`] of what redb holds now.
    pub fn digest(&self) -> Result<[u8; 32], Fault> {
        self.snapshot()?.digest()
    }

    /// The log index that redb has reached, durable or not; 0 also while it holds nothing.
    pub fn flushed(&self) -> u64 {
        self.live().flushed().unwrap_or(0)
    }

    /// The log index up to which everything is durable here; 0 also while nothing is.
    pub fn checkpointed(&self) -> u64 {
        self.live().checkpointed.unwrap_or(0)
    }

    /// The index of the snapshot that was installed last, if nothing newer is durable here.
    pub fn installed(&self) -> Result<Option<u64>, Fault> {
        let (store, durable) = {
            let live = self.live();
            (live.store.clone(), live.checkpointed)
        };
        Ok(store.installed()?.filter(|installed| Some(*installed) == durable))
    }

    /// Bytes flushed since the last checkpoint: replaying the log after a crash is about as much work.
    pub fn checkpoint_due_bytes(&self) -> u64 {
        self.live().flushed_bytes
    }
}

impl Before for State {
    fn trust(&self) -> Arc<Trust> {
        self.trust()
    }

    fn account(&self, account: AccountKey) -> Result<Present, Fault> {
        match self.account(account) {
            Ok(None) => Ok(Present::None),
            Ok(Some(row)) => Ok(Present::Row(row)),
            // It is agreed that the entry is applied, so it is: a node that stopped here could never start again.
            Err(fault) if fault.is_of_one_read() => {
                tracing::error!(cause = fault.source(), "{fault}; an agreed upload now replaces it");
                Ok(Present::Damaged(self.remains(account).map(Box::new)))
            }
            Err(fault) => Err(fault),
        }
    }

    fn closing(&self, account: AccountKey) -> Result<Option<Arc<Closing>>, Fault> {
        // What is agreed depends on it. A node that took it for none would come to other rows than the others (I3).
        self.closing(account)
    }

    fn unreadable(&self, account: AccountKey) -> Fault {
        Fault::Damaged {
            file: self.live().store.file().clone(),
            what: format!("of account {account}, which an entry of the log depends on, nothing can be read"),
        }
    }

    fn position(&self, nats_cluster: &str) -> Revision {
        self.position(nats_cluster)
    }

    fn server_count(&self, nats_cluster: &str) -> usize {
        self.live()
            .memtable
            .rosters
            .get(nats_cluster)
            .map_or(0, |servers| servers.len())
    }

    fn has_server(&self, nats_cluster: &str, id: &str) -> bool {
        let live = self.live();
        let servers = live.memtable.rosters.get(nats_cluster);
        servers.is_some_and(|servers| servers.contains_key(id))
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let live = self.live();
        write!(
            f,
            "State({}, applied {:?})",
            live.store.file(),
            live.memtable.applied.as_ref().map(|mark| mark.index)
        )
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().expect(UNPOISONED)
}

const UNPOISONED: &str = "a thread that panics while it holds the state's lock takes the process with it";
