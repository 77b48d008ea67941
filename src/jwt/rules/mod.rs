//! The rules that the jwt library treats as blocking: nats-server would refuse a token that breaks one.
//!
//! Each broken rule is an `Issue` with a code and a sentence; up to ten are collected, so that a token can be corrected
//! in one go. What nats-server accepts but the signer probably does not want is a warning, of the same form: it never
//! refuses a token. Fields are read where they are judged, and one of the wrong type ends the reading with a
//! `Rejection`. The token's own signature, issuer and times are not checked here. Only `imports.rs` verifies signatures:
//! those of the activation tokens inside an account.

mod account;
mod exports;
mod imports;
mod info;
mod issues;
mod mapping;
mod operator;
mod shape;
mod subject;
mod url;
mod user;

pub(super) use account::{account, mappings};
pub(super) use imports::{activation, services};
pub(super) use issues::Issues;
pub(super) use operator::operator;
pub(super) use shape::{Account, doubtful_times, revocations};
pub(super) use subject::{Overlap, has_wildcards, overlap};
pub(super) use user::user;
