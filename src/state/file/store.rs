//! An open redb file: checks that it is ours, begins and commits transactions, and reads and writes what every file
//! has.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableError, WriteTransaction,
};

use super::backend::Backend;
use super::encoding::{
    EncodedRow, StoredOperator, decode_closing, decode_meta, decode_operator, decode_row, decode_server, encode_meta,
    row_account,
};
use super::{
    ACCOUNTS, CHECKPOINT, CLOSINGS, DELETED, FORMAT, FORMAT_WITH_DELETES, INSTALLED, META, Meta, OPERATORS, POSITIONS,
    ROWS, SERVERS,
};
use crate::jwt::{AccountKey, OperatorKey};
use crate::panics;
use crate::state::fault::Fault;
use crate::state::options::Options;
use crate::state::roster::Server;
use crate::state::rows::{AccountRow, Closing, RowId, etag};

/// An open file and its name.
pub(in crate::state) struct Store {
    database: Open,
    backend: Backend,
    file: Arc<str>,
    renamed: OnceLock<Arc<str>>,
    /// Whether the file is of no use unless it is renamed.
    pub(super) is_scratch: bool,
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.is_scratch && self.renamed.get().is_none() {
            // What is left is removed at the next start.
            let _ = std::fs::remove_file(&*self.file);
        }
    }
}

/// redb, open. Closing it writes, and panics where the file is damaged.
struct Open(Option<Database>);

impl Open {
    fn get(&self) -> &Database {
        self.0.as_ref().expect("it is taken only to be closed")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let database = self.0.take();
        if let Err(what) = panics::caught(|| drop(database)) {
            // What was checkpointed is in the file, and the log has the rest.
            tracing::error!("the state file could not be closed, because it is damaged: redb gave up: {what}");
        }
    }
}

impl Store {
    /// Opens the file at `path`; makes it if it is not there.
    pub(in crate::state) fn open_file(path: &Path, options: &Options) -> Result<Self, Fault> {
        let file: Arc<str> = path.display().to_string().into();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path);
        let opened = opened.map_err(|error| Fault::storage("open", &file, redb::Error::Io(error)))?;
        let opened = FileBackend::new(opened).map_err(|error| Fault::storage("open", &file, error))?;
        Self::open(opened, file, options)
    }

    /// Opens a store on `backend`, as [`Self::open_file`] does on a file.
    pub(in crate::state) fn open_backend(backend: impl redb::StorageBackend, options: &Options) -> Result<Self, Fault> {
        Self::open(backend, "(in memory)".into(), options)
    }

    fn open(backend: impl redb::StorageBackend, file: Arc<str>, options: &Options) -> Result<Self, Fault> {
        let backend = Backend::new(backend);
        let open = || {
            let database = builder(options).create_with_backend(backend.clone());
            let database = database.map_err(|error| Fault::storage("open", &file, error))?;
            backend.opened();
            let store = Self {
                database: Open(Some(database)),
                backend: backend.clone(),
                file: file.clone(),
                renamed: OnceLock::new(),
                is_scratch: false,
            };
            store.checked(options)
        };
        // redb trusts the bytes of a file that it closed itself.
        panics::caught(open).unwrap_or_else(|what| Err(Fault::unusable(&file, backend.unread().unwrap_or(&what))))
    }

    /// The name of the file.
    pub(in crate::state) fn file(&self) -> &Arc<str> {
        self.renamed.get().unwrap_or(&self.file)
    }

    /// The file has this name from now on.
    pub(super) fn renamed(&self, file: Arc<str>) {
        // A file is renamed once: when it becomes the state file.
        let _ = self.renamed.set(file);
    }

    /// Runs `work`, which reads: a panic of redb means that the bytes it met are none that it wrote.
    pub(in crate::state) fn reading<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        panics::caught(work).unwrap_or_else(|what| Err(Fault::panicked(self.file(), &what, self.backend.unread())))
    }

    /// Runs `work`, which writes: after a panic of redb nothing more may be written.
    pub(in crate::state) fn writing<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        panics::caught(work).unwrap_or_else(|what| {
            let what = self.backend.unread().unwrap_or(&what);
            Err(Fault::unusable(self.file(), what))
        })
    }

    /// Refuses a file that is not ours; writes the tables and the identity of a new one.
    fn checked(self, options: &Options) -> Result<Self, Fault> {
        let store = self;
        let reading = store.read()?;
        let tables = reading.list_tables().map_err(|error| store.unread(error))?;
        let names: Vec<String> = tables.map(|table| redb::TableHandle::name(&table).to_owned()).collect();
        if names.is_empty() {
            store.begin(&options.store)?;
            return Ok(store);
        }
        if !names.iter().any(|name| name == redb::TableHandle::name(&META)) {
            return Err(Fault::Foreign {
                file: store.file.clone(),
            });
        }
        let meta = reading.open_table(META).map_err(|error| store.unread(error))?;
        let value = |key: &str| match meta.get(key) {
            Ok(Some(value)) => Ok(value.value().to_vec()),
            Ok(None) => Err(store.damaged(format!("meta_v1 has no {key}"))),
            Err(error) => Err(store.unread(error)),
        };
        let format =
            <[u8; 4]>::try_from(value("format")?).map_err(|_| store.damaged("its format number is unreadable"))?;
        let format = u32::from_le_bytes(format);
        if ![FORMAT, FORMAT_WITH_DELETES].contains(&format) {
            return Err(Fault::Format {
                file: store.file.clone(),
                found: format,
                known: [FORMAT, FORMAT_WITH_DELETES],
            });
        }
        let found = String::from_utf8(value("store")?).map_err(|_| store.damaged("its store uuid is unreadable"))?;
        if found != options.store {
            return Err(Fault::Store {
                file: store.file.clone(),
                found,
                expected: options.store.clone(),
            });
        }
        Ok(store)
    }

    fn begin(&self, uuid: &str) -> Result<(), Fault> {
        let writing = self.write(Durability::Immediate)?;
        self.create_tables(&writing)?;
        let mut meta = writing
            .open_table(META)
            .map_err(|error| self.fault("write to", error))?;
        for (key, value) in [("format", &FORMAT.to_le_bytes()[..]), ("store", uuid.as_bytes())] {
            meta.insert(key, value).map_err(|error| self.fault("write to", error))?;
        }
        drop(meta);
        self.write_meta(&writing, &Meta::default())?;
        self.commit(writing)
    }

    fn create_tables(&self, writing: &WriteTransaction) -> Result<(), Fault> {
        let made = || -> Result<(), redb::TableError> {
            writing.open_table(ACCOUNTS)?;
            writing.open_table(ROWS)?;
            writing.open_table(OPERATORS)?;
            writing.open_table(POSITIONS)?;
            writing.open_table(SERVERS)?;
            writing.open_table(DELETED)?;
            writing.open_table(CLOSINGS)?;
            Ok(())
        };
        made().map_err(|error| self.fault("write to", error))
    }

    /// From this transaction on, the file has a tombstone or a closing token.
    pub(in crate::state) fn mark_deletes(&self, writing: &WriteTransaction) -> Result<(), Fault> {
        let mut meta = writing
            .open_table(META)
            .map_err(|error| self.fault("write to", error))?;
        meta.insert("format", &FORMAT_WITH_DELETES.to_le_bytes()[..])
            .map_err(|error| self.fault("write to", error))?;
        Ok(())
    }

    pub(in crate::state) fn read(&self) -> Result<ReadTransaction, Fault> {
        self.database.get().begin_read().map_err(|error| self.unread(error))
    }

    /// Makes durable what the file holds. Takes no room, unlike a checkpoint.
    pub(in crate::state) fn sync(&self) -> Result<(), Fault> {
        self.backend
            .sync()
            .map_err(|error| Fault::storage("sync", self.file(), redb::Error::Io(error)))
    }

    /// Begins a transaction. An `Immediate` one records which pages are free, so that opening after a crash takes
    /// milliseconds instead of reading the whole file, and commits in two phases: redb's one-phase commit has lost
    /// commits.
    pub(in crate::state) fn write(&self, durability: Durability) -> Result<WriteTransaction, Fault> {
        let mut writing = self
            .database
            .get()
            .begin_write()
            .map_err(|error| self.fault("write to", error))?;
        if matches!(durability, Durability::Immediate) {
            writing.set_two_phase_commit(true);
            writing.set_quick_repair(true);
        }
        match writing.set_durability(durability) {
            Ok(()) => Ok(writing),
            Err(error) => Err(self.fault("write to", error)),
        }
    }

    pub(in crate::state) fn commit(&self, writing: WriteTransaction) -> Result<(), Fault> {
        writing.commit().map_err(|error| self.fault("commit to", error))
    }

    /// A durable commit. It writes `index`, because an empty commit need not reach the disk.
    pub(in crate::state) fn checkpoint(&self, index: Option<u64>) -> Result<(), Fault> {
        self.writing(|| self.commit_durably(index))
    }

    fn commit_durably(&self, index: Option<u64>) -> Result<(), Fault> {
        let writing = self.write(Durability::Immediate)?;
        self.write_index(&writing, CHECKPOINT, index.unwrap_or(0))?;
        self.commit(writing)
    }

    pub(in crate::state) fn write_index(&self, writing: &WriteTransaction, key: &str, index: u64) -> Result<(), Fault> {
        let mut meta = writing
            .open_table(META)
            .map_err(|error| self.fault("write to", error))?;
        meta.insert(key, index.to_le_bytes().as_slice())
            .map_err(|error| self.fault("write to", error))?;
        Ok(())
    }

    /// The log index of the last snapshot that was installed, if one ever was.
    pub(in crate::state) fn installed(&self) -> Result<Option<u64>, Fault> {
        let reading = self.read()?;
        let table = reading.open_table(META).map_err(|error| self.unread(error))?;
        let Some(value) = table.get(INSTALLED).map_err(|error| self.unread(error))? else {
            return Ok(None);
        };
        let index = <[u8; 8]>::try_from(value.value()).map(u64::from_le_bytes);
        index
            .map(Some)
            .map_err(|_| self.damaged("meta_v1, installed: it is no log index"))
    }

    pub(in crate::state) fn write_meta(&self, writing: &WriteTransaction, meta: &Meta) -> Result<(), Fault> {
        let mut table = writing
            .open_table(META)
            .map_err(|error| self.fault("write to", error))?;
        table
            .insert("state", encode_meta(meta).as_slice())
            .map_err(|error| self.fault("write to", error))?;
        Ok(())
    }

    pub(in crate::state) fn read_meta(&self, reading: &ReadTransaction) -> Result<Meta, Fault> {
        let table = reading.open_table(META).map_err(|error| self.unread(error))?;
        let value = table.get("state").map_err(|error| self.unread(error))?;
        let value = value.ok_or_else(|| self.damaged("meta_v1 has no state"))?;
        decode_meta(value.value()).map_err(|what| self.damaged(format!("meta_v1, state: {what}")))
    }

    /// The row that `value` encodes, whose id is `id`: of `account`, or of any if that is `None`.
    pub(in crate::state) fn row(
        &self,
        account: Option<AccountKey>,
        id: RowId,
        value: &[u8],
    ) -> Result<AccountRow, Fault> {
        let damaged = |what: &str| self.row_damaged(account, id, what);
        let row = decode_row(id, value).map_err(|what| damaged(&what))?;
        // redb verifies its checksums when it repairs a file, not when it reads one.
        if row.etag != etag(&row.token) {
            return Err(damaged("its token is not the one that was stored"));
        }
        match account {
            Some(account) if account != row.account => Err(damaged(&format!("it is the row of {}", row.account))),
            _ => Ok(row),
        }
    }

    /// The fault of the row `id`, which `account` points at, if that is known.
    pub(in crate::state) fn row_damaged(&self, account: Option<AccountKey>, id: RowId, what: &str) -> Fault {
        let what = format!("rows_v1, revision {}, row {}: {what}", id.revision, id.slot);
        match account {
            None => self.damaged(what),
            Some(account) => Fault::Row {
                file: self.file().clone(),
                account,
                what,
            },
        }
    }

    pub(in crate::state) fn operator(&self, key: &[u8; 32], value: &[u8]) -> Result<StoredOperator, Fault> {
        let operator = OperatorKey::from_bytes(*key);
        decode_operator(operator, value).map_err(|what| self.damaged(format!("operators_v1, {operator}: {what}")))
    }

    /// The server that stands under `key`, and the name of its NATS cluster.
    pub(in crate::state) fn server<'a>(&self, key: &'a str, value: &[u8]) -> Result<(&'a str, Server), Fault> {
        decode_server(key, value).map_err(|what| self.damaged(format!("servers_v1, {key:?}: {what}")))
    }

    /// The closing token that stands under `key`.
    pub(in crate::state) fn closing(&self, key: &[u8; 32], value: &[u8]) -> Result<Closing, Fault> {
        let account = AccountKey::from_bytes(*key);
        decode_closing(account, value).map_err(|what| self.damaged(format!("closings_v1, {account}: {what}")))
    }

    pub(in crate::state) fn fault(&self, operation: &'static str, cause: impl Into<redb::Error>) -> Fault {
        Fault::storage(operation, self.file(), cause)
    }

    pub(in crate::state) fn unread(&self, cause: impl Into<redb::Error>) -> Fault {
        Fault::reading(self.file(), cause, self.backend.unread())
    }

    pub(in crate::state) fn damaged(&self, what: impl Into<String>) -> Fault {
        Fault::Damaged {
            file: self.file().clone(),
            what: what.into(),
        }
    }
}

/// A table that files of earlier versions lack; `None` where it is not there.
pub(super) fn maybe<K: redb::Key + 'static, V: redb::Value + 'static>(
    reading: &ReadTransaction,
    table: redb::TableDefinition<'static, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>, TableError> {
    match reading.open_table(table) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => table.map(Some),
    }
}

/// redb as of one commit, with the tables that a lookup needs already open: opening them costs as much as the
/// lookup itself. Kept only until the next commit, since redb keeps every page that it shows.
pub(in crate::state) struct Lookups {
    accounts: ReadOnlyTable<&'static [u8; 32], (u64, u32)>,
    deleted: Option<ReadOnlyTable<&'static [u8; 32], (u64, u32)>>,
    rows: ReadOnlyTable<(u64, u32), &'static [u8]>,
    // Dropped last: the tables need it open.
    store: Arc<Store>,
}

impl Lookups {
    pub(in crate::state) fn of(store: Arc<Store>) -> Result<Self, Fault> {
        let reading = store.read()?;
        let fault = |error| store.unread(error);
        Ok(Self {
            accounts: reading.open_table(ACCOUNTS).map_err(fault)?,
            deleted: maybe(&reading, DELETED).map_err(fault)?,
            rows: reading.open_table(ROWS).map_err(fault)?,
            store,
        })
    }

    /// The current row of `account`, and its bytes.
    pub(in crate::state) fn row(&self, account: AccountKey) -> Result<Option<(AccountRow, EncodedRow)>, Fault> {
        self.store.reading(|| {
            let Some(EncodedRow { id, value }) = self.encoded(account)? else {
                return Ok(None);
            };
            let row = self.store.row(Some(account), id, &value)?;
            Ok(Some((row, EncodedRow { id, value })))
        })
    }

    /// What can be decoded of the row of `account` although it is not as it was stored: its token, or any other field,
    /// may be another. `None` if nothing can.
    pub(in crate::state) fn remains(&self, account: AccountKey) -> Option<AccountRow> {
        let found = self.store.reading(|| self.encoded(account)).ok()??;
        let mut row = found.decode().ok().filter(|row| row.account == account)?;
        // What a row forgets is removed: what it should not have remembered may be another account's.
        row.history.retain(|past| self.is_of(account, past.id));
        Some(row)
    }

    /// Whether the row `id` is one of `account`.
    fn is_of(&self, account: AccountKey, id: RowId) -> bool {
        let found = self.store.reading(|| {
            let value = self.rows.get(id.key()).map_err(|error| self.store.unread(error))?;
            Ok(value.is_some_and(|value| row_account(value.value()) == Ok(account)))
        });
        found.unwrap_or(false)
    }

    fn encoded(&self, account: AccountKey) -> Result<Option<EncodedRow>, Fault> {
        let fault = |error| self.store.unread(error);
        let mut found = self.accounts.get(account.as_bytes()).map_err(fault)?;
        if let (None, Some(deleted)) = (&found, &self.deleted) {
            found = deleted.get(account.as_bytes()).map_err(fault)?;
        }
        let Some(id) = found else {
            return Ok(None);
        };
        let id = RowId::from_key(id.value());
        let value = self.rows.get(id.key()).map_err(fault)?;
        let value = value.ok_or_else(|| self.store.row_damaged(Some(account), id, "it is missing"))?;
        let value = value.value().into();
        Ok(Some(EncodedRow { id, value }))
    }
}

fn builder(options: &Options) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    builder
}
