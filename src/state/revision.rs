//! The number of a change.

/// The log index of the entry that wrote a row. Grows with every entry; several rows of one entry share it.
pub type Revision = u64;
