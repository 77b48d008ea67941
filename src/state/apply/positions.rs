//! How far each NATS cluster has been updated.

use super::before::Before;
use crate::state::command::MarkPropagated;
use crate::state::recent::Change;

/// Records a position. Positions only ever grow: a late mark of a publisher that was replaced must not make the next
/// one send everything again.
pub(super) fn mark(change: &mut Change, before: &impl Before, command: MarkPropagated) {
    if command.position > before.position(&command.nats_cluster) {
        change.position = Some((command.nats_cluster, command.position));
    }
}
