//! The operators that the mesh trusts, and the epoch of that trust.

use std::sync::Arc;

use bytes::Bytes;

use super::command::{Outcome, PutOperator, Revision};
use super::memtable::Change;
use crate::jwt::OperatorKey;

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

/// Whom the mesh trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Grows with every stored operator. An account verified under another epoch is not applied.
    pub epoch: u64,
    /// The operators, in the order of their keys.
    pub operators: Vec<OperatorRow>,
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

    fn put(&mut self, row: OperatorRow) {
        match self.operators.binary_search_by_key(&row.operator, |row| row.operator) {
            Ok(at) => self.operators[at] = row,
            Err(at) => self.operators.insert(at, row),
        }
        self.epoch += 1;
    }
}

/// Judges each operator. The first command that finds none agreed may bring any number of them; from then on only
/// newer tokens of the trusted ones are taken, so that nobody can be added by whoever reaches the proposer.
pub(super) fn put(change: &mut Change, present: &Trust, items: Vec<PutOperator>) -> Vec<Outcome> {
    let first = present.operators.is_empty();
    let mut trust = present.clone();
    let revision = change.mark.index;
    let mut outcomes = Vec::with_capacity(items.len());
    for item in items {
        let outcome = match trust.operator(item.operator) {
            None if !first => Outcome::NotTrusted,
            Some(stored) if stored.token == item.token => Outcome::Unchanged {
                revision: stored.revision,
            },
            Some(stored) if stored.issued_at > item.issued_at => Outcome::Superseded {
                stored_issued_at: stored.issued_at,
                revision: stored.revision,
            },
            _ => {
                let row = OperatorRow {
                    operator: item.operator,
                    issued_at: item.issued_at,
                    revision,
                    token: item.token,
                };
                trust.put(row.clone());
                change.operators.push(row);
                Outcome::Stored { revision }
            }
        };
        outcomes.push(outcome);
    }
    if !change.operators.is_empty() {
        change.trust = Some(Arc::new(trust));
    }
    outcomes
}
