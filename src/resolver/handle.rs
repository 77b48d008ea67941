//! The resolver's handle, which every caller shares, and the parts behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};

use super::error::Protected;
use super::nats::{Asking, Resends, Seen, Versions};
use crate::clock::{Clock, UnixSeconds};
use crate::jwt::AccountKey;
use crate::jwt::TrustedKeys;
use crate::raft::Raft;
use crate::state::Revision;
use crate::state::State;
use crate::tasks::FaultHandle;

/// Large tokens verified at once; further ones wait. Each takes milliseconds and some 20 MB, while the other threads
/// answer lookups.
pub(super) const LARGE_VERIFICATIONS: usize = 2;

/// Lookups that wait for a hanging disk on threads of their own. Further lookups wait for one of these to end; a client
/// that hangs up meanwhile leaves nothing behind.
const HANGING_READS: usize = 32;

/// Requests to send an account again that may wait for a slow NATS cluster. Past it the oldest are dropped: the account
/// was already sent when it changed.
const REPUBLISH_QUEUE: usize = 1024;

/// The operators that this mesh trusts to issue accounts.
#[derive(Debug, Default)]
pub struct VerifiedTrust {
    /// Grows with every change.
    pub epoch: u64,
    /// The operators and their keys.
    pub keys: TrustedKeys,
}

/// How lookups share the disk.
pub(super) struct Reading {
    /// Permits for lookups that read on the thread that answers.
    pub(super) inline: Semaphore,
    /// Permits for lookups that wait for a hanging disk on threads of their own.
    pub(super) hanging: Arc<Semaphore>,
    /// The damages that have been logged.
    pub(super) damages: Mutex<BTreeSet<String>>,
}

impl Reading {
    fn on_this_runtime() -> Self {
        let workers = Handle::current().metrics().num_workers();
        Self {
            // One permit fewer than workers, so that one worker still serves cached rows while the disk hangs.
            inline: Semaphore::new(workers.saturating_sub(1).max(1)),
            hanging: Arc::new(Semaphore::new(HANGING_READS)),
            damages: Mutex::default(),
        }
    }
}

/// How current this node's view of the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The newest revision that can be read here.
    pub revision: Revision,
    /// How old that is: milliseconds since a quorum last acknowledged a leader with all that can be read here; `None` if no
    /// leader was ever heard.
    pub age_ms: Option<u64>,
    /// Whether the state is usable: lookups are answered from it.
    pub ready: bool,
}

/// The single entry point. Clones are handles on the same one.
#[derive(Clone)]
pub struct Resolver(pub(super) Arc<Inner>);

pub(super) struct Inner {
    // The parts it is built from.
    pub(super) raft: Raft,
    pub(super) state: State,
    pub(super) clock: Clock,
    pub(super) fault: FaultHandle,
    // What it keeps of their state.
    pub(super) trust: ArcSwap<VerifiedTrust>,
    /// Operators of this node's configuration that the mesh does not trust.
    pub(super) candidates: ArcSwap<TrustedKeys>,
    pub(super) revision: watch::Receiver<Revision>,
    pub(super) ready: AtomicBool,
    // Permits, and the requests that it passes on to publishers.
    pub(super) reading: Reading,
    pub(super) verifying: Arc<Semaphore>,
    /// The same for what other nodes forward: clients' large tokens must not hold it up.
    pub(super) checking: Arc<Semaphore>,
    pub(super) republish: broadcast::Sender<AccountKey>,
    pub(super) resends: Resends,
    /// The same for accounts whose tokens were overwritten on the servers.
    pub(super) overrules: Resends,
    /// What the publishers of this node see, by the names of the NATS clusters.
    pub(super) publishers: Mutex<BTreeMap<String, Seen>>,
    /// The versions of the servers that are sent accounts, and whether what those refuse is taken all the same.
    pub(super) versions: ArcSwap<Versions>,
    pub(super) takes_refused: AtomicBool,
    /// Whether accounts that have streams are not deleted.
    pub(super) refuses_with_streams: AtomicBool,
    /// Whether a publisher's node of another version was asked, which is logged once.
    pub(super) met_other_version: AtomicBool,
    /// Accounts that are neither deleted nor shut.
    pub(super) protected: ArcSwap<BTreeMap<AccountKey, Protected>>,
    /// Where they are asked.
    pub(super) inquiries: Mutex<BTreeMap<String, mpsc::Sender<Asking>>>,
    /// NATS servers' clocks minus ours, in seconds; `i64::MIN` while none was heard.
    pub(super) heard_offset: AtomicI64,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// An entry point to `raft` and `state`, which answers lookups at once. To be called on the runtime that answers,
    /// because it counts that runtime's workers.
    pub fn new(raft: Raft, state: State, clock: Clock, fault: FaultHandle) -> Self {
        let revision = raft.revision();
        Self(Arc::new(Inner {
            raft,
            state,
            clock,
            fault,
            trust: ArcSwap::default(),
            candidates: ArcSwap::default(),
            revision,
            ready: AtomicBool::new(true),
            reading: Reading::on_this_runtime(),
            verifying: Arc::new(Semaphore::new(LARGE_VERIFICATIONS)),
            checking: Arc::new(Semaphore::new(LARGE_VERIFICATIONS)),
            republish: broadcast::channel(REPUBLISH_QUEUE).0,
            resends: Resends::default(),
            publishers: Mutex::default(),
            inquiries: Mutex::default(),
            versions: ArcSwap::default(),
            takes_refused: AtomicBool::new(false),
            refuses_with_streams: AtomicBool::new(false),
            met_other_version: AtomicBool::new(false),
            protected: ArcSwap::default(),
            overrules: Resends::default(),
            heard_offset: AtomicI64::new(i64::MIN),
        }))
    }

    /// How current this node's view of the state is.
    pub fn view(&self) -> View {
        View {
            revision: *self.0.revision.borrow(),
            age_ms: self.0.raft.applied_age().map(as_ms),
            ready: self.0.ready.load(Ordering::Relaxed) && self.0.raft.is_usable() && !self.0.fault.is_reported(),
        }
    }

    /// The mesh's time, in Unix seconds: the median of the clocks of the members that can be reached. No wrong clock of one
    /// node decides whose tokens are taken (G2).
    pub fn now(&self) -> UnixSeconds {
        self.0.clock.now().saturating_add(self.0.raft.time_offset())
    }

    /// The mesh's time minus this node's clock, in seconds.
    pub fn time_offset(&self) -> i64 {
        self.0.raft.time_offset()
    }

    /// The newest revision that can be read here.
    pub fn revision(&self) -> Revision {
        *self.0.revision.borrow()
    }

    /// Marks this node as not ready, so that nats-servers that start now ask another node. It still answers requests.
    pub fn retire(&self) {
        self.0.ready.store(false, Ordering::Relaxed);
    }

    /// Changes with every applied entry. It only says "look again", not what changed.
    pub fn watch_revision(&self) -> watch::Receiver<Revision> {
        self.0.revision.clone()
    }
}

pub(super) fn as_ms(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}
