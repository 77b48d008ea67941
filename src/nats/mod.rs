//! WHO IS TOLD. The only room that names async-nats.
//!
//! One publisher for each NATS cluster: it keeps a connection (`connection/`) to one server after the other, wakes when
//! something changed and takes one bounded step after another (`cluster.rs`), which `publish/` decides, in the words of
//! the protocol (`subjects/`). What an administrator reads of it is in `notices.rs`.
//!
//! A revocation passes like this: an applied entry moves the revision; the publisher wakes, asks the resolver for the
//! accounts changed since its position, looks up the *current* token of each at the moment of sending, publishes it, and
//! counts the servers' answers. Nothing but a position is ever remembered, so that an older token never follows a newer.
//! It never decides what is stored, and never believes what a server says about an account.

mod cluster;
mod connection;
mod notices;
mod publish;
mod subjects;

pub use cluster::start;
