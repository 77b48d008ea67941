//! What a reader sees: the memtable, and redb as of the last flush.

use std::sync::Arc;

use super::memtable::Memtable;
use crate::state::fault::Fault;
use crate::state::file::{Lookups, Meta, SnapshotView, Store};

/// The part of the state that changes. Its lock is held for moments only, never across a read or write of redb.
///
/// Invariant (I5): checkpoint <= flushed <= applied, asserted wherever one of the three moves.
pub(in crate::state) struct Live {
    pub(in crate::state) memtable: Memtable,
    pub(in crate::state) store: Arc<Store>,
    /// redb as of the last flush; replaced whenever rows go to redb or redb itself is replaced.
    pub(in crate::state) lookups: Arc<Lookups>,
    pub(super) flushed_meta: Meta,
    /// Bytes flushed since the last checkpoint.
    pub(in crate::state) flushed_bytes: u64,
    pub(in crate::state) checkpointed: Option<u64>,
}

impl Live {
    /// What `store` holds, all of it durable.
    pub(in crate::state) fn on(store: Arc<Store>) -> Result<Self, Fault> {
        let held = SnapshotView::of(store.clone())?;
        let flushed_meta = held.meta().clone();
        let live = Self {
            memtable: Memtable::new(flushed_meta.clone(), held.trust()?, held.positions()?, held.rosters()?),
            lookups: Arc::new(Lookups::of(store.clone())?),
            store,
            checkpointed: flushed_meta.applied.as_ref().map(|mark| mark.index),
            flushed_meta,
            flushed_bytes: 0,
        };
        live.assert_order();
        Ok(live)
    }

    /// The log index of the last applied entry.
    pub(in crate::state) fn applied(&self) -> Option<u64> {
        self.memtable.applied.as_ref().map(|mark| mark.index)
    }

    /// The log index that redb has reached, durable or not.
    pub(in crate::state) fn flushed(&self) -> Option<u64> {
        self.flushed_meta.applied.as_ref().map(|mark| mark.index)
    }

    /// Bytes that are applied and that a start after a crash would apply again.
    pub(in crate::state) fn beyond_checkpoint(&self) -> u64 {
        self.memtable.bytes() as u64 + self.flushed_bytes
    }

    pub(in crate::state) fn assert_order(&self) {
        let (applied, flushed) = (self.applied(), self.flushed());
        assert!(
            self.checkpointed <= flushed && flushed <= applied,
            "checkpoint {:?} <= flushed {flushed:?} <= applied {applied:?}",
            self.checkpointed,
        );
    }
}
