//! jwtmesh.

pub mod api;
pub mod clock;
pub mod config;
pub mod fault;
pub mod folder;
pub mod jwt;
pub mod raft;
pub mod state;
