//! A snapshot as bytes: the one format in which a state travels to another node.
//!
//! A stream is a header, blocks, and a trailer; each is a *piece*. A piece is its kind (one byte), the CRC-32C of what
//! follows it, and the content. The header (postcard) says what the state is of and how much follows. A block is
//! zstd-compressed records: the number of a table, key and value. The trailer (postcard) counts the records and has a
//! hash over them and the header, so that a stream that was cut off is not taken for a whole one.
//!
//! Records come in the order of the tables and their keys: the rows in the order of their revisions. The same state
//! always gives the same pieces.

use bytes::Bytes;
use redb::{Key, ReadOnlyTable, ReadableTableMetadata as _, Value};
use serde::{Deserialize, Serialize};

use super::store::Store;
use super::view::SnapshotView;
use super::{ACCOUNTS, CLOSINGS, DELETED, Meta, OPERATORS, POSITIONS, ROWS, SERVERS};
use crate::state::fault::Fault;
use crate::state::rows::RowId;

/// The number of this format. In format 1 there were no servers, and a header had four counts. In format 2 there were no
/// tombstones and no closing tokens, and it had five: a state that never had any is still sent so, to nodes of an earlier
/// version.
pub(super) const FORMAT: u32 = 3;

/// Bytes of records in a block before it is compressed. One record may be larger: a token has up to a MiB.
const BLOCK_BYTES: usize = 256 * 1024;

/// The most that a block may have, whatever it says.
pub(super) const MAX_BLOCK_BYTES: usize = 4 * 1024 * 1024;

/// Tokens are base64, of which three quarters are information; more effort finds no more.
const LEVEL: i32 = 1;

pub(super) const HEADER: u8 = 1;
pub(super) const BLOCK: u8 = 2;
pub(super) const TRAILER: u8 = 3;

/// The tables by their numbers in a stream.
pub(super) const TABLES: u8 = 7;

/// What a stream begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) magic: [u8; 8],
    pub(super) format: u32,
    pub(super) meta: Meta,
    /// Rows of each table.
    pub(super) counts: [u64; TABLES as usize],
    /// About how many bytes of disk the state takes.
    pub(super) stored_bytes: u64,
}

impl Header {
    /// As it stands in a stream.
    fn encode(&self) -> Vec<u8> {
        match self.format {
            2 => EarlierHeader::<5>::write(self),
            _ => encode(self),
        }
    }

    /// The header that `content` encodes, in this format or an earlier one; or what is wrong with it.
    pub(super) fn decode(content: &[u8]) -> Result<Self, String> {
        let unreadable = |error: postcard::Error| format!("is no header: {error}");
        let ((magic, format), _): (([u8; 8], u32), _) = postcard::take_from_bytes(content).map_err(unreadable)?;
        match (magic, format) {
            (MAGIC, FORMAT) => postcard::from_bytes(content).map_err(unreadable),
            (MAGIC, 2) => EarlierHeader::<5>::read(content).map_err(unreadable),
            (MAGIC, 1) => EarlierHeader::<4>::read(content).map_err(unreadable),
            _ => Err(format!("is of format {format}, this program reads 1 to {FORMAT}")),
        }
    }
}

/// The header of an earlier format, as a tuple: postcard gives both the same bytes.
struct EarlierHeader<const N: usize>;

type Tuple<T> = ([u8; 8], u32, Meta, T, u64);

impl<const N: usize> EarlierHeader<N>
where
    [u64; N]: for<'de> Deserialize<'de> + Serialize,
{
    fn read(content: &[u8]) -> Result<Header, postcard::Error> {
        let (magic, format, meta, earlier, stored_bytes): Tuple<[u64; N]> = postcard::from_bytes(content)?;
        let mut counts = [0; TABLES as usize];
        counts[..N].copy_from_slice(&earlier);
        Ok(Header {
            magic,
            format,
            meta,
            counts,
            stored_bytes,
        })
    }

    fn write(header: &Header) -> Vec<u8> {
        let mut counts = [0; N];
        counts.copy_from_slice(&header.counts[..N]);
        encode(&(header.magic, header.format, &header.meta, counts, header.stored_bytes))
    }
}

pub(super) const MAGIC: [u8; 8] = *b"jwtmesh\n";

/// What a stream ends with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) records: u64,
    pub(super) hash: [u8; 32],
}

/// One row of a table.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record<'a> {
    pub(super) table: u8,
    #[serde(borrow)]
    pub(super) key: &'a [u8],
    #[serde(borrow)]
    pub(super) value: &'a [u8],
}

/// Reads a snapshot as a stream of pieces. Holds one piece in memory, and keeps the view.
pub struct Export {
    view: SnapshotView,
    place: Place,
    records: u64,
    hash: blake3::Hasher,
}

/// What comes next.
enum Place {
    Header,
    /// The table, and the key of the last record that was read of it.
    Records(u8, Option<Vec<u8>>),
    Trailer,
    End,
}

impl SnapshotView {
    /// This snapshot as a stream.
    pub fn export(&self) -> Export {
        Export {
            view: self.clone(),
            place: Place::Header,
            records: 0,
            hash: blake3::Hasher::new(),
        }
    }
}

impl Export {
    /// The next piece; `None` after the last. Blocks while it reads.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, Fault> {
        let store = self.view.store_handle();
        store.reading(|| self.piece())
    }

    fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        match std::mem::replace(&mut self.place, Place::End) {
            Place::Header => {
                self.place = Place::Records(0, None);
                let header = self.header()?.encode();
                self.hash.update(&header);
                Ok(Some(piece(HEADER, &header)))
            }
            Place::Records(table, after) => {
                let mut block = Vec::with_capacity(BLOCK_BYTES + 4096);
                self.place = self.fill(&mut block, table, after)?;
                if block.is_empty() {
                    return self.piece();
                }
                self.hash.update(&block);
                let compressed = zstd::bulk::compress(&block, LEVEL).map_err(|error| self.view.fault(error))?;
                Ok(Some(piece(BLOCK, &compressed)))
            }
            Place::Trailer => {
                let trailer = Trailer {
                    records: self.records,
                    hash: *self.hash.finalize().as_bytes(),
                };
                Ok(Some(piece(TRAILER, &encode(&trailer))))
            }
            Place::End => Ok(None),
        }
    }

    fn header(&self) -> Result<Header, Fault> {
        let view = &self.view;
        let length = |length: Result<u64, redb::StorageError>| length.map_err(|error| view.fault(error));
        let (rows, accounts) = (view.table(ROWS)?, view.table(ACCOUNTS)?);
        let stored = |stats: Result<redb::TableStats, redb::StorageError>| {
            let stats = stats.map_err(|error| view.fault(error))?;
            Ok::<_, Fault>(stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes())
        };
        Ok(Header {
            magic: MAGIC,
            format: if view.has_deletes()? { FORMAT } else { 2 },
            meta: view.meta().clone(),
            counts: [
                length(view.table(OPERATORS)?.len())?,
                length(view.table(POSITIONS)?.len())?,
                length(rows.len())?,
                length(accounts.len())?,
                view.count(SERVERS)?,
                view.count(DELETED)?,
                view.count(CLOSINGS)?,
            ],
            // The other tables are small.
            stored_bytes: stored(rows.stats())? + stored(accounts.stats())?,
        })
    }

    /// Adds records to `block` until it is full; says where to go on.
    fn fill(&mut self, block: &mut Vec<u8>, table: u8, after: Option<Vec<u8>>) -> Result<Place, Fault> {
        let last = match table {
            0 => self.records_of(block, table, self.view.table(OPERATORS)?, after)?,
            1 => self.records_of(block, table, self.view.table(POSITIONS)?, after)?,
            2 => self.records_of(block, table, self.view.table(ROWS)?, after)?,
            3 => self.records_of(block, table, self.view.table(ACCOUNTS)?, after)?,
            4 => self.records_of_some(block, table, self.view.optional(SERVERS)?, after)?,
            5 => self.records_of_some(block, table, self.view.optional(DELETED)?, after)?,
            6 => self.records_of_some(block, table, self.view.optional(CLOSINGS)?, after)?,
            _ => return Ok(Place::Trailer),
        };
        match last {
            Some(key) => Ok(Place::Records(table, Some(key))),
            None => self.fill(block, table + 1, None),
        }
    }

    /// As [`Self::records_of`]; a table that is not there has no records.
    fn records_of_some<K: Key + 'static, V: Value + 'static>(
        &mut self,
        block: &mut Vec<u8>,
        number: u8,
        table: Option<ReadOnlyTable<K, V>>,
        after: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        table.map_or(Ok(None), |table| self.records_of(block, number, table, after))
    }

    /// Adds records of `table` behind the key `after`. `Some` is the key of the last one if the block is full.
    fn records_of<K: Key + 'static, V: Value + 'static>(
        &mut self,
        block: &mut Vec<u8>,
        number: u8,
        table: ReadOnlyTable<K, V>,
        after: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        use std::ops::Bound::{Excluded, Unbounded};
        let store = self.view.store_handle();
        let from = after.as_deref().map_or(Unbounded, |key| Excluded(K::from_bytes(key)));
        let range = table.range::<K::SelfType<'_>>((from, Unbounded));
        for entry in range.map_err(|error| self.view.fault(error))? {
            let (key, value) = entry.map_err(|error| self.view.fault(error))?;
            let (key, value) = (key.value(), value.value());
            let (key, value) = (K::as_bytes(&key), V::as_bytes(&value));
            let record = Record {
                table: number,
                key: key.as_ref(),
                value: value.as_ref(),
            };
            check(&store, &record)?;
            append(block, &record);
            self.records += 1;
            if block.len() >= BLOCK_BYTES {
                return Ok(Some(key.as_ref().to_vec()));
            }
        }
        Ok(None)
    }
}

/// Whether what `record` holds can be used: redb verifies its checksums when it repairs a file, not when it reads one.
pub(super) fn check(store: &Store, record: &Record<'_>) -> Result<(), Fault> {
    let shape = || store.damaged(format!("a record of table {} has another shape", record.table));
    match record.table {
        0 => {
            let key = record.key.try_into().map_err(|_| shape())?;
            store.operator(key, record.value).map(drop)
        }
        2 if <(u64, u32)>::fixed_width() == Some(record.key.len()) => {
            let id = RowId::from_key(<(u64, u32)>::from_bytes(record.key));
            store.row(None, id, record.value).map(drop)
        }
        2 => Err(shape()),
        4 => {
            let key = std::str::from_utf8(record.key).map_err(|_| shape())?;
            store.server(key, record.value).map(drop)
        }
        6 => {
            let key = record.key.try_into().map_err(|_| shape())?;
            store.closing(key, record.value).map(drop)
        }
        _ => Ok(()),
    }
}

fn append(block: &mut Vec<u8>, record: &Record<'_>) {
    *block = postcard::to_extend(record, std::mem::take(block)).expect("plain data into memory");
}

fn encode(form: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(form).expect("plain data into memory")
}

/// A piece around its content.
fn piece(kind: u8, content: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(content.len() + 5);
    bytes.push(kind);
    bytes.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    bytes.extend_from_slice(content);
    bytes.into()
}
