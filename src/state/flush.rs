//! The way from the memtable into redb, as steps that somebody else drives: whole entries in order, then a checkpoint.

use std::collections::BTreeSet;
use std::sync::Arc;

use redb::{Durability, TableError};

use super::fault::Fault;
use super::memtable::Change;
use super::tables::{ACCOUNTS, Lookups, META, OPERATORS, POSITIONS, ROWS, RowId, Store, encode_operator, encode_row};
use super::{Live, State};

impl State {
    /// Moves the oldest entries, whole and in order, about `rows` rows, into redb; says whether more are waiting. Not
    /// durable until the next [`Self::checkpoint`]: a crash before it leaves an older prefix of the log, never half an
    /// entry. Readers and `apply` go on meanwhile.
    pub fn flush_step(&self, rows: usize) -> Result<bool, Fault> {
        let _flushing = super::lock(&self.inner.flushing);
        let (store, changes, mut meta) = {
            let live = self.live();
            (
                live.store.clone(),
                live.memtable.oldest(rows),
                live.flushed_meta.clone(),
            )
        };
        if changes.is_empty() {
            return Ok(false);
        }
        for change in &changes {
            meta.applied = Some(change.mark.clone());
            if let Some(membership) = &change.membership {
                meta.membership = Some(membership.clone());
            }
            if let Some(trust) = &change.trust {
                meta.trust_epoch = trust.epoch;
            }
        }
        let writing = store.write(Durability::None)?;
        write_changes(&writing, &changes).map_err(|error| store.fault("write to", error))?;
        store.write_meta(&writing, &meta)?;
        store.commit(writing)?;
        let lookups = Arc::new(Lookups::of(store)?);
        // Only now, with the rows readable in redb, may the memtable let go of them; until here a reader finds them
        // there, and from the same moment on the cache has no older one.
        let mut live = self.live_mut();
        let moved = live.memtable.release(changes.len());
        for row in moved {
            // Not replaced: to encode it under this lock would hold up every lookup, and nobody asks for most of them.
            self.inner.cache.remove(&row.account);
        }
        live.lookups = lookups;
        live.flushed_bytes += changes.iter().map(|change| change.bytes() as u64).sum::<u64>();
        live.flushed_meta = meta;
        live.assert_order();
        Ok(!live.memtable.is_empty())
    }

    /// Makes durable what is flushed; gives the index up to which the log may go. Readers and `apply` go on meanwhile.
    pub fn checkpoint(&self) -> Result<u64, Fault> {
        let _flushing = super::lock(&self.inner.flushing);
        let (store, flushed, bytes) = {
            let live = self.live();
            (
                live.store.clone(),
                live.flushed_meta.applied.clone(),
                live.flushed_bytes,
            )
        };
        let index = flushed.map(|mark| mark.index);
        store.checkpoint(index)?;
        let mut live = self.live_mut();
        live.checkpointed = index;
        live.flushed_bytes -= bytes;
        live.assert_order();
        Ok(index.unwrap_or(0))
    }

    /// The log index that redb has reached, durable or not; 0 also while it holds nothing.
    pub fn flushed(&self) -> u64 {
        self.live().flushed_meta.applied.as_ref().map_or(0, |mark| mark.index)
    }

    /// The log index up to which everything is durable here; 0 also while nothing is.
    pub fn checkpointed(&self) -> u64 {
        self.live().checkpointed.unwrap_or(0)
    }

    /// How much has been flushed since the last checkpoint: replaying the log after a crash is about as much work.
    pub fn checkpoint_due_bytes(&self) -> u64 {
        self.live().flushed_bytes
    }
}

impl Live {
    /// The one ordering that everything rests on (I5), asserted wherever one of the three moves.
    pub(super) fn assert_order(&self) {
        let applied = self.memtable.applied.as_ref().map(|mark| mark.index);
        let flushed = self.flushed_meta.applied.as_ref().map(|mark| mark.index);
        assert!(
            self.checkpointed <= flushed && flushed <= applied,
            "checkpoint {:?} <= flushed {flushed:?} <= applied {applied:?}",
            self.checkpointed,
        );
    }
}

impl Store {
    /// A durable commit. It writes something of its own, because a commit of nothing need not reach the disk.
    pub(super) fn checkpoint(&self, index: Option<u64>) -> Result<(), Fault> {
        let writing = self.write(Durability::Immediate)?;
        let mut meta = writing
            .open_table(META)
            .map_err(|error| self.fault("write to", error))?;
        let value = index.unwrap_or(0).to_le_bytes();
        meta.insert("checkpoint", value.as_slice())
            .map_err(|error| self.fault("write to", error))?;
        drop(meta);
        self.commit(writing)
    }
}

fn write_changes(writing: &redb::WriteTransaction, changes: &[Arc<Change>]) -> Result<(), TableError> {
    let mut accounts = writing.open_table(ACCOUNTS)?;
    let mut rows = writing.open_table(ROWS)?;
    let mut operators = writing.open_table(OPERATORS)?;
    let mut positions = writing.open_table(POSITIONS)?;
    // Sorted, so that neighbours are removed from the same page; what came and went within this step is not written.
    let mut forgotten: BTreeSet<RowId> = changes
        .iter()
        .flat_map(|change| change.forgotten.iter().copied())
        .collect();
    for change in changes {
        for row in &change.rows {
            accounts.insert(row.account.as_bytes(), row.id().key())?;
            if !forgotten.remove(&row.id()) {
                rows.insert(row.id().key(), encode_row(row).as_slice())?;
            }
        }
        for row in &change.operators {
            operators.insert(row.operator.as_bytes(), encode_operator(row).as_slice())?;
        }
        if let Some((nats_cluster, position)) = &change.position {
            positions.insert(nats_cluster.as_str(), *position)?;
        }
    }
    for id in forgotten {
        rows.remove(id.key())?;
    }
    Ok(())
}
