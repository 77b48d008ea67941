//! WHAT A VALID TOKEN IS. No I/O, no clock, no async.

mod nkey;

pub use nkey::{AccountKey, KEY_CHARS, KeyError, OperatorKey, UserKey, verify};
