//! The rules that the jwt library treats as blocking, so that nats-server would refuse what breaks one.
//!
//! Each has a code and a sentence. Reading and judging go together: a field of the wrong type is a `Rejection`.

mod account;
mod exports;
mod imports;
mod info;
mod issues;
mod operator;
mod shape;
mod subject;
mod url;

pub(super) use account::account;
pub(super) use operator::operator;
pub(super) use shape::{Account, revocations};
