//! Writes to the log what is committed, once nothing more is appended.
//!
//! openraft tells what is committed with the next append. On a node that gets no more of them it would never reach the
//! disk, and that node, started again without its peers, would serve older accounts than it served before.

use std::time::Duration;

use tokio::sync::watch;

use crate::raft::log::LogStore;
use crate::state::Revision;
use crate::tasks::Scope;

/// How long after an entry was applied: in that time the next append has mostly come.
const AFTER: Duration = Duration::from_millis(100);

/// Runs until `scope` stops. `applied` moves with every applied entry.
pub(in crate::raft) async fn write_committed(log: LogStore, mut applied: watch::Receiver<Revision>, scope: Scope) {
    while let Some(Ok(())) = scope.until_stop(applied.changed()).await {
        tokio::time::sleep(AFTER).await;
        applied.mark_unchanged();
        // The writer has reported why, if it has ended.
        if log.write_committed().await.is_err() {
            return;
        }
    }
}
