//! Whom the mesh trusts: the first operators ever, then only newer tokens of those, or of who takes their place.

use std::sync::Arc;

use crate::state::command::{OperatorOutcome, PutOperators, ReplaceOperator};
use crate::state::recent::Change;
use crate::state::rows::{OperatorRow, ReplacedOperator, Trust};

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

/// Trusts an operator in another one's place. An older token of one that is trusted already changes nothing.
pub(super) fn replace(change: &mut Change, present: &Trust, command: ReplaceOperator) -> OperatorOutcome {
    let ReplaceOperator { old, new } = command;
    let revision = change.mark.index;
    let stored = present.operator(new.operator);
    if present.operator(old).is_none() || old == new.operator {
        return match stored {
            // Replaced already, and repeated.
            Some(stored) if stored.token == new.token && old != new.operator && present.owner(old) == new.operator => {
                OperatorOutcome::Unchanged {
                    revision: stored.revision,
                }
            }
            _ => OperatorOutcome::NotTrusted,
        };
    }
    if let Some(stored) = stored.filter(|stored| stored.issued_at > new.issued_at) {
        return OperatorOutcome::Superseded {
            stored_issued_at: stored.issued_at,
            revision: stored.revision,
        };
    }
    let row = OperatorRow {
        operator: new.operator,
        issued_at: new.issued_at,
        revision,
        token: new.token,
    };
    let replaced = ReplacedOperator {
        operator: old,
        successor: new.operator,
        revision,
    };
    let mut trust = present.clone();
    trust.put(row.clone());
    trust.replace(replaced);
    change.operators.push(row);
    change.replaced.push(replaced);
    change.trust = Some(Arc::new(trust));
    OperatorOutcome::Stored { revision }
}
