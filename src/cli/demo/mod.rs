//! THE DEMO: everything jwtmesh does, in one folder and one command.
//!
//! The first run makes keys, tokens and certificates in the folder; a later run finds and uses them. Each run starts a
//! node in this process, pushes the accounts and, if there is a nats-server, starts it, connects a client, revokes the
//! client's user and measures the time until the client is disconnected (`show.rs`). At the end everything that was
//! started is stopped.
//!
//! Tokens are signed with `sign/`. The node gets its `cluster.toml` and nothing else: no seed of an operator or an
//! account reaches it.

mod certificates;
mod folder;
mod guide;
mod keys;
mod server;
mod show;
mod stage;
mod story;

pub(super) use story::Demo;
