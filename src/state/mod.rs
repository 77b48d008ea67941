//! WHAT THE CLUSTER HAS AGREED. Deterministic: same commands, same bytes. No clock, no tasks.
//!
//! An applied entry goes into the memtable at once and into redb a little later, whole and in order, so that redb
//! always holds a prefix of the log that ends at an entry. Readers never learn where a row lies.

mod accounts;
mod apply;
mod command;
mod fault;
mod flush;
mod memtable;
mod open;
mod snapshot;
mod tables;

use std::sync::{Arc, Mutex, RwLock};

use arc_swap::ArcSwap;
use bytes::Bytes;

pub use accounts::Changes;
pub use apply::Effect;
pub use command::{Command, CommandError, Outcome, PutAccount, PutOperator, Revision};
pub use fault::Fault;
pub use open::Options;
pub use snapshot::SnapshotView;
pub use tables::{AccountRow, Mark, OperatorRow, Trust};

use crate::jwt::AccountKey;

/// The agreed state of this node. Clones share it.
///
/// Upholds `checkpointed <= flushed <= applied`; the one place that computes them asserts it.
#[derive(Clone)]
pub struct State(Arc<Inner>);

struct Inner {
    /// Where it came from: also where an installed snapshot goes.
    source: open::Source,
    options: Options,
    database: ArcSwap<redb::Database>,
    /// What is applied and not yet in redb, and the small tables whole.
    applied: RwLock<memtable::Memtable>,
    /// Current rows that are in redb.
    cache: quick_cache::sync::Cache<AccountKey, Arc<AccountRow>, accounts::Weight>,
    /// Held by whoever applies: one entry after the other.
    applying: Mutex<()>,
    /// Held by whoever writes into redb.
    flushing: Mutex<flush::Progress>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({})", self.0.source)
    }
}

impl State {
    /// The newest applied entry; absent before the first.
    pub fn applied(&self) -> Option<Mark> {
        self.memtable().small.mark.clone()
    }

    /// The members as of the newest applied membership entry, as raft encoded them.
    pub fn membership(&self) -> Option<Bytes> {
        self.memtable().small.membership.clone()
    }

    /// Whom the mesh trusts.
    pub fn trust(&self) -> Arc<Trust> {
        self.memtable().small.trust.clone()
    }

    /// How far a NATS cluster has been told.
    pub fn position(&self, nats_cluster: &str) -> Revision {
        self.memtable().small.positions.get(nats_cluster).copied().unwrap_or(0)
    }

    /// Whether the next apply must wait for a flush.
    pub fn is_full(&self) -> bool {
        self.pending_bytes() >= self.0.options.memtable_bytes
    }

    /// Bytes applied and not yet in redb.
    pub fn pending_bytes(&self) -> usize {
        self.memtable().bytes
    }
}
