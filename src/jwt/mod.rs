//! WHAT A VALID TOKEN IS. No I/O, no clock, no async.

mod claims;
mod explain;
mod json;
mod nkey;
mod opened;
mod quote;
mod rejection;
mod rules;
mod token;
mod trust;

pub use claims::account::AccountClaims;
pub use claims::operator::OperatorClaims;
pub use explain::{Explanation, explain, render_decoded};
pub use nkey::{AccountKey, KEY_CHARS, KeyError, KeyKind, OperatorKey, UserKey, kind, verify};
pub use quote::time;
pub use rejection::{Issue, Rejection};
pub use token::{MAX_TOKEN_BYTES, Token};
pub use trust::{TrustedKeys, Verified};
