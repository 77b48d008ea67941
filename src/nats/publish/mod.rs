//! WHAT A NATS CLUSTER IS SENT NEXT, decided by a value with methods: no I/O, no clock.
//!
//! [`Propagation`] decides the next [`Step`]; `cluster.rs` takes it and reports the result. Inside, the [`lanes`] know
//! what to read next, the [`agenda`] which account is due, the [`position`] how far the NATS cluster has been updated
//! for certain, the [`roster`] which servers there are and since when each may enforce something older, and what
//! each of those is asked to find out; `reading.rs` has servers read before something is sent, and the [`sweep`] has them looked at
//! in turn. The tests run all of it in a simulated world
//! that loses messages, replies and connections (`tests/world.rs`).

mod agenda;
mod lanes;
mod listing;
mod pace;
mod pending;
mod position;
mod propagation;
mod reading;
mod roster;
mod servers;
mod step;
mod sweep;
#[cfg(test)]
mod tests;

pub(super) use propagation::{ANSWER_MS, Propagation};
pub(super) use roster::Held;
pub(super) use step::{Agreement, Changed, Lane, News, Question, Step, Summary, Wanted};
