//! Which token may replace which (I2), whose an account is (G3), and which versions of it are kept.

use std::sync::Arc;

use super::before::{Before, Present};
use crate::state::command::{
    AccountOutcome, Barred, ETAG_BYTES, OverrideAccount, PutAccount, PutAccountIf, PutAccounts, Revision,
};
use crate::state::fault::Fault;
use crate::state::recent::Change;
use crate::state::rows::{AccountRow, Past, RowId, RowKind, Trust, digest, etag};

/// Judges each submission on its own; a later one of the same entry sees the earlier ones.
pub(super) fn put_all(
    change: &mut Change,
    before: &impl Before,
    command: PutAccounts,
) -> Result<Vec<AccountOutcome>, Fault> {
    let trust = before.trust();
    let mut outcomes = Vec::with_capacity(command.items.len());
    for item in command.items {
        let present = match change.rows.iter().rev().find(|row| row.account == item.account) {
            Some(row) => Present::Row(row.clone()),
            None => before.account(item.account)?,
        };
        outcomes.push(put(change, &trust, command.trust_epoch, present, item));
    }
    Ok(outcomes)
}

/// Judges a submission that was made from a certain token.
pub(super) fn put_if(
    change: &mut Change,
    before: &impl Before,
    command: PutAccountIf,
) -> Result<AccountOutcome, Fault> {
    let PutAccountIf {
        trust_epoch,
        item,
        expected,
    } = command;
    let present = before.account(item.account)?;
    let is_expected = match &present {
        Present::None => false,
        // Its own token is there already: the proposal was repeated.
        Present::Row(row) => row.etag == expected || row.token == item.token,
        Present::Damaged(remains) => {
            let is_expected = |row: &AccountRow| row.etag == expected || row.is_of(&item.token);
            remains.as_deref().is_some_and(is_expected)
        }
    };
    if !is_expected {
        return Ok(AccountOutcome::Changed);
    }
    Ok(put(change, &before.trust(), trust_epoch, present, item))
}

/// Stores what an administrator insists on, or what has no `iat`, whatever is stored; not what a tombstone is newer than.
pub(super) fn override_one(
    change: &mut Change,
    before: &impl Before,
    command: OverrideAccount,
) -> Result<AccountOutcome, Fault> {
    let OverrideAccount {
        trust_epoch,
        mut item,
        barred,
    } = command;
    let present = before.account(item.account)?;
    let present = match judge(change, &before.trust(), trust_epoch, present, &item) {
        Ok(present) => present,
        Err(decided) => return Ok(decided),
    };
    let Some(present) = present else {
        return Ok(stored(change, item, Versions::default()));
    };
    // Only a newer token creates a deleted account again (G8). Of one without a time the order of arrival counts.
    if item.issued_at > 0 && present.is_deleted() && present.supersedes(item.issued_at, &item.token) {
        return Ok(AccountOutcome::Deleted {
            issued_after: present.issued_at,
            revision: present.revision,
        });
    }
    if item.issued_at <= 0 {
        item.issued_at = present.issued_at;
    }
    let own = digest(&item.token);
    let at_present = |digest| Barred {
        issued_at: present.issued_at,
        digest,
    };
    let overridden = Some(at_present(present.digest()))
        .filter(|_| !present.is_deleted())
        .into_iter()
        .chain(present.replaced.iter().copied().map(at_present))
        .chain(present.barred.iter().copied())
        .chain(barred);
    let mut kept: Vec<Barred> = Vec::new();
    for barred in overridden.filter(|barred| barred.issued_at >= item.issued_at && barred.digest != own) {
        if kept.len() < BARRED_VERSIONS && !kept.iter().any(|known| known.digest == barred.digest) {
            kept.push(barred);
        }
    }
    let versions = Versions {
        history: remember(&present, &mut change.forgotten),
        replaced: Vec::new(),
        barred: kept,
    };
    Ok(stored(change, item, versions))
}

/// Judges one submission against `present`, the account's row as of this place in the log. Only here is an
/// account's row replaced in the order of `iat`, so that G2 depends on this function and on
/// [`AccountRow::supersedes`].
fn put(change: &mut Change, trust: &Trust, trust_epoch: u64, present: Present, item: PutAccount) -> AccountOutcome {
    let present = match judge(change, trust, trust_epoch, present, &item) {
        Ok(present) => present,
        Err(decided) => return decided,
    };
    let mut versions = Versions::default();
    if let Some(present) = &present {
        if present.supersedes(item.issued_at, &item.token) {
            if present.is_deleted() {
                return AccountOutcome::Deleted {
                    issued_after: present.issued_at,
                    revision: present.revision,
                };
            }
            return AccountOutcome::Superseded {
                stored_issued_at: present.issued_at,
                revision: present.revision,
            };
        }
        versions.replaced = replaced(present, item.issued_at);
        let barred = present.barred.iter().copied();
        versions.barred = barred.filter(|barred| barred.issued_at >= item.issued_at).collect();
        versions.history = remember(present, &mut change.forgotten);
    }
    stored(change, item, versions)
}

/// The versions of `issued_at` that a row of that second remembers, if it comes after `present`.
pub(super) fn replaced(present: &AccountRow, issued_at: i64) -> Vec<[u8; ETAG_BYTES]> {
    if issued_at != present.issued_at {
        return Vec::new();
    }
    let newest = Some(present.digest()).filter(|_| !present.is_deleted());
    let all = newest.into_iter().chain(present.replaced.iter().copied());
    all.take(REPLACED_VERSIONS).collect()
}

/// What holds whichever way a token came: its trust, and whose the account is. `Err` is the outcome that decides it, and
/// the row otherwise what the token comes after.
fn judge(
    change: &mut Change,
    trust: &Trust,
    trust_epoch: u64,
    present: Present,
    item: &PutAccount,
) -> Result<Option<Arc<AccountRow>>, AccountOutcome> {
    if trust_epoch != trust.epoch {
        return Err(AccountOutcome::StaleTrust {
            trust_epoch: trust.epoch,
        });
    }
    if trust.operator(item.operator).is_none() {
        return Err(AccountOutcome::NotTrusted);
    }
    let present = match present {
        Present::None => None,
        Present::Row(row) if row.token == item.token => {
            let revision = row.revision;
            return Err(AccountOutcome::Unchanged { revision });
        }
        Present::Row(row) => Some(row),
        Present::Damaged(remains) => match believable(remains, trust) {
            Some(remains) if remains.is_of(&item.token) => return Err(mend(change, *remains, item)),
            remains => remains.map(Arc::from),
        },
    };
    if let Some(present) = &present {
        let owner = trust.owner(present.operator);
        if owner != item.operator {
            let revision = present.revision;
            return Err(AccountOutcome::OtherOperator { owner, revision });
        }
    }
    Ok(present)
}

/// What a row remembers of those before it.
#[derive(Default)]
pub(super) struct Versions {
    pub(super) history: Vec<Past>,
    pub(super) replaced: Vec<[u8; ETAG_BYTES]>,
    pub(super) barred: Vec<Barred>,
}

fn stored(change: &mut Change, item: PutAccount, versions: Versions) -> AccountOutcome {
    let revision = store(change, RowKind::Token, item, versions);
    AccountOutcome::Stored { revision }
}

/// Makes `item` the account's row, of this kind; gives its revision.
pub(super) fn store(change: &mut Change, kind: RowKind, item: PutAccount, versions: Versions) -> Revision {
    let revision = change.mark.index;
    let own = |row: &&Arc<AccountRow>| row.revision == revision;
    let slot = change.rows.iter().rev().find(own).map_or(0, |row| row.slot + 1);
    change.rows.push(Arc::new(AccountRow {
        account: item.account,
        operator: item.operator,
        issued_at: item.issued_at,
        expires_at: item.expires_at,
        name: item.name,
        revision,
        kind,
        etag: etag(&item.token),
        token: item.token,
        slot,
        history: versions.history,
        replaced: versions.replaced,
        barred: versions.barred,
    }));
    revision
}

/// What remains of a damaged row, if it can be what was stored: its operator is one that the mesh trusts.
///
/// G2 holds against what remains as against a whole row. Where nothing does, the agreed token replaces the row: it was
/// judged against the whole one by the node that proposed it.
pub(super) fn believable(remains: Option<Box<AccountRow>>, trust: &Trust) -> Option<Box<AccountRow>> {
    remains.filter(|row| trust.operator(trust.owner(row.operator)).is_some())
}

/// Puts the token of `item`, the same that was stored, back into a damaged row, at its old place: the row is then the
/// same as on the nodes where it was never damaged (I3).
fn mend(change: &mut Change, remains: AccountRow, item: &PutAccount) -> AccountOutcome {
    let revision = remains.revision;
    change.rows.push(Arc::new(AccountRow {
        operator: item.operator,
        // Of a token without an issue time, and of a closing one, only the row knows what it counts as.
        issued_at: if item.issued_at > 0 && remains.kind == RowKind::Token {
            item.issued_at
        } else {
            remains.issued_at
        },
        expires_at: item.expires_at,
        name: item.name.clone(),
        token: item.token.clone(),
        ..remains
    }));
    AccountOutcome::Unchanged { revision }
}

/// The history of the row that replaces `present`; what it has no room for goes to `forgotten`.
///
/// The history is part of the row, and so of the agreed state: every node forgets the same versions with the same
/// entry, no scan ever looks for garbage, and an entry removes only old
/// versions of the accounts it writes, so its work is bounded.
pub(super) fn remember(present: &AccountRow, forgotten: &mut Vec<RowId>) -> Vec<Past> {
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

/// How many replaced versions of an account are kept: enough to see what a week of nightly re-signing changed, few
/// enough that a script that re-signs one account in a loop cannot fill the disk.
const HISTORY_VERSIONS: usize = 15;

/// How many bytes of replaced tokens are kept for an account: at the usual 1-4 KB all of the versions, of the largest
/// allowed token (1 MiB) none, so that history never multiplies the room that big accounts take.
const HISTORY_BYTES: u64 = 256 * 1024;

/// How many replaced versions of one second are remembered. nsc and scripts sign a few in a second; a key holder who
/// signs more only makes their own oldest ones acceptable again.
pub(super) const REPLACED_VERSIONS: usize = 64;

/// How many overridden versions are barred: all that the history keeps, and as many overrides in a row as an
/// administrator types on a bad day.
pub(super) const BARRED_VERSIONS: usize = 64;
