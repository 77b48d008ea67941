//! Opening: a new store, or one that was written before. Nothing is repaired by guessing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend};

use super::accounts::Weight;
use super::fault::Fault;
use super::flush::{Progress, make_durable};
use super::memtable::Memtable;
use super::tables::{
    ACCOUNTS, FORMAT, META, META_EPOCH, META_FORMAT, META_MARK, META_MEMBERSHIP, META_STORE, Mark, OPERATORS,
    OperatorRow, POSITIONS, ROWS, Small, Trust,
};
use super::{Inner, State};

/// How much memory a state may use, and whose store it must be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store's uuid: a file of another store is refused.
    pub store: String,
    /// Bytes that may be applied and not yet in redb. At 16,000 uploads a second about two seconds of them.
    pub memtable_bytes: usize,
    /// Bytes of current rows kept decoded.
    pub cache_bytes: u64,
    /// Bytes of pages that redb keeps; the system's page cache holds the rest.
    pub page_cache_bytes: usize,
}

impl Options {
    /// The usual bounds, for the store with the uuid `store`. Together they stay far below 200 MB.
    pub fn new(store: &str) -> Self {
        Self {
            store: store.to_owned(),
            memtable_bytes: 64 * 1024 * 1024,
            cache_bytes: 48 * 1024 * 1024,
            page_cache_bytes: 32 * 1024 * 1024,
        }
    }
}

/// Where a state lives.
#[derive(Debug, Clone)]
pub(super) enum Source {
    File(PathBuf),
    Backend,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Backend => f.write_str("the state's backend"),
        }
    }
}

impl State {
    /// Opens the file at `path`, or makes it.
    pub fn open_file(path: &Path, options: Options) -> Result<Self, Fault> {
        let source = Source::File(path.to_owned());
        let database = builder(&options).create(path);
        Self::open(source, options, database)
    }

    /// Opens what `backend` holds, or begins there: in memory, or on a disk that a test can break.
    pub fn open_backend(backend: impl StorageBackend, options: Options) -> Result<Self, Fault> {
        let database = builder(&options).create_with_backend(backend);
        Self::open(Source::Backend, options, database)
    }

    fn open(source: Source, options: Options, opened: Result<Database, redb::DatabaseError>) -> Result<Self, Fault> {
        let store = source.to_string();
        let damaged = |defect: String| Fault::Damaged {
            store: store.clone(),
            defect,
        };
        let database = opened.map_err(|error| match error {
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(defect)) => damaged(defect),
            other => Fault::Storage {
                what: "open the state",
                store: store.clone(),
                source: Box::new(other),
            },
        })?;
        begin(&database, &options.store).map_err(|error| Fault::Storage {
            what: "begin the state",
            store: store.clone(),
            source: Box::new(error),
        })?;
        let small = read(&database, &options.store).map_err(damaged)?;
        // What is found may have been written by a process that died before its sync: it is durable from here on.
        let found = small.mark.as_ref().map(|mark| mark.index);
        make_durable(&database, found).map_err(|error| Fault::Storage {
            what: "make the state durable",
            store: store.clone(),
            source: Box::new(error),
        })?;

        // quick_cache asks for an estimate of how many rows that is.
        let rows = usize::try_from(options.cache_bytes / 2048).unwrap_or(1024);
        Ok(Self(Arc::new(Inner {
            cache: quick_cache::sync::Cache::with_weighter(rows, options.cache_bytes, Weight),
            source,
            options,
            database: ArcSwap::from_pointee(database),
            applied: RwLock::new(Memtable::new(small.clone())),
            applying: Mutex::new(()),
            flushing: Mutex::new(Progress::durable(small)),
        })))
    }
}

pub(super) fn builder(options: &Options) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.page_cache_bytes);
    builder
}

/// Makes the tables of a new store, durably. An old one is left as it is.
pub(super) fn begin(database: &Database, store: &str) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    {
        let mut meta = transaction.open_table(META)?;
        if meta.get(META_FORMAT)?.is_some() {
            drop(meta);
            return Ok(transaction.abort()?);
        }
        meta.insert(META_FORMAT, FORMAT.to_be_bytes().as_slice())?;
        meta.insert(META_STORE, store.as_bytes())?;
        transaction.open_table(ACCOUNTS)?;
        transaction.open_table(ROWS)?;
        transaction.open_table(OPERATORS)?;
        transaction.open_table(POSITIONS)?;
    }
    Ok(transaction.commit()?)
}

/// Reads the small tables and checks whose store it is; or says what is wrong.
fn read(database: &Database, store: &str) -> Result<Small, String> {
    let failed = |error: redb::Error| error.to_string();
    let view = database.begin_read().map_err(|e| failed(e.into()))?;
    let format = meta(&view, META_FORMAT)?.unwrap_or_default();
    if format != FORMAT.to_be_bytes() {
        return Err(format!("its format is {format:?}, this version reads {FORMAT}"));
    }
    let found = meta(&view, META_STORE)?.unwrap_or_default();
    if found != store.as_bytes() {
        let found = String::from_utf8_lossy(&found);
        return Err(format!("it belongs to store {found}, this node's is {store}"));
    }
    let membership = meta(&view, META_MEMBERSHIP)?.map(Bytes::from);
    let epoch = meta(&view, META_EPOCH)?.map_or(Ok(0), |bytes| {
        let bytes = bytes
            .try_into()
            .map_err(|_| "the trust epoch is not eight bytes".to_owned())?;
        Ok::<_, String>(u64::from_be_bytes(bytes))
    })?;
    let mut small = Small {
        mark: read_mark(&view)?,
        membership,
        trust: Arc::default(),
        positions: Default::default(),
    };
    let mut operators: Vec<OperatorRow> = Vec::new();
    let table = view.open_table(OPERATORS).map_err(|e| failed(e.into()))?;
    for entry in table.iter().map_err(|e| failed(e.into()))? {
        let (_, row) = entry.map_err(|e| failed(e.into()))?;
        operators.push(postcard::from_bytes(row.value()).map_err(|error| format!("an operator's row: {error}"))?);
    }
    small.trust = Arc::new(Trust { epoch, operators });
    let table = view.open_table(POSITIONS).map_err(|e| failed(e.into()))?;
    for entry in table.iter().map_err(|e| failed(e.into()))? {
        let (nats_cluster, position) = entry.map_err(|e| failed(e.into()))?;
        small
            .positions
            .insert(nats_cluster.value().to_owned(), position.value());
    }
    Ok(small)
}

fn meta(view: &ReadTransaction, key: &str) -> Result<Option<Vec<u8>>, String> {
    let read =
        || -> Result<_, redb::Error> { Ok(view.open_table(META)?.get(key)?.map(|value| value.value().to_vec())) };
    read().map_err(|error| error.to_string())
}

/// The entry at which the redb view ends.
pub(super) fn read_mark(view: &ReadTransaction) -> Result<Option<Mark>, String> {
    let Some(bytes) = meta(view, META_MARK)? else {
        return Ok(None);
    };
    postcard::from_bytes(&bytes)
        .map(Some)
        .map_err(|error| format!("the applied mark: {error}"))
}
