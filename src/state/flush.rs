//! Moves applied entries into redb, whole and in order, and makes them durable. Each call is one bounded step.

use std::sync::{MutexGuard, PoisonError};

use redb::{Database, Durability, ReadableTable, Table, WriteTransaction};

use super::State;
use super::fault::Fault;
use super::memtable::Applied;
use super::tables::{
    ACCOUNTS, AccountRow, META, META_DURABLE, META_EPOCH, META_MARK, META_MEMBERSHIP, OPERATORS, POSITIONS, ROWS,
    RowId, Small, VERSIONS_KEPT,
};

/// How far redb is.
#[derive(Debug)]
pub(super) struct Progress {
    /// The small tables as redb holds them.
    pub(super) small: Small,
    /// The newest entry redb holds.
    pub(super) flushed: Option<u64>,
    /// The newest entry that a power cut cannot take from it.
    pub(super) checkpointed: Option<u64>,
    /// Bytes flushed since.
    pub(super) unsynced_bytes: u64,
}

impl Progress {
    /// redb ends at `small`, and all of it is durable.
    pub(super) fn durable(small: Small) -> Self {
        let flushed = small.mark.as_ref().map(|mark| mark.index);
        Self {
            small,
            flushed,
            checkpointed: flushed,
            unsynced_bytes: 0,
        }
    }
}

impl State {
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest entry that redb holds.
    pub fn flushed(&self) -> Option<u64> {
        self.progress().flushed
    }

    /// The newest entry that is durable in redb: the log may forget up to here.
    pub fn checkpointed(&self) -> Option<u64> {
        self.progress().checkpointed
    }

    /// Bytes flushed since the last checkpoint: what a restart reads again from the log.
    pub fn unsynced_bytes(&self) -> u64 {
        self.progress().unsynced_bytes
    }

    /// Moves the oldest entries, about `rows` rows of them, into redb in one transaction. Says whether there are more.
    ///
    /// An entry is never split, so that redb always ends at an entry. Not durable by itself.
    pub fn flush_step(&self, rows: usize) -> Result<bool, Fault> {
        let mut progress = self.progress();
        let mut batch: Vec<Applied> = Vec::new();
        let mut taken = 0;
        for entry in &self.memtable().entries {
            if taken >= rows {
                break;
            }
            taken += entry.rows.len().max(1);
            batch.push(entry.clone());
        }
        let Some(last) = batch.last() else { return Ok(false) };
        let flushed = last.index();
        assert!(progress.flushed < Some(flushed), "entry {flushed} is in redb already");
        let bytes: usize = batch.iter().map(Applied::bytes).sum();
        let write = |error: redb::Error| self.storage("write entries", error);
        let database = self.0.database.load();
        let mut transaction = database.begin_write().map_err(|e| write(e.into()))?;
        transaction
            .set_durability(Durability::None)
            .map_err(|e| write(e.into()))?;
        put_entries(&transaction, &batch).map_err(write)?;
        transaction.commit().map_err(|e| write(e.into()))?;

        let mut memtable = self.memtable_mut();
        let current = memtable.drop_oldest(batch.len());
        for row in current {
            self.0.cache.insert(row.account, row);
        }
        progress.flushed = Some(flushed);
        progress.small = last.small.clone();
        progress.unsynced_bytes += bytes as u64;
        let applied = memtable.small.mark.as_ref().map(|mark| mark.index);
        assert!(
            progress.checkpointed <= progress.flushed && progress.flushed <= applied,
            "checkpointed {:?}, flushed {:?}, applied {applied:?}",
            progress.checkpointed,
            progress.flushed
        );
        Ok(!memtable.entries.is_empty())
    }

    /// Makes everything flushed durable; gives the newest entry that is.
    pub fn checkpoint(&self) -> Result<Option<u64>, Fault> {
        let mut progress = self.progress();
        if progress.unsynced_bytes > 0 {
            let database = self.0.database.load();
            make_durable(&database, progress.flushed).map_err(|error| self.storage("make entries durable", error))?;
            progress.checkpointed = progress.flushed;
            progress.unsynced_bytes = 0;
        }
        Ok(progress.checkpointed)
    }
}

/// Makes everything that `database` holds, up to the entry `flushed`, durable.
///
/// Quick-repair makes the commit two-phase and lets a file be opened in milliseconds after a crash, where a repair
/// would read all of it. It writes something of its own, since a commit of nothing need not reach the disk.
pub(super) fn make_durable(database: &Database, flushed: Option<u64>) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    let durable = flushed.unwrap_or(0).to_be_bytes();
    transaction.open_table(META)?.insert(META_DURABLE, durable.as_slice())?;
    Ok(transaction.commit()?)
}

fn put_entries(transaction: &WriteTransaction, batch: &[Applied]) -> Result<(), redb::Error> {
    let mut accounts = transaction.open_table(ACCOUNTS)?;
    let mut rows = transaction.open_table(ROWS)?;
    for row in batch.iter().flat_map(|entry| &entry.rows) {
        put_row(&mut accounts, &mut rows, row)?;
    }
    if let Some(last) = batch.last() {
        put_small(transaction, &last.small)?;
    }
    Ok(())
}

/// Writes a row as the current one of its account, and removes the version that is one too many.
pub(super) fn put_row(
    accounts: &mut Table<'_, &[u8; 32], &[u8]>,
    rows: &mut Table<'_, (u64, u32), &[u8]>,
    row: &AccountRow,
) -> Result<(), redb::Error> {
    let mut ids = Vec::with_capacity(VERSIONS_KEPT * RowId::BYTES);
    row.id().write(&mut ids);
    let mut dropped = Vec::new();
    if let Some(known) = accounts.get(row.account.as_bytes())? {
        for (at, id) in RowId::read_all(known.value()).enumerate() {
            if at + 1 < VERSIONS_KEPT {
                id.write(&mut ids);
            } else {
                dropped.push(id);
            }
        }
    }
    for id in dropped {
        rows.remove(id.key())?;
    }
    accounts.insert(row.account.as_bytes(), ids.as_slice())?;
    rows.insert(row.id().key(), row.encode().as_slice())?;
    Ok(())
}

/// Writes the small tables as they are after an entry.
pub(super) fn put_small(transaction: &WriteTransaction, small: &Small) -> Result<(), redb::Error> {
    let encoded = |value: &super::Mark| postcard::to_stdvec(value).expect("plain data encodes");
    let mut meta = transaction.open_table(META)?;
    if let Some(mark) = &small.mark {
        meta.insert(META_MARK, encoded(mark).as_slice())?;
    }
    if let Some(membership) = &small.membership {
        meta.insert(META_MEMBERSHIP, &membership[..])?;
    }
    meta.insert(META_EPOCH, small.trust.epoch.to_be_bytes().as_slice())?;
    let mut operators = transaction.open_table(OPERATORS)?;
    for row in &small.trust.operators {
        let known = operators
            .get(row.operator.as_bytes())?
            .map(|bytes| bytes.value().to_vec());
        let bytes = postcard::to_stdvec(row).expect("plain data encodes");
        if known.as_deref() != Some(bytes.as_slice()) {
            operators.insert(row.operator.as_bytes(), bytes.as_slice())?;
        }
    }
    let mut positions = transaction.open_table(POSITIONS)?;
    for (nats_cluster, position) in &small.positions {
        if positions.get(nats_cluster.as_str())?.map(|known| known.value()) != Some(*position) {
            positions.insert(nats_cluster.as_str(), position)?;
        }
    }
    Ok(())
}
