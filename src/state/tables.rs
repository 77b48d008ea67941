//! redb tables, the encoding of keys and rows, and the number of the format.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};

use super::command::Revision;
use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;

/// Account key -> the ids of its rows, newest first, [`RowId::BYTES`] each, at most [`VERSIONS_KEPT`].
pub(super) const ACCOUNTS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("accounts_v1");
/// Row id -> row. Ids only grow, so that redb appends: loads and updates are several times faster than under the
/// random account key.
pub(super) const ROWS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("rows_v1");
/// Operator key -> row.
pub(super) const OPERATORS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("operators_v1");
/// NATS cluster -> position.
pub(super) const POSITIONS: TableDefinition<&str, u64> = TableDefinition::new("positions_v1");
/// The keys below.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta_v1");

pub(super) const META_FORMAT: &str = "format";
pub(super) const META_STORE: &str = "store";
pub(super) const META_MARK: &str = "applied";
pub(super) const META_MEMBERSHIP: &str = "membership";
pub(super) const META_DURABLE: &str = "durable";
pub(super) const META_EPOCH: &str = "trust_epoch";

/// The number of the format of all tables together.
pub(super) const FORMAT: u32 = 1;

/// How many versions of an account stay, the current one included: enough to see what an administrator changed
/// today, and a bound on what one account that is renewed every minute can cost.
pub(super) const VERSIONS_KEPT: usize = 8;

/// An applied entry: its index, and raft's own mark of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The log index.
    pub index: u64,
    /// raft's encoded log id; only carried here.
    pub log_id: Bytes,
}

/// Which row: the revision that wrote it, and its place among the rows of that entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowId {
    pub(super) revision: Revision,
    pub(super) slot: u32,
}

impl RowId {
    pub(super) const BYTES: usize = 12;

    pub(super) fn key(self) -> (u64, u32) {
        (self.revision, self.slot)
    }

    pub(super) fn write(self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.revision.to_be_bytes());
        into.extend_from_slice(&self.slot.to_be_bytes());
    }

    /// The ids in a value of [`ACCOUNTS`], newest first.
    pub(super) fn read_all(value: &[u8]) -> impl Iterator<Item = RowId> + '_ {
        value.chunks_exact(Self::BYTES).map(|chunk| {
            let (revision, slot) = chunk.split_at(8);
            RowId {
                revision: u64::from_be_bytes(revision.try_into().expect("eight bytes")),
                slot: u32::from_be_bytes(slot.try_into().expect("four bytes")),
            }
        })
    }
}

/// One version of an account.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// The account.
    pub account: AccountKey,
    /// The operator whose key signed it.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `exp`, Unix seconds; 0 means never.
    pub expires_at: i64,
    /// The account's name.
    pub name: String,
    /// The log index that stored it.
    pub revision: Revision,
    /// Its place among the rows of that entry.
    pub(super) slot: u32,
    /// The token as it was submitted.
    pub token: Bytes,
    /// A hash of the token's bytes, text. Not the `jti`: that one ignores the body of the claims.
    pub etag: String,
}

impl std::fmt::Debug for AccountRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "AccountRow({}, iat {}, revision {})",
            self.account, self.issued_at, self.revision
        )
    }
}

/// What is written of a row; key and revision are in the key.
#[derive(Serialize, Deserialize)]
struct StoredRow<'a> {
    account: AccountKey,
    operator: OperatorKey,
    issued_at: i64,
    expires_at: i64,
    name: &'a str,
    etag: &'a str,
    token: &'a [u8],
}

/// The number of [`StoredRow`]'s encoding.
const ROW_VERSION: u8 = 1;

impl AccountRow {
    pub(super) fn id(&self) -> RowId {
        RowId {
            revision: self.revision,
            slot: self.slot,
        }
    }

    /// What it weighs in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.token.len() + self.name.len() + 200
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let stored = StoredRow {
            account: self.account,
            operator: self.operator,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            name: &self.name,
            etag: &self.etag,
            token: &self.token,
        };
        let mut bytes = Vec::with_capacity(self.token.len() + self.name.len() + 128);
        bytes.push(ROW_VERSION);
        postcard::to_extend(&stored, bytes).expect("plain data encodes")
    }

    /// The row back from its bytes, or what is wrong with them.
    pub(super) fn decode(id: RowId, bytes: &[u8]) -> Result<Self, String> {
        let Some((&ROW_VERSION, body)) = bytes.split_first() else {
            return Err(format!("row {}.{} has an unknown version", id.revision, id.slot));
        };
        let stored: StoredRow<'_> =
            postcard::from_bytes(body).map_err(|error| format!("row {}.{}: {error}", id.revision, id.slot))?;
        Ok(Self {
            account: stored.account,
            operator: stored.operator,
            issued_at: stored.issued_at,
            expires_at: stored.expires_at,
            name: stored.name.to_owned(),
            revision: id.revision,
            slot: id.slot,
            token: Bytes::copy_from_slice(stored.token),
            etag: stored.etag.to_owned(),
        })
    }
}

/// A hash of the bytes, as an ETag carries it: 128 bits of BLAKE3.
pub(super) fn etag(token: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&blake3::hash(token).as_bytes()[..16])
}

/// An operator the mesh trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRow {
    /// Its identity key.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// Its token.
    pub token: Bytes,
    /// The revision that stored it.
    pub revision: Revision,
}

/// Whom the mesh trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Grows with every change.
    pub epoch: u64,
    /// The operators, in the order of their keys.
    pub operators: Vec<OperatorRow>,
}

/// The small tables, whole, as of one applied entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Small {
    pub(super) mark: Option<Mark>,
    pub(super) membership: Option<Bytes>,
    pub(super) trust: Arc<Trust>,
    pub(super) positions: BTreeMap<String, Revision>,
}
