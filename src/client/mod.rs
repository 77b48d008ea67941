//! A typed client of a node: `/v1` over its Unix socket, and the lookups and submissions of the public port.
//!
//! Used by the command line, tests and benches. Every request has its own connection: on a socket of the same
//! machine that costs a tenth of a millisecond, and nothing has to be kept alive or spawned.

mod admin;
mod call;
mod public;

pub use admin::{AdminClient, PAGE};
pub use call::ClientError;
pub use public::{Answer, PublicClient};
