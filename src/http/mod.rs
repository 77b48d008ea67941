//! THE PUBLIC PORT AND THE ADMIN SOCKET: HTTP in, the door's verbs out. Only `error.rs` names what a failure answers.

mod accounts;
mod admin;
mod error;
mod health;
mod operator;
mod pack;
mod public;
mod request;

pub use admin::{About, Admin};
pub use public::Public;
