//! Makes groups of a log that were not written to their end look whole: what a start finds that does not check them.

use std::ops::Range;

use jwtmesh::raft::log::StoreId;

use crate::disk::{CrashDisk, SECTOR};

// The format is described in src/raft/log/segment.rs.
const GROUP_HEADER: usize = 36;
const GROUP_MAGIC: &[u8] = b"\xf5grp";
const RECORD_HEADER: usize = 10;

/// Gives the first torn group of each segment the checksums of what is left of it.
pub(crate) fn make_whole(log: &CrashDisk, store: StoreId) {
    for name in log.names() {
        let Some(number) = name.strip_suffix(".log").and_then(|number| number.parse().ok()) else {
            continue;
        };
        let seed = seed(store, number);
        let mut bytes = log.bytes(&name);
        let torn = (SECTOR..bytes.len())
            .step_by(SECTOR)
            .find_map(|at| torn_group(seed, &bytes, at));
        if let Some(group) = torn {
            sign(seed, &mut bytes[group]);
            log.set_bytes(&name, bytes);
        }
    }
}

fn seed(store: StoreId, segment: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&store.0), &segment.to_le_bytes())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Where the group lies that begins at `at`, if one does whose header is intact and the rest of which is not.
fn torn_group(seed: u32, bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let header = &bytes[at..at + GROUP_HEADER];
    let is_intact = u32_at(header, 32) == crc32c::crc32c_append(seed, &header[..32]);
    if !header.starts_with(GROUP_MAGIC) || !is_intact {
        return None;
    }
    let end = at + (GROUP_HEADER + u32_at(header, 24) as usize).next_multiple_of(SECTOR);
    let body = bytes.get(at + GROUP_HEADER..end)?;
    (crc32c::crc32c_append(seed, body) != u32_at(header, 28)).then_some(at..end)
}

/// Puts new checksums into a group, its records first.
fn sign(seed: u32, group: &mut [u8]) {
    let end = GROUP_HEADER + u32_at(group, 24) as usize;
    let mut at = GROUP_HEADER;
    while at + RECORD_HEADER <= end {
        let next = at + RECORD_HEADER + u32_at(group, at + 2) as usize;
        if next > end {
            break;
        }
        let crc = crc32c::crc32c(&group[at..at + 6]);
        let crc = crc32c::crc32c_append(crc, &group[at + RECORD_HEADER..next]);
        group[at + 6..at + RECORD_HEADER].copy_from_slice(&crc.to_le_bytes());
        at = next;
    }
    let crc = crc32c::crc32c_append(seed, &group[GROUP_HEADER..]);
    group[28..32].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &group[..32]);
    group[32..36].copy_from_slice(&crc.to_le_bytes());
}
