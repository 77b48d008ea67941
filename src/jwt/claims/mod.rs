//! WHAT CLAIMS SAY, one file for each kind that the mesh stores or obeys.
//!
//! Each file applies the `rules/` of its kind to parsed claims and returns the fields that this program uses as a plain
//! struct. Signature, trust and times are not checked here but before, in `trust.rs`.

pub(super) mod account;
pub(super) mod delete;
pub(super) mod operator;
