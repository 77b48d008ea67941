//! What the tests need: processes, keys, certificates, and clients that see the program from outside.

pub(crate) mod asker;
pub(crate) mod disks;
pub(crate) mod gate;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod mesh;
pub(crate) mod mint;
pub(crate) mod nats_server;
pub(crate) mod nats_user;
pub(crate) mod node;
pub(crate) mod nsc;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod tls;
pub(crate) mod tools;
