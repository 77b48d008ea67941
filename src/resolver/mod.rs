//! THE SINGLE ENTRY POINT: every lookup and every submission passes here, whether it came over HTTP, NATS or the
//! command line.
//!
//! - A **lookup** (`lookup.rs`) reads this node's own state: no leader, no peer, no queue. It may wait for the disk, but
//!   never on every thread at once, so that rows in memory are served while the disk hangs.
//! - A **submission** (`submit.rs`) is verified under the trust agreed now, proposed, and answered when it is on disk
//!   and applied here (G1). If the trust changed in between, it is verified again.
//! - **Scans** (`scan.rs`) read one moment of redb, off the threads that answer lookups.
//! - **Trust** (`trust.rs`) turns the agreed operators into verified keys, once for each change.
//! - **Publishers** (`publish.rs`) ask here for positions, and always for the current token, never a remembered one.
//!
//! Nothing here knows HTTP or NATS, and nothing above it touches `raft` or `state`: their types that callers need are
//! re-exported.

mod error;
mod handle;
mod lookup;
mod publish;
mod scan;
mod submit;
mod trust;

pub use error::{ReadError, SubmitError};
pub use handle::{Resolver, Trust, View};
pub use submit::{INLINE_TOKEN_BYTES, Submitted};

pub use crate::raft::ProposeError;
pub use crate::state::AccountRow;
pub use crate::state::Changes;
pub use crate::state::OperatorOutcome;
pub use crate::state::Revision;
