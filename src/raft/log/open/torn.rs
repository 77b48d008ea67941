//! The end of the last segment: torn by a crash, and then zeroed; or damaged, and then refused.
//!
//! A group is written only when the one before it is durable, so only the last group can be torn. A torn group has a
//! part that was never written, which is zero, and nothing behind it: it was never acknowledged. Anything else that does
//! not match its checksum was acknowledged once, and the node does not start. (`survey.rs` judges a torn header.)

use super::replay::End;
use super::survey::Found;
use super::window::{WINDOW, Window, least};
use crate::raft::log::fault::LogFault;
use crate::raft::log::options::Options;
use crate::raft::log::segment::{self, Head, SECTOR};

/// What a torn group has left behind.
pub(super) struct TornRange {
    /// The bytes to zero: from the end of the intact groups to here. No more than that end if nothing is torn.
    end: u64,
    /// The length of the file.
    length: u64,
}

/// Judges the end of the last segment: torn by a crash, or damaged. `number` is the group expected there.
///
/// A group is written only when the one before it is durable. So anything that was written behind a broken group proves
/// that the group was acknowledged, and so does the group being complete.
pub(super) fn judge_end(found: &Found, options: &Options, end: &End, number: u64) -> Result<TornRange, LogFault> {
    let seed = segment::seed(options.store, found.header.number);
    let damaged = |what: String| Err(LogFault::damaged(&found.path, end.offset, what));
    let mut window = Window::new(found.file.as_ref(), &found.path, found.header.size);
    let group_end = end.offset + end.group.unwrap_or(SECTOR) as u64;
    if let Some(wrong) = end.wrong {
        let length = usize::try_from(group_end - end.offset).unwrap_or(usize::MAX);
        if !segment::may_be_torn(window.get(end.offset, length)?) {
            return damaged(format!("{wrong}, and all of it was written"));
        }
    }
    let mut torn = TornRange {
        end: end.offset,
        length: 0,
    };
    let mut at = end.offset;
    while at < found.header.size {
        let length = least(WINDOW, found.header.size - at);
        let block = window.get(at, length)?;
        if !segment::is_blank(block) {
            judge_block(found, seed, end, number, (at, block), &mut torn)?;
        }
        at += length as u64;
    }
    torn.length = window.length()?;
    Ok(torn)
}

/// Judges one block at or behind the end.
fn judge_block(
    found: &Found,
    seed: u32,
    end: &End,
    number: u64,
    (start, block): (u64, &[u8]),
    torn: &mut TornRange,
) -> Result<(), LogFault> {
    let damaged = |what: String| Err(LogFault::damaged(&found.path, end.offset, what));
    for (sector, bytes) in block
        .chunks(SECTOR)
        .enumerate()
        .filter(|(_, bytes)| !segment::is_blank(bytes))
    {
        let here = start + (sector * SECTOR) as u64;
        torn.end = here + SECTOR as u64;
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
pub(super) fn settle(
    found: &Found,
    end: &End,
    torn: &TornRange,
    last_group: Option<(u64, usize)>,
) -> Result<(), LogFault> {
    let write = |offset: u64, bytes: &[u8]| {
        found
            .file
            .write_at(offset, bytes)
            .map_err(LogFault::io(&found.path, "written"))
    };
    if torn.length < found.header.size {
        found
            .file
            .preallocate(torn.length, found.header.size)
            .map_err(LogFault::io(&found.path, "allocated"))?;
    }
    let zeros = vec![0; least(WINDOW, torn.end - end.offset)];
    let mut at = end.offset;
    while at < torn.end {
        let length = least(zeros.len(), torn.end - at);
        write(at, &zeros[..length])?;
        at += length as u64;
    }
    // What was read may be in the page cache alone: written by a process that died before its sync, or whose sync
    // failed, after which Linux calls the pages clean. Writing it again makes the pages dirty, so that the sync below
    // covers them. Only the last write can be affected: all others were synced before it.
    write(0, &found.start)?;
    if let Some((offset, length)) = last_group {
        let group = Window::new(found.file.as_ref(), &found.path, found.header.size)
            .get(offset, length)?
            .to_vec();
        write(offset, &group)?;
    }
    found.file.sync().map_err(LogFault::io(&found.path, "synced"))
}
