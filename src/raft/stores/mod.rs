//! THE TWO STORES OF A NODE: the log and the state, opened together, and the threads that write them.
//!
//! An entry is durable in the log before it is acknowledged, applied to the state in memory, and moved into redb later
//! by the [`Flusher`]. The log is purged (`trim.rs`) only up to a durable checkpoint of the state, so that together
//! they always hold everything: `purged <= checkpoint <= flushed <= applied`.
//!
//! A nearly full disk stops uploads first and flushes last (`space.rs`): a write that fails would end the node, and
//! lookups with it.

mod flusher;
mod quiet;
mod space;
mod trim;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use tokio::sync::watch;

pub use flusher::Flusher;
pub(super) use quiet::write_committed;
pub use space::Space;
pub use trim::Trimmer;

use super::log::{self, Disk, LogFault, LogStore, RealDisk, StoreId};
use crate::folder::Folder;
use crate::state;
use crate::state::Revision;
use crate::state::State;
use crate::tasks::FaultHandle;
use crate::tasks::chain;
use crate::tasks::spawn_thread;

/// Both stores, open, with their threads running: what [`super::Raft::open`] builds on.
pub struct Stores {
    /// The log, its writer running.
    pub log: LogStore,
    /// The index up to which the state is durable, and the log may be purged.
    pub checkpoint: Arc<AtomicU64>,
    /// The state, its flusher running.
    pub state: State,
    /// The index that redb has reached; updated by the flusher after each step.
    pub flushed: watch::Receiver<u64>,
    /// Publishes the newest readable revision to the rooms above.
    pub revision: Arc<watch::Sender<Revision>>,
    /// How full the disk is.
    pub space: Space,
}

/// Why the stores of a node cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state is unusable.
    #[error(transparent)]
    State(#[from] state::Fault),
    /// The log is unusable.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// The log's folder cannot be opened.
    #[error("cannot open {}", path.display())]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses to start a thread.
    #[error("cannot start the thread that {what}")]
    Thread {
        /// What it is for.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// The threads that write the stores. They end when everything that uses the stores is dropped.
#[derive(Debug)]
pub struct StoreThreads(Vec<JoinHandle<()>>);

impl StoreThreads {
    /// Waits until both threads have written what they have, and ended. Blocks.
    pub fn join(self) {
        for thread in self.0 {
            // A panic was reported as a fault.
            drop(thread.join());
        }
    }
}

/// Opens the folder of the log.
pub trait OpenDisk: FnOnce(&Path) -> io::Result<Arc<dyn Disk>> + Send + 'static {}

impl<F: FnOnce(&Path) -> io::Result<Arc<dyn Disk>> + Send + 'static> OpenDisk for F {}

/// The disk that production uses.
pub fn real_disk(folder: &Path) -> io::Result<Arc<dyn Disk>> {
    Ok(Arc::new(RealDisk::open(folder)?))
}

impl Stores {
    /// Opens or makes the stores in `folder`, the log on `disk`, and starts their threads. Blocks while it reads. Later
    /// failures are reported to `fault`.
    pub fn open(folder: &Folder, fault: &FaultHandle, disk: impl OpenDisk) -> Result<(Self, StoreThreads), OpenError> {
        let store = StoreId(folder.identity().store_bytes());
        let state = State::open_file(&folder.state(), state::Options::new(store.to_string()))?;
        let checkpoint = Arc::new(AtomicU64::new(state.checkpointed()));
        let disk = disk(&folder.log()).map_err(|source| OpenError::Folder {
            path: folder.log(),
            source,
        })?;
        let space = Space::of(disk.clone());
        let options = log::Options {
            must_exist: folder.identity().formed,
            installed: state.installed()?,
            ..log::Options::new(store)
        };
        let reported = fault.clone();
        let on_fault = Arc::new(move |log_fault: LogFault| reported.report(chain(&log_fault)));
        let (log, writer) = LogStore::open(disk, &options, checkpoint.clone(), on_fault)?;
        let (revision, applied) = watch::channel(state.applied().map_or(0, |mark| mark.index));
        let (flushing, flushed) = watch::channel(state.flushed());
        let flusher = Flusher::new(
            state.clone(),
            applied,
            flushing,
            checkpoint.clone(),
            space.clone(),
            fault.clone(),
        );
        let no_thread = |what| move |source| OpenError::Thread { what, source };
        let writing = spawn_thread("log-writer", "the log's writer", fault.clone(), || {
            writer.run_blocking()
        })
        .map_err(no_thread("writes the log"))?;
        let flushing = flusher.spawn_thread().map_err(no_thread("flushes the state"))?;
        let stores = Self {
            log,
            checkpoint,
            state,
            flushed,
            revision: Arc::new(revision),
            space,
        };
        Ok((stores, StoreThreads(vec![writing, flushing])))
    }
}
