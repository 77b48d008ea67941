//! WHAT A NATS CLUSTER IS SENT NEXT, decided by a value with methods: no I/O, no clock.
//!
//! [`Propagation`] decides the next [`Step`]; `cluster.rs` takes it and reports the result. Inside, the [`lanes`] know
//! what to read next, the [`agenda`] which account is due, the [`position`] how far the NATS cluster has been updated
//! for certain, and the [`roster`] which servers should have answered. The tests run all of it in a simulated world
//! that loses messages, replies and connections (`world.rs`).

mod agenda;
#[cfg(test)]
mod import;
mod lanes;
mod pending;
mod position;
mod propagation;
mod roster;
mod step;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub(super) use propagation::{ANSWER_MS, Propagation};
pub(super) use step::{Changed, Lane, Step, Summary};
