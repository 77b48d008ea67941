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
use crate::state::rows::{AccountRow, Closing, RowKind, Trust, digest};

/// Deletes all accounts of the request, or none. One that is not there is no reason to delete none: a request that is sent
/// again wants the same. It gets a tombstone too, if the request says when it was issued: a server may still have an old token
/// of it, and give it to the mesh later.
///
/// Account by account, so that of 4,000 with large tokens one row at a time is in memory. `change` must be blank; it is again if
/// none is deleted.
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
    let mut live = BTreeSet::new();
    for account in command.accounts.iter().copied().collect::<BTreeSet<AccountKey>>() {
        let (row, is_known) = match before.account(account)? {
            Present::None if !is_dated(&claim) => continue,
            Present::None => (None, false),
            Present::Row(row) => (Some(row), true),
            // If nothing remains, the node that proposed it has judged it against the whole row.
            Present::Damaged(remains) => match believable(remains, &trust) {
                // The floor would be 0 here, and the row's on the other nodes.
                None if !is_dated(&claim) => return Err(before.unreadable(account)),
                remains => (remains.map(Arc::from), true),
            },
        };
        if let Some(refused) = row.as_deref().and_then(|row| refused(row, &trust, command, &claim)) {
            change.rows.clear();
            change.forgotten.clear();
            return Ok(refused);
        }
        if is_known && !row.as_ref().is_some_and(|row| row.is_deleted()) {
            live.insert(account);
        }
        let tombstone = Tombstone {
            account,
            operator: command.operator,
            claim: Some(claim).filter(is_dated),
            row,
            closing: before.closing(account)?,
        };
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
fn refused(row: &AccountRow, trust: &Trust, command: &DeleteAccounts, claim: &Barred) -> Option<DeleteOutcome> {
    let account = row.account;
    let owner = trust.owner(row.operator);
    if owner != command.operator {
        return Some(DeleteOutcome::OtherOperator { account, owner });
    }
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::Weak;

    use super::*;
    use crate::state::command::Revision;
    use crate::state::rows::{Mark, OperatorRow, etag};

    /// More than the history keeps, so that a tombstone forgets it.
    const LARGE: &[u8] = &[b't'; 257 * 1024];

    fn account(n: u8) -> AccountKey {
        AccountKey::from_bytes([n; 32])
    }

    fn operator(n: u8) -> OperatorKey {
        OperatorKey::from_bytes([n; 32])
    }

    /// Accounts that all have a token and a closing one, the last one of another operator. Counts what it gave that is still
    /// in memory.
    struct Watched {
        last: AccountKey,
        rows: RefCell<Vec<Weak<AccountRow>>>,
        closings: RefCell<Vec<Weak<Closing>>>,
        most: Cell<usize>,
    }

    impl Watched {
        fn until(last: u8) -> Self {
            Self {
                last: account(last),
                rows: RefCell::default(),
                closings: RefCell::default(),
                most: Cell::default(),
            }
        }

        fn count(&self) {
            let rows = self.rows.borrow().iter().filter(|row| row.strong_count() > 0).count();
            let closings = self
                .closings
                .borrow()
                .iter()
                .filter(|kept| kept.strong_count() > 0)
                .count();
            self.most.set(self.most.get().max(rows + closings));
        }
    }

    impl Before for Watched {
        fn trust(&self) -> Arc<Trust> {
            let trusted = |n| OperatorRow {
                operator: operator(n),
                issued_at: 1,
                revision: 1,
                token: Bytes::new(),
            };
            Arc::new(Trust {
                epoch: 1,
                operators: vec![trusted(7), trusted(8)],
                replaced: Vec::new(),
            })
        }

        fn account(&self, account: AccountKey) -> Result<Present, Fault> {
            let row = Arc::new(AccountRow {
                account,
                operator: operator(if account == self.last { 8 } else { 7 }),
                issued_at: 1,
                expires_at: 0,
                name: String::new(),
                kind: RowKind::Token,
                revision: 1,
                token: Bytes::from_static(LARGE),
                etag: etag(LARGE),
                slot: 0,
                history: Vec::new(),
                replaced: Vec::new(),
                barred: Vec::new(),
            });
            self.rows.borrow_mut().push(Arc::downgrade(&row));
            self.count();
            Ok(Present::Row(row))
        }

        fn closing(&self, account: AccountKey) -> Result<Option<Arc<Closing>>, Fault> {
            let closing = Arc::new(Closing {
                account,
                operator: operator(7),
                issued_at: 1,
                expires_at: 0,
                name: String::new(),
                revision: 1,
                token: Bytes::from_static(b"closing"),
            });
            self.closings.borrow_mut().push(Arc::downgrade(&closing));
            self.count();
            Ok(Some(closing))
        }

        fn unreadable(&self, account: AccountKey) -> Fault {
            unreachable!("{account} can be read")
        }

        fn position(&self, _: &str) -> Revision {
            0
        }

        fn server_count(&self, _: &str) -> usize {
            0
        }

        fn has_server(&self, _: &str, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn g12_a_request_holds_one_account_at_a_time_and_leaves_nothing_where_it_deletes_none() {
        let command = |count: u8| DeleteAccounts {
            trust_epoch: 1,
            operator: operator(7),
            issued_at: 2,
            claim: Bytes::from_static(b"claim"),
            accounts: (0..count).map(account).collect(),
        };
        for (count, is_refused) in [(50, false), (51, true)] {
            let before = Watched::until(50);
            let mut change = Change::blank(Mark::default());
            let outcome = delete(&mut change, &before, &command(count)).unwrap();
            assert_eq!(matches!(outcome, DeleteOutcome::OtherOperator { .. }), is_refused);
            let left = if is_refused { 0 } else { 50 };
            assert_eq!((change.rows.len(), change.forgotten.len()), (left, left));
            assert_eq!(before.rows.borrow().len(), usize::from(count), "all were looked at");
            assert_eq!(before.most.get(), 2, "a row and the closing token of one account");
        }
    }
}
