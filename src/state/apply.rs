//! Applying: a pure function of the state and the entry. What may differ between nodes never gets in here.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::State;
use super::command::{Command, Outcome, PutAccount, PutOperator, Revision};
use super::fault::Fault;
use super::memtable::Applied;
use super::tables::{AccountRow, Mark, OperatorRow, Small, Trust, etag};
use crate::jwt::AccountKey;

/// What a committed entry does.
#[derive(Debug, Clone)]
pub enum Effect<'a> {
    /// Nothing; a new leader's first entry.
    Blank,
    /// Other members, as raft encodes them.
    Membership(Bytes),
    /// An encoded [`Command`].
    Command(&'a [u8]),
}

impl State {
    /// Applies the entry at `mark`. What it decided is readable when this returns, and on disk some flush later;
    /// until then the log holds it.
    ///
    /// Entries must come one after the other, each with the next index.
    pub fn apply(&self, mark: Mark, effect: Effect<'_>) -> Result<Vec<Outcome>, Fault> {
        let _applying = self.0.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut small = self.memtable().small.clone();
        if let Some(before) = &small.mark {
            assert!(
                mark.index > before.index,
                "entry {} applied after {}",
                mark.index,
                before.index
            );
        }
        let index = mark.index;
        small.mark = Some(mark);
        let mut rows = Vec::new();
        let outcomes = match effect {
            Effect::Blank => Vec::new(),
            Effect::Membership(members) => {
                small.membership = Some(members);
                Vec::new()
            }
            Effect::Command(bytes) => {
                let command = Command::decode(bytes).map_err(|error| Fault::Unappliable {
                    index,
                    defect: error.to_string(),
                })?;
                self.command(index, command, &mut small, &mut rows)?
            }
        };
        let mut memtable = self.memtable_mut();
        for row in &rows {
            // From here on the cached row is an old one; the flush puts the new one there.
            self.0.cache.remove(&row.account);
        }
        memtable.push(Applied { rows, small });
        Ok(outcomes)
    }

    fn command(
        &self,
        index: Revision,
        command: Command,
        small: &mut Small,
        rows: &mut Vec<Arc<AccountRow>>,
    ) -> Result<Vec<Outcome>, Fault> {
        match command {
            Command::PutAccounts { trust_epoch, items } => {
                let agreed = small.trust.epoch;
                if agreed != trust_epoch {
                    return Ok(vec![Outcome::StaleTrust { trust_epoch: agreed }; items.len()]);
                }
                self.put_accounts(index, items, rows)
            }
            Command::PutOperators { items } => Ok(put_operators(index, items, small)),
            Command::MarkPropagated { nats_cluster, position } => {
                let marked = small.positions.entry(nats_cluster).or_default();
                *marked = position.max(*marked);
                Ok(vec![Outcome::Marked])
            }
        }
    }

    fn put_accounts(
        &self,
        revision: Revision,
        items: Vec<PutAccount>,
        rows: &mut Vec<Arc<AccountRow>>,
    ) -> Result<Vec<Outcome>, Fault> {
        // Rows of this very entry, by account: later items see earlier ones.
        let mut fresh: HashMap<AccountKey, Arc<AccountRow>> = HashMap::new();
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            let present = match fresh.get(&item.account) {
                Some(row) => Some(row.clone()),
                None => self.account(item.account)?,
            };
            let outcome = judge(revision, &item, present.as_deref());
            if matches!(outcome, Outcome::Stored { .. }) {
                let row = Arc::new(AccountRow {
                    etag: etag(&item.token),
                    account: item.account,
                    operator: item.operator,
                    issued_at: item.issued_at,
                    expires_at: item.expires_at,
                    name: item.name,
                    revision,
                    slot: u32::try_from(rows.len()).expect("an entry has far fewer rows"),
                    token: item.token,
                });
                fresh.insert(row.account, row.clone());
                rows.push(row);
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

/// Never backwards (G2): a strictly older token is refused; on equal issue times, which are whole seconds, the
/// later entry wins unless its bytes are the same.
fn judge(revision: Revision, item: &PutAccount, present: Option<&AccountRow>) -> Outcome {
    match present {
        Some(row) if row.token == item.token => Outcome::Unchanged { revision: row.revision },
        Some(row) if row.issued_at > item.issued_at => Outcome::Superseded {
            stored_issued_at: row.issued_at,
            revision: row.revision,
        },
        _ => Outcome::Stored { revision },
    }
}

fn put_operators(revision: Revision, items: Vec<PutOperator>, small: &mut Small) -> Vec<Outcome> {
    let mut trust = Trust::clone(&small.trust);
    let first = trust.operators.is_empty();
    let mut outcomes = Vec::with_capacity(items.len());
    for item in items {
        let row = OperatorRow {
            operator: item.operator,
            issued_at: item.issued_at,
            token: item.token,
            revision,
        };
        let outcome = match trust.operators.iter_mut().find(|known| known.operator == row.operator) {
            Some(known) if known.token == row.token => Outcome::Unchanged {
                revision: known.revision,
            },
            Some(known) if known.issued_at > row.issued_at => Outcome::Superseded {
                stored_issued_at: known.issued_at,
                revision: known.revision,
            },
            Some(known) => {
                *known = row;
                Outcome::Stored { revision }
            }
            None if first => {
                trust.operators.push(row);
                Outcome::Stored { revision }
            }
            None => Outcome::NotTrusted,
        };
        outcomes.push(outcome);
    }
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Stored { .. })) {
        trust.operators.sort_by_key(|row| row.operator);
        trust.epoch += 1;
        small.trust = Arc::new(trust);
    }
    outcomes
}
