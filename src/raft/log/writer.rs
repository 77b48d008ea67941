//! The log's only writer: takes what is queued, makes one group of it, syncs once, then reports.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use crate::raft::log::disk::Disk;
use crate::raft::log::fault::{LogFault, OnFault};
use crate::raft::log::files::{Current, Segment};
use crate::raft::log::memory::{self, Memory, lock};
use crate::raft::log::open::Opened;
use crate::raft::log::options::Options;
use crate::raft::log::prepare::{Preparer, Worker, segment_name};
use crate::raft::log::segment::{self, Group, Item, Position, SECTOR, SegmentHeader, StoreId};
use crate::raft::runtime::{Entry, LogId, Types, Vote};

/// Something to be made durable, in the order in which it was queued.
pub enum WriteCommand {
    /// Entries that follow the last one.
    Append {
        /// The entries.
        entries: Vec<Entry>,
        /// Rises with every append; what is reported as durable.
        sequence: u64,
        /// Called when they are durable, or will not be.
        flushed: IOFlushed<Types>,
        /// Answered after that.
        saved: oneshot::Sender<io::Result<()>>,
    },
    /// A vote.
    Vote {
        /// The vote.
        vote: Vote,
        /// Answered when it is durable, or will not be.
        saved: oneshot::Sender<io::Result<()>>,
    },
    /// Entries from this index on are gone.
    Truncate {
        /// The index.
        from: u64,
        /// Answered when that is durable, or will not be.
        saved: oneshot::Sender<io::Result<()>>,
    },
    /// Entries up to this one are gone.
    Purge {
        /// The last entry that is gone.
        upto: LogId,
    },
    /// What is known to be committed, if the log on disk does not say so yet.
    Committed,
}

impl std::fmt::Debug for WriteCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Append { entries, .. } => write!(f, "Append({} entries)", entries.len()),
            Self::Vote { vote, .. } => write!(f, "Vote({vote})"),
            Self::Truncate { from, .. } => write!(f, "Truncate({from})"),
            Self::Purge { upto } => write!(f, "Purge({upto})"),
            Self::Committed => f.write_str("Committed"),
        }
    }
}

impl WriteCommand {
    fn weight(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(memory::weight).sum(),
            Self::Vote { .. } | Self::Truncate { .. } | Self::Purge { .. } | Self::Committed => 0,
        }
    }

    fn finish(self, result: &Result<(), LogFault>) {
        let result = || result.clone().map_err(io::Error::other);
        match self {
            Self::Append { flushed, saved, .. } => {
                flushed.io_completed(result());
                drop(saved.send(result()));
            }
            // The caller may have been dropped; what it saved is durable all the same.
            Self::Vote { saved, .. } | Self::Truncate { saved, .. } => drop(saved.send(result())),
            Self::Purge { .. } | Self::Committed => {}
        }
    }
}

/// Writes the log. Owned by one thread, or by one task of a simulation.
pub struct LogWriter {
    // What it is asked to write, what it shares with the store, and where faults go.
    pub(super) queue: mpsc::Receiver<WriteCommand>,
    pub(super) memory: Arc<Mutex<Memory>>,
    pub(super) on_fault: OnFault,
    pub(super) fault: Option<LogFault>,

    // Where the log stands on disk.
    pub(super) disk: Arc<dyn Disk>,
    pub(super) position: Position,
    /// Oldest first; the last one is the current one.
    pub(super) segments: VecDeque<Segment>,
    pub(super) current: Current,
    pub(super) preparer: Preparer,

    // How a group is made.
    pub(super) store: StoreId,
    pub(super) group_bytes: usize,
    pub(super) group: Group,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "LogWriter(segment {}, group {})",
            self.current.number, self.position.group
        )
    }
}

impl LogWriter {
    /// Writes until the last [`super::LogStore`] is gone. For a thread of its own.
    pub fn run_blocking(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let commands = self.drain(first);
            // A fault has already been reported, and ends the process. The loop goes on, so that every caller, now or
            // later, is answered with it too.
            drop(self.step(commands));
        }
    }

    /// Waits for commands and takes all that are queued, up to a group's worth. For a task of a simulation, which
    /// lets some time pass and then calls [`Self::step`]. `None` when the last [`super::LogStore`] is gone.
    pub async fn wait(&mut self) -> Option<Vec<WriteCommand>> {
        let first = self.queue.recv().await?;
        Some(self.drain(first))
    }

    fn drain(&mut self, first: WriteCommand) -> Vec<WriteCommand> {
        let mut weight = first.weight();
        let mut commands = vec![first];
        while weight < self.group_bytes {
            let Ok(command) = self.queue.try_recv() else {
                break;
            };
            weight += command.weight();
            commands.push(command);
        }
        commands
    }

    /// Makes `commands` durable with one sync and reports to each. After the first fault nothing more is written, and
    /// every command fails with that fault: what a failed sync left on the disk cannot be known, and a second sync
    /// would report success (Linux marks the pages clean).
    pub fn step(&mut self, commands: Vec<WriteCommand>) -> Result<(), LogFault> {
        let result = match &self.fault {
            Some(fault) => Err(fault.clone()),
            None => self
                .write(&commands)
                .inspect_err(|fault| (self.on_fault)(fault.clone())),
        };
        self.fault = result.as_ref().err().cloned();
        for command in commands {
            command.finish(&result);
        }
        result
    }

    fn write(&mut self, commands: &[WriteCommand]) -> Result<(), LogFault> {
        self.group.clear();
        let mut after = self.position;
        let items = self.encode(commands, &mut after);
        if self.group.is_empty() {
            return Ok(());
        }
        if self.current.offset + self.group.total() as u64 > self.current.size {
            self.roll()?;
        }
        let current = &mut self.current;
        let seed = segment::seed(self.store, current.number);
        let bytes = self.group.finish(seed, self.position.group, self.position.next);
        let path = || self.disk.path(&segment_name(current.number));
        current
            .file
            .write_at(current.offset, bytes)
            .map_err(|error| LogFault::io(&path(), "written")(error))?;
        current
            .file
            .sync()
            .map_err(|error| LogFault::io(&path(), "synced")(error))?;

        let start = current.offset;
        current.offset += bytes.len() as u64;
        after.group += 1;
        self.position = after;
        self.durable(start, &items, commands);
        if items.iter().any(|(_, item)| matches!(item, Item::Purge(_))) {
            self.remove_purged();
        }
        Ok(())
    }

    /// Puts the commands into the group, and the position behind it into `after`.
    fn encode(&mut self, commands: &[WriteCommand], after: &mut Position) -> Vec<(Range<usize>, Item)> {
        let mut items = Vec::with_capacity(commands.len() + 1);
        for command in commands {
            let item = match command {
                WriteCommand::Append { entries, .. } => {
                    items.extend(
                        entries
                            .iter()
                            .map(|entry| (self.group.entry(entry), Item::Entry(entry.log_id))),
                    );
                    continue;
                }
                WriteCommand::Vote { vote, .. } => Item::Vote(*vote),
                WriteCommand::Truncate { from, .. } => Item::Truncate(*from),
                WriteCommand::Purge { upto } => Item::Purge(*upto),
                WriteCommand::Committed => continue,
            };
            self.group.item(&item);
            items.push((0..0, item));
        }
        let mut pass = |item: &Item| {
            after
                .pass(item)
                .expect("openraft's calls follow one another without a hole")
        };
        items.iter().for_each(|(_, item)| pass(item));
        // Added to a group with something else in it: a sync of its own would double the syncs of a client that writes
        // alone. Not before the entry it names is on its way, so that a log on disk never says "committed" of an entry
        // it does not hold.
        let asked = commands
            .iter()
            .any(|command| matches!(command, WriteCommand::Committed));
        let committed = lock(&self.memory).committed;
        let newer = committed.filter(|_| (asked || !self.group.is_empty()) && committed != self.position.committed);
        if let Some(id) = newer.filter(|id| after.next.is_some_and(|next| next > id.index)) {
            let item = Item::Committed(id);
            self.group.item(&item);
            after.committed = Some(id);
            items.push((0..0, item));
        }
        items
    }

    /// Updates what readers see, before any caller is answered.
    fn durable(&mut self, start: u64, items: &[(Range<usize>, Item)], commands: &[WriteCommand]) {
        let number = self.current.number;
        let mut memory = lock(&self.memory);
        let mut highest = None;
        for (span, item) in items {
            memory.place(number, start + span.start as u64..start + span.end as u64, item);
            if let Item::Entry(id) = item {
                highest = highest.max(Some(id.index));
            }
        }
        for command in commands {
            if let WriteCommand::Append { sequence, .. } = command {
                memory.synced(*sequence);
            }
        }
        drop(memory);
        if let Some(segment) = self.segments.back_mut() {
            segment.highest = segment.highest.max(highest);
        }
    }

    /// Goes on in the next segment. Its header is durable before any group is written behind it: a header that is
    /// not intact although a group follows is therefore damage, never a crash.
    fn roll(&mut self) -> Result<(), LogFault> {
        let prepared = self.preparer.take()?;
        let path = self.disk.path(&segment_name(prepared.number));
        let needed = SECTOR as u64 + self.group.total() as u64;
        let size = prepared.size.max(needed);
        if size > prepared.size {
            // One append may be larger than a segment; it then gets a segment of its size.
            prepared
                .file
                .preallocate(prepared.size, size)
                .map_err(LogFault::io(&path, "allocated"))?;
        }
        let header = SegmentHeader {
            store: self.store,
            number: prepared.number,
            size,
            position: self.position,
        };
        prepared
            .file
            .write_at(0, &segment::write_start(&header))
            .map_err(LogFault::io(&path, "written"))?;
        prepared.file.sync().map_err(LogFault::io(&path, "synced"))?;
        lock(&self.memory)
            .files
            .insert(prepared.number, Arc::clone(&prepared.file));
        self.segments.push_back(Segment {
            number: prepared.number,
            highest: None,
        });
        self.preparer.request(prepared.number + 1);
        self.current = Current {
            number: prepared.number,
            file: prepared.file,
            offset: SECTOR as u64,
            size,
        };
        Ok(())
    }

    /// Removes the oldest segments whose every entry is purged. The purge itself is durable in a later segment by
    /// now, and so are the vote and all else they held: each segment's header repeats it.
    pub(super) fn remove_purged(&mut self) {
        let Some(purged) = self.position.purged else {
            return;
        };
        let spent = |segment: &Segment| segment.highest.is_none_or(|highest| highest <= purged.index);
        while self.segments.len() > 1 && self.segments.front().is_some_and(spent) {
            if let Some(oldest) = self.segments.pop_front() {
                lock(&self.memory).files.remove(&oldest.number);
                self.preparer.remove(oldest.number);
            }
        }
    }
}

/// Makes a writer from what opening found.
pub(super) fn writer(
    opened: Opened,
    disk: Arc<dyn Disk>,
    options: &Options,
    on_fault: OnFault,
    queue: mpsc::Receiver<WriteCommand>,
) -> Result<LogWriter, LogFault> {
    let worker = Worker {
        disk: Arc::clone(&disk),
        size: options.segment_bytes,
        on_fault: Arc::clone(&on_fault),
    };
    let mut preparer = Preparer::new(options.prepare, worker)?;
    preparer.request(opened.current.number + 1);
    let mut writer = LogWriter {
        queue,
        memory: Arc::new(Mutex::new(opened.memory)),
        disk,
        store: options.store,
        group_bytes: options.group_bytes,
        on_fault,
        fault: None,
        position: opened.position,
        segments: opened.segments,
        current: opened.current,
        preparer,
        group: Group::default(),
    };
    // A crash may have come between a purge and the removal of the segments that it emptied.
    writer.remove_purged();
    Ok(writer)
}
