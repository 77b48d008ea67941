//! What the mesh has agreed, as plain data: rows, trust, changes, and the ids of rows.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::command::{Barred, ETAG_BYTES, Revision};
use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;

/// What a row of an account holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowKind {
    /// The newest token that was submitted.
    Token,
    /// The account's closing JWT in the place of its token: an administrator has shut the account.
    Closing,
    /// No token: an operator has deleted the account. What may come back, and what may not, is judged against this row.
    Tombstone,
}

/// What is agreed of an account: its token, or that it was deleted.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountRow {
    // The token's claims.
    /// The account.
    pub account: AccountKey,
    /// The operator whose key signed the token.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds. Of a token without one, the time of the row before it, and 0 if it was the first. Of a closing
    /// JWT or a tombstone the latest `iat` that it goes before, if that is later than its own.
    pub issued_at: i64,
    /// `exp`, Unix seconds; 0 means never.
    pub expires_at: i64,
    /// The account's name.
    pub name: String,

    // The token, and the entry that stored it.
    /// What kind of row it is.
    pub kind: RowKind,
    /// The log index that stored it.
    pub revision: Revision,
    /// The token, canonical bytes; empty in a tombstone.
    pub token: Bytes,
    /// Names these bytes: 22 characters of base64url, without quotes.
    pub etag: String,

    // Its place in that entry, and what it replaced.
    pub(super) slot: u32,
    /// Where the versions before it stand, newest first.
    pub(super) history: Vec<Past>,
    /// The ETags of the versions of the same `iat` that it replaced, newest first.
    pub(super) replaced: Vec<[u8; ETAG_BYTES]>,
    /// Versions that were overridden, and requests to delete it, that `iat` alone would let in again, the newest first.
    pub(super) barred: Vec<Barred>,
}

/// Where an older version of an account stands, and how much room its token takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    pub(super) id: RowId,
    pub(super) bytes: u32,
}

impl AccountRow {
    /// Whether it says that the account was deleted: a lookup finds no such account.
    pub fn is_deleted(&self) -> bool {
        self.kind == RowKind::Tombstone
    }

    pub(super) fn id(&self) -> RowId {
        RowId {
            revision: self.revision,
            slot: self.slot,
        }
    }

    /// Whether `token`, issued at `issued_at`, must be refused because this row is newer or has already replaced it
    /// (G2).
    ///
    /// With equal `iat` and other bytes the later log entry wins, because nsc can sign twice within a second. But
    /// what was replaced stays replaced: anyone can fetch a token, keep it and send it again, and must not undo a
    /// revocation with it. The same holds for what an administrator has overridden.
    pub fn supersedes(&self, issued_at: i64, token: &[u8]) -> bool {
        let same_second = issued_at == self.issued_at;
        issued_at < self.issued_at
            || (same_second && !self.replaced.is_empty() && self.replaced.contains(&digest(token)))
            || self.bars(token)
    }

    /// Whether `token` was overridden, or is a request to delete the account that has had its effect.
    pub fn bars(&self, token: &[u8]) -> bool {
        let is_barred = |digest| self.barred.iter().any(|barred| barred.digest == digest);
        !self.barred.is_empty() && is_barred(digest(token))
    }

    /// The hash that its ETag is the text of.
    pub(super) fn digest(&self) -> [u8; ETAG_BYTES] {
        digest_of(&self.etag)
    }

    /// Whether its token was `token`, judged by its ETag: its own token may be damaged.
    pub(super) fn is_of(&self, token: &[u8]) -> bool {
        self.etag == etag(token)
    }

    /// Whether it is the account's first: no earlier version is known.
    ///
    /// Versions above 256 KiB are never kept, so a row without any may still have replaced one. A token that is large
    /// itself therefore counts as a later one: only who cuts an account to a fraction is taken for new.
    pub fn is_first(&self) -> bool {
        self.kind == RowKind::Token
            && self.history.is_empty()
            && self.replaced.is_empty()
            && self.token.len() <= FIRST_MAX_BYTES
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.token.len()
            + self.name.len()
            + self.history.len() * size_of::<Past>()
            + self.replaced.len() * ETAG_BYTES
            + self.barred.len() * size_of::<Barred>()
            + ROW_OVERHEAD_BYTES
    }
}

impl std::fmt::Debug for AccountRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Tokens never reach a log line.
        write!(
            f,
            "AccountRow({}, revision {}, iat {})",
            self.account, self.revision, self.issued_at
        )
    }
}

/// One version of an account's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// What its row holds.
    pub kind: RowKind,
    /// The log index that stored it.
    pub revision: Revision,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// The token's length.
    pub bytes: usize,
    /// The token's ETag.
    pub etag: String,
}

impl Version {
    /// What bars it, should its account be overridden.
    pub fn barred(&self) -> Barred {
        Barred {
            issued_at: self.issued_at,
            digest: digest_of(&self.etag),
        }
    }
}

/// A token that shuts its account, kept for the day it is needed.
#[derive(Clone, PartialEq, Eq)]
pub struct Closing {
    /// The account.
    pub account: AccountKey,
    /// The operator whose key signed it.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds; 0 if it has none.
    pub issued_at: i64,
    /// `exp`, Unix seconds; 0 means never.
    pub expires_at: i64,
    /// The account's name in it.
    pub name: String,
    /// The log index that stored it.
    pub revision: Revision,
    /// The token, canonical bytes.
    pub token: Bytes,
}

impl Closing {
    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.token.len() + self.name.len() + size_of::<Self>()
    }
}

impl std::fmt::Debug for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Closing({}, revision {}, iat {})",
            self.account, self.revision, self.issued_at
        )
    }
}

/// An agreed operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRow {
    /// Its identity key.
    pub operator: OperatorKey,
    /// `iat` of its token, Unix seconds.
    pub issued_at: i64,
    /// The log index that stored it.
    pub revision: Revision,
    /// Its token, canonical bytes.
    pub token: Bytes,
}

/// The operators whose accounts the mesh accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Grows with every stored operator. An account verified under another epoch is not applied.
    pub epoch: u64,
    /// The operators, in the order of their keys.
    pub operators: Vec<OperatorRow>,
    /// Operators that are trusted no more, in the order of their keys.
    pub replaced: Vec<ReplacedOperator>,
}

/// An operator that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplacedOperator {
    /// Its identity key.
    pub operator: OperatorKey,
    /// The operator that its accounts belong to, unless that one was replaced too.
    pub successor: OperatorKey,
    /// The log index that replaced it.
    pub revision: Revision,
}

impl Trust {
    /// The agreed row of `operator`.
    pub fn operator(&self, operator: OperatorKey) -> Option<&OperatorRow> {
        let at = self
            .operators
            .binary_search_by_key(&operator, |row| row.operator)
            .ok()?;
        self.operators.get(at)
    }

    /// The operator to whom an account belongs that `signer` signed: itself, or the one that took its place.
    pub fn owner(&self, signer: OperatorKey) -> OperatorKey {
        let mut owner = signer;
        // Ends: each step was agreed later than the one before it, because a trusted operator is never in `replaced`.
        for _ in 0..=self.replaced.len() {
            match self.replaced.binary_search_by_key(&owner, |row| row.operator) {
                Ok(at) => owner = self.replaced[at].successor,
                Err(_) => break,
            }
        }
        owner
    }

    pub(super) fn put(&mut self, row: OperatorRow) {
        self.replaced.retain(|replaced| replaced.operator != row.operator);
        put_sorted(&mut self.operators, row, |row| row.operator);
        self.epoch += 1;
    }

    pub(super) fn replace(&mut self, row: ReplacedOperator) {
        self.operators.retain(|trusted| trusted.operator != row.operator);
        put_sorted(&mut self.replaced, row, |row| row.operator);
        self.epoch += 1;
    }
}

/// Puts `row` in its place among `rows`, which are in the order of their keys, or in the place of the one with its key.
fn put_sorted<T>(rows: &mut Vec<T>, row: T, key: impl Fn(&T) -> OperatorKey) {
    match rows.binary_search_by_key(&key(&row), &key) {
        Ok(at) => rows[at] = row,
        Err(at) => rows.insert(at, row),
    }
}

/// Accounts that changed, oldest change first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The current rows of the accounts that changed, in the order of their revisions. A row that was replaced since is
    /// not here: its account comes later, with the revision of its newest.
    pub rows: Vec<Arc<AccountRow>>,
    /// Every change up to and including this revision is in `rows`: where to continue.
    pub position: Revision,
    /// Whether there is more behind `position`.
    pub more: bool,
}

/// Where a row stands: the revision that wrote it, and its place in that entry (one entry carries many rows).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct RowId {
    pub(super) revision: Revision,
    pub(super) slot: u32,
}

impl RowId {
    pub(super) fn key(self) -> (u64, u32) {
        (self.revision, self.slot)
    }

    pub(super) fn from_key((revision, slot): (u64, u32)) -> Self {
        Self { revision, slot }
    }
}

/// A log index, and the whole log id it belongs to, in the log's encoding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The log index.
    pub index: u64,
    /// Opaque: the log's own encoding of its log id.
    pub log_id: Bytes,
}

/// The ETag of a token: content, not `jti`, because two edits within one second share `jti` and `iat`.
pub(super) fn etag(token: &[u8]) -> String {
    BASE64URL_NOPAD.encode(&digest(token))
}

/// The digest that `etag` shows.
fn digest_of(etag: &str) -> [u8; ETAG_BYTES] {
    let mut digest = [0; ETAG_BYTES];
    let decoded = BASE64URL_NOPAD.decode(etag.as_bytes());
    digest.copy_from_slice(&decoded.expect("an ETag is made by `etag` alone"));
    digest
}

pub(super) fn digest(token: &[u8]) -> [u8; ETAG_BYTES] {
    let mut digest = [0; ETAG_BYTES];
    digest.copy_from_slice(&blake3::hash(token).as_bytes()[..ETAG_BYTES]);
    digest
}

/// The largest token that counts as an account's first: far above what an account begins with.
const FIRST_MAX_BYTES: usize = 64 * 1024;

/// What a row takes in memory beside token, name and history.
const ROW_OVERHEAD_BYTES: usize = 420;

/// Who may publish to a NATS cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The member; 0 if it gave the lease back.
    pub holder: u64,
    /// The revision at which it was taken or renewed.
    pub granted: Revision,
    /// The revision at which the holder took it from another member or from none: a renewal leaves it as it is. 0 if the
    /// lease was given back.
    pub term: Revision,
}

/// Under which names the holder, revision and term of a lease are kept among the positions: the name of a NATS cluster
/// has no `/`.
pub(super) fn lease_names(nats_cluster: &str) -> [String; 3] {
    ["holder", "granted", "term"].map(|what| format!("{nats_cluster}/{what}"))
}

/// Under which name the revision is kept, among the positions, of the last update of the NATS cluster's servers. To a build that does
/// not know it, it is a position that nothing asks for.
pub(super) fn roster_name(nats_cluster: &str) -> String {
    format!("{nats_cluster}/roster")
}

/// Under which name the revision is kept, among the positions, at which a server of the NATS cluster was last forgotten.
pub(super) fn forgotten_name(nats_cluster: &str) -> String {
    format!("{nats_cluster}/forgotten")
}
