//! What the benches share: tokens, servers under measurement, load generators, tables.
//!
//! Every figure stands beside a peer's from the same run, because identical rounds on a shared machine swing by half;
//! only their ratio says something about the program.

pub(crate) mod arguments;
#[path = "../../tests/cluster/support/tls.rs"]
pub(crate) mod authority;
pub(crate) mod etcd;
pub(crate) mod mesh;
pub(crate) mod mint;
pub(crate) mod nats;
pub(crate) mod nginx;
pub(crate) mod node;
pub(crate) mod process;
#[path = "../../tests/cluster/support/proxy.rs"]
pub(crate) mod proxy;
pub(crate) mod rounds;
pub(crate) mod table;
pub(crate) mod tls;
pub(crate) mod upload;
pub(crate) mod wrk;
