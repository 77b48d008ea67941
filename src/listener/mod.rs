//! A LISTENING PORT: accepts connections, encrypted or not, and serves HTTP on each within limits. No routes.
//!
//! Not `axum::serve`: there one stalled TLS handshake holds up every accept behind it, and nothing bounds the time a
//! client takes for its request's head.

mod activity;
mod again;
mod gather;
mod limits;
mod port;
mod socket;
mod tcp;

pub use gather::Gather;
pub use limits::Limits;
pub use port::{Listen, Port};
pub use socket::{Socket, SocketFile};
pub use tcp::bind;
