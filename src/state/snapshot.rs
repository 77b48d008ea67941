//! The state as of one moment, and taking over another one's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::WriteTransaction;
use redb::{Durability, Key, ReadOnlyTable, ReadTransaction, ReadableTableMetadata as _, TableDefinition, Value};

use super::accounts::AccountRow;
use super::command::Revision;
use super::fault::Fault;
use super::memtable::Memtable;
use super::operators::Trust;
use super::tables::{ACCOUNTS, Lookups, Mark, Meta, OPERATORS, POSITIONS, ROWS, RowId, Store};
use super::{Options, Origin, State};

/// What redb held at one moment: the state after a whole log entry. Costs nothing to make or to clone, but redb keeps
/// every page it shows until it is dropped, so one that is held for long makes the file grow.
#[derive(Clone)]
pub struct SnapshotView(Arc<View>);

struct View {
    reading: ReadTransaction,
    meta: Meta,
    accounts: u64,
    // Dropped last: reading needs it open.
    store: Arc<Store>,
}

impl std::fmt::Debug for SnapshotView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SnapshotView(index {:?}, {} accounts)",
            self.mark().map(|mark| mark.index),
            self.len()
        )
    }
}

impl SnapshotView {
    pub(super) fn of(store: Arc<Store>) -> Result<Self, Fault> {
        let reading = store.read()?;
        let meta = store.read_meta(&reading)?;
        let accounts = reading
            .open_table(ACCOUNTS)
            .map_err(|error| store.fault("read", error))?;
        let accounts = accounts.len().map_err(|error| store.fault("read", error))?;
        Ok(Self(Arc::new(View {
            reading,
            meta,
            accounts,
            store,
        })))
    }

    /// The last entry it includes.
    pub fn mark(&self) -> Option<&Mark> {
        self.0.meta.applied.as_ref()
    }

    /// The membership as of then, as it was handed in.
    pub fn membership(&self) -> Option<&Bytes> {
        self.0.meta.membership.as_ref()
    }

    /// How many accounts it has.
    pub fn len(&self) -> u64 {
        self.0.accounts
    }

    /// Whether it has no account.
    pub fn is_empty(&self) -> bool {
        self.0.accounts == 0
    }

    /// Every row, the replaced ones that are kept for the history included, in the order of their revisions: of two
    /// rows of one account the later one is the newer.
    pub fn rows(&self) -> Result<impl Iterator<Item = Result<AccountRow, Fault>> + use<>, Fault> {
        let view = self.clone();
        let rows = self
            .table(ROWS)?
            .range::<(u64, u32)>(..)
            .map_err(|error| self.fault(error))?;
        Ok(rows.map(move |entry| {
            let (id, value) = entry.map_err(|error| view.fault(error))?;
            view.decode(RowId::from_key(id.value()), value.value())
        }))
    }

    /// The trust as of then.
    pub fn trust(&self) -> Result<Trust, Fault> {
        let mut trust = Trust {
            epoch: self.0.meta.trust_epoch,
            operators: Vec::new(),
        };
        for entry in self
            .table(OPERATORS)?
            .range::<&[u8; 32]>(..)
            .map_err(|error| self.fault(error))?
        {
            let (key, value) = entry.map_err(|error| self.fault(error))?;
            trust.operators.push(self.0.store.operator(key.value(), value.value())?);
        }
        Ok(trust)
    }

    /// The positions of all NATS clusters as of then.
    pub fn positions(&self) -> Result<BTreeMap<String, Revision>, Fault> {
        let table = self.table(POSITIONS)?;
        let mut positions = BTreeMap::new();
        for entry in table.range::<&str>(..).map_err(|error| self.fault(error))? {
            let (key, value) = entry.map_err(|error| self.fault(error))?;
            positions.insert(key.value().to_owned(), value.value());
        }
        Ok(positions)
    }

    /// A hash over everything agreed in it, byte by byte: equal on all nodes at the same index (I3). The store's own
    /// uuid and its checkpoints are not part of it.
    pub fn digest(&self) -> Result<[u8; 32], Fault> {
        let mut hash = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        let meta = &self.0.meta;
        add(&meta.applied.as_ref().map_or(0, |mark| mark.index).to_le_bytes());
        add(meta.applied.as_ref().map_or(&[], |mark| &mark.log_id));
        add(meta.membership.as_deref().unwrap_or(&[]));
        add(&meta.trust_epoch.to_le_bytes());
        self.each(ACCOUNTS, &mut add)?;
        self.each(ROWS, &mut add)?;
        self.each(OPERATORS, &mut add)?;
        self.each(POSITIONS, &mut add)?;
        Ok(*hash.finalize().as_bytes())
    }

    fn each<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
        add: &mut impl FnMut(&[u8]),
    ) -> Result<(), Fault> {
        let table = self.table(table)?;
        add(&table.len().map_err(|error| self.fault(error))?.to_le_bytes());
        for entry in table.range::<K::SelfType<'_>>(..).map_err(|error| self.fault(error))? {
            let (key, value) = entry.map_err(|error| self.fault(error))?;
            add(K::as_bytes(&key.value()).as_ref());
            add(V::as_bytes(&value.value()).as_ref());
        }
        Ok(())
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.0.meta
    }

    pub(super) fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<ReadOnlyTable<K, V>, Fault> {
        self.0.reading.open_table(table).map_err(|error| self.fault(error))
    }

    pub(super) fn row(&self, rows: &ReadOnlyTable<(u64, u32), &'static [u8]>, id: RowId) -> Result<AccountRow, Fault> {
        let value = rows.get(id.key()).map_err(|error| self.fault(error))?;
        let missing = || format!("rows_v1 lacks revision {}, row {}", id.revision, id.slot);
        let value = value.ok_or_else(|| self.0.store.damaged(missing()))?;
        self.decode(id, value.value())
    }

    pub(super) fn decode(&self, id: RowId, bytes: &[u8]) -> Result<AccountRow, Fault> {
        self.0.store.row(id, bytes)
    }

    pub(super) fn fault(&self, cause: impl Into<redb::Error>) -> Fault {
        self.0.store.fault("read", cause)
    }
}

impl State {
    /// What redb holds now: every entry up to `flushed()`. Whoever wants a later one lets the flush reach it first.
    pub fn snapshot(&self) -> Result<SnapshotView, Fault> {
        let store = self.live().store.clone();
        SnapshotView::of(store)
    }

    /// [`SnapshotView::digest`] of what redb holds now.
    pub fn digest(&self) -> Result<[u8; 32], Fault> {
        self.snapshot()?.digest()
    }

    /// Becomes what `view` shows, durably. A crash at any moment leaves either the old state or the new one, whole.
    /// Lookups are answered meanwhile, from the old state; `apply` waits.
    pub fn install(&self, view: SnapshotView) -> Result<(), Fault> {
        let _applying = super::lock(&self.inner.applying);
        let _flushing = super::lock(&self.inner.flushing);
        let (store, applied) = {
            let live = self.live();
            (
                live.store.clone(),
                live.memtable.applied.as_ref().map(|mark| mark.index),
            )
        };
        let index = view.mark().map(|mark| mark.index);
        if index < applied {
            return Err(Fault::Order {
                index: index.unwrap_or(0),
                applied: applied.unwrap_or(0),
            });
        }
        let store = match &self.inner.origin {
            Origin::File(path) => Arc::new(build_beside(path, &self.inner.options, &view)?),
            Origin::Backend => {
                store.replace_with(&view)?;
                store
            }
        };
        let taken = SnapshotView::of(store.clone())?;
        let memtable = Memtable::new(taken.meta().clone(), taken.trust()?, taken.positions()?);
        let lookups = Arc::new(Lookups::of(store.clone())?);
        let mut live = self.live_mut();
        live.memtable = memtable;
        live.lookups = lookups;
        live.store = store;
        live.flushed_meta = taken.meta().clone();
        live.flushed_bytes = 0;
        live.checkpointed = index;
        self.inner.cache.clear();
        live.assert_order();
        Ok(())
    }
}

impl Store {
    /// Everything of ours out, everything of `view` in, in one durable transaction.
    fn replace_with(&self, view: &SnapshotView) -> Result<(), Fault> {
        let writing = self.write(Durability::Immediate)?;
        self.copy(&writing, view, ACCOUNTS)?;
        self.copy(&writing, view, ROWS)?;
        self.copy(&writing, view, OPERATORS)?;
        self.copy(&writing, view, POSITIONS)?;
        self.write_meta(&writing, view.meta())?;
        self.commit(writing)
    }

    /// In the order of the keys: ascending insertions fill their pages and touch no other.
    fn copy<K: Key + 'static, V: Value + 'static>(
        &self,
        writing: &WriteTransaction,
        view: &SnapshotView,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), Fault> {
        writing
            .delete_table(definition)
            .map_err(|error| self.fault("write to", error))?;
        let mut table = writing
            .open_table(definition)
            .map_err(|error| self.fault("write to", error))?;
        for entry in view
            .table(definition)?
            .range::<K::SelfType<'_>>(..)
            .map_err(|error| view.fault(error))?
        {
            let (key, value) = entry.map_err(|error| view.fault(error))?;
            table
                .insert(key.value(), value.value())
                .map_err(|error| self.fault("write to", error))?;
        }
        Ok(())
    }
}

/// A new file that holds `view`, in the place of the one at `path`.
fn build_beside(path: &Path, options: &Options, view: &SnapshotView) -> Result<Store, Fault> {
    remove_unfinished(path)?;
    let store = Store::open_file(&beside(path), options)?;
    store.replace_with(view)?;
    put_in_place(path, store)
}

/// The file at `path`. A new one is made beside it first: a power cut while redb writes the first bytes of a file
/// leaves one that it refuses for ever after, and a node must start whenever the power comes back.
pub(super) fn open_or_make(path: &Path, options: &Options) -> Result<Store, Fault> {
    remove_unfinished(path)?;
    if path.exists() {
        let store = Store::open_file(path, options)?;
        sync_folder(path)?;
        return Ok(store);
    }
    put_in_place(path, Store::open_file(&beside(path), options)?)
}

/// Gives the durable file beside `path` its name. The rename is the moment at which it counts.
fn put_in_place(path: &Path, mut store: Store) -> Result<Store, Fault> {
    store.file = path.display().to_string().into();
    std::fs::rename(beside(path), path).map_err(|error| Fault::io("replace", &store.file, error))?;
    sync_folder(path)?;
    Ok(store)
}

/// Removes what a creation or an installation that was cut off left behind.
fn remove_unfinished(path: &Path) -> Result<(), Fault> {
    let beside = beside(path);
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::io("remove", &beside.display().to_string().into(), error))
        }
        _ => Ok(()),
    }
}

/// Makes a new or renamed file's name durable.
fn sync_folder(path: &Path) -> Result<(), Fault> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Fault::io("sync the folder of", &path.display().to_string().into(), error))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}
