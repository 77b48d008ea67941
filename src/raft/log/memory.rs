//! What the log knows without asking the disk: where each durable entry lies, and the newest entries themselves.
//!
//! Two views side by side. The *places* follow the disk: they change when a group is durable. Everything else
//! follows openraft's calls at once. An entry that openraft can see is in the tail, or durable and in the places.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::EntryPayload;

use crate::raft::log::disk::DiskFile;
use crate::raft::log::segment::Item;
use crate::raft::runtime::{Entry, LogId, Vote};

/// Memory an entry takes beside its payload: its own struct and its share of the deque.
const ENTRY_OVERHEAD: usize = 128;

/// Where a durable entry's record lies. Twelve bytes, as there is one for every entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

struct Tailed {
    entry: Entry,
    weight: usize,
    sequence: u64,
}

/// What the log knows in memory, and the two views of it that the module describes.
pub(super) struct Memory {
    // What openraft sees.
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// The vote that is durable.
    pub(super) vote: Option<Vote>,
    /// What openraft saved last; written with the next group.
    pub(super) committed: Option<LogId>,

    // Where the durable entries lie.
    /// Open segments. A reader clones the handle, so that a purge does not close a file that is being read.
    pub(super) files: BTreeMap<u32, Arc<dyn DiskFile>>,
    places: VecDeque<Place>,
    first_place: u64,

    // The newest entries.
    tail: VecDeque<Tailed>,
    tail_weight: usize,
    tail_limit: usize,

    // The numbers of the last append, and of the last one that is durable.
    appended: u64,
    synced: u64,
}

impl Memory {
    pub(super) fn new(tail_limit: usize) -> Self {
        Self {
            purged: None,
            last: None,
            vote: None,
            committed: None,
            files: BTreeMap::new(),
            places: VecDeque::new(),
            first_place: 0,
            tail: VecDeque::new(),
            tail_weight: 0,
            tail_limit,
            appended: 0,
            synced: 0,
        }
    }

    /// The index that the next entry must have; `None` in a log that never held one, where any will do.
    pub(super) fn next(&self) -> Option<u64> {
        self.last.map(|id| id.index + 1)
    }

    /// The index of the last entry that lies in none of the newest `keep` segments.
    pub(super) fn last_before_newest(&self, keep: usize) -> Option<u64> {
        let oldest_kept = *self.files.keys().rev().nth(keep.checked_sub(1)?)?;
        let before = self.places.partition_point(|place| place.segment < oldest_kept);
        before.checked_sub(1).map(|at| self.first_place + at as u64)
    }

    /// Adds entries to the tail; returns the number under which [`Self::synced`] is to report them.
    pub(super) fn append(&mut self, entries: &[Entry]) -> u64 {
        self.appended += 1;
        for entry in entries {
            assert!(
                self.next().is_none_or(|next| next == entry.log_id.index),
                "a log has no hole: {} after {:?}",
                entry.log_id,
                self.last
            );
            let weight = weight(entry);
            self.tail_weight += weight;
            self.last = Some(entry.log_id);
            self.tail.push_back(Tailed {
                entry: entry.clone(),
                weight,
                sequence: self.appended,
            });
        }
        self.appended
    }

    /// Forgets the entries after `last`.
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |id| id.index + 1);
        while self.tail.back().is_some_and(|tailed| tailed.entry.log_id.index >= next) {
            self.tail_weight -= self.tail.pop_back().map_or(0, |tailed| tailed.weight);
        }
        self.last = last;
    }

    /// Forgets the entries up to `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        while self
            .tail
            .front()
            .is_some_and(|tailed| tailed.entry.log_id.index <= upto.index)
        {
            self.drop_front();
        }
        self.purged = Some(upto);
        self.last = self.last.filter(|last| last.index > upto.index).or(Some(upto));
    }

    /// Updates the places for one record of a durable group in `segment`, whose bytes lie at `span`.
    pub(super) fn place(&mut self, segment: u32, span: Range<u64>, item: &Item) {
        match item {
            Item::Entry(id) => {
                if self.places.is_empty() {
                    self.first_place = id.index;
                }
                let narrow = |wide: u64| u32::try_from(wide).expect("a segment is below 4 GiB");
                let (offset, length) = (narrow(span.start), narrow(span.end - span.start));
                self.places.push_back(Place {
                    segment,
                    offset,
                    length,
                });
            }
            Item::Truncate(from) => {
                let keep = usize::try_from(from.saturating_sub(self.first_place)).unwrap_or(usize::MAX);
                self.places.truncate(keep);
            }
            Item::Purge(upto) => {
                while self.first_place <= upto.index && self.places.pop_front().is_some() {
                    self.first_place += 1;
                }
            }
            Item::Vote(vote) => self.vote = Some(*vote),
            Item::Committed(_) => {}
        }
    }

    /// Notes that every append with a number up to `sequence` is durable, and drops from the tail what exceeds its
    /// limit.
    pub(super) fn synced(&mut self, sequence: u64) {
        self.synced = self.synced.max(sequence);
        while self.tail_weight > self.tail_limit
            && self.tail.front().is_some_and(|tailed| tailed.sequence <= self.synced)
        {
            self.drop_front();
        }
    }

    /// The number of the oldest append that is not durable yet.
    pub(super) fn waits_for_sync(&self) -> Option<u64> {
        (self.synced < self.appended).then_some(self.synced + 1)
    }

    /// Whether the entry with this index is here and durable.
    pub(super) fn is_durable(&self, index: u64) -> bool {
        let at = |first: u64| index.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        let tail_start = self.tail.front().map(|tailed| tailed.entry.log_id.index);
        match tail_start.and_then(at).map(|at| self.tail.get(at)) {
            Some(tailed) => tailed.is_some_and(|tailed| tailed.sequence <= self.synced),
            None => at(self.first_place).is_some_and(|at| at < self.places.len()),
        }
    }

    fn drop_front(&mut self) {
        self.tail_weight -= self.tail.pop_front().map_or(0, |tailed| tailed.weight);
    }

    /// The place of the last durable entry.
    pub(super) fn last_place(&self) -> Option<Place> {
        self.places.back().copied()
    }

    /// The lowest index of a durable entry.
    pub(super) fn first_placed(&self) -> Option<u64> {
        (!self.places.is_empty()).then_some(self.first_place)
    }

    /// The entries of `range`: the places of those that must be read from the disk, which come first, and those that
    /// are in memory. With a `limit` in bytes, only as many from the beginning as fit, but at least one.
    pub(super) fn find(&self, range: Range<u64>, limit: Option<usize>) -> (Vec<Place>, Vec<Entry>) {
        let (mut places, mut entries) = (Vec::new(), Vec::new());
        let start = range.start.max(self.purged.map_or(0, |id| id.index + 1));
        let end = range.end.min(self.last.map_or(0, |id| id.index + 1));
        let tail_start = self.tail.front().map_or(u64::MAX, |tailed| tailed.entry.log_id.index);
        let (mut room, mut first) = (limit.unwrap_or(usize::MAX), true);
        let mut fits = |weight: usize| {
            let fits = first || weight <= room;
            room = room.saturating_sub(weight);
            first = false;
            fits
        };
        for index in start..end {
            if index >= tail_start {
                let Some(tailed) = usize::try_from(index - tail_start)
                    .ok()
                    .and_then(|at| self.tail.get(at))
                else {
                    break;
                };
                if !fits(tailed.weight) {
                    break;
                }
                entries.push(tailed.entry.clone());
            } else if let Some(place) = index
                .checked_sub(self.first_place)
                .and_then(|at| self.places.get(at as usize))
            {
                if !fits(place.length as usize) {
                    break;
                }
                places.push(*place);
            }
        }
        (places, entries)
    }
}

/// About how much memory an entry takes.
pub(super) fn weight(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(payload) => payload.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    payload + ENTRY_OVERHEAD
}

/// Ignores poisoning: a thread that panics while it holds the lock ends the process, so nothing acts on half a change.
pub(super) fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
