//! Whether this node's disk allows it to lead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::raft::log::LogStore;
use crate::raft::stores::Space;

/// Watches the log's writer and the room on its disk. Clones are the same.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    log: LogStore,
    space: Space,
    /// A write that takes longer than this hangs: disks stall for a tenth of a second now and then.
    patience: Duration,
    /// The append that waits for its sync, and since when it was seen waiting.
    waiting: Mutex<Option<(u64, Instant)>>,
}

impl Health {
    /// Of a node with this log on a disk with this room.
    pub fn new(log: LogStore, space: Space, patience: Duration) -> Self {
        Self(Arc::new(Inner {
            log,
            space,
            patience,
            waiting: Mutex::new(None),
        }))
    }

    /// Whether the log's writer has not got on for too long. A leader then sends nothing, heartbeats neither, so that the
    /// others elect one whose disk works.
    pub(in crate::raft) fn is_hanging(&self) -> bool {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sequence) = self.0.log.waits_for_sync() else {
            *waiting = None;
            return false;
        };
        match *waiting {
            Some((known, since)) if known == sequence => since.elapsed() > self.0.patience,
            _ => {
                *waiting = Some((sequence, Instant::now()));
                false
            }
        }
    }

    /// Whether the disk has room for a state of this size beside the one in use.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.0.space.fits(bytes)
    }

    /// Whether this node must not lead: its disk hangs, or is nearly full, so that it refuses uploads.
    pub(in crate::raft) fn is_bad(&self) -> bool {
        self.0.space.is_low() || self.is_hanging()
    }
}
