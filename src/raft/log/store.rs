//! The log as openraft sees it: its traits for reading and writing a log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError};
use tokio::sync::{mpsc, oneshot};

use crate::raft::log::disk::Disk;
use crate::raft::log::fault::{LogFault, OnFault};
use crate::raft::log::files::read_entries;
use crate::raft::log::memory::{Memory, Place, lock};
use crate::raft::log::open;
use crate::raft::log::options::Options;
use crate::raft::log::prepare::segment_name;
use crate::raft::log::writer::{self, LogWriter, WriteCommand};
use crate::raft::runtime::{Entry, LogId, StorageError, Types, Vote};

/// Bytes of entries in one message to a peer, which must get through within the message's time-out: with the lan preset
/// that is its heartbeat, 150 ms.
const PAYLOAD_BYTES: usize = 1 << 20;
/// Commands that wait for the writer. openraft waits for each append before it calls again, so that more than a few
/// are never queued; beyond this its next call waits.
const QUEUE: usize = 256;
/// Bytes read at once of entries that lie next to each other.
const READ_BYTES: u32 = 4 << 20;

/// The log as openraft sees it. Clones are the same log.
#[derive(Clone)]
pub struct LogStore {
    memory: Arc<Mutex<Memory>>,
    queue: mpsc::Sender<WriteCommand>,
    disk: Arc<dyn Disk>,
    checkpoint: Arc<AtomicU64>,
    on_fault: OnFault,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogStore({})", self.disk.path("").display())
    }
}

impl LogStore {
    /// Opens the log in `disk`, or begins one. Blocks while it reads. `checkpoint` is the index up to which the state
    /// is durable; `on_fault` gets the faults after this, and must end the process.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: &Options,
        checkpoint: Arc<AtomicU64>,
        on_fault: OnFault,
    ) -> Result<(Self, LogWriter), LogFault> {
        let opened = open::open(&disk, options, checkpoint.load(Ordering::Acquire))?;
        let (queue, taken) = mpsc::channel(QUEUE);
        let writer = writer::writer(opened, Arc::clone(&disk), options, Arc::clone(&on_fault), taken)?;
        let memory = Arc::clone(&writer.memory);
        Ok((
            Self {
                memory,
                queue,
                disk,
                checkpoint,
                on_fault,
            },
            writer,
        ))
    }

    /// The index of the last entry that lies in none of the newest `keep` segments: a purge up to it removes whole
    /// segments.
    pub fn last_before_newest(&self, keep: usize) -> Option<u64> {
        lock(&self.memory).last_before_newest(keep)
    }

    /// The number of the oldest append that is not durable yet, if there is one.
    pub fn waits_for_sync(&self) -> Option<u64> {
        lock(&self.memory).waits_for_sync()
    }

    async fn send(&self, command: WriteCommand) -> Result<(), StorageError> {
        self.queue
            .send(command)
            .await
            .map_err(|_| write_error(&io::Error::other("the log's writer has ended")))
    }

    fn read(&self, range: Range<u64>, limit: Option<usize>) -> Result<Vec<Entry>, LogFault> {
        let (places, tailed, files) = {
            let memory = lock(&self.memory);
            let (places, tailed) = memory.find(range, limit);
            let runs = runs(&places);
            let files: Vec<_> = runs
                .iter()
                .map(|run| memory.files.get(&run[0].segment).cloned())
                .collect();
            (places, tailed, files)
        };
        let mut entries = Vec::with_capacity(places.len() + tailed.len());
        for (run, file) in runs(&places).into_iter().zip(files) {
            let path = self.disk.path(&segment_name(run[0].segment));
            let file = file.expect("a segment is open as long as an entry lies in it");
            // Reported before openraft sees it: openraft's core ends on the error, and the process should end with the
            // reason, not with that consequence.
            let read = read_entries(file.as_ref(), &path, run).inspect_err(|fault| (self.on_fault)(fault.clone()));
            entries.extend(read?);
        }
        entries.extend(tailed);
        Ok(entries)
    }
}

/// Splits places into runs, each of which is read at once.
fn runs(places: &[Place]) -> Vec<&[Place]> {
    let mut runs = Vec::new();
    let mut rest = places;
    while let Some(first) = rest.first() {
        let together = |place: &&Place| {
            place.segment == first.segment
                && place.offset >= first.offset
                && (place.offset - first.offset).saturating_add(place.length) <= READ_BYTES.max(first.length)
        };
        let (run, others) = rest.split_at(rest.iter().take_while(together).count());
        runs.push(run);
        rest = others;
    }
    runs
}

fn read_error(fault: &LogFault) -> StorageError {
    StorageIOError::read_logs(AnyError::new(fault)).into()
}

fn write_error(error: &io::Error) -> StorageError {
    StorageIOError::write(AnyError::new(error)).into()
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(bounds(&range), None).map_err(|fault| read_error(&fault))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start..end, Some(PAYLOAD_BYTES))
            .map_err(|fault| read_error(&fault))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = lock(&self.memory);
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: memory.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (saved, durable) = oneshot::channel();
        self.send(WriteCommand::Vote { vote: *vote, saved }).await?;
        durable
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the log's writer has ended")))
            .map_err(|error| StorageError::from_io_error(ErrorSubject::Vote, ErrorVerb::Write, error))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(lock(&self.memory).vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // The writer takes it along with the next group.
        lock(&self.memory).committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(lock(&self.memory).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // An entry at or below the purge point is already in the state: the leader that still sends it does not know
        // that.
        let purged = lock(&self.memory).purged.map(|purged| purged.index);
        let entries: Vec<Entry> = entries
            .into_iter()
            .filter(|entry| purged < Some(entry.log_id.index))
            .collect();
        // Before it is queued: openraft reads what it appended as soon as this returns.
        let sequence = lock(&self.memory).append(&entries);
        self.send(WriteCommand::Append {
            entries,
            sequence,
            flushed: callback,
        })
        .await
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        let (purged, last) = {
            let memory = lock(&self.memory);
            (memory.purged, memory.last)
        };
        assert!(
            purged.is_none_or(|purged| purged.index < from),
            "a purged entry was committed and cannot be truncated"
        );
        if last.is_none_or(|last| last.index < from) {
            return Ok(());
        }
        let before = match from.checked_sub(1) {
            Some(before) => {
                let entries = self.read(before..from, None).map_err(|fault| read_error(&fault))?;
                entries.last().map(|entry| entry.log_id).or(purged)
            }
            None => None,
        };
        lock(&self.memory).truncate(before);
        // Not waited for: the truncation is on disk before anything that is acknowledged after it, and until then the
        // entries that it removes are merely ones that no quorum holds.
        self.send(WriteCommand::Truncate { from }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let checkpoint = self.checkpoint.load(Ordering::Acquire);
        assert!(
            log_id.index <= checkpoint,
            "purged <= checkpoint: {log_id} is not durable in the state ({checkpoint})"
        );
        {
            let mut memory = lock(&self.memory);
            if memory.purged.is_some_and(|purged| purged.index >= log_id.index) {
                return Ok(());
            }
            memory.purge(log_id);
        }
        self.send(WriteCommand::Purge { upto: log_id }).await
    }
}
