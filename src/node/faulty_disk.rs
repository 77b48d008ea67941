//! A disk whose syncs fail or hang, for tests of a start and a shutdown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use super::tests::PATIENCE;
use crate::raft::log::Disk;
use crate::raft::log::DiskFile;
use crate::raft::log::RealDisk;
use crate::raft::log::Room;
use crate::raft::stores::OpenDisk;

/// The real disk, except that its syncs fail or hang when a test says so.
#[derive(Clone, Default)]
pub(super) struct FaultyDisk(Arc<(Mutex<Health>, Condvar)>);

#[derive(Default)]
pub(super) struct Health {
    /// How many syncs still succeed; `None` for all.
    pub(super) good: Option<u32>,
    /// Whether syncs hang.
    pub(super) hangs: bool,
    /// Syncs under way.
    hanging: u32,
}

impl FaultyDisk {
    /// Changes the health of the disk; hanging syncs look at it again.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
        let changed = change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        changed
    }

    fn sync(&self) -> io::Result<()> {
        let (health, changed) = &*self.0;
        let mut health = health.lock().unwrap();
        health.hanging += 1;
        changed.notify_all();
        let mut health = changed.wait_while(health, |health| health.hangs).unwrap();
        health.hanging -= 1;
        match &mut health.good {
            Some(0) => Err(io::Error::other("the disk is gone")),
            Some(good) => {
                *good -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Returns when a sync hangs.
    pub(super) fn wait_until_it_hangs(&self) {
        let (health, changed) = &*self.0;
        let waited = changed.wait_timeout_while(health.lock().unwrap(), PATIENCE, |health| health.hanging == 0);
        assert!(!waited.unwrap().1.timed_out(), "no sync was begun");
    }

    /// What a node opens instead of the real disk.
    pub(super) fn open(&self) -> impl OpenDisk {
        let health = self.clone();
        move |folder: &Path| {
            let real = RealDisk::open(folder)?;
            Ok(Arc::new(FaultyFolder { real, health }) as Arc<dyn Disk>)
        }
    }
}

struct FaultyFolder {
    real: RealDisk,
    health: FaultyDisk,
}

impl Disk for FaultyFolder {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let real = self.real.open(name, create)?;
        let health = self.health.clone();
        Ok(Arc::new(FaultyFile { real, health }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.real.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.real.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.real.sync_dir()
    }

    fn room(&self) -> io::Result<Room> {
        self.real.room()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.real.path(name)
    }
}

struct FaultyFile {
    real: Arc<dyn DiskFile>,
    health: FaultyDisk,
}

impl DiskFile for FaultyFile {
    fn preallocate(&self, _: u64, _: u64) -> io::Result<()> {
        // It is only for speed, and would slow the tests down.
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.real.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.real.read_at(offset, into)
    }

    fn sync(&self) -> io::Result<()> {
        self.health.sync()
    }
}
