//! Finds the segments, and checks their headers.

use std::path::PathBuf;
use std::sync::Arc;

use super::window::{WINDOW, Window, least};
use crate::raft::log::disk::{Disk, DiskFile};
use crate::raft::log::fault::LogFault;
use crate::raft::log::options::Options;
use crate::raft::log::prepare::{segment_name, segment_number};
use crate::raft::log::segment::{self, SECTOR, SegmentHeader, Start};

/// A segment with an intact header.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) start: [u8; SECTOR],
    pub(super) header: SegmentHeader,
}

/// Finds the segments. Their numbers must have no gap, and their headers must be intact. Only the last header may be
/// torn, if the program ended while it prepared or began that segment: such a segment is left out, and made again.
pub(super) fn survey(disk: &Arc<dyn Disk>, options: &Options) -> Result<Vec<Found>, LogFault> {
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
                // A header is durable before a group follows it. If nothing follows, nothing is lost with the segment.
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
