//! What a leader sends is compared with what this node knows, before openraft sees it.

use std::cmp::Ordering;
use std::io;

use openraft::RaftLogReader;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::RaftLogStorage;

use crate::raft::log::LogStore;
use crate::raft::machine::{Core, members};
use crate::raft::peer::contacts::Contacts;
use crate::raft::peer::refusal::PeerRefusal;
use crate::raft::runtime::{LogId, Types, Vote};

/// Terms that a mesh goes through in one go at the most: with one election a second it would take ten days.
const MAX_TERMS_AHEAD: u64 = 1_000_000;

/// Refuses a term that no election has led to: behind the greatest of all there is none for the next.
pub(super) fn check_term(core: &Core, vote: &Vote) -> Result<(), PeerRefusal> {
    let own = core.metrics().borrow_watched().vote.leader_id.term;
    if vote.leader_id.term > own.saturating_add(MAX_TERMS_AHEAD) {
        return Err(PeerRefusal::Wrong(format!(
            "term {} is far beyond term {own} of this node",
            vote.leader_id.term
        )));
    }
    Ok(())
}

/// Refuses entries that contradict what is committed here, which includes everything up to `applied`. No leader that was elected
/// has such entries, unless a member forgot what it had acknowledged. openraft relies on that: it says of any entry at the
/// index of a committed one that it has it.
pub(super) async fn check_committed(
    core: &Core,
    log: &LogStore,
    contacts: &Contacts,
    applied: u64,
    request: &AppendEntriesRequest<Types>,
) -> Result<(), PeerRefusal> {
    let known = {
        let metrics = core.metrics();
        let metrics = metrics.borrow_watched();
        [metrics.local_committed, metrics.last_applied]
    };
    let committed = known.into_iter().flatten().map(|id| id.index).max().max(Some(applied));
    // Logs that have the same entry have the same ones before it, so the last tells of all.
    let entries = request.entries.iter().map(|entry| entry.log_id);
    let offered = request.prev_log_id.into_iter().chain(entries);
    let Some(offered) = offered.filter(|id| Some(id.index) <= committed).last() else {
        return Ok(());
    };
    // Mostly it is one of these, and no disk is waited for.
    let contradicts = match known.into_iter().flatten().find(|id| id.index == offered.index) {
        Some(own) => own != offered,
        None => contradicts(log.clone(), offered)
            .await
            .map_err(|_| PeerRefusal::NotNow("the log of this node cannot be read"))?,
    };
    if !contradicts {
        return Ok(());
    }
    // Only what the members have elected is worth a word: a vote that this node knows. The metrics may not have it yet, and
    // what follows must not be taken.
    let vote = core.with_raft_state(|state| *state.vote_ref()).await;
    if vote.is_ok_and(|vote| vote == request.vote) {
        let members = members(core);
        let leader = members.membership().get_node(&request.vote.leader_id.node_id);
        contacts.contradicted(leader.map_or("a node", |node| &node.name));
    }
    Err(PeerRefusal::Wrong(format!("{offered} is not what is committed there")))
}

/// Whether `log` has another entry in the place of `offered`, or had.
async fn contradicts(mut log: LogStore, offered: LogId) -> io::Result<bool> {
    let found = log.try_get_log_entries(offered.index..=offered.index).await?;
    if let Some(own) = found.first() {
        return Ok(own.log_id != offered);
    }
    // Of what was purged only the last is known. Terms only grow along a log.
    let purged = log.get_log_state().await?.last_purged_log_id;
    Ok(purged.is_some_and(|purged| match offered.index.cmp(&purged.index) {
        Ordering::Less => offered.leader_id > purged.leader_id,
        Ordering::Equal => offered != purged,
        Ordering::Greater => false,
    }))
}
