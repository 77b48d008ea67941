//! THE ONLY CODE THAT SIGNS: claims become tokens here, and a user's key becomes creds.
//!
//! The command line uses it for what an administrator does with keys on their own machine, such as `revoke` and the demo; tests and
//! benches make their tokens with it. No room of a running node may name it, nor may `cli/serve.rs`
//! (`tests/tidy.rs` checks both), so `serve` cannot sign. `claims.rs` builds claims and signs them, `keys.rs` reads an operator's key
//! file, `creds.rs` writes a user's creds. Nothing here verifies a
//! token; `jwt` does that.

mod claims;
mod creds;
mod keys;

pub use claims::{Claims, decode, encode};
pub use creds::creds;
pub use keys::{KeyFileError, SigningKey, operator_key};
