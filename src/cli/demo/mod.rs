//! THE DEMO: everything jwtmesh is about, in one folder and one command. What it signs, it signs with `sign/`.
//!
//! The node it starts is told nothing but its `cluster.toml`; no seed of an operator or an account reaches it.

mod certificates;
mod folder;
mod guide;
mod keys;
mod server;
mod show;
mod story;

pub(super) use story::Demo;
