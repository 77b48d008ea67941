//! What a command is judged against.

use std::sync::Arc;

use crate::jwt::AccountKey;
use crate::state::command::Revision;
use crate::state::fault::Fault;
use crate::state::rows::{AccountRow, Trust};

/// What was agreed before an entry.
pub(in crate::state) trait Before {
    /// Whom the mesh trusts.
    fn trust(&self) -> Arc<Trust>;
    /// The current row of `account`.
    fn account(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault>;
    /// How far `nats_cluster` has been updated; 0 if it never was.
    fn position(&self, nats_cluster: &str) -> Revision;
}
