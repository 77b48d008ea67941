//! What a leader sends is compared with what this node knows, before openraft sees it.

use openraft::RaftLogReader;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::AppendEntriesRequest;

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

/// Refuses entries that contradict what is committed here, up to `committed` and in `log`: no leader that was elected has
/// such, unless a member forgot what it had acknowledged. openraft would end this node over them.
pub(super) async fn check_committed(
    core: &Core,
    log: &LogStore,
    contacts: &Contacts,
    committed: u64,
    request: &AppendEntriesRequest<Types>,
) -> Result<(), PeerRefusal> {
    let entries = request.entries.iter().map(|entry| entry.log_id);
    let offered: Vec<_> = request.prev_log_id.into_iter().chain(entries).collect();
    let mut offered = offered.into_iter().filter(|id| id.index <= committed);
    let Some(first) = offered.next() else { return Ok(()) };
    let last = offered.clone().next_back().unwrap_or(first);
    let mut log = log.clone();
    let own = log.try_get_log_entries(first.index..=last.index).await;
    let own = own.map_err(|_| PeerRefusal::NotNow("the log of this node cannot be read"))?;
    // What was purged is not there to be compared.
    let contradicts = |id: LogId| {
        own.iter()
            .any(|entry| entry.log_id.index == id.index && entry.log_id != id)
    };
    let Some(id) = std::iter::once(first).chain(offered).find(|id| contradicts(*id)) else {
        return Ok(());
    };
    // Only what the members have elected is worth a word: a vote that this node knows.
    if request.vote == core.metrics().borrow_watched().vote {
        let members = members(core);
        let leader = members.membership().get_node(&request.vote.leader_id.node_id);
        contacts.contradicted(leader.map_or("a node", |node| &node.name));
    }
    Err(PeerRefusal::Wrong(format!("{id} is not what is committed there")))
}
