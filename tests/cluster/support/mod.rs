//! What the tests stand on: processes, keys, certificates and the clients that look at the program from outside.

pub(crate) mod http;
pub(crate) mod mint;
pub(crate) mod nats_server;
pub(crate) mod nats_user;
pub(crate) mod node;
pub(crate) mod nsc;
pub(crate) mod process;
pub(crate) mod tls;
pub(crate) mod tools;
