//! The token with which an account can be shut (G9): that it is kept, and that it becomes the account's current one.

use std::sync::Arc;

use super::accounts::{Versions, believable, remember, replaced, store};
use super::before::{Before, Present};
use super::deletes::Tombstone;
use crate::state::command::{ClosingOutcome, KillAccount, PutAccount, PutClosing, RemoveClosing};
use crate::state::fault::Fault;
use crate::state::recent::Change;
use crate::state::rows::{AccountRow, Closing, RowKind};

/// Keeps a closing token. If the account was deleted, its tombstone is renewed, so that the publishers send the token.
pub(super) fn keep(change: &mut Change, before: &impl Before, command: PutClosing) -> Result<ClosingOutcome, Fault> {
    let PutClosing { trust_epoch, item } = command;
    let row = match judge(before, trust_epoch, &item)? {
        Ok(row) => row,
        Err(decided) => return Ok(decided),
    };
    if let Some(kept) = before.closing(item.account)?
        && kept.token == item.token
    {
        let revision = kept.revision;
        return Ok(ClosingOutcome::Unchanged { revision });
    }
    let revision = change.mark.index;
    let closing = Arc::new(Closing {
        account: item.account,
        operator: item.operator,
        issued_at: item.issued_at,
        expires_at: item.expires_at,
        name: item.name,
        revision,
        token: item.token,
    });
    change.closing = Some((closing.account, Some(closing.clone())));
    if let Some(row) = row.filter(|row| row.is_deleted()) {
        let tombstone = Tombstone {
            account: row.account,
            operator: row.operator,
            claim: None,
            row: Some(row),
            closing: Some(closing),
        };
        tombstone.put_always(change);
    }
    Ok(ClosingOutcome::Done { revision })
}

/// Keeps no closing token of the account any more. What servers were sent stays there.
pub(super) fn forget(
    change: &mut Change,
    before: &impl Before,
    RemoveClosing { account }: RemoveClosing,
) -> Result<ClosingOutcome, Fault> {
    if before.closing(account)?.is_none() {
        return Ok(ClosingOutcome::Unknown);
    }
    change.closing = Some((account, None));
    Ok(ClosingOutcome::Done {
        revision: change.mark.index,
    })
}

/// Makes the closing token that is kept the account's current one. No other: what shuts an account may be long public, and a
/// member that was broken into, or that lags behind, must not choose.
///
/// It counts as issued at the same time as what it replaces, if that is later: only a newer token opens the account again.
pub(super) fn kill(change: &mut Change, before: &impl Before, command: KillAccount) -> Result<ClosingOutcome, Fault> {
    let KillAccount { trust_epoch, mut item } = command;
    let row = match judge(before, trust_epoch, &item)? {
        Ok(row) => row,
        Err(decided) => return Ok(decided),
    };
    if let Some(row) = &row {
        let revision = row.revision;
        if row.is_deleted() {
            return Ok(ClosingOutcome::Deleted { revision });
        }
        if row.token == item.token {
            return Ok(ClosingOutcome::Unchanged { revision });
        }
    }
    let kept = before.closing(item.account)?;
    if kept.is_none_or(|kept| kept.token != item.token) {
        return Ok(ClosingOutcome::NotKept);
    }
    let mut versions = Versions::default();
    if let Some(row) = row {
        item.issued_at = item.issued_at.max(row.issued_at);
        versions.replaced = replaced(&row, item.issued_at);
        let barred = row.barred.iter().copied();
        versions.barred = barred.filter(|barred| barred.issued_at >= item.issued_at).collect();
        versions.history = remember(&row, &mut change.forgotten);
    }
    let revision = store(change, RowKind::Closing, item, versions);
    Ok(ClosingOutcome::Done { revision })
}

/// What holds for every closing token: its trust, and whose the account is. `Err` is the outcome that decides it; the row
/// otherwise, `None` if that cannot be read.
fn judge(
    before: &impl Before,
    trust_epoch: u64,
    item: &PutAccount,
) -> Result<Result<Option<Arc<AccountRow>>, ClosingOutcome>, Fault> {
    let trust = before.trust();
    if trust_epoch != trust.epoch {
        let trust_epoch = trust.epoch;
        return Ok(Err(ClosingOutcome::StaleTrust { trust_epoch }));
    }
    if trust.operator(item.operator).is_none() {
        return Ok(Err(ClosingOutcome::NotTrusted));
    }
    let row = match before.account(item.account)? {
        Present::None => return Ok(Err(ClosingOutcome::Unknown)),
        Present::Row(row) => Some(row),
        Present::Damaged(remains) => believable(remains, &trust).map(Arc::from),
    };
    let owner = row.as_ref().map(|row| trust.owner(row.operator));
    Ok(match owner.filter(|owner| *owner != item.operator) {
        Some(owner) => Err(ClosingOutcome::OtherOperator { owner }),
        None => Ok(row),
    })
}
