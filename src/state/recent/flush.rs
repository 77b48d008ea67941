//! Moves entries from the memtable into redb, whole and in order, in steps that the caller drives.

use std::collections::BTreeSet;
use std::sync::Arc;

use redb::{Durability, TableError};

use super::cache::RowCache;
use super::change::Change;
use super::live::Live;
use crate::state::fault::Fault;
use crate::state::file::{
    ACCOUNTS, CLOSINGS, DELETED, Lookups, Meta, OPERATORS, POSITIONS, ROWS, SERVERS, Store, encode_closing,
    encode_operator, encode_replaced, encode_row, encode_server,
};
use crate::state::roster::server_key;
use crate::state::rows::RowId;

/// One step of the flush: some of the oldest entries, whole and in order.
pub(in crate::state) struct Flush {
    store: Arc<Store>,
    changes: Vec<Arc<Change>>,
    /// redb's own record of its state after the step.
    meta: Meta,
}

impl Flush {
    /// Takes the oldest entries, about `rows` rows; `None` if nothing is waiting. Readers still find them in the
    /// memtable.
    pub(in crate::state) fn next(live: &Live, rows: usize) -> Option<Self> {
        let changes = live.memtable.oldest(rows);
        let mut meta = live.flushed_meta.clone();
        for change in &changes {
            meta.applied = Some(change.mark.clone());
            if let Some(membership) = &change.membership {
                meta.membership = Some(membership.clone());
            }
            if let Some(trust) = &change.trust {
                meta.trust_epoch = trust.epoch;
            }
        }
        (!changes.is_empty()).then(|| Self {
            store: live.store.clone(),
            changes,
            meta,
        })
    }

    /// Writes them in one transaction, not durable until the next checkpoint; returns redb as of then.
    pub(in crate::state) fn write(&self) -> Result<Arc<Lookups>, Fault> {
        let store = &self.store;
        store.writing(|| {
            let writing = store.write(Durability::None)?;
            write_changes(&writing, &self.changes).map_err(|error| store.fault("write to", error))?;
            if self.changes.iter().any(|change| change.has_deletes()) {
                store.mark_deletes(&writing)?;
            }
            store.write_meta(&writing, &self.meta)?;
            store.commit(writing)?;
            Ok(Arc::new(Lookups::of(store.clone()).map_err(Fault::fatal)?))
        })
    }

    /// Removes what is written from the memtable. Not before this point, where the rows can be read in redb: until now
    /// readers found them in the memtable, and from the same moment on the cache holds no older row. Returns the entries:
    /// freeing them takes time, and every lookup waits while the caller holds the lock on `live`.
    #[must_use = "to be dropped after the lock on `live`"]
    pub(in crate::state) fn finish(self, lookups: Arc<Lookups>, live: &mut Live, cache: &RowCache) -> Vec<Arc<Change>> {
        for row in live.memtable.release(self.changes.len()) {
            // Not replaced: encoding the row under this lock would hold up every lookup, and most rows are never asked
            // for.
            cache.remove(&row.account);
        }
        live.lookups = lookups;
        live.flushed_bytes += self.changes.iter().map(|change| change.bytes() as u64).sum::<u64>();
        live.flushed_meta = self.meta;
        live.assert_order();
        self.changes
    }
}

fn write_changes(writing: &redb::WriteTransaction, changes: &[Arc<Change>]) -> Result<(), TableError> {
    let mut accounts = writing.open_table(ACCOUNTS)?;
    let mut rows = writing.open_table(ROWS)?;
    let mut operators = writing.open_table(OPERATORS)?;
    let mut positions = writing.open_table(POSITIONS)?;
    let mut servers = writing.open_table(SERVERS)?;
    let mut deleted = writing.open_table(DELETED)?;
    let mut closings = writing.open_table(CLOSINGS)?;
    // Sorted, so that neighbours are removed from the same page. A row that was added and forgotten within this step is
    // not written.
    let mut forgotten: BTreeSet<RowId> = changes
        .iter()
        .flat_map(|change| change.forgotten.iter().copied())
        .collect();
    for change in changes {
        for row in &change.rows {
            // Of the two indexes one has the account.
            let (index, other) = if row.is_deleted() {
                (&mut deleted, &mut accounts)
            } else {
                (&mut accounts, &mut deleted)
            };
            index.insert(row.account.as_bytes(), row.id().key())?;
            other.remove(row.account.as_bytes())?;
            if !forgotten.remove(&row.id()) {
                rows.insert(row.id().key(), encode_row(row).as_slice())?;
            }
        }
        for row in &change.operators {
            operators.insert(row.operator.as_bytes(), encode_operator(row).as_slice())?;
        }
        for row in &change.replaced {
            operators.insert(row.operator.as_bytes(), encode_replaced(row).as_slice())?;
        }
        for (nats_cluster, position) in &change.positions {
            positions.insert(nats_cluster.as_str(), *position)?;
        }
        match &change.closing {
            Some((account, Some(closing))) => {
                closings.insert(account.as_bytes(), encode_closing(closing).as_slice())?;
            }
            Some((account, None)) => {
                closings.remove(account.as_bytes())?;
            }
            None => {}
        }
        if let Some(roster) = &change.roster {
            for id in &roster.gone {
                servers.remove(server_key(&roster.nats_cluster, id).as_str())?;
            }
            for server in &roster.seen {
                let key = server_key(&roster.nats_cluster, &server.id);
                servers.insert(key.as_str(), encode_server(server).as_slice())?;
            }
        }
    }
    for id in forgotten {
        rows.remove(id.key())?;
    }
    Ok(())
}
