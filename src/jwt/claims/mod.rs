//! WHAT CLAIMS SAY, one file for each kind that the mesh stores.

pub(super) mod account;
pub(super) mod operator;
