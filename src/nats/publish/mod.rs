//! WHAT A NATS CLUSTER IS SENT NEXT, decided by a value with methods: no I/O, no clock.
//!
//! [`Propagation`] decides the next [`Step`]; `cluster.rs` takes it and reports the result. Inside, the [`lanes`] know
//! what to read next, the [`agenda`] which account is due, the [`position`] how far the NATS cluster has been updated
//! for certain, the [`roster`] which servers there are and since when each may enforce something older, and what
//! each of those is asked to find out. The tests run all of it in a simulated world
//! that loses messages, replies and connections (`world.rs`).

mod agenda;
#[cfg(test)]
mod away;
#[cfg(test)]
mod import;
mod lanes;
mod pending;
mod position;
mod propagation;
mod roster;
mod servers;
mod step;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub(super) use propagation::{ANSWER_MS, Propagation};
pub(super) use roster::Held;
pub(super) use step::{Agreement, Changed, Lane, News, Question, Step, Summary};
