//! How an account is deleted (G8): a tombstone takes the place of its token, and only a newer token takes the place of that.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::accounts::{BARRED_VERSIONS, REPLACED_VERSIONS, Versions, believable, remember, replaced, store};
use super::before::{Before, Present};
use crate::jwt::{AccountKey, OperatorKey};
use crate::state::command::{Barred, DeleteAccounts, DeleteOutcome, PutAccount};
use crate::state::fault::Fault;
use crate::state::recent::Change;
use crate::state::rows::{AccountRow, Closing, RowKind, digest};

/// Deletes all accounts of the request, or none. One that is not there is no reason to delete none: a request that is sent
/// again wants the same. It gets a tombstone too, if the request says when it was issued: a server may still have an old token
/// of it, and give it to the mesh later.
pub(super) fn delete(
    change: &mut Change,
    before: &impl Before,
    command: &DeleteAccounts,
) -> Result<DeleteOutcome, Fault> {
    let trust = before.trust();
    if command.trust_epoch != trust.epoch {
        let trust_epoch = trust.epoch;
        return Ok(DeleteOutcome::StaleTrust { trust_epoch });
    }
    if trust.operator(command.operator).is_none() {
        return Ok(DeleteOutcome::NotTrusted);
    }
    let claim = Barred {
        issued_at: command.issued_at,
        digest: digest(&command.claim),
    };
    let mut tombstones = Vec::new();
    let mut live = BTreeSet::new();
    for account in command.accounts.iter().copied().collect::<BTreeSet<AccountKey>>() {
        let row = match before.account(account)? {
            Present::None if !is_dated(&claim) => continue,
            Present::None => {
                tombstones.push(Tombstone {
                    account,
                    operator: command.operator,
                    claim: Some(claim),
                    row: None,
                    closing: before.closing(account)?,
                });
                continue;
            }
            Present::Row(row) => Some(row),
            // If nothing remains, the node that proposed it has judged it against the whole row.
            Present::Damaged(remains) => match believable(remains, &trust) {
                // The floor would be 0 here, and the row's on the other nodes.
                None if !is_dated(&claim) => return Err(before.unreadable(account)),
                remains => remains.map(Arc::from),
            },
        };
        let owner = row.as_ref().map(|row| trust.owner(row.operator));
        if let Some(owner) = owner.filter(|owner| *owner != command.operator) {
            return Ok(DeleteOutcome::OtherOperator { account, owner });
        }
        if let Some(refused) = row.as_deref().and_then(|row| refused(row, &claim)) {
            return Ok(refused);
        }
        if !row.as_ref().is_some_and(|row| row.is_deleted()) {
            live.insert(account);
        }
        tombstones.push(Tombstone {
            account,
            operator: command.operator,
            claim: Some(claim).filter(is_dated),
            row,
            closing: before.closing(account)?,
        });
    }
    for tombstone in tombstones {
        tombstone.put(change);
    }
    Ok(DeleteOutcome::Done {
        revision: change.mark.index,
        were_there: command.accounts.iter().map(|account| live.contains(account)).collect(),
    })
}

/// Whether a request says when it was issued. Of one that does not, the order of arrival counts.
fn is_dated(claim: &Barred) -> bool {
    claim.issued_at > 0
}

fn is_known(row: &AccountRow, claim: &Barred) -> bool {
    row.barred.iter().any(|barred| barred.digest == claim.digest)
}

/// Why the request `claim` may not delete the account of `row`, if it may not.
fn refused(row: &AccountRow, claim: &Barred) -> Option<DeleteOutcome> {
    let account = row.account;
    if row.is_deleted() || !is_dated(claim) {
        return None;
    }
    if is_known(row, claim) {
        return Some(DeleteOutcome::Replayed { account });
    }
    (claim.issued_at < row.issued_at).then_some(DeleteOutcome::Superseded {
        account,
        stored_issued_at: row.issued_at,
    })
}

/// What takes the place of a row.
pub(super) struct Tombstone {
    pub(super) account: AccountKey,
    pub(super) operator: OperatorKey,
    /// The request, if it says when it was issued.
    pub(super) claim: Option<Barred>,
    /// The row that it takes the place of, which may be a tombstone; `None` if there is none, or it cannot be read.
    pub(super) row: Option<Arc<AccountRow>>,
    /// The token that is sent to the servers now.
    pub(super) closing: Option<Arc<Closing>>,
}

impl Tombstone {
    /// What it counts as: no token that was issued before may come back, nor before the request, nor before the closing
    /// token, which a server could otherwise take for a newer one.
    fn issued_at(&self) -> i64 {
        let times = [
            self.row.as_ref().map(|row| row.issued_at),
            self.claim.map(|claim| claim.issued_at),
            self.closing.as_ref().map(|closing| closing.issued_at),
        ];
        times.into_iter().flatten().max().unwrap_or(0)
    }

    /// Puts it in the place of the row, unless that says the same.
    fn put(self, change: &mut Change) {
        let is_same = |row: &AccountRow| {
            let is_told = self.claim.is_none_or(|claim| is_known(row, &claim));
            row.is_deleted() && is_told && row.issued_at == self.issued_at()
        };
        if !self.row.as_deref().is_some_and(is_same) {
            self.put_always(change);
        }
    }

    /// Puts it in the place of the row. The publishers then look at the account again.
    pub(super) fn put_always(self, change: &mut Change) {
        let issued_at = self.issued_at();
        let mut versions = Versions::default();
        versions.barred.extend(self.claim);
        let mut name = String::new();
        if let Some(row) = self.row.as_deref() {
            versions.replaced = replaced(row, issued_at);
            let barred = row.barred.iter().filter(|barred| Some(**barred) != self.claim);
            versions.barred.extend(barred.take(BARRED_VERSIONS - 1));
            versions.history = if row.is_deleted() {
                change.forgotten.push(row.id());
                row.history.clone()
            } else {
                remember(row, &mut change.forgotten)
            };
            name.clone_from(&row.name);
        }
        if let Some(closing) = self.closing.filter(|closing| closing.issued_at == issued_at) {
            let own = digest(&closing.token);
            versions.replaced.retain(|replaced| *replaced != own);
            versions.replaced.truncate(REPLACED_VERSIONS - 1);
            versions.replaced.push(own);
        }
        let item = PutAccount {
            account: self.account,
            operator: self.operator,
            issued_at,
            expires_at: 0,
            name,
            token: Bytes::new(),
        };
        store(change, RowKind::Tombstone, item, versions);
    }
}
