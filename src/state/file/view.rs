//! The state as of one moment: what redb held after a whole log entry.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableTableMetadata as _, TableDefinition, Value};

use super::encoding::StoredOperator;
use super::store::{Store, maybe};
use super::{ACCOUNTS, CLOSINGS, DELETED, FORMAT_WITH_DELETES, META, Meta, OPERATORS, POSITIONS, ROWS, SERVERS};
use crate::jwt::AccountKey;
use crate::state::command::Revision;
use crate::state::fault::Fault;
use crate::state::roster::Rosters;
use crate::state::rows::{AccountRow, Closing, Mark, RowId, Trust, Version};

/// What redb held at one moment: the state after a whole log entry. Costs nothing to make or to clone, but redb cannot
/// reuse the pages that it shows until it is dropped, so a view that is held for long makes the file grow.
#[derive(Clone)]
pub struct SnapshotView(Arc<View>);

struct View {
    reading: ReadTransaction,
    meta: Meta,
    accounts: u64,
    // Dropped last: reading needs it open.
    store: Arc<Store>,
}

/// An account of a listing.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The account.
    pub account: AccountKey,
    /// The revision that stored its current row.
    pub revision: Revision,
    /// That row; or why it cannot be read.
    pub row: Result<Arc<AccountRow>, Fault>,
}

/// A closing token of a listing.
#[derive(Debug, Clone)]
pub struct ListedClosing {
    /// The account that it shuts.
    pub account: AccountKey,
    /// The token and what is known of it; or why it cannot be read.
    pub closing: Result<Closing, Fault>,
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
    pub(in crate::state) fn of(store: Arc<Store>) -> Result<Self, Fault> {
        store.reading(|| Self::taken(store.clone()))
    }

    fn taken(store: Arc<Store>) -> Result<Self, Fault> {
        let reading = store.read()?;
        let meta = store.read_meta(&reading)?;
        let accounts = reading.open_table(ACCOUNTS).map_err(|error| store.unread(error))?;
        let accounts = accounts.len().map_err(|error| store.unread(error))?;
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

    /// The membership as of then, encoded as it was applied.
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

    /// Every row, including the replaced ones that are kept for the history, in the order of their revisions: of two
    /// rows of one account the later one is the newer.
    pub fn rows(&self) -> Result<impl Iterator<Item = Result<AccountRow, Fault>> + use<>, Fault> {
        let view = self.clone();
        let rows = self
            .table(ROWS)?
            .range::<(u64, u32)>(..)
            .map_err(|error| self.fault(error))?;
        Ok(rows.map(move |entry| {
            let (id, value) = entry.map_err(|error| view.fault(error))?;
            view.0.store.row(None, RowId::from_key(id.value()), value.value())
        }))
    }

    /// Up to `limit` accounts in the order of their keys, beginning behind `after`. A row that cannot be read is listed
    /// with its fault.
    pub fn accounts(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<Listed>, Fault> {
        self.0.store.reading(|| self.listed(after, limit))
    }

    fn listed(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<Listed>, Fault> {
        let (accounts, rows) = (self.table(ACCOUNTS)?, self.table(ROWS)?);
        let from = after.as_ref().map_or(Unbounded, |after| Excluded(after.as_bytes()));
        let range = accounts
            .range::<&[u8; 32]>((from, Unbounded))
            .map_err(|error| self.fault(error))?;
        let mut found = Vec::new();
        for entry in range.take(limit) {
            let (account, id) = entry.map_err(|error| self.fault(error))?;
            let (account, id) = (AccountKey::from_bytes(*account.value()), RowId::from_key(id.value()));
            let row = match self.row(&rows, account, id) {
                Err(fault) if !fault.is_of_one_read() => return Err(fault),
                row => row.map(Arc::new),
            };
            let revision = id.revision;
            found.push(Listed { account, revision, row });
        }
        Ok(found)
    }

    /// The keys of up to `limit` accounts, in their order. Reads no row.
    pub fn keys(&self, limit: usize) -> Result<Vec<AccountKey>, Fault> {
        self.0.store.reading(|| {
            let accounts = self.table(ACCOUNTS)?;
            let all = accounts.range::<&[u8; 32]>(..).map_err(|error| self.fault(error))?;
            all.take(limit)
                .map(|entry| {
                    let (account, _) = entry.map_err(|error| self.fault(error))?;
                    Ok(AccountKey::from_bytes(*account.value()))
                })
                .collect()
        })
    }

    /// The versions of `account` that are kept, newest first, tombstones among them; empty if there never was such an
    /// account.
    pub fn history(&self, account: AccountKey) -> Result<Vec<Version>, Fault> {
        let rows = self.table(ROWS)?;
        let Some(id) = self.current(account)? else {
            return Ok(Vec::new());
        };
        let current = self.row(&rows, account, id)?;
        let mut versions = vec![version(&current)];
        for past in &current.history {
            versions.push(version(&self.row(&rows, account, past.id)?));
        }
        Ok(versions)
    }

    /// Where the row of `account` stands, whether it was deleted or not.
    pub(super) fn current(&self, account: AccountKey) -> Result<Option<RowId>, Fault> {
        let key = account.as_bytes();
        let accounts = self.table(ACCOUNTS)?;
        let mut id = accounts.get(key).map_err(|error| self.fault(error))?;
        if let (None, Some(deleted)) = (&id, self.optional(DELETED)?) {
            id = deleted.get(key).map_err(|error| self.fault(error))?;
        }
        Ok(id.map(|id| RowId::from_key(id.value())))
    }

    /// The closing token of `account`, if one is kept.
    pub fn closing(&self, account: AccountKey) -> Result<Option<Closing>, Fault> {
        self.0.store.reading(|| {
            let Some(closings) = self.optional(CLOSINGS)? else {
                return Ok(None);
            };
            let found = closings.get(account.as_bytes()).map_err(|error| self.fault(error))?;
            found
                .map(|value| self.0.store.closing(account.as_bytes(), value.value()))
                .transpose()
        })
    }

    /// Up to `limit` closing tokens in the order of their accounts, beginning behind `after`. One that cannot be read is listed
    /// with its fault.
    pub fn closings(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<ListedClosing>, Fault> {
        self.0.store.reading(|| {
            let Some(closings) = self.optional(CLOSINGS)? else {
                return Ok(Vec::new());
            };
            let from = after.as_ref().map_or(Unbounded, |after| Excluded(after.as_bytes()));
            let range = closings.range::<&[u8; 32]>((from, Unbounded));
            let mut found = Vec::new();
            for entry in range.map_err(|error| self.fault(error))?.take(limit) {
                let (key, value) = entry.map_err(|error| self.fault(error))?;
                let closing = match self.0.store.closing(key.value(), value.value()) {
                    Err(fault) if !fault.is_of_one_read() => return Err(fault),
                    closing => closing,
                };
                let account = AccountKey::from_bytes(*key.value());
                found.push(ListedClosing { account, closing });
            }
            Ok(found)
        })
    }

    /// The trusted operators as of then.
    pub fn trust(&self) -> Result<Trust, Fault> {
        let mut trust = Trust {
            epoch: self.0.meta.trust_epoch,
            operators: Vec::new(),
            replaced: Vec::new(),
        };
        for entry in self
            .table(OPERATORS)?
            .range::<&[u8; 32]>(..)
            .map_err(|error| self.fault(error))?
        {
            let (key, value) = entry.map_err(|error| self.fault(error))?;
            match self.0.store.operator(key.value(), value.value())? {
                StoredOperator::Trusted(row) => trust.operators.push(row),
                StoredOperator::Replaced(row) => trust.replaced.push(row),
            }
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

    /// The servers of all NATS clusters as of then.
    pub fn rosters(&self) -> Result<Rosters, Fault> {
        let mut rosters = Rosters::new();
        let Some(table) = self.optional(SERVERS)? else {
            return Ok(rosters);
        };
        for entry in table.range::<&str>(..).map_err(|error| self.fault(error))? {
            let (key, value) = entry.map_err(|error| self.fault(error))?;
            let (nats_cluster, server) = self.0.store.server(key.value(), value.value())?;
            let servers = rosters.entry(nats_cluster.to_owned()).or_default();
            servers.insert(server.id.clone(), server);
        }
        Ok(rosters)
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
        // A state without servers, tombstones and closing tokens has the same digest as before there were any.
        if self.count(SERVERS)? > 0 {
            self.each(SERVERS, &mut add)?;
        }
        if self.count(DELETED)? > 0 {
            self.each(DELETED, &mut add)?;
        }
        if self.count(CLOSINGS)? > 0 {
            self.each(CLOSINGS, &mut add)?;
        }
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

    pub(in crate::state) fn meta(&self) -> &Meta {
        &self.0.meta
    }

    pub(in crate::state) fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<ReadOnlyTable<K, V>, Fault> {
        self.0.reading.open_table(table).map_err(|error| self.fault(error))
    }

    /// A table that a file of an earlier version lacks, see `mod.rs`.
    pub(super) fn optional<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<Option<ReadOnlyTable<K, V>>, Fault> {
        maybe(&self.0.reading, table).map_err(|error| self.fault(error))
    }

    /// Whether it has, or once had, a tombstone or a closing token: only a program that knows them may read it.
    pub(super) fn has_deletes(&self) -> Result<bool, Fault> {
        let meta = self.table(META)?;
        let format = meta.get("format").map_err(|error| self.fault(error))?;
        Ok(format.is_some_and(|format| format.value() == FORMAT_WITH_DELETES.to_le_bytes()))
    }

    /// How many rows such a table has.
    pub(super) fn count<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<u64, Fault> {
        let table = self.optional(table)?;
        table.map_or(Ok(0), |table| table.len().map_err(|error| self.fault(error)))
    }

    pub(in crate::state) fn row(
        &self,
        rows: &ReadOnlyTable<(u64, u32), &'static [u8]>,
        account: AccountKey,
        id: RowId,
    ) -> Result<AccountRow, Fault> {
        let store = &self.0.store;
        store.reading(|| {
            let value = rows.get(id.key()).map_err(|error| self.fault(error))?;
            let value = value.ok_or_else(|| store.row_damaged(Some(account), id, "it is missing"))?;
            store.row(Some(account), id, value.value())
        })
    }

    pub(in crate::state) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(in crate::state) fn store_handle(&self) -> Arc<Store> {
        self.0.store.clone()
    }

    pub(in crate::state) fn fault(&self, cause: impl Into<redb::Error>) -> Fault {
        self.0.store.unread(cause)
    }
}

fn version(row: &AccountRow) -> Version {
    Version {
        kind: row.kind,
        revision: row.revision,
        issued_at: row.issued_at,
        bytes: row.token.len(),
        etag: row.etag.clone(),
    }
}
