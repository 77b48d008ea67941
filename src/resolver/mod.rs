//! THE SINGLE ENTRY POINT: every lookup and every submission passes here, whether it came over HTTP, NATS or the
//! command line.
//!
//! - A **lookup** (`lookup.rs`) reads this node's own state: no leader, no peer, no queue. It may wait for the disk, but
//!   never on every thread at once, so that rows in memory are served while the disk hangs.
//! - A **submission** (`submit.rs`) is verified under the trust agreed now, proposed, and answered when it is on disk
//!   and applied here (G1). If the trust changed in between, it is verified again.
//! - **Scans** (`scan.rs`) read one moment of redb, off the threads that answer lookups.
//! - **Trust** (`trust.rs`) turns the agreed operators into verified keys, once for each change.
//! - **Publishers** (`publish.rs`) ask here for positions, and always for the current token, never a remembered one.
//!
//! Nothing here knows HTTP or NATS, and nothing above it touches `raft` or `state`: their types that callers need are
//! re-exported.

mod error;
mod lookup;
mod publish;
mod scan;
mod submit;
mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, broadcast, watch};

pub use error::{ReadError, SubmitError};
pub use submit::{INLINE_TOKEN_BYTES, Submitted};
pub use trust::Trust;

use crate::clock::Clock;
use crate::jwt::AccountKey;
pub use crate::raft::ProposeError;
use crate::raft::Raft;
pub use crate::state::AccountRow;
pub use crate::state::Changes;
pub use crate::state::OperatorOutcome;
pub use crate::state::Revision;
use crate::state::State;
use crate::tasks::FaultHandle;
use lookup::Reading;

/// Requests to send an account again that may wait for a slow NATS cluster; older ones are dropped, since the
/// regular way has sent that account already.
const REPUBLISH_QUEUE: usize = 1024;

/// How far this node's view is, and how old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The newest revision that can be read here.
    pub revision: Revision,
    /// Milliseconds since this node last heard from a leader; 0 on the leader.
    pub leader_age_ms: u64,
    /// Whether the state is usable: lookups are answered from it.
    pub ready: bool,
}

/// The single entry point. Clones lead to the same place.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    // What it stands on.
    raft: Raft,
    state: State,
    clock: Clock,
    fault: FaultHandle,
    // What it knows of them.
    trust: ArcSwap<Trust>,
    revision: watch::Receiver<Revision>,
    ready: AtomicBool,
    // What it grants and passes on.
    reading: Reading,
    verifying: Arc<Semaphore>,
    republish: broadcast::Sender<AccountKey>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// An entry point to `raft` and `state`, open for lookups at once. To be called on the runtime that answers.
    pub fn new(raft: Raft, state: State, clock: Clock, fault: FaultHandle) -> Self {
        let revision = raft.revision();
        Self(Arc::new(Inner {
            raft,
            state,
            clock,
            fault,
            trust: ArcSwap::default(),
            revision,
            ready: AtomicBool::new(true),
            reading: Reading::on_this_runtime(),
            verifying: Arc::new(Semaphore::new(submit::LARGE_VERIFICATIONS)),
            republish: broadcast::channel(REPUBLISH_QUEUE).0,
        }))
    }

    /// How far and how old this node's view is.
    pub fn view(&self) -> View {
        View {
            revision: *self.0.revision.borrow(),
            leader_age_ms: self.0.raft.leader_age().map_or(u64::MAX, as_ms),
            ready: self.0.ready.load(Ordering::Relaxed) && !self.0.fault.is_reported(),
        }
    }

    /// No longer ready: new nats-servers shall ask another node, while this one still answers.
    pub fn retire(&self) {
        self.0.ready.store(false, Ordering::Relaxed);
    }

    /// Changes with every applied entry; says "look again", not what changed.
    pub fn watch_revision(&self) -> watch::Receiver<Revision> {
        self.0.revision.clone()
    }
}

fn as_ms(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}
