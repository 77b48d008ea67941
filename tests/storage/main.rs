//! The two stores of a node, through their public interfaces: on real disks, and on disks that lose what was not
//! synced.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod deletes;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod driven;
#[cfg(test)]
mod failing;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod hanging;
#[cfg(test)]
mod log;
#[cfg(test)]
mod model;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod redb;
#[cfg(test)]
mod roster;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod state;
#[cfg(test)]
mod suite;
