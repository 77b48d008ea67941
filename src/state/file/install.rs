//! Makes a state file, and replaces its content with a snapshot: whole, or not at all.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Durability, Key, ReadOnlyTable, TableDefinition, Value, WriteTransaction};

use super::store::Store;
use super::view::SnapshotView;
use super::{ACCOUNTS, CLOSINGS, DELETED, INSTALLED, OPERATORS, POSITIONS, ROWS, SERVERS};
use crate::state::fault::Fault;
use crate::state::options::Options;

/// Makes a new file that holds `view`, and puts it in the place of the one at `path`.
pub(in crate::state) fn build_beside(path: &Path, options: &Options, view: &SnapshotView) -> Result<Store, Fault> {
    remove(&beside(path))?;
    let store = Store::open_file(&beside(path), options)?;
    replace(&store, view)?;
    put_in_place(path, store)
}

/// Opens the file at `path`, or makes it. A new file is made under another name first: if the power fails while redb
/// writes the first bytes of a file, redb refuses that file forever, and a node must start whenever the power comes
/// back.
pub(in crate::state) fn open_or_make(path: &Path, options: &Options) -> Result<Store, Fault> {
    remove_unfinished(path)?;
    if path.exists() {
        let store = Store::open_file(path, options)?;
        sync_folder(path)?;
        return Ok(store);
    }
    put_in_place(path, Store::open_file(&beside(path), options)?)
}

/// Whether `view` shows a file that was received for the state file at `path`, see [`super::Import`].
pub(in crate::state) fn is_received(path: &Path, view: &SnapshotView) -> bool {
    view.store().file().starts_with(&*received(path).display().to_string())
}

/// Puts the file that was received, which `store` has open, in the place of the one at `path`.
pub(in crate::state) fn put_received(path: &Path, store: &Store) -> Result<(), Fault> {
    let file: std::sync::Arc<str> = path.display().to_string().into();
    std::fs::rename(&**store.file(), path).map_err(|error| Fault::io("replace", &file, error))?;
    store.renamed(file);
    sync_folder(path)
}

/// Renames the durable file beside `path` to `path`. With the rename it becomes the state file.
fn put_in_place(path: &Path, store: Store) -> Result<Store, Fault> {
    store.renamed(path.display().to_string().into());
    std::fs::rename(beside(path), path).map_err(|error| Fault::io("replace", store.file(), error))?;
    sync_folder(path)?;
    Ok(store)
}

/// Removes what an interrupted creation or installation left behind.
fn remove_unfinished(path: &Path) -> Result<(), Fault> {
    remove(&beside(path))?;
    let received = received(path);
    let name = received.file_name().unwrap_or_default().as_encoded_bytes();
    let unreadable = |error| Fault::io("read the folder of", &path.display().to_string().into(), error);
    for entry in std::fs::read_dir(folder_of(path)).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_name().as_encoded_bytes().starts_with(name) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), Fault> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::io("remove", &path.display().to_string().into(), error))
        }
        _ => Ok(()),
    }
}

/// Makes a new or renamed file's name durable.
fn sync_folder(path: &Path) -> Result<(), Fault> {
    let synced = std::fs::File::open(folder_of(path)).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Fault::io("sync the folder of", &path.display().to_string().into(), error))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn beside(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

/// What the names begin with of the files in which snapshots are received for the state file at `path`.
fn received(path: &Path) -> PathBuf {
    with_suffix(path, ".received")
}

/// Where the next snapshot is received. No two have one name: one may begin while the one before is being installed.
pub(super) fn received_next(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    with_suffix(&received(path), &format!("-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Replaces everything in `store` with what `view` shows, in one durable transaction.
pub(in crate::state) fn replace(store: &Store, view: &SnapshotView) -> Result<(), Fault> {
    store.writing(|| copy_all(store, view))
}

fn copy_all(store: &Store, view: &SnapshotView) -> Result<(), Fault> {
    let writing = store.write(Durability::Immediate)?;
    copy(store, &writing, view, ACCOUNTS)?;
    copy(store, &writing, view, ROWS)?;
    copy(store, &writing, view, OPERATORS)?;
    copy(store, &writing, view, POSITIONS)?;
    copy_from(store, &writing, view, SERVERS, view.optional(SERVERS)?)?;
    copy_from(store, &writing, view, DELETED, view.optional(DELETED)?)?;
    copy_from(store, &writing, view, CLOSINGS, view.optional(CLOSINGS)?)?;
    if view.has_deletes()? {
        store.mark_deletes(&writing)?;
    }
    store.write_meta(&writing, view.meta())?;
    let index = view.mark().map_or(0, |mark| mark.index);
    store.write_index(&writing, INSTALLED, index)?;
    store.commit(writing)
}

fn copy<K: Key + 'static, V: Value + 'static>(
    store: &Store,
    writing: &WriteTransaction,
    view: &SnapshotView,
    definition: TableDefinition<'static, K, V>,
) -> Result<(), Fault> {
    copy_from(store, writing, view, definition, Some(view.table(definition)?))
}

/// Copies one table in the order of its keys: ascending insertions fill their pages and touch no other. The copy of a
/// table that is not there is empty.
fn copy_from<K: Key + 'static, V: Value + 'static>(
    store: &Store,
    writing: &WriteTransaction,
    view: &SnapshotView,
    definition: TableDefinition<'static, K, V>,
    from: Option<ReadOnlyTable<K, V>>,
) -> Result<(), Fault> {
    writing
        .delete_table(definition)
        .map_err(|error| store.fault("write to", error))?;
    let mut table = writing
        .open_table(definition)
        .map_err(|error| store.fault("write to", error))?;
    let Some(from) = from else {
        return Ok(());
    };
    for entry in from.range::<K::SelfType<'_>>(..).map_err(|error| view.fault(error))? {
        let (key, value) = entry.map_err(|error| view.fault(error))?;
        table
            .insert(key.value(), value.value())
            .map_err(|error| store.fault("write to", error))?;
    }
    Ok(())
}
