//! THE DEMO: everything jwtmesh does, in one folder and one command.
//!
//! The first run makes keys, tokens and certificates in the folder; a later run finds and uses them. Each run starts a
//! node in this process, pushes the accounts and, if there is a nats-server, starts it, connects a client, revokes the
//! client's user and measures the time until the client is disconnected (`show.rs`). At the end everything that was
//! started is stopped.
//!
//! With `--nodes 3` the nodes are child processes (`mesh.rs`), so that the leader can be killed before the revocation
//! (`failover.rs`).
//!
//! Tokens are signed with `sign/`. A node gets its `cluster.toml` and nothing else: no seed of an operator or an
//! account reaches it.

mod certificates;
mod failover;
mod folder;
mod guide;
mod keys;
mod mesh;
mod server;
mod show;
mod stage;
mod story;

pub(super) use story::Demo;
