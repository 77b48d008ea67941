//! THE WORDS OF THE PROTOCOL: every `$SYS` subject, and the shape of each reply. No I/O.
//!
//! An update is published to a subject that names its account (`names.rs`). The replies come back to a subject that
//! names account and revision, so that nothing has to be remembered to read them (`replies.rs`). What servers say of
//! themselves and of what they have loaded is in `servers.rs`. Requests of others and their answers are in `requests.rs`.

mod names;
mod replies;
mod requests;
mod servers;

pub(super) use names::{
    ACCOUNTS_OF_ALL, About, CONNECTIONS, INBOX_PREFIX, MissingPermission, PING, REPORTS, SHUTDOWNS, STREAMS, UPDATES,
    about, accounts_of, is_about_connections, is_about_streams, is_payload_violation, missing_permission, reply_to,
    reply_to_closed, reply_to_held, reply_to_loaded, reply_to_ping, reply_to_streams, update,
};
pub(super) use replies::{Reply, Verdict};
pub(super) use requests::{
    ANSWERS, Asked, Denied, LISTED_KEY_BYTES, OwnInfo, REQUESTS, Sender, asked, deleted, denied, failed,
    kept_of_delete, listed, may_answer, not_deleted, packed, sender, unverified, updated,
};
pub(super) use servers::{ServerInfo, clip, closed, closed_request, held, loaded, reporter, streams, streams_request};
