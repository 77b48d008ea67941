//! The log lines of the responder of one NATS cluster. A line that any user can cause is logged once a minute.

use std::sync::{Arc, Mutex, PoisonError};

use crate::jwt::{AccountKey, time};
use crate::nats::said::Said;
use crate::nats::subjects::{Denied, REQUESTS};
use crate::resolver::Revision;

/// Writes the log lines of one responder. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Notices {
    cluster: Arc<str>,
    said: Arc<Mutex<Said>>,
}

impl Notices {
    /// For the NATS cluster with this name.
    pub(super) fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.into(),
            said: Arc::default(),
        }
    }

    fn is_due(&self, what: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.is_due(what)
    }

    pub(super) fn answering(&self, url: &str) {
        tracing::debug!(nats_cluster = %self.cluster, url, "answering requests over the system account of this NATS cluster");
    }

    /// The connection is lost, or none could be opened. The publisher, which uses the same servers and creds, says so at
    /// once; this is for what only the second connection meets, such as a limit of connections.
    pub(super) fn not_answering(&self, reason: &str, since_seconds: u64) {
        if self.is_due("not answering") {
            tracing::warn!(
                nats_cluster = %self.cluster,
                reason,
                since_seconds,
                "this node cannot open the connection over which it answers requests of this NATS cluster; trying again"
            );
        }
    }

    pub(super) fn lost(&self, reason: &str) {
        tracing::debug!(nats_cluster = %self.cluster, reason, "the connection over which requests are answered is lost; connecting again");
    }

    /// Our user lacks a permission.
    pub(super) fn denied(&self, denied: &Denied, words: &str) {
        let subjects: Vec<&str> = REQUESTS.iter().map(|(subject, _)| *subject).collect();
        let remedy = format!(
            "run `nsc edit user -a SYS -n jwtmesh --allow-sub '{}' --allow-pub-response=-1`, then generate its creds again; \
             they are read within seconds. Where nobody is to be answered, set respond = false under [[nats]]",
            subjects.join(",")
        );
        match denied {
            Denied::Subscribe(subject) => tracing::warn!(
                nats_cluster = %self.cluster,
                complaint = words,
                "the user of the creds may not subscribe to {subject}, so such requests are not answered over this NATS \
                 cluster: {remedy}. Changes are propagated all the same"
            ),
            Denied::Publish => {
                if self.is_due("denied answers") {
                    tracing::warn!(
                        nats_cluster = %self.cluster,
                        complaint = words,
                        "the user of the creds may not publish answers, so requests over this NATS cluster are in vain: {remedy}"
                    );
                }
            }
        }
    }

    pub(super) fn complaint(&self, words: &str) {
        if self.is_due(words) {
            tracing::warn!(nats_cluster = %self.cluster, complaint = words, "the server complains to the connection over which requests are answered");
        }
    }

    /// Requests of this kind come faster than they are answered.
    pub(super) fn too_many(&self, kind: &str) {
        if self.is_due(kind) {
            tracing::warn!(
                nats_cluster = %self.cluster,
                requests = kind,
                "too many requests at once over this NATS cluster; some were refused, or not looked at"
            );
        }
    }

    pub(super) fn not_sent(&self, reason: &str) {
        if self.is_due(reason) {
            tracing::warn!(nats_cluster = %self.cluster, reason, "an answer could not be sent over this NATS cluster");
        }
    }

    /// A token that was sent to be stored was refused. `is_answered`: whoever sent it is told.
    pub(super) fn refused(&self, account: Option<AccountKey>, reason: &str, is_answered: bool) {
        let account = account.map(tracing::field::display);
        if is_answered {
            tracing::debug!(nats_cluster = %self.cluster, account, "submission over NATS refused: {reason}");
        } else if self.is_due(&format!("unanswered {reason}")) {
            tracing::warn!(
                nats_cluster = %self.cluster,
                account,
                "a submission over NATS was refused, and whoever sent it did not ask for an answer: {reason}"
            );
        }
    }

    /// A token that somebody else published to the servers was stored. They may publish all accounts: one a minute is
    /// logged at level info.
    pub(super) fn adopted(&self, account: AccountKey, revision: Revision, issued_at: Option<i64>) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    nats_cluster = %self.cluster,
                    %account,
                    revision,
                    issued_at,
                    "adopted a newer JWT of this account, which somebody else published to the NATS servers; others within a \
                     minute are logged at level debug"
                )
            };
        }
        if self.is_due("adopted") {
            line!(info)
        } else {
            line!(debug)
        }
    }

    /// A token that somebody else published to the servers was refused.
    pub(super) fn overruled(&self, account: AccountKey, issued_at: Option<i64>, reason: &str) {
        if self.is_due(&format!("overruled {account}")) {
            tracing::warn!(
                nats_cluster = %self.cluster,
                %account,
                issued_at,
                issued = issued_at.map(time),
                "somebody else published a JWT of this account to the NATS servers, which may have taken it; it is refused \
                 here, and the present one, if there is one, is sent to them again: {reason}"
            );
        }
    }

    /// Nothing could be agreed on about a token that somebody else published to the servers.
    pub(super) fn not_adopted(&self, account: AccountKey, issued_at: Option<i64>, reason: &str) {
        if self.is_due(&format!("not adopted {account}")) {
            tracing::warn!(
                nats_cluster = %self.cluster,
                %account,
                issued_at,
                "somebody else published a JWT of this account to the NATS servers, which may have taken it; it could not be \
                 stored here: push it again. {reason}"
            );
        }
    }

    /// A lookup or a pack could not be answered.
    pub(super) fn unread(&self, what: &str, reason: &str) {
        if self.is_due(&format!("{what}: {reason}")) {
            tracing::warn!(nats_cluster = %self.cluster, reason, "{what} could not be answered over this NATS cluster");
        }
    }

    pub(super) fn packed(&self, accounts: u64, elapsed_ms: u64) {
        tracing::debug!(nats_cluster = %self.cluster, accounts, elapsed_ms, "sent all accounts over this NATS cluster");
    }
}
