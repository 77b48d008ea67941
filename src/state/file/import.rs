//! Builds a state file from a snapshot that arrives as pieces, beside the one in use.
//!
//! Every byte may be wrong: a piece is checked before anything of it is used, and the whole before it is called one. Until
//! then the new file is never seen; an import that is not finished removes it, and so does the next start.

use std::path::Path;
use std::sync::Arc;

use redb::{Durability, Key, TableDefinition, Value, WriteTransaction};

use super::export::{BLOCK, FORMAT, HEADER, Header, MAX_BLOCK_BYTES, Record, TABLES, TRAILER, Trailer, check};
use super::install::received_next;
use super::store::Store;
use super::view::SnapshotView;
use super::{ACCOUNTS, CLOSINGS, DELETED, INSTALLED, OPERATORS, POSITIONS, ROWS, SERVERS};
use crate::state::fault::Fault;
use crate::state::options::Options;

/// The most bytes of a piece.
pub const MAX_PIECE_BYTES: usize = 2 * 1024 * 1024;

/// Bytes that are written before they are synced: without it the last sync would take as long as all writes.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;

/// Why a snapshot cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The stream is damaged, or none of ours.
    #[error("piece {piece} of the snapshot {defect}")]
    Stream {
        /// Its number.
        piece: u64,
        /// What is wrong with it.
        defect: String,
    },
    /// This node's disk fails.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A snapshot that is being received.
pub struct Import {
    /// Taken when it is whole.
    store: Option<Arc<Store>>,
    pieces: u64,
    header: Option<Header>,
    counts: [u64; TABLES as usize],
    hash: blake3::Hasher,
    unsynced: u64,
    is_whole: bool,
}

impl Import {
    /// Begins beside the state file at `path`.
    pub(in crate::state) fn beside(path: &Path, options: &Options) -> Result<Self, Fault> {
        let mut store = Store::open_file(&received_next(path), options)?;
        store.is_scratch = true;
        Ok(Self::into(store))
    }

    /// Begins in memory.
    pub(in crate::state) fn in_memory(options: &Options) -> Result<Self, Fault> {
        let store = Store::open_backend(redb::backends::InMemoryBackend::new(), options)?;
        Ok(Self::into(store))
    }

    fn into(store: Store) -> Self {
        Self {
            store: Some(Arc::new(store)),
            pieces: 0,
            header: None,
            counts: [0; TABLES as usize],
            hash: blake3::Hasher::new(),
            unsynced: 0,
            is_whole: false,
        }
    }

    /// How many pieces were taken, and so the number of the next.
    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    /// About how many bytes of disk the state takes; `None` before the first piece.
    pub fn stored_bytes(&self) -> Option<u64> {
        self.header.as_ref().map(|header| header.stored_bytes)
    }

    /// Takes the next piece. After an error the import is of no more use.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), ImportError> {
        if let Err(error) = self.added(piece) {
            self.store = None;
            return Err(error);
        }
        self.pieces += 1;
        Ok(())
    }

    fn wrong<T>(&self, defect: impl Into<String>) -> Result<T, ImportError> {
        Err(ImportError::Stream {
            piece: self.pieces,
            defect: defect.into(),
        })
    }

    fn added(&mut self, piece: &[u8]) -> Result<(), ImportError> {
        let Some(store) = self.store.clone() else {
            return self.wrong("comes after one that was wrong");
        };
        if piece.len() > MAX_PIECE_BYTES {
            return self.wrong(format!("has {} bytes, more than any has", piece.len()));
        }
        let Some(((kind, sum), content)) = piece.split_first_chunk::<5>().map(|(head, content)| {
            let [kind, sum @ ..] = *head;
            ((kind, u32::from_le_bytes(sum)), content)
        }) else {
            return self.wrong("is too short");
        };
        if crc32c::crc32c(content) != sum {
            return self.wrong("is damaged: its checksum does not match");
        }
        match (kind, &self.header) {
            (HEADER, None) => self.take_header(content),
            (BLOCK, Some(_)) if !self.is_whole => self.take_block(&store, content),
            (TRAILER, Some(_)) if !self.is_whole => self.take_trailer(&store, content),
            _ => self.wrong(format!("is of kind {kind}, which does not belong here")),
        }
    }

    fn take_header(&mut self, content: &[u8]) -> Result<(), ImportError> {
        let header = match Header::decode(content) {
            Ok(header) => header,
            Err(defect) => return self.wrong(defect),
        };
        self.hash.update(content);
        self.header = Some(header);
        Ok(())
    }

    fn take_block(&mut self, store: &Store, content: &[u8]) -> Result<(), ImportError> {
        let block = match zstd::bulk::decompress(content, MAX_BLOCK_BYTES) {
            Ok(block) => block,
            Err(error) => return self.wrong(format!("cannot be decompressed: {error}")),
        };
        self.hash.update(&block);
        self.unsynced += block.len() as u64;
        let durability = if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            Durability::Immediate
        } else {
            Durability::None
        };
        let written = store.writing(|| {
            let writing = store.write(durability)?;
            let counted = write_all(store, &writing, &block)?;
            // Nothing of a wrong block is kept: the transaction is dropped.
            if counted.is_ok() {
                store.commit(writing)?;
            }
            Ok(counted)
        })?;
        match written {
            Ok(counts) => {
                for (sum, count) in self.counts.iter_mut().zip(counts) {
                    *sum += count;
                }
                Ok(())
            }
            Err(defect) => self.wrong(defect),
        }
    }

    fn take_trailer(&mut self, store: &Store, content: &[u8]) -> Result<(), ImportError> {
        let trailer: Trailer = match postcard::from_bytes(content) {
            Ok(trailer) => trailer,
            Err(error) => return self.wrong(format!("is no trailer: {error}")),
        };
        let Some(header) = self.header.clone() else {
            return self.wrong("comes before the header");
        };
        let hash = *self.hash.finalize().as_bytes();
        if self.counts != header.counts || trailer.records != self.counts.iter().sum::<u64>() || trailer.hash != hash {
            return self.wrong("ends a snapshot that is not the one that its header announced");
        }
        store.writing(|| {
            let writing = store.write(Durability::Immediate)?;
            // Tables that have no row must be there all the same.
            create(store, &writing, OPERATORS)?;
            create(store, &writing, POSITIONS)?;
            create(store, &writing, ROWS)?;
            create(store, &writing, ACCOUNTS)?;
            create(store, &writing, SERVERS)?;
            create(store, &writing, DELETED)?;
            create(store, &writing, CLOSINGS)?;
            if header.format >= FORMAT {
                store.mark_deletes(&writing)?;
            }
            store.write_meta(&writing, &header.meta)?;
            let index = header.meta.applied.as_ref().map_or(0, |mark| mark.index);
            store.write_index(&writing, INSTALLED, index)?;
            store.commit(writing)
        })?;
        self.is_whole = true;
        Ok(())
    }

    /// The state that was received, once it is whole. [`crate::state::State::install`] puts it in its place.
    pub fn finish(mut self) -> Result<SnapshotView, ImportError> {
        let store = self.store.take().filter(|_| self.is_whole);
        match store {
            Some(store) => {
                let view = SnapshotView::of(store)?;
                let used = view.trust().and(view.positions()).and(view.rosters());
                match used {
                    Ok(_) => Ok(view),
                    Err(fault) => self.wrong(format!("ends a snapshot that cannot be used: {fault}")),
                }
            }
            None => self.wrong("is missing: the snapshot is not whole"),
        }
    }
}

type Counts = Result<[u64; TABLES as usize], String>;

/// Writes the records of a block; the inner error is a defect of the block.
fn write_all(store: &Store, writing: &WriteTransaction, block: &[u8]) -> Result<Counts, Fault> {
    let mut counts = [0; TABLES as usize];
    let mut rest = block;
    while !rest.is_empty() {
        let (record, behind) = match postcard::take_from_bytes::<Record<'_>>(rest) {
            Ok(taken) => taken,
            Err(error) => return Ok(Err(format!("has a record that cannot be read: {error}"))),
        };
        rest = behind;
        let written = match record.table {
            0 => write(store, writing, OPERATORS, &record)?,
            1 => write(store, writing, POSITIONS, &record)?,
            2 => write(store, writing, ROWS, &record)?,
            3 => write(store, writing, ACCOUNTS, &record)?,
            4 => write(store, writing, SERVERS, &record)?,
            5 => write(store, writing, DELETED, &record)?,
            6 => write(store, writing, CLOSINGS, &record)?,
            other => Err(format!("has a record of table {other}, which there is not")),
        };
        // The sender's redb does not look at what it reads, and what is here now may be the last sound copy.
        let sound =
            written.and_then(|()| check(store, &record).map_err(|fault| format!("is of a damaged state: {fault}")));
        if let Err(defect) = sound {
            return Ok(Err(defect));
        }
        counts[usize::from(record.table)] += 1;
    }
    Ok(Ok(counts))
}

fn write<K: Key + 'static, V: Value + 'static>(
    store: &Store,
    writing: &WriteTransaction,
    definition: TableDefinition<'static, K, V>,
    record: &Record<'_>,
) -> Result<Result<(), String>, Fault> {
    let fits = |width: Option<usize>, bytes: &[u8]| width.is_none_or(|width| width == bytes.len());
    // The keys without a fixed width, which begin with the name of a NATS cluster, are texts.
    let is_text = K::fixed_width().is_some() || std::str::from_utf8(record.key).is_ok();
    if !fits(K::fixed_width(), record.key) || !fits(V::fixed_width(), record.value) || !is_text {
        return Ok(Err(format!("has a record of table {} of another shape", record.table)));
    }
    let mut table = writing
        .open_table(definition)
        .map_err(|error| store.fault("write to", error))?;
    let before = table
        .insert(K::from_bytes(record.key), V::from_bytes(record.value))
        .map_err(|error| store.fault("write to", error))?;
    if before.is_some() {
        return Ok(Err(format!("has a record of table {} twice", record.table)));
    }
    Ok(Ok(()))
}

fn create<K: Key + 'static, V: Value + 'static>(
    store: &Store,
    writing: &WriteTransaction,
    definition: TableDefinition<'static, K, V>,
) -> Result<(), Fault> {
    let opened = writing.open_table(definition).map(drop);
    opened.map_err(|error| store.fault("write to", error))
}
