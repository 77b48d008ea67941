//! jwtmesh: a full-mesh account resolver for NATS. This is the map of its source.
//!
//! It answers one question, *what is the current token of this account?*, and accepts one kind of change, *here is a
//! newer one, signed*. The nodes agree on the change, and the NATS clusters are sent it.
//!
//! # Rooms
//!
//! A room is a module at this level. Its first line says what it owns, its opening page how it works and what it never
//! does. In reading order, from the bottom up:
//!
//! | room | what it owns |
//! |---|---|
//! | [`jwt`] | what a valid token is |
//! | [`state`] | what the mesh has agreed |
//! | [`raft`] | how the nodes agree: the log on disk, proposals, the peers, the two stores |
//! | [`resolver`] | the single entry point: every lookup and every submission passes here |
//! | [`http`] | the public port for nats-server and nsc, and `/v1` on the admin socket |
//! | [`nats`] | publishing changes to the NATS clusters, and answering requests that arrive over them |
//! | [`node`] | the order of a start and of a shutdown |
//! | [`cli`] | the command line; [`client`] makes its requests, [`sign`] is the only code that signs |
//!
//! Shared leaf modules: [`listener`] (a port without routes), [`tls`], [`config`], [`folder`] (the data folder),
//! [`tasks`] (every task's owner, and the first fault), [`api`] (JSON shapes), [`clock`], [`panics`] (a library's, caught).
//!
//! Imports point downward only, between rooms and within each of them: `tests/tidy.rs` has both orders as tables.
//!
//! # Four walks
//!
//! Each goes through files in one direction; the answer returns the same way.
//!
//! - **A GET by nats-server.** `http/public/accounts.rs` turns the path into an [`jwt::AccountKey`];
//!   [`resolver::Resolver::lookup`] asks the state: [`state::State::account_at_hand`] looks into the memtable and the
//!   cache, [`state::State::account_in_file`] into redb as of its last commit. No other node is asked.
//! - **A POST by nsc.** `http/upload.rs` bounds the body; [`resolver::Resolver::submit`] makes it [`jwt::Verified`]
//!   claims or a [`jwt::Rejection`]; `raft/propose/batch.rs` puts it into an entry together with the other waiting
//!   submissions; `raft/log/writer.rs` writes the entry and syncs it; `raft/machine.rs` hands it to
//!   [`state::State::apply`], where `state/apply/accounts.rs` decides stored, unchanged or superseded. Later
//!   `raft/stores/flusher.rs` moves it into redb.
//! - **A revocation.** It is an account change like any other. An applied entry moves the revision; `nats/cluster/` wakes and asks the resolver for the
//!   accounts changed since its position; `nats/publish/` decides what to send next; the *current* token is looked up
//!   at that moment and published under a subject from `nats/subjects/`. Nothing but a position is remembered.
//! - **A start.** `cli/serve.rs` reads the configuration; `node/assemble.rs` takes the data folder, opens both stores,
//!   lets Raft catch up with its own log, and only then answers.
//!
//! # Where to look
//!
//! | question | file |
//! |---|---|
//! | Which of two accounts' tokens is newer? | `state/apply/accounts.rs`, with `AccountRow::supersedes` in `state/rows.rs`; of operators: `state/apply/operators.rs` |
//! | Whose is an account after its operator was replaced? | `Trust::owner` in `state/rows.rs` |
//! | Why is a token refused? | `jwt/rejection.rs`, and `jwt/rules/` for its content |
//! | Which status and code does a failure get? | `http/error.rs`; the sentence comes from the error itself, such as `resolver/error.rs` for a superseded token |
//! | What happens to a log that ends in the middle of a write? | `raft/log/open/torn.rs` |
//! | What do nodes say to each other, and who may? | `raft/peer/messages.rs`, `raft/peer/handler.rs` |
//! | Who publishes to a NATS cluster? | `nats/lease.rs` |
//! | What is answered over NATS, and with what? | `nats/respond/`, with the shapes in `nats/subjects/requests.rs` |
//! | Which commands can change the state? | `state/command.rs`, one file each in `state/apply/` |
//! | What does a setting mean? | `config/`: `text.rs` as written, `meaning.rs` as meant, `read.rs` between them |
//! | What does an exit code mean? | `cli/exit.rs` |
//!
//! # Invariants
//!
//! - **I1** Only verified tokens are stored: [`jwt::Verified`] has one constructor a kind of claims.
//! - **I2** An account's issue time never goes backwards, nor back to a token that was replaced within
//!   the same second (the last 64 are remembered). Only an administrator's override may set it back, and it bars the
//!   tokens that it went before: `state/apply/accounts.rs`.
//! - **I3** The same log gives the same state: `state/` sees no clock, no chance and no configuration.
//! - **I4** Rows and the applied index move together, in memory and in redb: `state/mod.rs`, `state/recent/flush.rs`.
//! - **I5** A vote or an entry is acknowledged only when on disk, and
//!   `purged <= checkpointed <= flushed <= applied <= committed`: `raft/log/`, `state/recent/live.rs`.
//! - **I6** A lookup never waits for another node: [`resolver`].
//! - **I7** A NATS cluster is sent the stored token, never a remembered one, and by one node at a time:
//!   `nats/cluster/`, `nats/lease.rs`.
//! - **I8** No operator or account seed is ever read by a node: [`config`] has no such setting, and no room of a node
//!   may name [`sign`], nor may `cli/serve.rs`.
//! - **I9** Every task is tracked and ends when it is told to: [`tasks`]; `tokio::spawn` is a disallowed method.
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
pub mod panics;
pub mod raft;
pub mod resolver;
pub mod sign;
pub mod state;
pub mod tasks;
pub mod tls;
