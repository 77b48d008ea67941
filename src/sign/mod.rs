//! THE ONLY CODE THAT SIGNS: claims become tokens here, and a user's key becomes creds.
//!
//! The command line names it for what an administrator does with keys on their own machine, such as the demo; tests and
//! benches make their tokens with it. No room of a node may (`tests/tidy.rs`), so that `serve` provably cannot sign.

mod claims;
mod creds;

pub use claims::{Claims, decode, encode};
pub use creds::creds;
