//! The bytes of the log: segment headers, groups and records, both ways; what a torn end looks like. No I/O.
//!
//! A segment is a header sector and then groups, each starting at a sector. A group is what one sync covers: a
//! header and records, filled up to the sector with [`FILL`]. Whole sectors, so that a sector which was
//! acknowledged is never written again by a later group, whatever a power cut does to that one.

use std::ops::Range;

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use crate::raft::forms;
use crate::raft::runtime::{Entry, LogId, Payload, Vote};

/// The unit a disk writes whole or not at all. 512 is the smallest in use; larger ones are multiples of it.
pub(super) const SECTOR: usize = 512;
/// Bytes of a group's header; its records follow at once.
pub(super) const GROUP_HEADER: usize = 36;
/// Bytes of a record's header: kind, version, length, CRC.
const RECORD_HEADER: usize = 10;
/// The number of this format. Every segment and every group carries it.
const FORMAT: u32 = 1;
const SEGMENT_MAGIC: [u8; 8] = *b"jwtmlog\n";
const GROUP_MAGIC: [u8; 4] = *b"\xf5grp";
/// The version of every record body so far.
const RECORD_VERSION: u8 = 1;
/// Fills the last sector of everything written. Not zero, so that bytes never written (zeros) can be told from it.
const FILL: u8 = 0xff;
/// Stands for "no entry yet" where a next index is written.
const NOWHERE: u64 = u64::MAX;

/// The uuid of a store, written into each of its segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreId(pub [u8; 16]);

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// What a segment begins with: everything older segments said that must outlive them, so that they can be removed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SegmentHeader {
    pub(super) store: StoreId,
    pub(super) number: u32,
    pub(super) size: u64,
    pub(super) position: Position,
}

/// Where the log stands between two groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Position {
    /// The number of the next group.
    pub(super) group: u64,
    /// The index of the next entry; `None` while any would do, in a log that never held one.
    pub(super) next: Option<u64>,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
}

impl Position {
    /// Before the first group of a new log.
    pub(super) fn start() -> Self {
        Self {
            group: 1,
            next: None,
            vote: None,
            purged: None,
            committed: None,
        }
    }

    /// Moves over one record. An error says what does not fit, in words that continue "... is damaged: ".
    pub(super) fn pass(&mut self, item: &Item) -> Result<(), String> {
        match *item {
            Item::Entry(id) => {
                if let Some(next) = self.next.filter(|next| *next != id.index) {
                    return Err(format!("it holds entry {} where entry {next} should follow", id.index));
                }
                self.next = Some(id.index + 1);
            }
            Item::Truncate(from) => {
                if self.next.is_none_or(|next| from > next) {
                    return Err(format!("it truncates at entry {from}, which the log does not reach"));
                }
                self.next = Some(from);
            }
            Item::Purge(id) => {
                self.purged = Some(id);
                self.next = Some(self.next.unwrap_or(0).max(id.index + 1));
            }
            Item::Vote(vote) => self.vote = Some(vote),
            Item::Committed(id) => self.committed = Some(id),
        }
        Ok(())
    }
}

/// One record as a reader of groups sees it: without the payload.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    /// An entry of the log.
    Entry(LogId),
    /// A vote that was given.
    Vote(Vote),
    /// Entries from this index on are gone.
    Truncate(u64),
    /// Entries up to this one are gone.
    Purge(LogId),
    /// Entries up to this one are committed.
    Committed(LogId),
}

/// What the header of a group says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupHead {
    pub(super) number: u64,
    pub(super) next: Option<u64>,
    length: usize,
    body_crc: u32,
}

impl GroupHead {
    /// Bytes of the group: header, records and fill.
    pub(super) fn total(&self) -> usize {
        filled(GROUP_HEADER + self.length)
    }

    /// Whether `group` holds the bytes that were written.
    pub(super) fn matches(&self, seed: u32, group: &[u8]) -> bool {
        group.len() == self.total() && crc32c::crc32c_append(seed, &group[GROUP_HEADER..]) == self.body_crc
    }

    /// The records of `group`, which must match, each with its place in it.
    pub(super) fn items(&self, group: &[u8]) -> Result<Vec<(Range<usize>, Item)>, String> {
        let mut items = Vec::new();
        let (mut at, end) = (GROUP_HEADER, GROUP_HEADER + self.length);
        while at < end {
            let record = checked_record(&group[at..end])?;
            items.push((at..at + record.len(), read_item(record)?));
            at += record.len();
        }
        Ok(items)
    }
}

/// What a sector at which a group may begin holds.
#[derive(Debug, PartialEq)]
pub(super) enum Head {
    /// The header of a group.
    Valid(GroupHead),
    /// Nothing was ever written here.
    Blank,
    /// Something else.
    Broken,
}

/// What the first sector of a segment holds.
#[derive(Debug, PartialEq)]
pub(super) enum Start {
    Valid(SegmentHeader),
    /// Another store's segment.
    Foreign(StoreId),
    /// A newer program's.
    Newer(u32),
    /// Intact by its CRC, and yet not readable.
    Unreadable,
    Blank,
    Broken,
}

/// The CRCs of a segment's groups begin with this, so that no group is taken for one of another segment or store,
/// and no payload can carry bytes that look like a group.
pub(super) fn seed(store: StoreId, segment: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&store.0), &segment.to_le_bytes())
}

/// Whether an interrupted write can have left these sectors: whether one of them ends with zero.
///
/// What was never written is zero, and what is written ends a sector with zero only by chance (entries are text, ends
/// are filled). So if every sector is written to its end and the checksum is wrong, the group was complete once and has
/// been changed since: no power cut does that. If a sector ends with zero, the group was torn, or acknowledged and then
/// overwritten with zeros: these two cannot be told apart.
pub(super) fn may_be_torn(bytes: &[u8]) -> bool {
    bytes.is_empty()
        || bytes
            .chunks(SECTOR)
            .any(|sector| sector.len() < SECTOR || sector[SECTOR - 1] == 0)
}

/// Whether all of it is zero.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    // Compared in blocks: this runs over tens of megabytes at each start.
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|block| *block == ZEROS[..block.len()])
}

/// Reads the sector at which a group may begin.
pub(super) fn read_head(seed: u32, sector: &[u8]) -> Head {
    if is_blank(sector) {
        return Head::Blank;
    }
    let Some(header) = sector.first_chunk::<GROUP_HEADER>() else {
        return Head::Broken;
    };
    let crc = crc32c::crc32c_append(seed, &header[..GROUP_HEADER - 4]);
    if header[..4] != GROUP_MAGIC || u32_at(header, 32) != crc || u32_at(header, 4) != FORMAT {
        return Head::Broken;
    }
    Head::Valid(GroupHead {
        number: u64_at(header, 8),
        next: Some(u64_at(header, 16)).filter(|next| *next != NOWHERE),
        length: u32_at(header, 24) as usize,
        body_crc: u32_at(header, 28),
    })
}

/// A group while it is being put together. Reuses its buffer from one group to the next.
#[derive(Debug, Default)]
pub(super) struct Group {
    bytes: Vec<u8>,
}

impl Group {
    /// Begins an empty group.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(GROUP_HEADER, 0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() <= GROUP_HEADER
    }

    /// Adds an entry and gives its place in the group.
    pub(super) fn entry(&mut self, entry: &Entry) -> Range<usize> {
        let (payload, tail) = match &entry.payload {
            EntryPayload::Blank => (BLANK, Bytes::new()),
            EntryPayload::Normal(Payload(bytes)) => (NORMAL, bytes.clone()),
            EntryPayload::Membership(membership) => (MEMBERSHIP, forms::encode(&forms::Membership::from(membership))),
        };
        self.record(ENTRY, &(forms::LogId::from(entry.log_id), payload), &tail)
    }

    /// Adds any other record.
    pub(super) fn item(&mut self, item: &Item) {
        match item {
            Item::Vote(vote) => self.record(VOTE, &forms::Vote::from(*vote), &[]),
            Item::Truncate(from) => self.record(TRUNCATE, from, &[]),
            Item::Purge(id) => self.record(PURGE, &forms::LogId::from(*id), &[]),
            Item::Committed(id) => self.record(COMMITTED, &forms::LogId::from(*id), &[]),
            Item::Entry(_) => unreachable!("an entry is added with its payload"),
        };
    }

    /// The finished bytes, whole sectors.
    pub(super) fn finish(&mut self, seed: u32, number: u64, next: Option<u64>) -> &[u8] {
        let length = u32::try_from(self.bytes.len() - GROUP_HEADER).expect("a group is bounded far below 4 GiB");
        self.bytes.resize(filled(self.bytes.len()), FILL);
        let body_crc = crc32c::crc32c_append(seed, &self.bytes[GROUP_HEADER..]);
        let header = &mut self.bytes[..GROUP_HEADER];
        header[..4].copy_from_slice(&GROUP_MAGIC);
        header[4..8].copy_from_slice(&FORMAT.to_le_bytes());
        header[8..16].copy_from_slice(&number.to_le_bytes());
        header[16..24].copy_from_slice(&next.unwrap_or(NOWHERE).to_le_bytes());
        header[24..28].copy_from_slice(&length.to_le_bytes());
        header[28..32].copy_from_slice(&body_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &header[..32]);
        header[32..].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }

    /// How long the finished bytes will be.
    pub(super) fn total(&self) -> usize {
        filled(self.bytes.len())
    }

    fn record(&mut self, kind: u8, head: &impl Serialize, tail: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[kind, RECORD_VERSION]);
        self.bytes.extend_from_slice(&[0; RECORD_HEADER - 2]);
        // Log ids and votes: at most three varints of ten bytes and a tag.
        let mut scratch = [0; 64];
        let head = postcard::to_slice(head, &mut scratch).expect("a record's head is at most 32 bytes");
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(tail);
        let length = self.bytes.len() - start - RECORD_HEADER;
        let length = u32::try_from(length).expect("an entry is bounded far below 4 GiB");
        self.bytes[start + 2..start + 6].copy_from_slice(&length.to_le_bytes());
        let crc = record_crc(&self.bytes[start..]);
        self.bytes[start + 6..start + RECORD_HEADER].copy_from_slice(&crc.to_le_bytes());
        start..self.bytes.len()
    }
}

/// The entry in `record`, whose payload stays a slice of it.
pub(super) fn read_entry(record: &Bytes) -> Result<Entry, String> {
    let checked = checked_record(record)?;
    if checked.len() != record.len() || checked[0] != ENTRY {
        return Err("it holds another record where an entry was written".to_owned());
    }
    let ((id, payload), tail) = entry_head(checked)?;
    let tail = record.slice(record.len() - tail.len()..);
    let payload = match payload {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Payload(tail)),
        MEMBERSHIP => EntryPayload::Membership(form::<forms::Membership>(&tail)?.try_into()?),
        other => {
            return Err(format!(
                "entry {} has payload kind {other}, which is newer than this program",
                id.index
            ));
        }
    };
    Ok(Entry {
        log_id: id.into(),
        payload,
    })
}

/// The first sector of a segment.
pub(super) fn write_start(header: &SegmentHeader) -> [u8; SECTOR] {
    let mut sector = [FILL; SECTOR];
    sector[..8].copy_from_slice(&SEGMENT_MAGIC);
    sector[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    sector[16..32].copy_from_slice(&header.store.0);
    // At most 4 log positions of 30 bytes, a vote and four numbers: far below the 480 bytes that are there.
    postcard::to_slice(&StartForm::of(header), &mut sector[32..]).expect("a segment header fits its sector");
    let crc = start_crc(&sector);
    sector[12..16].copy_from_slice(&crc.to_le_bytes());
    sector
}

/// Reads the first sector of a segment.
pub(super) fn read_start(store: StoreId, sector: &[u8; SECTOR]) -> Start {
    if is_blank(sector) {
        return Start::Blank;
    }
    if sector[..8] != SEGMENT_MAGIC || u32_at(sector, 12) != start_crc(sector) {
        return Start::Broken;
    }
    match u32_at(sector, 8) {
        FORMAT => {}
        newer if newer > FORMAT => return Start::Newer(newer),
        _ => return Start::Unreadable,
    }
    let mut found = StoreId::default();
    found.0.copy_from_slice(&sector[16..32]);
    if found != store {
        return Start::Foreign(found);
    }
    match postcard::take_from_bytes::<StartForm>(&sector[32..]) {
        Ok((form, _)) => Start::Valid(form.header(store)),
        Err(_) => Start::Unreadable,
    }
}

fn start_crc(sector: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&sector[..12]), &sector[16..])
}

/// The CRC of a record: everything but the CRC itself.
fn record_crc(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..6]), &record[RECORD_HEADER..])
}

/// The record at the beginning of `bytes`, whole and intact.
fn checked_record(bytes: &[u8]) -> Result<&[u8], String> {
    if bytes.len() < RECORD_HEADER {
        return Err("a record ends before its header does".to_owned());
    }
    let length = u32_at(bytes, 2) as usize;
    let record = bytes
        .get(..RECORD_HEADER + length)
        .ok_or("a record is longer than what holds it")?;
    if record_crc(record) != u32_at(record, 6) {
        return Err("a record does not match its checksum".to_owned());
    }
    if record[1] != RECORD_VERSION {
        return Err(format!(
            "a record has version {}, which is newer than this program",
            record[1]
        ));
    }
    Ok(record)
}

fn read_item(record: &[u8]) -> Result<Item, String> {
    let body = &record[RECORD_HEADER..];
    Ok(match record[0] {
        ENTRY => Item::Entry(entry_head(record)?.0.0.into()),
        VOTE => Item::Vote(form::<forms::Vote>(body)?.into()),
        TRUNCATE => Item::Truncate(form(body)?),
        PURGE => Item::Purge(form::<forms::LogId>(body)?.into()),
        COMMITTED => Item::Committed(form::<forms::LogId>(body)?.into()),
        other => return Err(format!("a record has kind {other}, which is newer than this program")),
    })
}

fn entry_head(record: &[u8]) -> Result<((forms::LogId, u8), &[u8]), String> {
    postcard::take_from_bytes(&record[RECORD_HEADER..]).map_err(|error| format!("an entry cannot be decoded ({error})"))
}

fn form<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, String> {
    forms::decode(body).map_err(|error| format!("a record cannot be decoded ({error})"))
}

/// The end of what `length` bytes fill: always at least one byte of fill, so that no group ends in a zero.
fn filled(length: usize) -> usize {
    (length / SECTOR + 1) * SECTOR
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"))
}

// Kinds of records and payloads: forever, only added to.
const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMITTED: u8 = 5;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct StartForm {
    number: u32,
    size: u64,
    group: u64,
    next: Option<u64>,
    vote: Option<forms::Vote>,
    purged: Option<forms::LogId>,
    committed: Option<forms::LogId>,
}

impl StartForm {
    fn of(header: &SegmentHeader) -> Self {
        let position = &header.position;
        Self {
            number: header.number,
            size: header.size,
            group: position.group,
            next: position.next,
            vote: position.vote.map(forms::Vote::from),
            purged: position.purged.map(forms::LogId::from),
            committed: position.committed.map(forms::LogId::from),
        }
    }

    fn header(&self, store: StoreId) -> SegmentHeader {
        let position = Position {
            group: self.group,
            next: self.next,
            vote: self.vote.map(Vote::from),
            purged: self.purged.map(LogId::from),
            committed: self.committed.map(LogId::from),
        };
        SegmentHeader {
            store,
            number: self.number,
            size: self.size,
            position,
        }
    }
}
