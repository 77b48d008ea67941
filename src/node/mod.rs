//! A NODE: puts the rooms together, starts and stops them. Holds no logic of its own.
//!
//! A start (`assemble.rs`) reads the files that the configuration names, takes the data folder, binds the public port,
//! opens the stores, starts Raft, and submits the configured operators to the mesh (`trust.rs`). Only then does it
//! answer requests and connect to NATS clusters, so that everything it ever acknowledged can be read from the first
//! answer on.
//!
//! A shutdown (`life.rs`) goes the other way: the node is no longer ready, requests and publishers finish, Raft ends,
//! and the stores are written and closed. Both halves have a time limit, because a client or a disk may hang.

mod assemble;
#[cfg(test)]
mod faulty_disk;
mod life;
mod reload;
mod runtime;
#[cfg(test)]
mod tests;
mod trust;

pub use crate::raft::NOISY_TARGET;
pub use life::{Node, StartError};
