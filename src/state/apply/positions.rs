//! How far each NATS cluster has been updated, and by whom.

use super::before::Before;
use crate::state::command::{MarkPropagated, Revision, TakeLease};
use crate::state::recent::Change;
use crate::state::rows::lease_names;

/// Records a position. Positions only ever grow: a late mark of a publisher that was replaced must not make the next
/// one send everything again.
pub(super) fn mark(change: &mut Change, before: &impl Before, command: MarkPropagated) {
    if command.position > before.position(&command.nats_cluster) {
        change.positions.push((command.nats_cluster, command.position));
    }
}

/// Gives the lease of a NATS cluster to whoever names the one before it; refuses everybody else.
pub(super) fn lease(change: &mut Change, before: &impl Before, command: TakeLease) -> Option<Revision> {
    let [holder, granted] = lease_names(&command.nats_cluster);
    if command.before != before.position(&granted) {
        return None;
    }
    let revision = change.mark.index;
    change.positions.extend([(holder, command.holder), (granted, revision)]);
    Some(revision)
}
