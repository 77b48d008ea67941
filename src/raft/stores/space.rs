//! Measures how full the disk is. Uploads stop before it is full; lookups go on.
//!
//! A write that fails for lack of room ends the node (a failed write may not be tried again), and lookups with it. So
//! uploads are refused while there is still room for what was already acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::raft::log::{Disk, Room};

/// Free bytes below which uploads stop. What is acknowledged and not yet in redb is 24 MiB at the most and takes about
/// twice that there; the log's next segment is 64 MiB; the rest covers the moments between two looks.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// On a small disk the reserve is one part in this many: there the memtable cannot fill before the disk does.
const RESERVE_SHARE: u64 = 8;

/// Below one part in this many of the reserve, flushes stop too: what was acknowledged then stays in the log.
const LAST_SHARE: u64 = 4;

const ENOUGH: u8 = 0;
const LOW: u8 = 1;
const USED_UP: u8 = 2;

/// How much room the disk of the data folder has. Clones share what was last measured.
#[derive(Clone)]
pub struct Space {
    disk: Arc<dyn Disk>,
    found: Arc<AtomicU8>,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Space({}, low: {})", self.disk.path("").display(), self.is_low())
    }
}

impl Space {
    /// The space of the disk that `disk` is on, measured once.
    pub fn of(disk: Arc<dyn Disk>) -> Self {
        let space = Self {
            disk,
            found: Arc::new(AtomicU8::new(ENOUGH)),
        };
        space.look();
        space
    }

    /// Measures again, and logs a change.
    pub(in crate::raft) fn look(&self) {
        // A disk that does not report its room is written to until a write fails.
        let Ok(room) = self.disk.room() else { return };
        let found = judge(room);
        let before = self.found.swap(found, Ordering::Relaxed);
        let folder = self.disk.path("");
        let (folder, free_mib) = (folder.display(), room.free / (1024 * 1024));
        if found == ENOUGH && before != ENOUGH {
            tracing::info!(%folder, free_mib, "the disk has room again: uploads are accepted");
        } else if found != ENOUGH && before == ENOUGH {
            tracing::error!(
                %folder,
                free_mib,
                "the disk is nearly full: uploads are refused until there is room, lookups go on"
            );
        }
    }

    /// Whether uploads must be refused.
    pub fn is_low(&self) -> bool {
        self.found.load(Ordering::Relaxed) != ENOUGH
    }

    /// Whether `bytes` more, which come at once, leave the room that uploads need.
    pub(in crate::raft) fn fits(&self, bytes: u64) -> bool {
        self.disk.room().map_or(true, |room| leaves_reserve(room, bytes))
    }

    /// Whether flushes must wait too.
    pub fn is_used_up(&self) -> bool {
        self.found.load(Ordering::Relaxed) == USED_UP
    }
}

fn reserve(room: Room) -> u64 {
    RESERVE_BYTES.min(room.total / RESERVE_SHARE)
}

fn leaves_reserve(room: Room, bytes: u64) -> bool {
    room.free >= bytes.saturating_add(reserve(room))
}

fn judge(room: Room) -> u8 {
    if leaves_reserve(room, 0) {
        ENOUGH
    } else if room.free >= reserve(room) / LAST_SHARE {
        LOW
    } else {
        USED_UP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g12_uploads_stop_while_there_is_room_for_what_was_acknowledged() {
        const MIB: u64 = 1024 * 1024;
        let judged = |free: u64, total: u64| {
            judge(Room {
                free: free * MIB,
                total: total * MIB,
            })
        };
        assert_eq!(judged(256, 100_000), ENOUGH);
        assert_eq!(judged(255, 100_000), LOW);
        assert_eq!(judged(63, 100_000), USED_UP);
        assert_eq!(judged(100, 800), ENOUGH, "a small disk is not refused for being small");
        assert_eq!(judged(99, 800), LOW);
        assert_eq!(judged(0, 800), USED_UP);
    }

    #[test]
    fn g12_a_snapshot_must_leave_the_room_that_uploads_need() {
        const GIB: u64 = 1024 * 1024 * 1024;
        let room = Room {
            free: 3 * GIB,
            total: 100 * GIB,
        };
        assert!(leaves_reserve(room, 2 * GIB));
        assert!(!leaves_reserve(room, 3 * GIB));
        assert!(!leaves_reserve(room, u64::MAX));
    }
}
