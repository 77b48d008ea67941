//! Many accounts: a page in the order of their keys, or what changed since a revision.

use super::error::ReadError;
use super::handle::Resolver;
use crate::jwt::AccountKey;
use crate::state::Changes;
use crate::state::Fault;
use crate::state::Listed;
use crate::state::ListedClosing;
use crate::state::Revision;
use crate::state::State;

/// Rows that a scan moves into redb in one step when it has to wait for the flush.
const SCAN_FLUSH_ROWS: usize = 256;

impl Resolver {
    /// One page of accounts with their current tokens, in the order of their keys' bytes, after `after`. An account
    /// whose row cannot be read is there with the reason, which is logged.
    pub async fn accounts(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<Listed>, ReadError> {
        let page = self.scan(move |state| state.accounts(after, limit)).await?;
        for fault in page.iter().filter_map(|listed| listed.row.as_ref().err()) {
            self.note_damage(fault);
        }
        Ok(page)
    }

    /// One page of the closing JWTs that are kept, in the order of their accounts' keys, after `after`. One that cannot be read
    /// is there with the reason, which is logged.
    pub async fn closings(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<ListedClosing>, ReadError> {
        let page = self.scan(move |state| state.closings(after, limit)).await?;
        for fault in page.iter().filter_map(|listed| listed.closing.as_ref().err()) {
            self.note_damage(fault);
        }
        Ok(page)
    }

    /// The keys of up to `limit` accounts, in the order of their bytes, and how many accounts there are.
    pub async fn account_keys(&self, limit: usize) -> Result<(Vec<AccountKey>, u64), ReadError> {
        self.scan(move |state| state.account_keys(limit)).await
    }

    /// What changed after the revision `after`, as current rows in the order of their revisions.
    pub async fn changes(&self, after: Revision, limit: usize) -> Result<Changes, ReadError> {
        // The newest changes are still in the memtable. What is not there any more is in redb: nothing has to be flushed,
        // and an import does not pay for a publisher that is behind.
        if let Some(recent) = self.0.state.recent_changes(after, limit) {
            return Ok(recent);
        }
        let state = self.0.state.clone();
        let read = tokio::task::spawn_blocking(move || state.rows_since(after, limit));
        self.noted(read.await.map_err(|_shutting_down| ReadError::ShuttingDown)?)
    }

    /// Flushes to redb everything that is applied now, then reads one view of it. Runs on a blocking thread, not on the
    /// threads that answer lookups.
    pub(super) async fn scan<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (state, raft) = (self.0.state.clone(), self.0.raft.clone());
        let scanned = tokio::task::spawn_blocking(move || {
            let applied = state.applied().map_or(0, |mark| mark.index);
            while state.flushed() < applied {
                if !raft.may_flush() {
                    return Ok(None);
                }
                state.flush_step(SCAN_FLUSH_ROWS)?;
            }
            read(&state).map(Some)
        });
        match scanned.await {
            Ok(Ok(Some(found))) => Ok(found),
            Ok(Ok(None)) => Err(ReadError::NoRoom),
            Ok(Err(fault)) => self.noted(Err(fault)),
            Err(_shutting_down) => Err(ReadError::ShuttingDown),
        }
    }
}
