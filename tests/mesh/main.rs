//! Several nodes under simulated time: real logs, states and agreement, and the real resolver, forwarding and lease, over a
//! network that delays, loses and cuts, on disks that stall, fill up and lose what was not synced, with clocks that differ. Clients
//! of every node are held to what they were told, and so is a NATS cluster.
//!
//! Everything random follows from a seed: a failure prints its seed, which replays it.

#[cfg(test)]
mod clients;
#[cfg(test)]
#[path = "../storage/disk.rs"]
#[expect(dead_code, reason = "the tests of the stores use the rest")]
mod disk;
#[cfg(test)]
mod election;
#[cfg(test)]
mod nats;
#[cfg(test)]
mod network;
#[cfg(test)]
mod node;
#[cfg(test)]
mod panics;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod publisher;
#[cfg(test)]
#[path = "../storage/redb.rs"]
#[expect(dead_code, reason = "the tests of the stores use the rest")]
mod redb;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod torn;
#[cfg(test)]
mod world;
