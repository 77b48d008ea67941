//! THE WORDS OF THE PROTOCOL: every `$SYS` subject, and the shape of each reply. No I/O.
//!
//! An update is published to a subject that names its account (`names.rs`). The replies come back to a subject that
//! names account and revision, so that nothing has to be remembered to read them (`replies.rs`). Requests of others and
//! their answers are in `requests.rs`.

mod names;
mod replies;
mod requests;

pub(super) use names::{
    INBOX_PREFIX, MissingPermission, about, is_payload_violation, missing_permission, reply_to, update,
};
pub(super) use replies::{Reply, Verdict, clip};
pub(super) use requests::{
    ANSWERS, Asked, Denied, LISTED_KEY_BYTES, REQUESTS, ServerInfo, asked, denied, failed, is_from_publisher,
    kept_of_delete, listed, may_answer, not_deleted, packed, unverified, updated,
};
