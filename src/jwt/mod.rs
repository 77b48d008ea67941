//! WHAT A VALID TOKEN IS. No I/O, no clock, no async.
//!
//! This room refuses every token that nats-server would refuse, and also those that two readers could understand
//! differently. `tests/vectors.rs` compares its verdicts with those of the official Go library and lists each
//! difference: it is stricter in some cases, and more lenient only where nats-server itself is.
//!
//! An account's token passes through it in this order:
//!
//! 1. `token.rs`: the bytes become a [`Token`]: three parts of base64url, at most [`MAX_TOKEN_BYTES`] long. Line ends
//!    after it are cut off.
//! 2. `opened.rs`: the three parts are decoded and the header is checked.
//! 3. `json/`: the claims are parsed as Go's `encoding/json` parses them.
//! 4. `opened.rs`, `nkey.rs`: kind, version, issuer and signature are verified.
//! 5. `trust.rs`: the issuer must be one of the [`TrustedKeys`], and a signing key if its operator is strict.
//! 6. `opened.rs`: the times are compared with the `now` that the caller gives.
//! 7. `claims/`, `rules/`: the fields are read, and the rules that the jwt library calls blocking are applied.
//!
//! The result is a [`Verified`], which only `Verified::verify` makes, or a [`Rejection`]: a stable code and a sentence
//! that says what to do. An operator's token passes steps 1 to 4 and 7, and must be signed by its own identity key.
//! [`explain()`] takes the same steps to inform a person, but goes on after a defect as far as the token can be read.
//!
//! [`refusals()`] judges a token that was accepted by the rules of older nats-servers, which are stricter in a few cases.
//!
//! This room uses no private key, and no sentence of it repeats one that was sent by mistake (`quote.rs`).

mod claims;
mod explain;
mod json;
mod nkey;
mod older;
mod opened;
mod quote;
mod rejection;
mod rules;
mod token;
mod trust;

pub use claims::account::AccountClaims;
pub use claims::delete::DeleteClaims;
pub use claims::operator::OperatorClaims;
pub use explain::{Explanation, explain, render_decoded};
pub use nkey::{AccountKey, KEY_CHARS, KeyError, KeyKind, OperatorKey, UserKey, kind, verify};
pub use older::{OLDEST_SERVER, Refusal, ServerVersion, VersionError, refusals};
pub use quote::{time, without_seeds};
pub use rejection::{Issue, Rejection};
pub use token::{MAX_TOKEN_BYTES, Token};
pub use trust::{SharedKey, TrustedKeys, Verified};
