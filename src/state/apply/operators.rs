//! Whom the mesh trusts: the first operators ever, then only newer tokens of those.

use std::sync::Arc;

use crate::state::command::{OperatorOutcome, PutOperators};
use crate::state::recent::Change;
use crate::state::rows::{OperatorRow, Trust};

/// Judges each operator. The first command that finds none agreed may bring any number of them; from then on only newer
/// tokens of the trusted ones are taken, so that being able to propose is not enough to add an operator.
pub(super) fn put(change: &mut Change, present: &Trust, command: PutOperators) -> Vec<OperatorOutcome> {
    let first = present.operators.is_empty();
    let mut trust = present.clone();
    let revision = change.mark.index;
    let mut outcomes = Vec::with_capacity(command.items.len());
    for item in command.items {
        let outcome = match trust.operator(item.operator) {
            None if !first => OperatorOutcome::NotTrusted,
            Some(stored) if stored.token == item.token => OperatorOutcome::Unchanged {
                revision: stored.revision,
            },
            Some(stored) if stored.issued_at > item.issued_at => OperatorOutcome::Superseded {
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
                OperatorOutcome::Stored { revision }
            }
        };
        outcomes.push(outcome);
    }
    if !change.operators.is_empty() {
        change.trust = Some(Arc::new(trust));
    }
    outcomes
}
