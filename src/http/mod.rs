//! WHO ASKS OVER HTTP: the public port, which nats-server and nsc speak to, and `/v1` on the admin socket.
//!
//! A request passes through this room in five steps:
//!
//! 1. [`listener`](crate::listener) accepts the connection. It bounds how many there are, and how long a handshake, a
//!    request's head and silence may take.
//! 2. `request.rs` cleans the path, because nats-server may double or append a slash, and turns a panic in a handler
//!    into a 500.
//! 3. `public/mod.rs` or `v1/mod.rs` routes it. A `GET` of an account, which nearly every request is, skips the table
//!    of routes.
//! 4. A handler parses the account key, reads a body through `upload.rs`, which bounds its length, time and memory, and
//!    calls the [resolver](crate::resolver).
//! 5. `public/answer.rs` and `v1/answer.rs` build the answers of requests that succeed. `error.rs` turns every failure
//!    into a status, a code and a sentence: plain text on the public port, a problem document (RFC 9457) under `/v1`.
//!
//! This room promises that a refusal names the defect and the remedy in one sentence, and that a stored token is served
//! byte for byte (G3). It never decides what is stored. It never sends the cause of an internal error: that is in this
//! node's log. It never takes an administrative request on the public port: those are under `/v1`, on a Unix socket.

mod error;
mod proof;
mod public;
mod request;
mod upload;
mod v1;

pub use public::Public;
pub use v1::{About, Admin};
