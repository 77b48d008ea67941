//! THE SINGLE ENTRY POINT: every lookup and every submission passes here, whichever way it came.
//!
//! - A **lookup** (`lookup.rs`) reads this node's own state: no leader, no peer, no queue. It may wait for the disk,
//!   but never on every thread at once, so that rows in memory are served while the disk hangs.
//! - A **submission** (`submit.rs`) is verified under the trust agreed now, proposed, and answered when it is on disk
//!   and applied here (G1). If the trust changed in between, it is verified again.
//! - A **scan** (`scan.rs`) waits until redb has what is applied, then reads one consistent view of redb, off the
//!   threads that answer lookups.
//! - A **removal** (`remove.rs`) is an operator's signed request to delete accounts, or an administrator's word that an account
//!   is shut with the JWT that was deposited for it.
//! - **Trust** (`trust.rs`) turns the agreed operators into verified keys, once for each change.
//! - **Other nodes' commands** (`lead.rs`) are verified again by the leader, which trusts no follower.
//! - **Publishers** (`publish.rs`) read and propose positions and servers here. They always look up the current token, never a
//!   remembered one.
//!
//! A failure is one of three kinds (`error.rs`): the caller's, which says what to change; transient, which says to try
//! again; and a fault, which is logged in full and ends the node. What the disk does not give, or not as it was stored,
//! fails only the read that meets it. A damaged row can be replaced: an account's newest token is taken in its place.
//!
//! Nothing here knows HTTP or NATS, and no room above but `node`, which starts Raft, touches `raft` or `state`: the
//! types that callers need from there are re-exported here.

mod error;
mod handle;
mod lead;
mod lookup;
mod members;
mod nats;
mod older;
mod publish;
mod publishers;
mod remove;
mod scan;
mod submit;
mod trust;

pub use error::{CLOCK_TOLERANCE_SECONDS, OlderServer, Protected, ReadError, RemovalError, SubmitError};
pub use handle::{Resolver, VerifiedTrust, View};
pub use lookup::AtLeast;
pub use nats::{
    Answered, Asking, Enforcement, Found, Inquiry, Seen, Standing, StreamsFound, StreamsInquiry, StreamsUnknown, Told,
};
pub use publishers::NatsView;
pub use remove::{Deleted, DeletedAccount};
pub use submit::{INLINE_TOKEN_BYTES, Submitted, Submitter};

pub use crate::raft::ProposeError;
pub use crate::raft::{Formed, MemberView, Role, Unformed};
pub use crate::state::AccountRow;
pub use crate::state::Changes;
pub use crate::state::Closing;
pub use crate::state::Listed;
pub use crate::state::ListedClosing;
pub use crate::state::OperatorOutcome;
pub use crate::state::Revision;
pub use crate::state::RowKind;
pub use crate::state::Server;
pub use crate::state::{MAX_SERVERS, MAX_SERVERS_OF_A_COMMAND};
pub use crate::state::{UpdateRoster, UpdateRosterIf};
