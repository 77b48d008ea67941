//! THE FILE: the whole grammar of `cluster.toml`, and what it means for one node.
//!
//! What is written (`text.rs`) and what is meant (`meaning.rs`) are two types; `read.rs` makes the one of the other. What
//! is wrong with a file ends the program before anything is opened, with the line and what to do (`error.rs`). Every
//! path is resolved and every named file looked at here; what is in those files is for the rooms that use them.
//!
//! To add a setting: a field in `text.rs`, its meaning with unit and limit in `meaning.rs`, the step between them in
//! `read.rs`, and a paragraph with default and reason in `cluster.example.toml`, which a test compares with all this.

mod error;
mod meaning;
mod read;
mod text;

pub use error::ConfigError;
pub use meaning::{Config, NatsCluster, PublicTls, Timing};
