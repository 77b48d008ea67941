//! What a command is judged against.

use std::sync::Arc;

use crate::jwt::AccountKey;
use crate::state::command::Revision;
use crate::state::fault::Fault;
use crate::state::rows::{AccountRow, Closing, Trust};

/// The row of an account as of a place in the log.
pub(in crate::state) enum Present {
    /// There is no such account.
    None,
    /// The row.
    Row(Arc<AccountRow>),
    /// The disk does not give it as it was stored. What can be decoded of it, if anything can.
    Damaged(Option<Box<AccountRow>>),
}

/// What was agreed before an entry.
pub(in crate::state) trait Before {
    /// Whom the mesh trusts.
    fn trust(&self) -> Arc<Trust>;
    /// The current row of `account`.
    fn account(&self, account: AccountKey) -> Result<Present, Fault>;
    /// The closing token that is kept for `account`. An entry that needs one which cannot be read is not applied.
    fn closing(&self, account: AccountKey) -> Result<Option<Arc<Closing>>, Fault>;
    /// Why an entry cannot be applied that needs more of the row of `account` than remains.
    fn unreadable(&self, account: AccountKey) -> Fault;
    /// How far `nats_cluster` has been updated; 0 if it never was.
    fn position(&self, nats_cluster: &str) -> Revision;
    /// How many servers the roster of `nats_cluster` has.
    fn server_count(&self, nats_cluster: &str) -> usize;
    /// Whether the roster of `nats_cluster` has the server `id`.
    fn has_server(&self, nats_cluster: &str, id: &str) -> bool;
}
