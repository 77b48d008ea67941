//! THE WORDS OF THE PROTOCOL: every `$SYS` subject, and the shape of each reply. No I/O.

mod names;
mod replies;

pub(super) use names::{INBOX_PREFIX, MissingPermission, about, missing_permission, reply_to, update};
pub(super) use replies::{Reply, Verdict, clip};
