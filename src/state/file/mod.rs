//! The redb file: its tables, the encodings of keys and rows, the format number, what a new file begins with.
//!
//! | table | key | value |
//! |---|---|---|
//! | `accounts_v1` | account, 32 bytes | row id of its current row |
//! | `deleted_v1` | the same of an account that was deleted, which is in no other index | row id of its tombstone |
//! | `closings_v1` | account, 32 bytes | encoded closing token |
//! | `rows_v1` | row id, ascending | encoded row, its token without base64: current ones and the history |
//! | `operators_v1` | operator, 32 bytes | encoded operator row, or who took its place |
//! | `positions_v1` | name of a NATS cluster | revision |
//! | `servers_v1` | name of a NATS cluster, `/`, id of a nats-server | encoded server |
//! | `meta_v1` | `format`, `store`, `state` | format number, store uuid, encoded [`Meta`] |
//! | | `checkpoint`, `installed` | log index of the last checkpoint, of the last installed snapshot |
//!
//! Rows are only ever appended, because a value under a random key leaves half of each page empty and makes every
//! update touch a page of its own; the index that is random (32 + 12 bytes) stays small.
//!
//! What an entry changes is written in one transaction together with its mark (I4), so that the file always holds the
//! state at the end of an entry. A file of another program, format or store is refused, never converted.
//!
//! A file that an earlier version of format 3 wrote has no `servers_v1`, which is read as an empty one; the first flush
//! makes it. That needs no other format number: an earlier version that opens a file with this table does not read it,
//! and stops at the first entry that would change it.
//!
//! `deleted_v1` and `closings_v1` came later still. A build that does not know them would take a deleted account for one that
//! never was, and an old token of it: with the first row of either, the file gets the number [`FORMAT_WITH_DELETES`].
//!
//! A read that fails (`backend.rs`), and a panic of redb over bytes that it did not write ([`Store`]), fail what needed
//! them and nothing else. After a write, a sync or a commit that fails nothing more is written.

mod backend;
mod changes;
mod encoding;
mod export;
mod import;
mod install;
mod store;
mod view;

use bytes::Bytes;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};

pub(super) use encoding::{EncodedRow, encode_closing, encode_operator, encode_replaced, encode_row, encode_server};
pub use export::Export;
pub use import::{Import, ImportError, MAX_PIECE_BYTES};
pub(super) use install::{build_beside, is_received, open_or_make, put_received, replace};
pub(super) use store::{Lookups, Store};
pub use view::{Listed, ListedClosing, SnapshotView};

use super::rows::Mark;

/// The number of this file's layout. A file with another number is refused.
pub(super) const FORMAT: u32 = 3;

/// The number of a file in which there is, or was, a tombstone or a closing token.
pub(super) const FORMAT_WITH_DELETES: u32 = 4;

pub(super) const ACCOUNTS: TableDefinition<&[u8; 32], (u64, u32)> = TableDefinition::new("accounts_v1");
pub(super) const DELETED: TableDefinition<&[u8; 32], (u64, u32)> = TableDefinition::new("deleted_v1");
pub(super) const CLOSINGS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("closings_v1");
pub(super) const ROWS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("rows_v1");
pub(super) const OPERATORS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("operators_v1");
pub(super) const POSITIONS: TableDefinition<&str, u64> = TableDefinition::new("positions_v1");
pub(super) const SERVERS: TableDefinition<&str, &[u8]> = TableDefinition::new("servers_v1");
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta_v1");

/// Key in [`META`] of the log index at the last checkpoint.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// Key in [`META`] of the log index of the last snapshot that was installed.
pub(super) const INSTALLED: &str = "installed";

/// What a redb file says about itself beside its rows; written in the same transaction as they are (I4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) applied: Option<Mark>,
    pub(super) membership: Option<Bytes>,
    pub(super) trust_epoch: u64,
}
