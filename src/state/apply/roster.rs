//! Which nats-servers a NATS cluster has, and which of them are behind.

use std::collections::BTreeSet;

use super::before::Before;
use super::positions;
use crate::state::command::{ForgetServer, UpdateRoster, UpdateRosterIf};
use crate::state::recent::{Change, RosterChange};
use crate::state::roster::MAX_SERVERS;
use crate::state::rows::{forgotten_name, lease_names, roster_name};

/// Takes over what the publisher of a NATS cluster has found, with the position that it belongs to. Refuses a publisher
/// whose term has ended: what it found may be older than what its successor has recorded.
pub(super) fn update(change: &mut Change, before: &impl Before, command: UpdateRoster) -> bool {
    let UpdateRoster {
        nats_cluster,
        term,
        position,
        seen,
        gone,
    } = command;
    let [_, _, current] = lease_names(&nats_cluster);
    if term != before.position(&current) {
        return false;
    }
    positions::advance(change, before, &nats_cluster, position);
    let gone: BTreeSet<String> = gone.into_iter().collect();
    let removed: Vec<String> = gone
        .iter()
        .filter(|id| before.has_server(&nats_cluster, id))
        .cloned()
        .collect();
    let mut count = before.server_count(&nats_cluster) - removed.len();
    let mut roster = RosterChange::of(nats_cluster);
    roster.gone = removed;
    // Of an id that comes twice, the later row counts; of one that is also gone, none does.
    let mut taken = BTreeSet::new();
    for server in seen.into_iter().rev() {
        if gone.contains(&server.id) || !server.is_within_bounds() || !taken.insert(server.id.clone()) {
            continue;
        }
        roster.seen.push(server);
    }
    roster.seen.reverse();
    roster.seen.retain(|server| {
        let is_known = before.has_server(&roster.nats_cluster, &server.id);
        let has_room = is_known || count < MAX_SERVERS;
        count += usize::from(!is_known && has_room);
        has_room
    });
    change.roster = (!roster.is_empty()).then_some(roster);
    true
}

/// The same where nothing was taken over since the publisher looked: the term alone does not tell its own updates from each other.
pub(super) fn update_if(change: &mut Change, before: &impl Before, command: UpdateRosterIf) -> bool {
    let UpdateRosterIf { update: found, present } = command;
    let name = roster_name(&found.nats_cluster);
    let is_applied = present == before.position(&name) && update(change, before, found);
    if is_applied {
        change.positions.push((name, change.mark.index));
    }
    is_applied
}

/// Removes a server because an administrator says so, and notes when, so that the publisher notices.
pub(super) fn forget(change: &mut Change, before: &impl Before, command: ForgetServer) -> bool {
    let ForgetServer { nats_cluster, id } = command;
    if !before.has_server(&nats_cluster, &id) {
        return false;
    }
    change
        .positions
        .push((forgotten_name(&nats_cluster), change.mark.index));
    let mut roster = RosterChange::of(nats_cluster);
    roster.gone.push(id);
    change.roster = Some(roster);
    true
}
