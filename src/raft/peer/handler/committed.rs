//! Entries that contradict what this node knows to be agreed on.

use openraft::RaftLogReader;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::AppendEntriesRequest;

use super::Handler;
use crate::raft::machine::{Core, members};
use crate::raft::peer::refusal::PeerRefusal;
use crate::raft::runtime::{LogId, Types};

impl Handler {
    /// Refuses entries that contradict what is committed here: no leader that was elected has such, unless a member forgot
    /// what it had acknowledged. openraft would end this node over them.
    pub(super) async fn check_committed(
        &self,
        core: &Core,
        request: &AppendEntriesRequest<Types>,
    ) -> Result<(), PeerRefusal> {
        let committed = *self.0.applied.borrow();
        let entries = request.entries.iter().map(|entry| entry.log_id);
        let offered: Vec<_> = request.prev_log_id.into_iter().chain(entries).collect();
        let mut offered = offered.into_iter().filter(|id| id.index <= committed);
        let Some(first) = offered.next() else { return Ok(()) };
        let last = offered.clone().next_back().unwrap_or(first);
        let mut log = self.0.log.clone();
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
            self.0.contacts.contradicted(leader.map_or("a node", |node| &node.name));
        }
        Err(PeerRefusal::Wrong(format!("{id} is not what is committed there")))
    }
}
