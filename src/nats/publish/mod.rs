//! WHAT A NATS CLUSTER IS SENT NEXT, decided by a value with methods: no I/O, no clock.
//!
//! [`Propagation`] says the next [`Step`]; `cluster.rs` takes it and reports what came of it. Inside, the [`lanes`] say
//! what to read, the [`agenda`] which account is due, the [`position`] how far all this is certain, and the [`roster`]
//! which servers should have answered. The tests put all of it into a small world that loses things (`world.rs`).

mod agenda;
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
pub(super) use step::{Lane, Step, Summary};
