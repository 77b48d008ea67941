//! WHO IS UPDATED, AND WHO IS ANSWERED: every change is propagated to the NATS clusters, and requests that arrive over them
//! are answered. The only room that publishes to them.
//!
//! `respond/` answers the requests, on a connection of its own; the rest of this page is about propagation.
//!
//! In a mesh one node at a time publishes to a NATS cluster: whoever has the lease that was agreed on (`lease.rs`). It looks at
//! the lease before each message that it sends.
//!
//! Each NATS cluster has one publisher (`cluster.rs`). It is connected to one of the cluster's servers (`connection/`),
//! wakes when something changed, asks `publish/` for the next step and takes it, in the subjects and replies of the
//! protocol (`subjects/`). `notices.rs` writes its log lines. Each reply carries its server's time, which `clocks.rs`
//! compares with ours.
//!
//! A revocation is an account change like any other. It passes through this room like this:
//!
//! 1. An applied entry moves the revision, which wakes the publisher.
//! 2. The publisher asks the resolver which accounts changed since it last asked.
//! 3. For each account it looks up the *current* token at the moment of sending, and publishes it.
//! 4. The servers reply. One reply shows that the NATS cluster was reached. The change is sent again to each server that
//!    answered earlier changes but not this one, until it answers, for at most ten minutes. Then the change is finished.
//! 5. The mesh agrees on the position, up to which every change is finished, at most once a second. After a restart the
//!    publisher continues from there.
//!
//! An account's first revision goes behind such changes: an import of any size keeps no revocation waiting.
//!
//! This room promises that each change is sent to every server that is connected at that moment, again and again until it
//! answers (G5). Servers cut off then are told when they are heard again, unless this node was restarted, lost its connection or
//! was replaced as the publisher meanwhile: which servers should have answered is remembered in memory only. When a message, a reply, a connection or this process is lost, the
//! change is still above the position, and is sent again. Only keys and revisions are remembered, never a token, so that an older token never follows a
//! newer one (I7).
//!
//! It never decides what is stored, and never believes what a server says about an account. No upload and no lookup
//! waits for it.

mod clocks;
mod cluster;
mod connection;
mod lease;
mod notices;
mod payload;
mod publish;
mod respond;
mod said;
mod subjects;
mod wait;

pub use cluster::start;
pub use lease::{Asked, Asking, Lease};
pub use respond::start as start_answering;
