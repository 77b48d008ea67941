//! jwtmesh: a full-mesh account resolver for NATS. This is the map.
//!
//! It answers one question, *what is the current token of this account?*, accepts one kind of change, *here is a
//! newer one, signed*, agrees on it, and tells the NATS clusters.
//!
//! # Rooms, in reading order
//!
//! | room | its sentence |
//! |---|---|
//! | [`jwt`] | what a valid token is |
//! | [`state`] | what the cluster has agreed |
//! | [`raft`] | how the nodes agree |
//! | [`resolver`] | the door: every lookup and every submission passes here |
//! | [`http`] | who asks |
//! | [`nats`] | who is told |
//! | [`node`] | puts the rooms together, starts and stops them |
//! | [`client`], [`cli`] | the administrator's hands |
//!
//! The shelf, for everyone above: [`clock`], [`tasks`], [`folder`], [`config`], [`tls`], [`listener`], [`api`]. Imports fall in this
//! direction only; `tests/tidy.rs` holds that line.
//!
//! # Four lives
//!
//! Each walk goes through files in one direction; the answer returns the way it came.
//!
//! - **A GET by nats-server.** `http/accounts.rs` makes the path an [`jwt::AccountKey`]; [`resolver::Resolver::lookup`]
//!   asks the state: [`state::State::account_at_hand`] looks into the memtable and the cache,
//!   [`state::State::account_in_file`] into redb as of its last commit. Nobody is waited
//!   for.
//! - **A POST by nsc.** `http/accounts.rs` bounds the body; [`resolver::Resolver::submit`] makes it a
//!   [`jwt::Verified`] claim or a [`jwt::Rejection`]; `raft/batch.rs` puts it into an entry with whatever else came
//!   in; `raft/log/` writes the entry and syncs it; `raft/machine.rs` hands it to [`state::State::apply`], which
//!   decides stored, unchanged or superseded. Later, off this way, `raft/flusher.rs` moves it into redb.
//! - **A revocation on its way.** An applied entry moves the revision; `nats/cluster.rs` wakes, asks the door for the
//!   accounts changed since its position, with their *current* tokens; `nats/propagate.rs` says what to send next;
//!   `nats/subjects.rs` gives it its subject. Nothing but a position is ever remembered.
//! - **A start.** `cli/serve.rs` reads the configuration; [`node::Node::start`] takes the data folder, opens both
//!   stores, lets Raft catch up with its own log, and only then answers.
//!
//! # Invariants
//!
//! - **I1** Only verified tokens are stored: [`jwt::Verified`] has one constructor.
//! - **I2** An account's issue time never goes backwards, nor back to what was replaced within one second:
//!   `state/accounts.rs`.
//! - **I3** The same log gives the same state: `state/` sees no clock, no chance and no configuration.
//! - **I4** Rows and the applied index move together, in memory and in redb: `state/mod.rs`, `state/flush.rs`.
//! - **I5** A vote or an entry is acknowledged only when on disk, and
//!   `purged <= checkpointed <= flushed <= applied <= committed`: `raft/log/`, `state/flush.rs`.
//! - **I6** A lookup never waits for another node: [`resolver`].
//! - **I7** A NATS cluster is sent the stored token, never a remembered one: `nats/cluster.rs`.
//! - **I8** No operator or account seed is ever read: [`config`] has no such setting.
//! - **I9** Every task is tracked and ends when told: [`node`]; `tokio::spawn` is a disallowed method.
//! - **I10** Nothing is unbounded: each limit is a constant with its reason beside it.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod folder;
pub mod http;
pub mod jwt;
pub mod listener;
pub mod nats;
pub mod node;
pub mod raft;
pub mod resolver;
pub mod sign;
pub mod state;
pub mod tasks;
pub mod tls;
