//! A redb backend that forgets: it keeps what was synced, and of the rest whatever a power cut likes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;

use crate::disk::SECTOR;

/// A file in memory. Clones are the same file.
#[derive(Clone)]
pub(crate) struct CrashFile(Arc<Mutex<Inner>>);

struct Inner {
    /// What the program sees.
    current: Vec<u8>,
    /// What survives for certain.
    synced: Vec<u8>,
    /// Every version of each sector that was written since.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    calls: u64,
    die_at: Option<u64>,
    dead: bool,
    rng: SmallRng,
}

impl std::fmt::Debug for CrashFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CrashFile")
    }
}

impl CrashFile {
    /// An empty file.
    pub(crate) fn new(seed: u64) -> Self {
        Self::holding(Vec::new(), SmallRng::seed_from_u64(seed))
    }

    fn holding(bytes: Vec<u8>, rng: SmallRng) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            current: bytes.clone(),
            synced: bytes,
            unsynced: BTreeMap::new(),
            calls: 0,
            die_at: None,
            dead: false,
            rng,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nobody panics with it")
    }

    /// The `n`-th call that changes the file from now, counted from 1, and all calls after it fail.
    pub(crate) fn die_at(&self, n: u64) {
        let mut inner = self.inner();
        inner.die_at = Some(inner.calls + n);
    }

    /// Whether it is dead, by [`Self::die_at`] or [`Self::kill`].
    pub(crate) fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// From now on every call fails: whoever still holds the file can no longer write a clean end into it.
    pub(crate) fn kill(&self) {
        self.inner().dead = true;
    }

    /// The file as it is after the power came back: synced bytes, and of each sector written since any version.
    pub(crate) fn power_cut(&self) -> Self {
        let mut inner = self.inner();
        inner.dead = true;
        let mut bytes = inner.synced.clone();
        // The length may have reached the disk or not; where it did, what was never written is zero.
        if inner.rng.gen_bool(0.5) {
            bytes.resize(inner.current.len(), 0);
        }
        let unsynced = std::mem::take(&mut inner.unsynced);
        for (sector, versions) in unsynced {
            let kept = inner.rng.gen_range(0..=versions.len());
            let Some(version) = kept.checked_sub(1).map(|at| &versions[at]) else {
                continue;
            };
            let start = sector * SECTOR;
            if start >= bytes.len() {
                continue;
            }
            let end = (start + version.len()).min(bytes.len());
            bytes[start..end].copy_from_slice(&version[..end - start]);
        }
        let seed = inner.rng.r#gen();
        Self::holding(bytes, SmallRng::seed_from_u64(seed))
    }

    /// What the program sees.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.inner().current.clone()
    }

    fn change(&self, effect: impl FnOnce(&mut Inner)) -> io::Result<()> {
        let mut inner = self.inner();
        inner.calls += 1;
        let last = inner.die_at == Some(inner.calls);
        // The call at which the power goes may have had its effect.
        if !inner.dead && (!last || inner.rng.gen_bool(0.5)) {
            effect(&mut inner);
        }
        inner.dead |= last;
        if inner.dead {
            Err(io::Error::other("the power is out"))
        } else {
            Ok(())
        }
    }
}

impl Inner {
    fn sync(&mut self) {
        self.synced.resize(self.current.len(), 0);
        for (sector, _) in std::mem::take(&mut self.unsynced) {
            let start = (sector * SECTOR).min(self.current.len());
            let end = (start + SECTOR).min(self.current.len());
            self.synced[start..end].copy_from_slice(&self.current[start..end]);
        }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(data);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let start = sector * SECTOR;
            let version = self.current[start..(start + SECTOR).min(self.current.len())].to_vec();
            self.unsynced.entry(sector).or_default().push(version);
        }
    }
}

impl StorageBackend for CrashFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.inner();
        if inner.dead {
            return Err(io::Error::other("the power is out"));
        }
        let offset = usize::try_from(offset).expect("small files");
        let bytes = inner.current.get(offset..offset + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|inner| inner.current.resize(usize::try_from(len).expect("small files"), 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Inner::sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|inner| inner.write(usize::try_from(offset).expect("small files"), data))
    }
}
