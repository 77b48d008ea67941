//! Work on whole segment files, off the path of an append: making the next one ready, removing purged ones.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::raft::log::disk::{Disk, DiskFile};
use crate::raft::log::fault::{LogFault, OnFault};
use crate::raft::log::segment;

/// Where segment files are prepared and removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepare {
    /// On a thread of its own, one segment ahead: writing 64 MiB of zeros takes longer than a client should wait.
    Thread,
    /// At once, in the writer's step: a simulation has no threads.
    Inline,
}

/// An empty segment file: allocated, zero, durable.
pub(super) struct Prepared {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) size: u64,
}

/// See [`Prepare`].
pub(super) enum Preparer {
    Thread {
        jobs: Option<mpsc::Sender<Job>>,
        ready: mpsc::Receiver<Result<Prepared, LogFault>>,
        thread: Option<JoinHandle<()>>,
    },
    Inline {
        worker: Worker,
        ready: Option<Result<Prepared, LogFault>>,
    },
}

pub(super) enum Job {
    Prepare(u32),
    Remove(u32),
}

pub(super) struct Worker {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) size: u64,
    pub(super) on_fault: OnFault,
}

impl Preparer {
    pub(super) fn new(how: Prepare, worker: Worker) -> Result<Self, LogFault> {
        if how == Prepare::Inline {
            return Ok(Self::Inline { worker, ready: None });
        }
        let (jobs, taken) = mpsc::channel();
        let (done, ready) = mpsc::channel();
        let folder = worker.disk.path("");
        let thread = thread::Builder::new()
            .name("log-prepare".to_owned())
            .spawn(move || worker.serve(&taken, &done))
            .map_err(LogFault::io(&folder, "given a thread"))?;
        Ok(Self::Thread {
            jobs: Some(jobs),
            ready,
            thread: Some(thread),
        })
    }

    /// Asks for an empty segment, to be taken later.
    pub(super) fn request(&mut self, number: u32) {
        match self {
            Self::Inline { worker, ready } => *ready = Some(worker.prepare(number)),
            Self::Thread { jobs, .. } => send(jobs.as_ref(), Job::Prepare(number)),
        }
    }

    /// Takes the segment that was asked for, and waits for it if need be.
    pub(super) fn take(&mut self) -> Result<Prepared, LogFault> {
        match self {
            Self::Inline { ready, .. } => ready.take().expect("a segment is asked for before it is taken"),
            Self::Thread { ready, .. } => ready.recv().expect("the thread lives as long as its queue"),
        }
    }

    /// Removes a segment's file.
    pub(super) fn remove(&mut self, number: u32) {
        match self {
            Self::Inline { worker, .. } => worker.remove(number),
            Self::Thread { jobs, .. } => send(jobs.as_ref(), Job::Remove(number)),
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        if let Self::Thread { jobs, thread, .. } = self {
            // Closing the queue ends the thread after the file it is working on.
            jobs.take();
            if let Some(thread) = thread.take() {
                drop(thread.join());
            }
        }
    }
}

fn send(jobs: Option<&mpsc::Sender<Job>>, job: Job) {
    // A failure means the thread panicked, which the next `take` finds.
    let _ = jobs.map(|jobs| jobs.send(job));
}

/// How long to wait before preparing again a segment that had no room: a disk that is full now may have room long
/// before the segment is needed.
const RETRY_AFTER: Duration = Duration::from_secs(2);

impl Worker {
    /// Does the jobs until the queue is closed.
    fn serve(&self, jobs: &mpsc::Receiver<Job>, done: &mpsc::Sender<Result<Prepared, LogFault>>) {
        let mut again = None;
        loop {
            let job = match again {
                None => jobs.recv().ok(),
                Some(number) => match jobs.recv_timeout(RETRY_AFTER) {
                    Ok(job) => Some(job),
                    Err(mpsc::RecvTimeoutError::Timeout) => Some(Job::Prepare(number)),
                    Err(mpsc::RecvTimeoutError::Disconnected) => None,
                },
            };
            match job {
                None => return,
                Some(Job::Remove(number)) => self.remove(number),
                Some(Job::Prepare(number)) => match self.prepare(number) {
                    // Nothing was ever written to the file, so nothing is lost by preparing it again.
                    Err(fault) if fault.is_lack_of_room() => {
                        if again.is_none() {
                            // Not the fault's own sentence: it asks for a restart, which this does not need.
                            tracing::warn!(
                                segment = %self.disk.path(&segment_name(number)).display(),
                                "the disk has no room for the log's next segment: it is tried again until there is"
                            );
                        }
                        again = Some(number);
                    }
                    prepared => {
                        again = None;
                        // Fails if the writer has ended; this thread then ends too.
                        drop(done.send(prepared));
                    }
                },
            }
        }
    }

    /// Makes segment `number` ready. Reuses a file that a crash left unfinished or that was never used: opening the log
    /// has made sure that no group was ever written to it.
    pub(super) fn prepare(&self, number: u32) -> Result<Prepared, LogFault> {
        let name = segment_name(number);
        let path = self.disk.path(&name);
        let file = self.disk.open(&name, true).map_err(LogFault::io(&path, "created"))?;
        let (length, blank) = survey(file.as_ref(), &path)?;
        if !blank || length < self.size {
            // Checked first: a disk that fills up halfway keeps the blocks that it gave, and those were its last.
            let lacking = self.size.saturating_sub(length);
            if self.disk.room().is_ok_and(|room| room.free < lacking) {
                return Err(LogFault::io(&path, "allocated")(ErrorKind::StorageFull.into()));
            }
            let from = if blank { length } else { 0 };
            file.preallocate(from, self.size.max(length))
                .map_err(LogFault::io(&path, "allocated"))?;
        }
        file.sync().map_err(LogFault::io(&path, "synced"))?;
        self.disk
            .sync_dir()
            .map_err(LogFault::io(&self.disk.path(""), "synced"))?;
        Ok(Prepared {
            number,
            file,
            size: self.size.max(length),
        })
    }

    fn remove(&self, number: u32) {
        let name = segment_name(number);
        // One at a time, oldest first, each durable before the next: a power cut must not leave a gap.
        let removed = self
            .disk
            .remove(&name)
            .map_err(LogFault::io(&self.disk.path(&name), "removed"));
        let synced = removed.and_then(|()| {
            self.disk
                .sync_dir()
                .map_err(LogFault::io(&self.disk.path(""), "synced"))
        });
        if let Err(fault) = synced {
            (self.on_fault)(fault);
        }
    }
}

/// The length of a file, and whether all of it is zero.
fn survey(file: &dyn DiskFile, path: &Path) -> Result<(u64, bool), LogFault> {
    let mut buffer = vec![0; 1 << 20];
    let (mut length, mut blank) = (0, true);
    loop {
        let read = file.read_at(length, &mut buffer).map_err(LogFault::io(path, "read"))?;
        blank &= segment::is_blank(&buffer[..read]);
        length += read as u64;
        if read < buffer.len() {
            return Ok((length, blank));
        }
    }
}

/// A segment's file name. Numbers rise without a gap from 1.
pub(super) fn segment_name(number: u32) -> String {
    format!("{number:010}.log")
}

/// The segment of a file name, if it is one of ours.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}
