//! The redb file: its tables, the encodings of keys and rows, the format number, what a new file begins with.
//!
//! | table | key | value |
//! |---|---|---|
//! | `accounts_v1` | account, 32 bytes | row id of its current row |
//! | `rows_v1` | row id, ascending | encoded row: current ones and the history |
//! | `operators_v1` | operator, 32 bytes | encoded operator row |
//! | `positions_v1` | name of a NATS cluster | revision |
//! | `meta_v1` | `format`, `store`, `state`, `checkpoint` | format number, store uuid, encoded [`Meta`], log index |
//!
//! Rows are only ever appended, because a value under a random key leaves half of each page empty and makes every
//! update touch a page of its own; the index that is random (32 + 12 bytes) stays small.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::Options;
use super::accounts::{AccountRow, Past};
use super::command::Revision;
use super::fault::Fault;
use super::operators::OperatorRow;
use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;

/// The number of this file's layout. Another number is another layout, and refused.
pub(super) const FORMAT: u32 = 1;

pub(super) const ACCOUNTS: TableDefinition<&[u8; 32], (u64, u32)> = TableDefinition::new("accounts_v1");
pub(super) const ROWS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("rows_v1");
pub(super) const OPERATORS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("operators_v1");
pub(super) const POSITIONS: TableDefinition<&str, u64> = TableDefinition::new("positions_v1");
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta_v1");

/// Where a row stands: the revision that wrote it, and its place in that entry (one entry carries many rows).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct RowId {
    pub(super) revision: Revision,
    pub(super) slot: u32,
}

impl RowId {
    pub(super) fn key(self) -> (u64, u32) {
        (self.revision, self.slot)
    }

    pub(super) fn from_key((revision, slot): (u64, u32)) -> Self {
        Self { revision, slot }
    }
}

/// A log index, and the whole log id it belongs to, in whatever form the log encodes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The log index.
    pub index: u64,
    /// Opaque: the log's own encoding of its log id.
    pub log_id: Bytes,
}

/// What a redb file says about itself beside its rows; moves in the same transaction as they do (I4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) applied: Option<Mark>,
    pub(super) membership: Option<Bytes>,
    pub(super) trust_epoch: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredRow {
    account: AccountKey,
    operator: OperatorKey,
    issued_at: i64,
    expires_at: i64,
    name: String,
    etag: [u8; ETAG_BYTES],
    history: Vec<Past>,
    token: Bytes,
}

#[derive(Serialize, Deserialize)]
struct StoredOperator {
    issued_at: i64,
    revision: Revision,
    token: Bytes,
}

/// How much of a token's BLAKE3 hash is its ETag: 128 bits, so that no two tokens ever share one by chance.
pub(super) const ETAG_BYTES: usize = 16;

/// The first byte of every value that we encode.
const VALUE_VERSION: u8 = 1;

/// The ETag of a token: content, not `jti`, because two edits within one second share `jti` and `iat` (T8).
pub(super) fn etag(token: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&digest(token))
}

pub(super) fn digest(token: &[u8]) -> [u8; ETAG_BYTES] {
    let mut digest = [0; ETAG_BYTES];
    digest.copy_from_slice(&blake3::hash(token).as_bytes()[..ETAG_BYTES]);
    digest
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VALUE_VERSION])
        .expect("plain data into memory: postcard fails only on unsized sequences, we have none")
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    decode_first(bytes).map(|(value, _)| value)
}

/// A value, and what stands behind it.
fn decode_first<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), String> {
    match bytes.split_first() {
        Some((&VALUE_VERSION, body)) => postcard::take_from_bytes(body).map_err(|error| error.to_string()),
        Some((version, _)) => Err(format!("it has version {version}, not {VALUE_VERSION}")),
        None => Err("it is empty".to_owned()),
    }
}

/// A row as it stands in `rows_v1`.
pub(super) fn encode_row(row: &AccountRow) -> Vec<u8> {
    let mut etag = [0; ETAG_BYTES];
    let decoded = data_encoding::BASE64URL_NOPAD.decode(row.etag.as_bytes());
    etag.copy_from_slice(&decoded.expect("an etag is made by `etag` alone"));
    let mut encoded = encode(&StoredRow {
        account: row.account,
        operator: row.operator,
        issued_at: row.issued_at,
        expires_at: row.expires_at,
        name: row.name.clone(),
        etag,
        history: row.history.clone(),
        token: row.token.clone(),
    });
    // Behind the row, where there is nothing in nearly all of them, and where older files have nothing.
    encoded.extend(row.replaced.iter().flatten());
    encoded
}

pub(super) fn encode_operator(row: &OperatorRow) -> Vec<u8> {
    encode(&StoredOperator {
        issued_at: row.issued_at,
        revision: row.revision,
        token: row.token.clone(),
    })
}

/// An open file and its name.
pub(super) struct Store {
    database: Database,
    pub(super) file: Arc<str>,
}

impl Store {
    /// The file at `path`, made if it is not there.
    pub(super) fn open_file(path: &Path, options: &Options) -> Result<Self, Fault> {
        let file: Arc<str> = path.display().to_string().into();
        let database = builder(options).create(path);
        Self::checked(
            database.map_err(|error| Fault::storage("open", &file, error))?,
            file,
            options,
        )
    }

    /// The same on something that behaves like a file.
    pub(super) fn open_backend(backend: impl redb::StorageBackend, options: &Options) -> Result<Self, Fault> {
        let file: Arc<str> = "(in memory)".into();
        let database = builder(options).create_with_backend(backend);
        Self::checked(
            database.map_err(|error| Fault::storage("open", &file, error))?,
            file,
            options,
        )
    }

    /// Refuses what is not ours; gives a new file its beginning.
    fn checked(database: Database, file: Arc<str>, options: &Options) -> Result<Self, Fault> {
        let store = Self { database, file };
        let reading = store.read()?;
        let tables = reading.list_tables().map_err(|error| store.fault("read", error))?;
        let names: Vec<String> = tables.map(|table| redb::TableHandle::name(&table).to_owned()).collect();
        if names.is_empty() {
            store.begin(&options.store)?;
            return Ok(store);
        }
        if !names.iter().any(|name| name == redb::TableHandle::name(&META)) {
            return Err(Fault::Foreign { file: store.file });
        }
        let meta = reading.open_table(META).map_err(|error| store.fault("read", error))?;
        let value = |key: &str| match meta.get(key) {
            Ok(Some(value)) => Ok(value.value().to_vec()),
            Ok(None) => Err(store.damaged(format!("meta_v1 has no {key}"))),
            Err(error) => Err(store.fault("read", error)),
        };
        let format = <[u8; 4]>::try_from(value("format")?).map_err(|_| store.damaged("its format number"))?;
        let format = u32::from_le_bytes(format);
        if format != FORMAT {
            return Err(Fault::Format {
                file: store.file,
                found: format,
            });
        }
        let found = String::from_utf8(value("store")?).map_err(|_| store.damaged("its store uuid"))?;
        if found != options.store {
            return Err(Fault::Store {
                file: store.file,
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
            Ok(())
        };
        made().map_err(|error| self.fault("write to", error))
    }

    pub(super) fn read(&self) -> Result<ReadTransaction, Fault> {
        self.database.begin_read().map_err(|error| self.fault("read", error))
    }

    /// A transaction. `Immediate` ones record what is free, so that opening after a crash takes milliseconds and
    /// not the reading of the whole file, and commit in two phases: redb's one-phase commit has lost commits.
    pub(super) fn write(&self, durability: Durability) -> Result<WriteTransaction, Fault> {
        let mut writing = self
            .database
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

    pub(super) fn commit(&self, writing: WriteTransaction) -> Result<(), Fault> {
        writing.commit().map_err(|error| self.fault("commit to", error))
    }

    pub(super) fn write_meta(&self, writing: &WriteTransaction, meta: &Meta) -> Result<(), Fault> {
        let mut table = writing
            .open_table(META)
            .map_err(|error| self.fault("write to", error))?;
        table
            .insert("state", encode(meta).as_slice())
            .map_err(|error| self.fault("write to", error))?;
        Ok(())
    }

    pub(super) fn read_meta(&self, reading: &ReadTransaction) -> Result<Meta, Fault> {
        let table = reading.open_table(META).map_err(|error| self.fault("read", error))?;
        let value = table.get("state").map_err(|error| self.fault("read", error))?;
        let value = value.ok_or_else(|| self.damaged("meta_v1 has no state"))?;
        decode(value.value()).map_err(|what| self.damaged(format!("meta_v1, state: {what}")))
    }

    /// The row that stands at `id`.
    pub(super) fn decode_row(&self, id: RowId, bytes: &[u8]) -> Result<AccountRow, Fault> {
        let damaged = |what: &str| self.damaged(format!("rows_v1, revision {}, row {}: {what}", id.revision, id.slot));
        let (row, behind): (StoredRow, &[u8]) = decode_first(bytes).map_err(|what| damaged(&what))?;
        let (replaced, []) = behind.as_chunks::<ETAG_BYTES>() else {
            return Err(damaged("its list of replaced versions is cut off"));
        };
        // redb looks at its checksums when it repairs a file, not when it reads one.
        if row.etag != digest(&row.token) {
            return Err(damaged("its token is not the one that was stored"));
        }
        Ok(AccountRow {
            account: row.account,
            operator: row.operator,
            issued_at: row.issued_at,
            expires_at: row.expires_at,
            name: row.name,
            revision: id.revision,
            token: row.token,
            etag: data_encoding::BASE64URL_NOPAD.encode(&row.etag),
            slot: id.slot,
            history: row.history,
            replaced: replaced.to_vec(),
        })
    }

    pub(super) fn decode_operator(&self, key: &[u8; 32], bytes: &[u8]) -> Result<OperatorRow, Fault> {
        let operator = OperatorKey::from_bytes(*key);
        let row: StoredOperator =
            decode(bytes).map_err(|what| self.damaged(format!("operators_v1, {operator}: {what}")))?;
        Ok(OperatorRow {
            operator,
            issued_at: row.issued_at,
            revision: row.revision,
            token: row.token,
        })
    }

    pub(super) fn fault(&self, operation: &'static str, cause: impl Into<redb::Error>) -> Fault {
        Fault::storage(operation, &self.file, cause)
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> Fault {
        Fault::Damaged {
            file: self.file.clone(),
            what: what.into(),
        }
    }
}

/// redb as of one commit, with the two tables that a lookup needs already open: opening them costs as much as the
/// lookup itself. Kept only until the next commit, since redb keeps every page that it shows.
pub(super) struct Lookups {
    accounts: ReadOnlyTable<&'static [u8; 32], (u64, u32)>,
    rows: ReadOnlyTable<(u64, u32), &'static [u8]>,
    // Dropped last: the tables need it open.
    store: Arc<Store>,
}

impl Lookups {
    pub(super) fn of(store: Arc<Store>) -> Result<Self, Fault> {
        let reading = store.read()?;
        let fault = |error| store.fault("read", error);
        Ok(Self {
            accounts: reading.open_table(ACCOUNTS).map_err(fault)?,
            rows: reading.open_table(ROWS).map_err(fault)?,
            store,
        })
    }

    /// The current row of `account`.
    pub(super) fn row(&self, account: AccountKey) -> Result<Option<AccountRow>, Fault> {
        let fault = |error| self.store.fault("read", error);
        let Some(id) = self.accounts.get(account.as_bytes()).map_err(fault)? else {
            return Ok(None);
        };
        let id = RowId::from_key(id.value());
        let bytes = self.rows.get(id.key()).map_err(fault)?;
        let bytes = bytes.ok_or_else(|| self.store.damaged(format!("the row of {account} is missing")))?;
        let row = self.store.decode_row(id, bytes.value())?;
        if row.account != account {
            return Err(self.store.damaged(format!("the row of {account} is {}'s", row.account)));
        }
        Ok(Some(row))
    }
}

fn builder(options: &Options) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    builder
}
