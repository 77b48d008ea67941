//! Reading the log back: every segment in order, every CRC. What is torn is cut; what is damaged is refused.
//!
//! All of the reading comes before the first write, so that a refusal leaves the files as they were found.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::raft::log::disk::{Disk, DiskFile};
use crate::raft::log::fault::LogFault;
use crate::raft::log::memory::{Memory, Place};
use crate::raft::log::prepare::{Worker, segment_name, segment_number};
use crate::raft::log::segment::{self, Head, Position, SECTOR, SegmentHeader, Start};
use crate::raft::log::store::Options;
use crate::raft::log::writer::{Current, Segment};
use crate::raft::runtime::Entry;

/// Bytes read at a time: enough that the disk streams, little enough that a start needs no memory to speak of.
const WINDOW: usize = 1 << 20;

/// A log as it stands on disk.
pub(super) struct Opened {
    pub(super) memory: Memory,
    pub(super) position: Position,
    pub(super) segments: VecDeque<Segment>,
    pub(super) current: Current,
}

/// Opens the log, or begins a new one.
///
/// `durable` is the index up to which the state holds everything: a log that ends before it has lost its newest part.
pub(super) fn open(disk: &Arc<dyn Disk>, options: &Options, durable: u64) -> Result<Opened, LogFault> {
    let found = survey(disk, options)?;
    let Some(first) = found.first().map(|segment| segment.header.position) else {
        return begin(disk, options);
    };
    let mut replay = Replay {
        options,
        position: first,
        memory: Memory::new(options.tail_bytes),
        segments: VecDeque::new(),
        last_group: None,
    };
    replay.memory.vote = first.vote;
    let mut end = None;
    for segment in &found {
        replay.follows(segment, end.as_ref())?;
        end = Some(replay.segment(segment)?);
    }
    let (Some(last), Some(end)) = (found.last(), end) else {
        unreachable!("there is a first segment");
    };
    let held = replay.position.next.map_or(0, |next| next.saturating_sub(1));
    if held < durable && durable != u64::MAX {
        return Err(LogFault::Short {
            folder: disk.path(""),
            held,
            durable,
        });
    }
    let purged = replay.position.purged.map_or(0, |purged| purged.index);
    if purged > durable {
        return Err(LogFault::Ahead {
            folder: disk.path(""),
            purged,
            durable,
        });
    }
    let scar = last.judge_end(options, &end, replay.position.group)?;
    replay.check_beginning(&found[0])?;
    last.settle(&end, &scar, replay.last_group)?;
    disk.sync_dir().map_err(LogFault::io(&disk.path(""), "synced"))?;
    replay.finish(found, end.offset)
}

/// The first segment of a new store.
fn begin(disk: &Arc<dyn Disk>, options: &Options) -> Result<Opened, LogFault> {
    let worker = Worker {
        disk: Arc::clone(disk),
        size: options.segment_bytes,
        on_fault: Arc::new(|_| {}),
    };
    let prepared = worker.prepare(1)?;
    let path = disk.path(&segment_name(1));
    let position = Position::start();
    let header = SegmentHeader {
        store: options.store,
        number: 1,
        size: prepared.size,
        position,
    };
    prepared
        .file
        .write_at(0, &segment::write_start(&header))
        .map_err(LogFault::io(&path, "written"))?;
    prepared.file.sync().map_err(LogFault::io(&path, "synced"))?;
    let mut memory = Memory::new(options.tail_bytes);
    memory.files.insert(1, Arc::clone(&prepared.file));
    Ok(Opened {
        memory,
        position,
        segments: VecDeque::from([Segment {
            number: 1,
            highest: None,
        }]),
        current: Current {
            number: 1,
            file: prepared.file,
            offset: SECTOR as u64,
            size: prepared.size,
        },
    })
}

/// A segment with an intact header.
struct Found {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    start: [u8; SECTOR],
    header: SegmentHeader,
}

/// Where the intact groups of a segment end.
struct End {
    path: PathBuf,
    offset: u64,
    /// Bytes of the group there, if its header is intact.
    group: Option<usize>,
    /// What is wrong there; nothing if nothing was ever written.
    wrong: Option<&'static str>,
}

/// What of a torn group is to be zeroed: up to here.
struct Scar {
    end: u64,
    length: u64,
}

/// Finds the segments: numbers without a gap, each header intact but perhaps that of the last one, which is then
/// the segment that was being made ready, or begun, when the program ended.
fn survey(disk: &Arc<dyn Disk>, options: &Options) -> Result<Vec<Found>, LogFault> {
    let folder = disk.path("");
    let names = disk.list().map_err(LogFault::io(&folder, "listed"))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let mut found: Vec<Found> = Vec::new();
    for (at, &number) in numbers.iter().enumerate() {
        let name = segment_name(number);
        let path = disk.path(&name);
        if at > 0 && numbers[at - 1] + 1 != number {
            let missing = segment_name(numbers[at - 1] + 1);
            return Err(LogFault::damaged(
                &disk.path(&missing),
                0,
                "the file is missing, though others follow it",
            ));
        }
        let file = disk.open(&name, false).map_err(LogFault::io(&path, "opened"))?;
        let mut start = [0; SECTOR];
        file.read_at(0, &mut start).map_err(LogFault::io(&path, "read"))?;
        let damaged = |what: &str| Err(LogFault::damaged(&path, 0, what));
        match segment::read_start(options.store, &start) {
            Start::Valid(header) if header.number != number => {
                return damaged(&format!("it is segment {} under another name", header.number));
            }
            Start::Valid(header) => found.push(Found {
                path,
                file,
                start,
                header,
            }),
            Start::Foreign(store) => {
                return Err(LogFault::WrongStore {
                    file: path,
                    expected: options.store,
                    found: store,
                });
            }
            Start::Newer(format) => return Err(LogFault::Newer { file: path, format }),
            Start::Unreadable => return damaged("its header cannot be decoded"),
            Start::Blank | Start::Broken if at + 1 < numbers.len() => {
                return damaged("its header is not what was written, though other segments follow");
            }
            Start::Blank | Start::Broken => {
                // A header is durable before a group follows it. With nothing behind it, nothing is lost with it.
                let behind = least(WINDOW, options.segment_bytes);
                let mut window = Window::new(file.as_ref(), &path, options.segment_bytes);
                let behind = !segment::is_blank(window.get(SECTOR as u64, behind)?);
                if behind || !segment::may_be_torn(&start) {
                    return damaged("its header is not what was written");
                }
                if at == 0 && number != 1 {
                    return Err(LogFault::damaged(
                        &disk.path(&segment_name(number - 1)),
                        0,
                        "the file is missing",
                    ));
                }
            }
        }
    }
    if found.is_empty() && options.must_exist {
        return Err(LogFault::Missing { folder });
    }
    Ok(found)
}

/// The log while it is read.
struct Replay<'a> {
    options: &'a Options,
    position: Position,
    memory: Memory,
    segments: VecDeque<Segment>,
    /// Offset and length of the last intact group, if it is in the segment that was read last.
    last_group: Option<(u64, usize)>,
}

impl Replay<'_> {
    /// Checks that `next` begins where the segment before it, which ends at `end`, leaves off.
    fn follows(&self, next: &Found, end: Option<&End>) -> Result<(), LogFault> {
        let Some(end) = end else {
            return Ok(());
        };
        let begins = next.header.position.group;
        if let Some(wrong) = end.wrong {
            return Err(LogFault::damaged(
                &end.path,
                end.offset,
                format!("{wrong}, and the log goes on in the next file"),
            ));
        }
        if begins != self.position.group {
            let what = format!(
                "group {} should be here: the next file begins with group {begins}",
                self.position.group
            );
            return Err(LogFault::damaged(&end.path, end.offset, what));
        }
        if next.header.position != self.position {
            return Err(LogFault::damaged(
                &next.path,
                0,
                "its header does not continue the file before it",
            ));
        }
        Ok(())
    }

    /// Follows the groups of a segment as far as they are intact.
    fn segment(&mut self, found: &Found) -> Result<End, LogFault> {
        let header = &found.header;
        let seed = segment::seed(self.options.store, header.number);
        let mut window = Window::new(found.file.as_ref(), &found.path, header.size);
        let mut offset = SECTOR as u64;
        self.memory.files.insert(header.number, Arc::clone(&found.file));
        self.segments.push_back(Segment {
            number: header.number,
            highest: None,
        });
        self.last_group = None;
        let (group, wrong) = loop {
            if offset + SECTOR as u64 > header.size {
                break (None, None);
            }
            let head = match segment::read_head(seed, window.get(offset, SECTOR)?) {
                Head::Blank => break (None, None),
                Head::Broken => break (None, Some("the header of a group does not match its checksum")),
                Head::Valid(head) => head,
            };
            let damaged = |what: String| Err(LogFault::damaged(&found.path, offset, what));
            if (head.number, head.next) != (self.position.group, self.position.next) {
                let (number, expected) = (head.number, self.position.group);
                return damaged(format!("group {number} is where group {expected} should be"));
            }
            if offset + head.total() as u64 > header.size {
                return damaged(format!("group {} is longer than its segment", head.number));
            }
            let group = window.get(offset, head.total())?;
            if !head.matches(seed, group) {
                break (Some(head.total()), Some("a group does not match its checksum"));
            }
            let items = match head.items(group) {
                Ok(items) => items,
                Err(what) => return damaged(what),
            };
            for (span, item) in items {
                if let Err(what) = self.position.pass(&item) {
                    return damaged(what);
                }
                if let (segment::Item::Entry(id), Some(segment)) = (&item, self.segments.back_mut()) {
                    segment.highest = segment.highest.max(Some(id.index));
                }
                self.memory.place(
                    header.number,
                    offset + span.start as u64..offset + span.end as u64,
                    &item,
                );
            }
            self.position.group += 1;
            self.last_group = Some((offset, head.total()));
            offset += head.total() as u64;
        };
        Ok(End {
            path: found.path.clone(),
            offset,
            group,
            wrong,
        })
    }

    /// Older segments may be gone only as far as the log was purged.
    fn check_beginning(&self, first: &Found) -> Result<(), LogFault> {
        if first.header.position.group == 1 {
            return Ok(());
        }
        let begins = self.memory.first_placed().or(self.position.next);
        let purged = self.position.purged.map_or(0, |id| id.index + 1);
        match begins {
            Some(begins) if begins > purged => {
                let what = format!(
                    "the log begins with entry {begins}, but entries from {purged} on were not purged: older files are missing"
                );
                Err(LogFault::damaged(&first.path, 0, what))
            }
            _ => Ok(()),
        }
    }

    fn finish(mut self, found: Vec<Found>, offset: u64) -> Result<Opened, LogFault> {
        let Some(last) = found.last() else {
            unreachable!("there is a first segment");
        };
        let newest = match self.memory.last_place() {
            Some(place) => {
                let holder = found
                    .iter()
                    .find(|segment| segment.header.number == place.segment)
                    .unwrap_or(last);
                Some(
                    read_entries(holder.file.as_ref(), &holder.path, &[place])?
                        .remove(0)
                        .log_id,
                )
            }
            None => None,
        };
        self.memory.purged = self.position.purged;
        self.memory.last = newest.or(self.position.purged);
        self.memory.vote = self.position.vote;
        self.memory.committed = self.position.committed;
        let current = Current {
            number: last.header.number,
            file: Arc::clone(&last.file),
            offset,
            size: last.header.size,
        };
        Ok(Opened {
            memory: self.memory,
            position: self.position,
            segments: self.segments,
            current,
        })
    }
}

impl Found {
    /// Decides about the end of the last segment: torn by a crash, or damaged. `number` is the group expected there.
    ///
    /// A group is written only when the one before it is durable. So whatever lies behind a group that is not
    /// intact proves that it was acknowledged, and so does its being complete.
    fn judge_end(&self, options: &Options, end: &End, number: u64) -> Result<Scar, LogFault> {
        let seed = segment::seed(options.store, self.header.number);
        let damaged = |what: String| Err(LogFault::damaged(&self.path, end.offset, what));
        let mut window = Window::new(self.file.as_ref(), &self.path, self.header.size);
        let group_end = end.offset + end.group.unwrap_or(SECTOR) as u64;
        if let Some(wrong) = end.wrong {
            let length = usize::try_from(group_end - end.offset).unwrap_or(usize::MAX);
            if !segment::may_be_torn(window.get(end.offset, length)?) {
                return damaged(format!("{wrong}, and all of it was written"));
            }
        }
        let mut scar = Scar {
            end: end.offset,
            length: 0,
        };
        let mut at = end.offset;
        while at < self.header.size {
            let length = least(WINDOW, self.header.size - at);
            let block = window.get(at, length)?;
            if !segment::is_blank(block) {
                self.judge_block(seed, end, number, (at, block), &mut scar)?;
            }
            at += length as u64;
        }
        scar.length = window.length()?;
        Ok(scar)
    }

    /// One block of what lies at and behind the end.
    fn judge_block(
        &self,
        seed: u32,
        end: &End,
        number: u64,
        (start, block): (u64, &[u8]),
        scar: &mut Scar,
    ) -> Result<(), LogFault> {
        let damaged = |what: String| Err(LogFault::damaged(&self.path, end.offset, what));
        for (sector, bytes) in block
            .chunks(SECTOR)
            .enumerate()
            .filter(|(_, bytes)| !segment::is_blank(bytes))
        {
            let here = start + (sector * SECTOR) as u64;
            scar.end = here + SECTOR as u64;
            if let Head::Valid(later) = segment::read_head(seed, bytes)
                && later.number > number
            {
                let what = end.wrong.unwrap_or("a group is missing");
                return damaged(format!(
                    "{what}, and group {} behind it, at byte {here}, is intact",
                    later.number
                ));
            }
            if end.group.is_some_and(|length| here >= end.offset + length as u64) {
                return damaged(format!(
                    "a group does not match its checksum, and byte {here} behind it was written"
                ));
            }
        }
        Ok(())
    }

    /// Makes the disk hold what was read, and nothing else.
    fn settle(&self, end: &End, scar: &Scar, last_group: Option<(u64, usize)>) -> Result<(), LogFault> {
        let write = |offset: u64, bytes: &[u8]| {
            self.file
                .write_at(offset, bytes)
                .map_err(LogFault::io(&self.path, "written"))
        };
        if scar.length < self.header.size {
            self.file
                .preallocate(scar.length, self.header.size)
                .map_err(LogFault::io(&self.path, "allocated"))?;
        }
        let zeros = vec![0; least(WINDOW, scar.end - end.offset)];
        let mut at = end.offset;
        while at < scar.end {
            let length = least(zeros.len(), scar.end - at);
            write(at, &zeros[..length])?;
            at += length as u64;
        }
        // What was read may be known to the page cache alone: written by a process that died before its sync, or
        // whose sync failed, after which Linux calls the pages clean. Written again they are dirty again, and the
        // sync below means something. Only the last write can be concerned, all others were synced before it.
        write(0, &self.start)?;
        if let Some((offset, length)) = last_group {
            let group = Window::new(self.file.as_ref(), &self.path, self.header.size)
                .get(offset, length)?
                .to_vec();
            write(offset, &group)?;
        }
        self.file.sync().map_err(LogFault::io(&self.path, "synced"))
    }
}

/// Reads the entries at `places`, which lie in one file, in rising order.
pub(super) fn read_entries(file: &dyn DiskFile, path: &Path, places: &[Place]) -> Result<Vec<Entry>, LogFault> {
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return Ok(Vec::new());
    };
    let start = u64::from(first.offset);
    let length = u64::from(last.offset) + u64::from(last.length) - start;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_at(start, &mut bytes).map_err(LogFault::io(path, "read"))?;
    let bytes = Bytes::from(bytes);
    let entry = |place: &Place| {
        let at = (place.offset - first.offset) as usize;
        segment::read_entry(&bytes.slice(at..at + place.length as usize))
            .map_err(|what| LogFault::damaged(path, u64::from(place.offset), what))
    };
    places.iter().map(entry).collect()
}

fn least(limit: usize, length: u64) -> usize {
    usize::try_from(length).map_or(limit, |length| length.min(limit))
}

/// A file read forward through one buffer. Behind the end of the file it shows zeros.
struct Window<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    buffer: Vec<u8>,
    block: usize,
    start: u64,
    /// Where the file was seen to end.
    length: Option<u64>,
}

impl<'a> Window<'a> {
    /// Reads [`WINDOW`] bytes at a time, or less of a small segment.
    fn new(file: &'a dyn DiskFile, path: &'a Path, size: u64) -> Self {
        Self {
            file,
            path,
            buffer: Vec::new(),
            block: least(WINDOW, size),
            start: 0,
            length: None,
        }
    }

    fn get(&mut self, offset: u64, length: usize) -> Result<&[u8], LogFault> {
        let inside = offset >= self.start && offset + length as u64 <= self.start + self.buffer.len() as u64;
        if !inside {
            self.buffer.resize(length.max(self.block), 0);
            let read = self
                .file
                .read_at(offset, &mut self.buffer)
                .map_err(LogFault::io(self.path, "read"))?;
            if read < self.buffer.len() {
                let seen = offset + read as u64;
                self.length = Some(self.length.map_or(seen, |length| length.min(seen)));
            }
            self.buffer[read..].fill(0);
            self.start = offset;
        }
        let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(&self.buffer[at..at + length])
    }

    /// The length of the file, once it was read to its end.
    fn length(&mut self) -> Result<u64, LogFault> {
        while self.length.is_none() {
            self.get(self.start + self.buffer.len() as u64, 1)?;
        }
        Ok(self.length.unwrap_or(u64::MAX))
    }
}
