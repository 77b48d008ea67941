//! THE FILE: the whole grammar of `cluster.toml`, and what it means for one node.
//!
//! The file is read once, as a whole, before anything is opened. `text.rs` has every key that may be written in it,
//! `meaning.rs` has the settings as the rest of the program uses them. `read.rs` turns the first into the second: it
//! picks one node's settings, resolves every path against the file's folder, and checks that every named file can be
//! opened. A defect ends the program with the line and what to do about it (`error.rs`); no sentence shows a password.
//!
//! The contents of the named files are not read here but in the rooms that use them. No setting names the seed of an
//! operator or an account (I8).
//!
//! To add a setting: a field in `text.rs`, its meaning with unit and limit in `meaning.rs`, the step between them in
//! `read.rs`, and a paragraph with default and reason in `cluster.example.toml`, which `tests/example.rs` compares with
//! `text.rs`.

mod error;
mod meaning;
mod read;
mod text;

pub use error::ConfigError;
pub use meaning::{
    Acknowledge, ClientCert, Config, DeleteWithStreams, NatsCluster, OlderServers, PeerTls, Peering, PublicTls, Timing,
};
