//! One account by its key, from this node's own state: without a leader, a peer or a queue.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::error::ReadError;
use super::handle::{Reading, Resolver};
use crate::jwt::AccountKey;
use crate::state::AccountRow;
use crate::state::Fault;
use crate::state::Revision;
use crate::tasks::chain;

/// How long a lookup waits for a permit to read on the thread that answers. A read takes some microseconds, so if this
/// is not enough the disk hangs, and the lookup waits for the disk on a thread of its own.
const READ_PATIENCE: Duration = Duration::from_millis(20);

/// Damages that are logged. With more than these the file itself is damaged, and further lines add nothing.
const DAMAGES_LOGGED: usize = 64;

/// How long a lookup that asks for at least a revision waits for it.
const REVISION_PATIENCE: Duration = Duration::from_millis(1_500);

/// What a lookup must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLeast {
    /// This revision.
    Revision(Revision),
    /// Everything that any node acknowledged before.
    Newest,
}

impl Resolver {
    /// Waits until lookups here see `wanted`.
    pub async fn read_at_least(&self, wanted: AtLeast) -> Result<(), ReadError> {
        let wanted = match wanted {
            AtLeast::Revision(wanted) if wanted <= self.revision() => return Ok(()),
            AtLeast::Revision(wanted) => Some(wanted),
            AtLeast::Newest => None,
        };
        let reached = self.0.raft.read_at_least(wanted, REVISION_PATIENCE).await;
        reached.map_err(|_| ReadError::Behind {
            revision: self.revision(),
        })
    }

    /// The current token of `account`, from this node's own state; `None` also if the account was deleted. Waits for nothing
    /// but the disk.
    pub async fn lookup(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, ReadError> {
        let row = self.current(account).await?;
        Ok(row.filter(|row| !row.is_deleted()))
    }

    /// The same, and the tombstone of a deleted account: for those who must know that it was deleted.
    pub async fn current(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, ReadError> {
        if let Some(row) = self.0.state.account_at_hand(account) {
            return Ok(Some(row));
        }
        self.read(account).await
    }

    /// Reads redb on the thread that answers, because handing the read to another thread costs more than the read.
    /// Never on all of these threads at once, so that rows in memory are served while a disk hangs.
    async fn read(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, ReadError> {
        let Reading { inline, hanging, .. } = &self.0.reading;
        let permit = match inline.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => tokio::time::timeout(READ_PATIENCE, inline.acquire())
                .await
                .ok()
                .and_then(Result::ok),
        };
        if let Some(_permit) = permit {
            return self.noted(self.0.state.account_in_file(account));
        }
        // The semaphore is never closed.
        let permit = hanging.clone().acquire_owned().await.ok();
        let state = self.0.state.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            state.account_in_file(account)
        });
        match read.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(found) => self.noted(found),
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels a blocking task.
            Err(Err(_cancelled)) => Err(ReadError::ShuttingDown),
        }
    }

    /// Logs a fault found while reading, and reports it if it ends the node. What the disk does not give, or not as it
    /// was stored, fails this read only: others succeed.
    pub(super) fn noted<T>(&self, result: Result<T, Fault>) -> Result<T, ReadError> {
        result.map_err(|fault| {
            if fault.is_of_one_read() {
                self.note_damage(&fault);
                ReadError::Damaged(fault)
            } else {
                self.0.fault.report(chain(&fault));
                ReadError::Fault(fault)
            }
        })
    }

    /// Logs each damage once: clients may ask for the same row any number of times.
    pub(super) fn note_damage(&self, fault: &Fault) {
        let damage = chain(fault);
        let mut logged = self.0.reading.damages.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < DAMAGES_LOGGED && !logged.contains(&damage) {
            tracing::error!("{damage}");
            logged.insert(damage);
        }
    }
}
