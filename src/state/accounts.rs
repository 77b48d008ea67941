//! Account rows: what one is, which token may replace which (I2), looking one up, listing them, their history.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::State;
use super::command::{Outcome, PutAccount, Revision};
use super::fault::Fault;
use super::memtable::Change;
use super::operators::Trust;
use super::snapshot::SnapshotView;
use super::tables::{ACCOUNTS, ETAG_BYTES, ROWS, RowId, digest, etag};
use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;

/// The agreed token of an account.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// The account.
    pub account: AccountKey,
    /// The operator whose key signed the token.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `exp`, Unix seconds; 0 means never.
    pub expires_at: i64,
    /// The account's name.
    pub name: String,
    /// The log index that stored it.
    pub revision: Revision,
    /// The token, canonical bytes.
    pub token: Bytes,
    /// Names these bytes: 22 characters of base64url, without quotes.
    pub etag: String,
    pub(super) slot: u32,
    /// Where the versions before it stand, newest first.
    pub(super) history: Vec<Past>,
    /// The ETags of the versions of the same `iat` that it replaced, newest first.
    pub(super) replaced: Vec<[u8; ETAG_BYTES]>,
}

/// Where an older version of an account stands, and how much room its token takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    pub(super) id: RowId,
    pub(super) bytes: u32,
}

impl AccountRow {
    pub(super) fn id(&self) -> RowId {
        RowId {
            revision: self.revision,
            slot: self.slot,
        }
    }

    /// Whether `token`, issued at `issued_at`, may not take its place (G2).
    ///
    /// Equal `iat`, other bytes: the later log entry wins, because nsc can sign twice within a second (T8). But what was
    /// replaced stays so: anybody can fetch a token, keep it and send it again, and must not undo a revocation by it.
    pub fn supersedes(&self, issued_at: i64, token: &[u8]) -> bool {
        let same_second = issued_at == self.issued_at;
        issued_at < self.issued_at
            || (same_second && !self.replaced.is_empty() && self.replaced.contains(&digest(token)))
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.token.len()
            + self.name.len()
            + self.history.len() * size_of::<Past>()
            + self.replaced.len() * ETAG_BYTES
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
    /// The log index that stored it.
    pub revision: Revision,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// The token's length.
    pub bytes: usize,
    /// The token's ETag.
    pub etag: String,
}

/// Judges one submission against `present`, the account's row as of this place in the log. The whole of G2.
pub(super) fn put(
    change: &mut Change,
    trust: &Trust,
    trust_epoch: u64,
    present: Option<Arc<AccountRow>>,
    item: PutAccount,
) -> Outcome {
    if trust_epoch != trust.epoch {
        return Outcome::StaleTrust {
            trust_epoch: trust.epoch,
        };
    }
    if trust.operator(item.operator).is_none() {
        return Outcome::NotTrusted;
    }
    let (mut history, mut replaced) = (Vec::new(), Vec::new());
    if let Some(present) = &present {
        let revision = present.revision;
        if present.token == item.token {
            return Outcome::Unchanged { revision };
        }
        if present.supersedes(item.issued_at, &item.token) {
            return Outcome::Superseded {
                stored_issued_at: present.issued_at,
                revision,
            };
        }
        if item.issued_at == present.issued_at {
            let before = present.replaced.iter().take(REPLACED_VERSIONS - 1);
            replaced = std::iter::once(&digest(&present.token))
                .chain(before)
                .copied()
                .collect();
        }
        history = remember(present, &mut change.forgotten);
    }
    let slot = u32::try_from(change.rows.len()).expect("an entry is bounded far below 4 billion rows");
    let revision = change.mark.index;
    change.rows.push(Arc::new(AccountRow {
        account: item.account,
        operator: item.operator,
        issued_at: item.issued_at,
        expires_at: item.expires_at,
        name: item.name,
        revision,
        etag: etag(&item.token),
        token: item.token,
        slot,
        history,
        replaced,
    }));
    Outcome::Stored { revision }
}

/// The history of the row that replaces `present`; what it has no room for goes to `forgotten`.
///
/// Part of the row, hence of the agreed state: every node forgets the same versions with the same entry, no scan
/// ever looks for garbage, and an entry removes at most as many rows as the accounts it replaces ever had.
fn remember(present: &AccountRow, forgotten: &mut Vec<RowId>) -> Vec<Past> {
    let newest = Past {
        id: present.id(),
        bytes: u32::try_from(present.token.len()).unwrap_or(u32::MAX),
    };
    let mut total = 0u64;
    let mut history = Vec::with_capacity(HISTORY_VERSIONS.min(present.history.len() + 1));
    for past in std::iter::once(newest).chain(present.history.iter().copied()) {
        total += u64::from(past.bytes);
        if history.len() < HISTORY_VERSIONS && total <= HISTORY_BYTES {
            history.push(past);
        } else {
            // Nothing older is kept either: the history has no holes.
            total = u64::MAX / 2;
            forgotten.push(past.id);
        }
    }
    history
}

impl State {
    /// The agreed row of `account` as of what is applied here, if no file need be read for it. Absent says nothing: ask
    /// [`Self::account_in_file`], off the threads that answer everyone else if its disk may hang.
    pub fn account_at_hand(&self, account: AccountKey) -> Option<Arc<AccountRow>> {
        let cached = {
            let live = self.live();
            if let Some(unflushed) = live.memtable.account(account) {
                return Some(unflushed.clone());
            }
            // Under the same lock: a flush must not move the account out of the memtable between the two looks.
            self.inner.cache.get(account)
        };
        cached?.row()
    }

    /// The agreed row of `account` as of what is applied here. Waits for nobody's decision, but it may read the disk.
    pub fn account(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault> {
        match self.account_at_hand(account) {
            Some(row) => Ok(Some(row)),
            None => self.account_in_file(account),
        }
    }

    /// What redb has of `account`, for whoever has looked at what is at hand: a row that was applied since may be missing.
    pub fn account_in_file(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault> {
        let lookups = self.live().lookups.clone();
        let Some((row, encoded)) = lookups.row(account)? else {
            return Ok(None);
        };
        let row = Arc::new(row);
        // A flush between the two looks may have replaced what was just read; only an unmoved redb may be cached.
        // Held across the insertion, so that a flush that ends after it finds and removes the cached row.
        let live = self.live();
        if Arc::ptr_eq(&live.lookups, &lookups) {
            self.inner.cache.insert(&row, encoded);
        }
        drop(live);
        Ok(Some(row))
    }

    /// Up to `limit` accounts in the order of their keys, beginning behind `after`. Reads what the flush has reached.
    pub fn accounts(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<Arc<AccountRow>>, Fault> {
        self.snapshot()?.accounts(after, limit)
    }

    /// The versions of `account` that are kept, newest first; empty if there is no such account. Reads what the
    /// flush has reached.
    pub fn history(&self, account: AccountKey) -> Result<Vec<Version>, Fault> {
        self.snapshot()?.history(account)
    }
}

impl SnapshotView {
    /// Up to `limit` accounts in the order of their keys, beginning behind `after`.
    pub fn accounts(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<Arc<AccountRow>>, Fault> {
        use std::ops::Bound::{Excluded, Unbounded};
        let (accounts, rows) = (self.table(ACCOUNTS)?, self.table(ROWS)?);
        let from = after.as_ref().map_or(Unbounded, |after| Excluded(after.as_bytes()));
        let range = accounts
            .range::<&[u8; 32]>((from, Unbounded))
            .map_err(|error| self.fault(error))?;
        let mut found = Vec::new();
        for entry in range.take(limit) {
            let (_, id) = entry.map_err(|error| self.fault(error))?;
            found.push(Arc::new(self.row(&rows, RowId::from_key(id.value()))?));
        }
        Ok(found)
    }

    /// The versions of `account` that are kept, newest first; empty if there is no such account.
    pub fn history(&self, account: AccountKey) -> Result<Vec<Version>, Fault> {
        let (accounts, rows) = (self.table(ACCOUNTS)?, self.table(ROWS)?);
        let Some(id) = accounts.get(account.as_bytes()).map_err(|error| self.fault(error))? else {
            return Ok(Vec::new());
        };
        let current = self.row(&rows, RowId::from_key(id.value()))?;
        let mut versions = vec![version(&current)];
        for past in &current.history {
            versions.push(version(&self.row(&rows, past.id)?));
        }
        Ok(versions)
    }
}

fn version(row: &AccountRow) -> Version {
    Version {
        revision: row.revision,
        issued_at: row.issued_at,
        bytes: row.token.len(),
        etag: row.etag.clone(),
    }
}

/// How many replaced versions of an account are kept: enough to see what a week of nightly re-signing changed, few
/// enough that a script that re-signs one account in a loop cannot fill the disk.
const HISTORY_VERSIONS: usize = 15;

/// How many bytes of replaced tokens are kept for an account: at the usual 1-4 KB all of the versions, of the largest
/// allowed token (1 MiB) none, so that history never multiplies the room that big accounts take.
const HISTORY_BYTES: u64 = 256 * 1024;

/// How many replaced versions of one second are known again. nsc and scripts sign a few in a second; who holds the key
/// and signs more only makes his own oldest ones acceptable once more.
const REPLACED_VERSIONS: usize = 64;

/// What a row takes in memory beside token, name and history.
const ROW_OVERHEAD_BYTES: usize = 420;
