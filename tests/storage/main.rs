//! The two stores of a node, on real disks and on disks that lose what was not synced.

mod suite;
