//! Reads the groups of every segment in order, as far as they are intact.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::survey::Found;
use super::window::Window;
use crate::raft::log::fault::LogFault;
use crate::raft::log::files::{Current, Segment, read_entries};
use crate::raft::log::memory::Memory;
use crate::raft::log::options::Options;
use crate::raft::log::segment::{self, Head, Position, SECTOR};

/// A log as it stands on disk.
pub(in crate::raft::log) struct Opened {
    pub(in crate::raft::log) memory: Memory,
    pub(in crate::raft::log) position: Position,
    pub(in crate::raft::log) segments: VecDeque<Segment>,
    pub(in crate::raft::log) current: Current,
}

/// Where the intact groups of a segment end.
pub(super) struct End {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    /// Bytes of the group there, if its header is intact.
    pub(super) group: Option<usize>,
    /// What is wrong there; `None` if nothing was ever written there.
    pub(super) wrong: Option<&'static str>,
}

/// The log while it is read.
pub(super) struct Replay<'a> {
    pub(super) options: &'a Options,
    pub(super) position: Position,
    pub(super) memory: Memory,
    pub(super) segments: VecDeque<Segment>,
    /// Offset and length of the last intact group, if it is in the segment that was read last.
    pub(super) last_group: Option<(u64, usize)>,
}

impl Replay<'_> {
    /// Checks that `next` begins where the segment before it, which ends at `end`, leaves off.
    pub(super) fn follows(&self, next: &Found, end: Option<&End>) -> Result<(), LogFault> {
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

    /// Reads the groups of a segment as far as they are intact.
    pub(super) fn segment(&mut self, found: &Found) -> Result<End, LogFault> {
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

    /// Checks that older segments are missing only as far as the log was purged.
    pub(super) fn check_beginning(&self, first: &Found) -> Result<(), LogFault> {
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

    pub(super) fn finish(mut self, found: Vec<Found>, offset: u64) -> Result<Opened, LogFault> {
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
