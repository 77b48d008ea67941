//! WHO ASKS OVER HTTP: the public port, which nats-server and nsc speak to, and `/v1` on the admin socket.
//!
//! A request comes in through [`listener`](crate::listener), is cleaned and guarded (`request.rs`), routed
//! (`public/mod.rs`, `v1/mod.rs`), answered by a handler that calls the resolver, and that is all: nothing here decides
//! what is stored. Bodies are read within bounds (`upload.rs`). Only `error.rs` names the status of a failure, and no
//! body ever carries a cause: that is in this node's log. The public port has no administrative verb.

mod error;
mod public;
mod request;
mod upload;
mod v1;

pub use public::Public;
pub use v1::{About, Admin};
