//! How far each NATS cluster has been updated, and by whom.

use super::before::Before;
use crate::state::command::{MarkPropagated, Revision, TakeLease};
use crate::state::recent::Change;
use crate::state::rows::lease_names;

/// Records a position.
pub(super) fn mark(change: &mut Change, before: &impl Before, command: MarkPropagated) {
    advance(change, before, &command.nats_cluster, command.position);
}

/// Moves the position of a NATS cluster. It only ever grows: a late mark of a publisher that was replaced must not make
/// the next one send everything again.
pub(super) fn advance(change: &mut Change, before: &impl Before, nats_cluster: &str, position: Revision) {
    if position > before.position(nats_cluster) {
        change.positions.push((nats_cluster.to_owned(), position));
    }
}

/// Gives the lease of a NATS cluster to a command that names the one before it; refuses any other.
pub(super) fn lease(change: &mut Change, before: &impl Before, command: TakeLease) -> Option<Revision> {
    let [holder, granted, term] = lease_names(&command.nats_cluster);
    if command.before != before.position(&granted) {
        return None;
    }
    let revision = change.mark.index;
    let present = before.position(&term);
    let next = match command.holder {
        0 => 0,
        // A lease that was taken before terms were kept begins one when it is renewed.
        own if own == before.position(&holder) && present > 0 => present,
        _ => revision,
    };
    let positions = [(holder, command.holder), (granted, revision), (term, next)];
    change.positions.extend(positions);
    Some(revision)
}
