//! WHAT A VALID TOKEN IS. No I/O, no clock, no async.

mod account;
mod claims;
mod explain;
mod json;
mod nkey;
mod operator;
mod quote;
mod rejection;
mod rules;
mod token;

pub use account::AccountClaims;
pub use explain::{Explanation, explain, render_decoded};
pub use nkey::{AccountKey, KEY_CHARS, KeyError, KeyKind, OperatorKey, UserKey, kind, verify};
pub use operator::{OperatorClaims, TrustedKeys};
pub use quote::time;
pub use rejection::{Issue, Rejection};
pub use token::{MAX_TOKEN_BYTES, Token, Verified};
