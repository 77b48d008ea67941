//! WHO IS UPDATED, AND WHO IS ANSWERED: every change is propagated to the NATS clusters, and requests that arrive over them
//! are answered. The only room that publishes to them.
//!
//! `respond/` answers the requests, on a connection of its own; the rest of this page is about propagation.
//!
//! In a mesh one node at a time publishes to a NATS cluster: the holder of the lease that was agreed on (`lease.rs`). It looks at
//! the lease before each message that it sends.
//!
//! Each NATS cluster has one publisher (`cluster/`). It is connected to one of the cluster's servers (`connection/`),
//! wakes when something changed, asks `publish/` for the next step and takes it, in the subjects and replies of the
//! protocol (`subjects/`). `notices.rs` writes its log lines. Each reply carries its server's time, which `clocks.rs`
//! compares with ours.
//!
//! A revocation is an account change like any other. It passes through this room like this:
//!
//! 1. An applied entry moves the revision, which wakes the publisher.
//! 2. The publisher asks the resolver which accounts changed since it last asked.
//! 3. For each account it looks up the *current* token at the moment of sending, and publishes it.
//! 4. The servers reply. One reply shows that the NATS cluster was reached. Each server is known, by its reports and its
//!    replies; one that does not reply is *behind* from that change on. Then the change is finished.
//! 5. The mesh agrees on the position, up to which every change is finished, and on the servers that are behind, at most
//!    once a second. After a restart, or on another node, the publisher continues from there.
//! 6. A server that is behind is asked again and again which accounts it has loaded. Once it answers, each of those that
//!    changed is looked at there, and sent if the server holds another token than the current one. Then it is up to date.
//!
//! An account's first revision goes behind such changes: an import of any size keeps no revocation waiting.
//!
//! This room promises that each change is in force at every server, or that the server is named as the one where it may not
//! be (G5), until the server says that it ends or an administrator has it forgotten. When a message, a reply, a connection or
//! this process is lost, the change is still above the position or its server behind, and it is sent again. Only keys and
//! revisions are remembered, never a token, so that an older token never follows a newer one (I7).
//!
//! What servers hold is read before it is overwritten, unless the change is fresh and each was looked at, or its token was
//! issued so late that none can hold a newer one; after changes, and in turn (G6). A token that differs is judged as any upload is: adopted, or overruled.
//!
//! It never decides what is stored, and never takes a server's word for what an account is. No upload and no lookup
//! waits for it, unless the caller asks for proof.

mod clocks;
mod cluster;
mod connection;
mod lease;
mod notices;
mod payload;
mod publish;
mod respond;
mod said;
mod subjects;
mod wait;

use crate::config::NatsCluster;
use crate::jwt::AccountKey;

pub use cluster::start;
pub use lease::{Asked, Asking, Lease};
pub use respond::start as start_answering;

/// The accounts of the users that connect to `clusters`, as their creds files say now. A file that cannot be used is left out:
/// what is wrong with it is logged when it is needed, for the connection. Reads the disk.
pub fn own_accounts(clusters: &[NatsCluster]) -> Vec<AccountKey> {
    let accounts = clusters.iter().map(|cluster| connection::account_of(&cluster.creds));
    accounts.flatten().collect()
}
