//! A snapshot on its way in: its pieces become a state file beside the one in use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::raft::machine::{Core, snapshot_of};
use crate::raft::peer::health::Health;
use crate::raft::peer::messages::{AnswerContent, Piece};
use crate::raft::peer::refusal::PeerRefusal;
use crate::raft::runtime::{LogId, Snapshot, Vote};
use crate::state::{Import, ImportError, State};
use crate::tasks::{FaultHandle, chain, off_the_workers};

/// Pieces between two looks at the room on the disk: each is a block of a MiB, and uploads need far more.
const LOOK_EVERY_PIECES: u64 = 16;

/// A snapshot of which nothing more comes for so long is given up: its sender repeats a piece after seconds.
const LEFT_AFTER: Duration = Duration::from_secs(120);

const NO_ROOM: PeerRefusal = PeerRefusal::NotNow("its disk has no room for the snapshot");

/// The snapshot that is being received: at most one, since only a leader sends one.
pub(super) struct Receiving {
    state: State,
    health: Health,
    fault: FaultHandle,
    current: Mutex<Option<Current>>,
    /// Whether the log says already that there is no room for one.
    is_refused: AtomicBool,
}

struct Current {
    vote: Vote,
    last: LogId,
    import: Import,
    /// When its last piece arrived.
    at: Instant,
}

/// What a piece came to.
pub(super) enum Received {
    /// This answer.
    Answer(AnswerContent),
    /// The snapshot is whole.
    Whole(Vote, Snapshot),
}

impl Receiving {
    pub(super) fn new(state: State, health: Health, fault: FaultHandle) -> Self {
        Self {
            state,
            health,
            fault,
            current: Mutex::new(None),
            is_refused: AtomicBool::new(false),
        }
    }

    /// Takes `piece`. One that is not wanted is answered with the number of the one that is.
    pub(super) async fn take(&self, core: &Core, piece: Piece) -> Result<Received, PeerRefusal> {
        let (vote, last) = (piece.vote(), piece.last());
        if !vote.committed || vote < core.metrics().borrow_watched().vote {
            return Err(PeerRefusal::Wrong(
                "a snapshot of a leader that was replaced".to_owned(),
            ));
        }
        if last.leader_id > vote.leader_id {
            return Err(PeerRefusal::Wrong(
                "a snapshot with entries of a later leader than the one that sends it".to_owned(),
            ));
        }
        let mut current = self.current.lock().await;
        let import = match current.take() {
            Some(current) if (current.vote, current.last) == (vote, last) => current.import,
            before => {
                let state = self.state.clone();
                self.blocking(move || {
                    // Removes its file.
                    drop(before);
                    Ok(state.begin_import()?)
                })
                .await?
            }
        };
        let wanted = import.pieces();
        if piece.number != wanted {
            *current = Some(Current {
                vote,
                last,
                import,
                at: Instant::now(),
            });
            return Ok(Received::Answer(AnswerContent::Wanted(wanted)));
        }
        let Some(bytes) = piece.bytes else {
            let view = self.blocking(move || import.finish()).await?;
            let snapshot = snapshot_of(view).map_err(PeerRefusal::Wrong)?;
            if snapshot.meta.last_log_id != Some(last) {
                return Err(PeerRefusal::Wrong(
                    "the snapshot is of another entry than its pieces said".to_owned(),
                ));
            }
            return Ok(Received::Whole(vote, snapshot));
        };
        let import = self.blocking(move || added(import, &bytes)).await?;
        if let Err(refusal) = self.check_room(&import) {
            off_the_workers(move || drop(import)).await;
            return Err(refusal);
        }
        *current = Some(Current {
            vote,
            last,
            import,
            at: Instant::now(),
        });
        Ok(Received::Answer(AnswerContent::Wanted(wanted + 1)))
    }

    /// Forgets a snapshot whose sender has given up, or that this node does not need any more, since it has applied
    /// `applied`: its file takes as much of the disk as the state.
    pub(super) async fn tidy(&self, applied: u64) {
        let mut current = self.current.lock().await;
        let is_left = |current: &mut Current| current.at.elapsed() > LEFT_AFTER || applied >= current.last.index;
        if let Some(left) = current.take_if(is_left) {
            off_the_workers(move || drop(left)).await;
        }
    }

    /// Refuses a snapshot that would fill the disk, as soon as its first piece has said how large it is, and one that does
    /// so later.
    fn check_room(&self, import: &Import) -> Result<(), PeerRefusal> {
        let bytes = match (import.stored_bytes(), import.pieces()) {
            (Some(bytes), 1) => bytes,
            // Others may have taken what there was.
            (_, pieces) if pieces.is_multiple_of(LOOK_EVERY_PIECES) => 0,
            _ => return Ok(()),
        };
        if self.health.has_room_for(bytes) {
            self.is_refused.store(false, Ordering::Relaxed);
            return Ok(());
        }
        self.say_no_room(bytes);
        Err(NO_ROOM)
    }

    fn say_no_room(&self, bytes: u64) {
        if !self.is_refused.swap(true, Ordering::Relaxed) {
            tracing::error!(
                mib = bytes / (1024 * 1024),
                "the disk has no room for the snapshot that this node needs to catch up: free as much and more, it is tried again"
            );
        }
    }

    /// Runs `work`, which waits for the disk, off the workers. A failing disk ends the node; a wrong piece its sender.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
    ) -> Result<T, PeerRefusal> {
        match off_the_workers(work).await {
            Ok(done) => Ok(done),
            Err(error @ ImportError::Stream { .. }) => Err(PeerRefusal::Wrong(error.to_string())),
            // Nothing that was acknowledged is in the new file.
            Err(ImportError::Fault(fault)) if fault.is_lack_of_room() => {
                self.say_no_room(0);
                Err(NO_ROOM)
            }
            Err(ImportError::Fault(fault)) => {
                self.fault.report(chain(&fault));
                Err(PeerRefusal::NotNow("the disk of this node fails"))
            }
        }
    }
}

fn added(mut import: Import, bytes: &Bytes) -> Result<Import, ImportError> {
    import.add(bytes)?;
    Ok(import)
}
