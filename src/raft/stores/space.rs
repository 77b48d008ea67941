//! Looks how full the disk is. Before nothing is left, uploads stop; lookups go on.
//!
//! A disk that is found full in the middle of a write ends the node (a failed write may not be tried again), and then
//! nobody is answered. So nothing new is taken while there is still room for what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::raft::log::{Disk, Room};

/// What is acknowledged and not yet in redb is 64 MiB at the most and takes about twice that there; the log's next
/// segment is 64 MiB; the rest is for a look that comes five seconds late.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// Of a small disk, this part: there the memtable cannot fill before the disk does.
const RESERVE_SHARE: u64 = 8;

/// Of the reserve, this part: below it not even what was acknowledged is moved into redb. It stays in the log.
const LAST_SHARE: u64 = 4;

const ENOUGH: u8 = 0;
const LOW: u8 = 1;
const USED_UP: u8 = 2;

/// How much room the data folder has. Clones are the same folder's.
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
    /// Of the disk that `disk` is on.
    pub fn of(disk: Arc<dyn Disk>) -> Self {
        let space = Self {
            disk,
            found: Arc::new(AtomicU8::new(ENOUGH)),
        };
        space.look();
        space
    }

    /// Looks again.
    pub(in crate::raft) fn look(&self) {
        // A disk that does not say is written to until it refuses.
        let Ok(room) = self.disk.room() else { return };
        let found = judge(room);
        let before = self.found.swap(found, Ordering::Relaxed);
        let folder = self.disk.path("");
        let (folder, free_mib) = (folder.display(), room.free / (1024 * 1024));
        if found == ENOUGH && before != ENOUGH {
            tracing::info!(%folder, free_mib, "the disk has room again; uploads are taken");
        } else if found != ENOUGH && before == ENOUGH {
            tracing::error!(
                %folder,
                free_mib,
                "the disk is nearly full: uploads are refused until there is room, lookups go on"
            );
        }
    }

    /// Whether nothing new may be taken.
    pub fn is_low(&self) -> bool {
        self.found.load(Ordering::Relaxed) != ENOUGH
    }

    /// Whether not even a flush may be tried.
    pub fn is_used_up(&self) -> bool {
        self.found.load(Ordering::Relaxed) == USED_UP
    }
}

fn judge(room: Room) -> u8 {
    let reserve = RESERVE_BYTES.min(room.total / RESERVE_SHARE);
    if room.free >= reserve {
        ENOUGH
    } else if room.free >= reserve / LAST_SHARE {
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
}
