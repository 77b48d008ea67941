//! A disk under redb that loses power (what was synced stays; of the rest, any sectors do, in any order), whose calls
//! fail, or that has bad sectors.

use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use ::redb::StorageBackend;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// A handle on a disk in memory; clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct CrashingDisk(Arc<Mutex<Platter>>);

/// A call of redb to its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Len,
    Read,
    SetLen,
    Sync,
    Write,
}

/// Every call that redb makes.
pub(crate) const CALLS: [Call; 5] = [Call::Len, Call::Read, Call::SetLen, Call::Sync, Call::Write];

/// One call that fails.
struct Failing {
    call: Call,
    /// How many calls of this kind succeed before.
    skip: usize,
    /// Whether it happens all the same.
    happens: bool,
}

#[derive(Default)]
struct Platter {
    synced: Vec<u8>,
    written: Vec<u8>,
    /// Every write since the last sync: its offset and its bytes.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Lengths that the file had since the last sync.
    lengths: Vec<usize>,
    off: bool,
    /// How many more writes and syncs succeed before the power fails.
    fuse: Option<u32>,
    failing: Option<Failing>,
    /// Whether no sector can be taken that is not taken already.
    full: bool,
    /// Sectors that cannot be read.
    bad: Option<Range<u64>>,
}

impl CrashingDisk {
    /// Lets `steps` more writes and syncs happen; the power fails instead of the next one.
    pub(crate) fn cut_after(&self, steps: u32) {
        self.platter().fuse = Some(steps);
    }

    /// Cuts the power, if it is still on, and returns the disk that the next life finds: a separate one, so that
    /// nothing left over from the old life can write to it.
    pub(crate) fn power_cut(&self, random: &mut SmallRng) -> Self {
        let mut platter = self.platter();
        platter.off = true;
        let mut found = platter.synced.clone();
        let lengths = &platter.lengths;
        if !lengths.is_empty() && random.gen_bool(0.7) {
            found.resize(*lengths.choose(random).expect("not empty"), 0);
        }
        let mut sectors = Vec::new();
        for (offset, data) in &platter.unsynced {
            let mut at = 0;
            while at < data.len() {
                let end = (SECTOR - (offset + at) % SECTOR + at).min(data.len());
                sectors.push((offset + at, &data[at..end]));
                at = end;
            }
        }
        let kept = *[0.0, 0.1, 0.5, 0.9, 1.0].choose(random).expect("not empty");
        sectors.retain(|_| random.gen_bool(kept));
        if random.gen_bool(0.5) {
            sectors.shuffle(random);
        }
        for (offset, data) in sectors {
            let end = offset + data.len();
            if end <= found.len() {
                found[offset..end].copy_from_slice(data);
            }
        }
        Self::holding(found)
    }

    /// A disk with these bytes, synced.
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            written: bytes.clone(),
            synced: bytes,
            ..Platter::default()
        })))
    }

    /// Makes one call fail, the first of its kind after `skip` others; it either did not happen, or it happened and
    /// the caller is told that it failed.
    pub(crate) fn fail(&self, call: Call, skip: usize, happens: bool) {
        self.platter().failing = Some(Failing { call, skip, happens });
    }

    /// Whether the call that was to fail is still to come.
    pub(crate) fn is_failing(&self) -> bool {
        self.platter().failing.is_some()
    }

    /// Nothing fails any more.
    pub(crate) fn recover(&self) {
        let mut platter = self.platter();
        (platter.failing, platter.bad) = (None, None);
    }

    /// Makes every read of these bytes fail.
    pub(crate) fn lose(&self, bytes: Range<u64>) {
        self.platter().bad = Some(bytes);
    }

    /// Whether the disk is full: the file cannot grow, nor can what it has never held be written.
    pub(crate) fn fill(&self, full: bool) {
        self.platter().full = full;
    }

    /// Replaces bytes, as damage does.
    pub(crate) fn overwrite(&self, offset: usize, bytes: &[u8]) {
        let mut platter = self.platter();
        platter.written[offset..offset + bytes.len()].copy_from_slice(bytes);
        platter.synced = platter.written.clone();
    }

    /// Does `call` by `work`, unless it is the one that fails.
    fn try_to<T>(&self, call: Call, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let fails = {
            let mut platter = self.platter();
            match &mut platter.failing {
                Some(failing) if failing.call == call && failing.skip == 0 => platter.failing.take(),
                Some(failing) if failing.call == call => {
                    failing.skip -= 1;
                    None
                }
                _ => None,
            }
        };
        match fails {
            Some(Failing { happens: false, .. }) => Err(broken()),
            Some(_) => work().and_then(|_| Err(broken())),
            None => work(),
        }
    }

    /// What programs see.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.platter().written.clone()
    }

    /// Blocks every read and write until the returned guard is dropped.
    pub(crate) fn hang(&self) -> impl Drop {
        self.platter()
    }

    /// Whether the power is off.
    pub(crate) fn is_off(&self) -> bool {
        self.platter().off
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    fn on(&self) -> Result<MutexGuard<'_, Platter>, Error> {
        let platter = self.platter();
        if platter.off {
            Err(Error::other("the power is off"))
        } else {
            Ok(platter)
        }
    }

    fn step(&self) -> Result<MutexGuard<'_, Platter>, Error> {
        let mut platter = self.on()?;
        match &mut platter.fuse {
            Some(0) => {
                platter.off = true;
                return Err(Error::other("the power went off"));
            }
            Some(steps) => *steps -= 1,
            None => {}
        }
        Ok(platter)
    }
}

impl std::fmt::Debug for CrashingDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CrashingDisk")
    }
}

/// What a broken disk says (EIO).
fn broken() -> Error {
    Error::from_raw_os_error(5)
}

impl StorageBackend for CrashingDisk {
    fn len(&self) -> Result<u64, Error> {
        self.try_to(Call::Len, || Ok(self.on()?.written.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let end = offset + out.len() as u64;
        self.try_to(Call::Read, || {
            let platter = self.on()?;
            if platter
                .bad
                .as_ref()
                .is_some_and(|bad| offset < bad.end && bad.start < end)
            {
                return Err(broken());
            }
            let from = usize::try_from(offset).unwrap();
            let found = platter.written.get(from..from + out.len());
            out.copy_from_slice(found.ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.try_to(Call::SetLen, || self.resize(len))
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.try_to(Call::Sync, || self.flush())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.try_to(Call::Write, || self.put(offset, data))
    }
}

impl CrashingDisk {
    fn resize(&self, len: u64) -> Result<(), Error> {
        let mut platter = self.step()?;
        let len = usize::try_from(len).unwrap();
        if platter.full && len > platter.written.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        platter.written.resize(len, 0);
        platter.lengths.push(len);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let mut platter = self.step()?;
        let platter = &mut *platter;
        platter.synced.resize(platter.written.len(), 0);
        for (offset, data) in platter.unsynced.drain(..) {
            let end = (offset + data.len()).min(platter.written.len());
            if offset < end {
                platter.synced[offset..end].copy_from_slice(&platter.written[offset..end]);
            }
        }
        platter.lengths.clear();
        Ok(())
    }

    fn put(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut platter = self.step()?;
        let from = usize::try_from(offset).unwrap();
        if platter.full && platter.written[from..from + data.len()].iter().all(|byte| *byte == 0) {
            return Err(ErrorKind::StorageFull.into());
        }
        platter.written[from..from + data.len()].copy_from_slice(data);
        platter.unsynced.push((from, data.to_vec()));
        Ok(())
    }
}
