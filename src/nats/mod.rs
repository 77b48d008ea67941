//! WHO IS TOLD. The only room that names async-nats.
//!
//! One task a NATS cluster: it keeps a connection (`connection.rs`) to one server after the other (`route.rs`), wakes
//! when something changed (`cluster.rs`), and says what is to be said next (`propagate.rs`) in the words of the protocol
//! (`subjects.rs`); what an administrator hears of it is in `notices.rs`. What a server enforces in the end, and the
//! questions it asks us, will be files of their own beside these, fed by the same connection.

mod cluster;
mod connection;
mod notices;
mod pending;
mod propagate;
#[cfg(test)]
mod propagate_tests;
#[cfg(test)]
mod propagate_world;
mod route;
mod subjects;

pub use cluster::NatsClusters;
