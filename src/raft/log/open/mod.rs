//! READING THE LOG BACK: every segment in order, every CRC. A torn end is zeroed; damage is refused.
//!
//! First `survey.rs` finds the segments, then `replay.rs` reads their groups, then `torn.rs` judges the end of the last
//! one. Everything is judged before the first write, so that a refusal leaves the files as they were found.

mod replay;
mod survey;
mod torn;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;

pub(super) use replay::Opened;
use replay::Replay;
use survey::survey;
use torn::{judge_end, settle};

use crate::raft::log::disk::Disk;
use crate::raft::log::fault::LogFault;
use crate::raft::log::files::{Current, Segment};
use crate::raft::log::memory::Memory;
use crate::raft::log::options::Options;
use crate::raft::log::prepare::{Worker, segment_name};
use crate::raft::log::segment::{self, Position, SECTOR, SegmentHeader};

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
    // Before the log is held against the state: where damage ends what can be read, the damage is the reason.
    let torn = judge_end(last, options, &end, replay.position.group)?;
    let held = replay.position.next.map_or(0, |next| next.saturating_sub(1));
    if held < durable && options.installed != Some(durable) && durable != u64::MAX {
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
    replay.check_beginning(&found[0])?;
    settle(last, &end, &torn, replay.last_group)?;
    disk.sync_dir().map_err(LogFault::io(&disk.path(""), "synced"))?;
    replay.finish(found, end.offset)
}

/// Begins the log of a new store with its first segment.
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
