//! Tests of the promises from outside: real nodes, real nats-servers of several versions, the real nsc.
//!
//! Every test starts what it needs on ports and folders of its own, and waits for conditions, never for time.
//! The programs come from `tests/tools/fetch`.

#[cfg(test)]
mod support;

#[cfg(test)]
mod askers;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod cli;
mod clients;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod controllers;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod deletes;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod doubtful;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod forming;
#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http;
#[cfg(test)]
mod json;
#[cfg(test)]
mod kinds;
#[cfg(test)]
mod lookup;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod nsc;
#[cfg(test)]
mod older_copy;
#[cfg(test)]
mod older_servers;
#[cfg(test)]
mod order;
#[cfg(test)]
mod partition;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod propagation;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod publisher;
#[cfg(test)]
mod respond;
#[cfg(test)]
mod revoke;
#[cfg(test)]
mod senders;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod trust;
