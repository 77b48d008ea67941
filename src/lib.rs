//! jwtmesh.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod fault;
pub mod folder;
pub mod http;
pub mod jwt;
pub mod nats;
pub mod node;
pub mod raft;
pub mod resolver;
pub mod state;
pub mod tls;
