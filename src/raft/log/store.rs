//! The log as openraft sees it: its traits for reading and writing a log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
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
use crate::tasks::off_the_workers;

/// Bytes of entries in one message to a peer, and of those that are read at once to be applied.
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

    /// Has what is known to be committed written, if the log on disk does not say so yet.
    pub async fn write_committed(&self) -> io::Result<()> {
        self.send(WriteCommand::Committed).await
    }

    /// The last entry that is known to be committed; 0 if none is.
    pub fn committed(&self) -> u64 {
        lock(&self.memory).committed.map_or(0, |id| id.index)
    }

    /// The number of the oldest append that is not durable yet, if there is one.
    pub fn waits_for_sync(&self) -> Option<u64> {
        lock(&self.memory).waits_for_sync()
    }

    /// Whether the log has the entry with this index on its disk.
    pub fn is_durable(&self, index: u64) -> bool {
        lock(&self.memory).is_durable(index)
    }

    /// Queues what `command` makes of the sender of an answer, and waits until it is durable.
    async fn save(&self, command: impl FnOnce(oneshot::Sender<io::Result<()>>) -> WriteCommand) -> io::Result<()> {
        let (saved, durable) = oneshot::channel();
        self.send(command(saved)).await?;
        durable.await.unwrap_or_else(|_| Err(ended()))
    }

    async fn send(&self, command: WriteCommand) -> io::Result<()> {
        self.queue.send(command).await.map_err(|_| ended())
    }

    /// The entries of `range`, whole ones until they have `limit` bytes. What is not in memory is read where it may wait for
    /// the disk.
    async fn read(&self, range: Range<u64>, limit: Option<usize>) -> io::Result<Vec<Entry>> {
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
        if places.is_empty() {
            return Ok(tailed);
        }
        let log = self.clone();
        let reading = move || -> Result<Vec<Entry>, LogFault> {
            let mut entries = Vec::with_capacity(places.len() + tailed.len());
            for (run, file) in runs(&places).into_iter().zip(files) {
                let path = log.disk.path(&segment_name(run[0].segment));
                let file = file.expect("a segment is open as long as an entry lies in it");
                // Reported before openraft sees it: openraft's core ends on the error, and the process should end with the
                // reason, not with that consequence.
                let read = read_entries(file.as_ref(), &path, run).inspect_err(|fault| (log.on_fault)(fault.clone()));
                entries.extend(read?);
            }
            entries.extend(tailed);
            Ok(entries)
        };
        off_the_workers(reading).await.map_err(io::Error::other)
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

fn ended() -> io::Error {
    io::Error::other("the log's writer has ended")
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
        self.read(bounds(&range), None).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start..end, Some(PAYLOAD_BYTES)).await
    }

    /// The entries of `range`, about a MiB at a time: openraft's own form of this holds all of them in
    /// memory.
    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, StorageError>> + OptionalSend {
        let last = lock(&self.memory).last;
        let mut range = bounds(&range);
        range.end = range.end.min(last.map_or(0, |last| last.index + 1));
        stream::try_unfold((self.clone(), range), |(log, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let entries = log.read(range.clone(), Some(PAYLOAD_BYTES)).await?;
            if entries.first().map(|entry| entry.log_id.index) != Some(range.start) {
                return Err(io::Error::other(format!("the log does not hold entry {}", range.start)));
            }
            let rest = range.start + entries.len() as u64..range.end;
            Ok(Some((stream::iter(entries.into_iter().map(Ok)), (log, rest))))
        })
        .try_flatten()
        .boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(lock(&self.memory).vote)
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
        self.save(|saved| WriteCommand::Vote { vote: *vote, saved }).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // The writer takes it along with the next group.
        lock(&self.memory).committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(lock(&self.memory).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), StorageError>
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
        let sequence = lock(&self.memory).append(&entries);
        // openraft sends an entry to the peers as soon as this returns. If it were not durable here by then, a leader
        // that loses it in a power cut could give its log id to another entry.
        self.save(|saved| WriteCommand::Append {
            entries,
            sequence,
            flushed: callback,
            saved,
        })
        .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), StorageError> {
        let from = last.map_or(0, |id| id.index + 1);
        {
            let mut memory = lock(&self.memory);
            assert!(
                memory.purged.is_none_or(|purged| purged.index < from),
                "a purged entry was committed and cannot be truncated"
            );
            if memory.last <= last {
                return Ok(());
            }
            memory.truncate(last);
        }
        // Waited for: the installation of a snapshot may follow, which is durable by itself. A start that found it, and
        // still the entries that contradict it, could not go on.
        self.save(|saved| WriteCommand::Truncate { from, saved }).await
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
