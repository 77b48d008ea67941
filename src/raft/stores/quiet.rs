//! Writes to the log what is committed, once nothing more is appended.
//!
//! openraft tells what is committed with the next append. On a node that gets no more of them it would never reach the
//! disk, and that node, started again without its peers, would serve older accounts than it served before. A node that is
//! alone needs none of this: it leads first.

use std::time::Duration;

use tokio::sync::watch;

use crate::raft::log::LogStore;
use crate::raft::machine::{Core, is_alone};
use crate::state::Revision;
use crate::tasks::Scope;

/// How long after an entry was applied: in that time the next append has mostly come.
const AFTER: Duration = Duration::from_millis(100);

/// Runs until `scope` stops. `applied` moves with every applied entry.
pub(in crate::raft) async fn write_committed(
    core: Core,
    log: LogStore,
    mut applied: watch::Receiver<Revision>,
    scope: Scope,
) {
    while let Some(Ok(())) = scope.until_stop(applied.changed()).await {
        tokio::time::sleep(AFTER).await;
        applied.mark_unchanged();
        if is_alone(&core) {
            continue;
        }
        // The writer has reported why, if it has ended.
        if log.write_committed().await.is_err() {
            return;
        }
    }
}
