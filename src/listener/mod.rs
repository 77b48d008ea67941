//! A LISTENING PORT: accepts connections, encrypted or not, and serves HTTP on each within limits. No routes.
//!
//! The caller binds a TCP address (`tcp.rs`) or the admin socket (`socket.rs`) and runs a [`Port`] on it, with a
//! service that answers requests and with [`Limits`]. For each connection the port
//!
//! 1. takes one of `Limits::connections` slots, or closes the connection at once if all are taken;
//! 2. makes the TLS handshake, if the port has a certificate, within `Limits::handshake` (`failures.rs` logs those that
//!    fail);
//! 3. serves HTTP/1 or HTTP/2 with hyper, and calls the service for each request, which carries its [`Origin`] unless it
//!    is a lookup;
//! 4. meanwhile watches the connection (`activity.rs`), and closes it when a request's head is late (`Limits::head`) or
//!    nothing has moved for `Limits::idle`.
//!
//! When its scope stops, a port accepts no more, lets the requests in flight finish within `Limits::drain`, and then
//! closes what is left. A port reads no bodies: `Limits::body` is for the services that do. `gather.rs` saves packets
//! and `again.rs` saves wakes.
//!
//! Not `axum::serve`: there one stalled TLS handshake holds up every accept behind it, and nothing bounds the time a
//! client takes for its request's head.

mod activity;
mod again;
mod certified;
mod failures;
mod gather;
mod limits;
mod origin;
mod port;
mod socket;
mod tcp;

pub use certified::Certified;
pub use gather::Gather;
pub use limits::Limits;
pub use origin::Origin;
pub use port::{Listen, Port};
pub use socket::{Socket, SocketFile};
pub use tcp::bind;
