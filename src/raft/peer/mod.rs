//! THE PEERS: what nodes say to each other, and the connections on which they say it.
//!
//! - `messages.rs` has every request and answer, in forms of our own; `handler/` checks what arrives and gives it to
//!   openraft, and `network.rs` is openraft's way out (`pipeline.rs`: many appends at once). Both work on bytes, so that
//!   the simulated mesh of `tests/mesh` runs them as they are, over a network of its own.
//! - `contacts.rs` remembers who was heard when. The age of the mesh's view and the health of the peers come from it.
//! - `connection.rs` and `port.rs` carry the bytes: HTTP/2 over TLS 1.3 with certificates on both sides.
//!
//! Who a peer is, its certificate says: a node's name is a dNSName in it. Each message names the mesh, both nodes and
//! both stores besides; one that does not fit is refused before openraft sees it.

mod connection;
mod contacts;
mod handler;
mod health;
mod messages;
mod network;
mod pipeline;
mod port;
mod refusal;
mod speak;
#[cfg(test)]
mod tests;

pub use connection::Connections;
pub use handler::{Handler, Join, Leading, Led, NotLed};
pub use health::Health;
pub use messages::{Own, Uuid};
pub use network::{Lane, NoPeers, Peers, Transport};
pub use port::PeerPort;
pub use refusal::{CallError, PeerRefusal};

pub(in crate::raft) use contacts::{Contacts, FOREIGN, LOST, QUORUM_PATIENCE};
pub(in crate::raft) use handler::Membered;
pub(in crate::raft) use messages::{Introduction, NotProposed, Proposed, SETTLE_WITHIN, hex};
pub(in crate::raft) use speak::Speak;
