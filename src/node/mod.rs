//! A NODE: puts the rooms together, starts and stops them. Holds no logic of its own.
//!
//! `assemble.rs` has the order of a start and `life.rs` that of a shutdown, each to be read from top to bottom; `trust.rs`
//! offers the operators in the configuration to the mesh.

mod assemble;
#[cfg(test)]
mod faulty_disk;
mod life;
#[cfg(test)]
mod tests;
mod trust;

pub use life::{Node, StartError};
