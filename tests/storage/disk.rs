//! A disk that loses power: it keeps what was synced, and of the rest a random part.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use jwtmesh::raft::log::{Disk, DiskFile, Room};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What the disk writes whole or not at all, in bytes.
pub(crate) const SECTOR: usize = 512;

/// A folder in memory. Clones are the same folder.
#[derive(Clone)]
pub(crate) struct CrashDisk(Arc<Mutex<Inner>>);

#[derive(Clone)]
struct Inner {
    files: Vec<FileState>,
    /// The folder as programs see it, and as the last `sync_dir` left it: names to `files`.
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    calls: u64,
    syncs: u64,
    die_at: Option<u64>,
    fail_sync_at: Option<u64>,
    dead: bool,
    room: Option<Room>,
    rng: SmallRng,
}

#[derive(Clone, Default)]
struct FileState {
    /// What programs see.
    current: Vec<u8>,
    /// What survives for certain.
    synced: Vec<u8>,
    /// Every version of each sector that was written since the last sync.
    unsynced: BTreeMap<usize, Vec<[u8; SECTOR]>>,
}

impl CrashDisk {
    /// An empty folder.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            files: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            calls: 0,
            syncs: 0,
            die_at: None,
            fail_sync_at: None,
            dead: false,
            room: None,
            rng: SmallRng::seed_from_u64(seed),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The `n`-th call from now, counted from 1, and all after it fail. The `n`-th itself may still take effect.
    pub(crate) fn die_at(&self, n: u64) {
        let mut inner = self.inner();
        inner.die_at = Some(inner.calls + n);
    }

    /// The `n`-th sync of a file from now, counted from 1, fails, and what it should have written is lost as on Linux:
    /// programs still see it, but later syncs do not write it.
    pub(crate) fn fail_sync_at(&self, n: u64) {
        let mut inner = self.inner();
        inner.fail_sync_at = Some(inner.syncs + n);
    }

    /// Whether the disk still works. If so, cancels a [`Self::die_at`] that has not come yet.
    pub(crate) fn survives(&self) -> bool {
        let mut inner = self.inner();
        inner.die_at = None;
        !inner.dead
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.inner().calls
    }

    /// Sets the room that the disk reports. It stores what it is given all the same.
    pub(crate) fn say_room(&self, free: u64, total: u64) {
        self.inner().room = Some(Room { free, total });
    }

    /// Syncs of files so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.inner().syncs
    }

    /// The folder as the next process finds it after a kill: nothing is lost, because the system kept it.
    pub(crate) fn killed(&self) -> Self {
        let mut inner = self.inner().clone();
        inner.dead = false;
        inner.die_at = None;
        inner.fail_sync_at = None;
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The folder after a power cut: of what was not synced any subset is left, sector by sector and name by name.
    pub(crate) fn power_cut(&self) -> Self {
        let copy = self.killed();
        {
            let mut inner = copy.inner();
            let Inner {
                files,
                names,
                synced_names,
                rng,
                ..
            } = &mut *inner;
            for file in files.iter_mut() {
                file.power_cut(rng);
            }
            let mut all: Vec<String> = names.keys().chain(synced_names.keys()).cloned().collect();
            all.sort();
            all.dedup();
            for name in all {
                let kept = if rng.r#gen() {
                    names.get(&name)
                } else {
                    synced_names.get(&name)
                }
                .copied();
                match kept {
                    Some(file) => names.insert(name, file),
                    None => names.remove(&name),
                };
            }
            *synced_names = names.clone();
        }
        copy
    }

    /// What a file holds.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.inner();
        inner.files[inner.names[name]].current.clone()
    }

    /// Puts other bytes into a file, durably: damage.
    pub(crate) fn set_bytes(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.inner();
        let file = inner.names[name];
        inner.files[file] = FileState {
            current: bytes.clone(),
            synced: bytes,
            unsynced: BTreeMap::new(),
        };
    }

    /// The names of all files, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.inner().names.keys().cloned().collect()
    }

    /// Gives a file another name.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        let mut inner = self.inner();
        let file = inner.names.remove(from).unwrap();
        inner.names.insert(to.to_owned(), file);
        inner.synced_names = inner.names.clone();
    }

    /// Takes a file away, durably: damage.
    pub(crate) fn lose(&self, name: &str) {
        let mut inner = self.inner();
        inner.names.remove(name);
        inner.synced_names.remove(name);
    }

    /// Puts a lost file back.
    pub(crate) fn open_again(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.inner();
        inner.files.push(FileState {
            current: bytes.clone(),
            synced: bytes,
            unsynced: BTreeMap::new(),
        });
        let file = inner.files.len() - 1;
        inner.names.insert(name.to_owned(), file);
        inner.synced_names = inner.names.clone();
    }

    /// Runs one call, or fails it.
    fn call<T>(&self, effect: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.inner();
        inner.calls += 1;
        if inner.dead {
            return Err(io::Error::other("the disk is dead"));
        }
        if inner.die_at == Some(inner.calls) {
            inner.dead = true;
            if inner.rng.r#gen() {
                drop(effect(&mut inner));
            }
            return Err(io::Error::other("the disk died"));
        }
        effect(&mut inner)
    }
}

impl FileState {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let version = sector_of(&self.current, sector);
            self.unsynced.entry(sector).or_default().push(version);
        }
    }

    fn sync(&mut self) {
        self.synced.resize(self.current.len(), 0);
        // Sector by sector, not the whole: what an earlier, failed sync lost stays lost.
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            if let Some(version) = versions.last() {
                put_sector(&mut self.synced, sector, version);
            }
        }
    }

    fn fail_sync(&mut self, rng: &mut SmallRng) {
        self.synced.resize(self.current.len(), 0);
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            if let Some(version) = versions.last().filter(|_| rng.r#gen()) {
                put_sector(&mut self.synced, sector, version);
            }
        }
    }

    fn power_cut(&mut self, rng: &mut SmallRng) {
        if self.synced.len() != self.current.len() && rng.r#gen() {
            let longer = self.synced.len().max(self.current.len());
            self.synced.resize(longer, 0);
        }
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let kept = rng.gen_range(0..=versions.len());
            if kept > 0 {
                put_sector(&mut self.synced, sector, &versions[kept - 1]);
            }
        }
        self.current = self.synced.clone();
    }
}

fn sector_of(bytes: &[u8], sector: usize) -> [u8; SECTOR] {
    let mut version = [0; SECTOR];
    let start = (sector * SECTOR).min(bytes.len());
    let end = (start + SECTOR).min(bytes.len());
    version[..end - start].copy_from_slice(&bytes[start..end]);
    version
}

fn put_sector(bytes: &mut [u8], sector: usize, version: &[u8; SECTOR]) {
    let start = (sector * SECTOR).min(bytes.len());
    let end = (start + SECTOR).min(bytes.len());
    bytes[start..end].copy_from_slice(&version[..end - start]);
}

impl Disk for CrashDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.call(|inner| {
            if let Some(file) = inner.names.get(name) {
                return Ok(*file);
            }
            if !create {
                return Err(io::ErrorKind::NotFound.into());
            }
            inner.files.push(FileState::default());
            let file = inner.files.len() - 1;
            inner.names.insert(name.to_owned(), file);
            Ok(file)
        })?;
        Ok(Arc::new(CrashFile {
            disk: self.clone(),
            file,
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.call(|inner| Ok(inner.names.keys().cloned().collect()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.call(|inner| {
            inner
                .names
                .remove(name)
                .map(drop)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.call(|inner| {
            inner.synced_names = inner.names.clone();
            Ok(())
        })
    }

    fn room(&self) -> io::Result<Room> {
        self.inner().room.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("log").join(name)
    }
}

struct CrashFile {
    disk: CrashDisk,
    file: usize,
}

impl DiskFile for CrashFile {
    fn preallocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.disk.call(|inner| {
            inner.files[self.file].write(from as usize, &vec![0; (to - from) as usize]);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.call(|inner| {
            inner.files[self.file].write(offset as usize, bytes);
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.call(|inner| {
            let current = &inner.files[self.file].current;
            let start = (offset as usize).min(current.len());
            let length = into.len().min(current.len() - start);
            into[..length].copy_from_slice(&current[start..start + length]);
            Ok(length)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call(|inner| {
            inner.syncs += 1;
            let Inner {
                files,
                rng,
                syncs,
                fail_sync_at,
                ..
            } = inner;
            if *fail_sync_at == Some(*syncs) {
                files[self.file].fail_sync(rng);
                return Err(io::Error::other("the sync failed"));
            }
            files[self.file].sync();
            Ok(())
        })
    }
}
