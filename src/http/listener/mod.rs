//! A LISTENING PORT of our own.
//!
//! Not `axum::serve`: there one stalled TLS handshake holds up every accept behind it, and nothing bounds the time a
//! client takes for its request's head.

mod activity;
mod again;
mod gather;
mod limits;
mod port;

pub use limits::Limits;
pub(super) use port::{BACKLOG, Port};
