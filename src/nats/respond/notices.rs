//! The log lines of the responder of one NATS cluster. Of the lines that any user can cause, one of each kind is logged a
//! minute, with the number of those before it that were not: their words are the user's choice, so that lines kept apart by
//! their words could fill the log, or keep others out of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::jwt::{AccountKey, time};
use crate::nats::said::{AGAIN, Said};
use crate::nats::subjects::{self, Denied, REQUESTS};
use crate::resolver::Revision;

/// Writes the log lines of one responder. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Notices {
    cluster: Arc<str>,
    kinds: Arc<Mutex<Kinds>>,
    /// The accounts whose overruling was logged: each is named, as far as there is room.
    overruled: Arc<Mutex<Said>>,
}

impl Notices {
    /// For the NATS cluster with this name.
    pub(super) fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.into(),
            kinds: Arc::default(),
            overruled: Arc::default(),
        }
    }

    /// Whether a line of this kind is due; if so, how many were not logged since the last one.
    fn due(&self, kind: &'static str) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.due(kind)
    }

    /// The same where the first line about `subject` is always due.
    fn due_of(&self, subject: &str, kind: &'static str) -> Option<u64> {
        let is_new = {
            let mut said = self.overruled.lock().unwrap_or_else(PoisonError::into_inner);
            said.is_due(subject)
        };
        if is_new { Some(0) } else { self.due(kind) }
    }

    pub(super) fn answering(&self, url: &str) {
        tracing::debug!(nats_cluster = %self.cluster, url, "answering requests over the system account of this NATS cluster");
    }

    /// The connection is lost, or none could be opened. The publisher, which uses the same servers and creds, says so at
    /// once; this is for what only the second connection meets, such as a limit of connections.
    pub(super) fn not_answering(&self, reason: &str, since_seconds: u64) {
        if self.due("not answering").is_some() {
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
    pub(super) fn denied(&self, user: &str, denied: &Denied, words: &str) {
        let subjects: Vec<&str> = REQUESTS.iter().map(|(subject, _)| *subject).collect();
        let remedy = format!(
            "run `nsc edit user -a SYS -n {user} --allow-pub '{}' --allow-sub '{}'`, then generate its creds again; they are \
             read within seconds. Where no request is to be answered, set respond = false under [[nats]]",
            subjects::ANSWERS.join(","),
            subjects.join(",")
        );
        match denied {
            Denied::Subscribe(subject) => {
                if self.due("denied requests").is_some() {
                    tracing::warn!(
                        nats_cluster = %self.cluster,
                        complaint = words,
                        "the user of the creds may not subscribe to {subject}, so such requests are not answered over this \
                         NATS cluster: {remedy}. Changes are propagated all the same"
                    );
                }
            }
            Denied::Publish => {
                if self.due("denied answers").is_some() {
                    tracing::warn!(
                        nats_cluster = %self.cluster,
                        complaint = words,
                        "the user of the creds may not publish answers, so requests over this NATS cluster get no answer: {remedy}"
                    );
                }
            }
        }
    }

    pub(super) fn complaint(&self, words: &str) {
        if let Some(not_logged) = self.due("complaints") {
            tracing::warn!(nats_cluster = %self.cluster, not_logged, complaint = words, "the server complains to the connection over which requests are answered");
        }
    }

    /// Requests of this kind come faster than they are answered.
    pub(super) fn too_many(&self, kind: &'static str) {
        if let Some(not_logged) = self.due(kind) {
            tracing::warn!(
                nats_cluster = %self.cluster,
                not_logged,
                requests = kind,
                "too many requests at once over this NATS cluster; some were refused, or not looked at"
            );
        }
    }

    pub(super) fn not_sent(&self, reason: &str) {
        if let Some(not_logged) = self.due("not sent") {
            tracing::warn!(nats_cluster = %self.cluster, not_logged, reason, "an answer could not be sent over this NATS cluster");
        }
    }

    /// A token that was sent to be stored was refused. `is_answered`: the sender is told.
    pub(super) fn refused(&self, account: Option<AccountKey>, reason: &str, is_answered: bool) {
        let account = account.map(tracing::field::display);
        if is_answered {
            tracing::debug!(nats_cluster = %self.cluster, account, "submission over NATS refused: {reason}");
        } else if let Some(not_logged) = self.due("refused without an answer") {
            tracing::warn!(
                nats_cluster = %self.cluster,
                not_logged,
                account,
                "a submission over NATS was refused, and its sender did not ask for an answer: {reason}"
            );
        }
    }

    /// Accounts were not deleted. `is_answered`: the sender is told.
    pub(super) fn not_deleted(&self, reason: &str, is_answered: bool) {
        if is_answered {
            tracing::debug!(nats_cluster = %self.cluster, "request to delete accounts refused: {reason}");
        } else if let Some(not_logged) = self.due("not deleted, without an answer") {
            tracing::warn!(
                nats_cluster = %self.cluster,
                not_logged,
                "a request over NATS to delete accounts was refused, and its sender did not ask for an answer: {reason}"
            );
        }
    }

    /// A token that another sender published to the servers was stored. They may publish all accounts: one a minute is
    /// logged at level info.
    pub(super) fn adopted(&self, account: AccountKey, revision: Revision, issued_at: Option<i64>) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    nats_cluster = %self.cluster,
                    %account,
                    revision,
                    issued_at,
                    "adopted a newer JWT of this account, which another sender published to the NATS servers; others within a \
                     minute are logged at level debug"
                )
            };
        }
        if self.due("adopted").is_some() {
            line!(info)
        } else {
            line!(debug)
        }
    }

    /// A token that another sender published to the servers was refused.
    pub(super) fn overruled(&self, account: AccountKey, issued_at: Option<i64>, reason: &str) {
        if let Some(not_logged) = self.due_of(&account.to_string(), "overruled again") {
            tracing::warn!(
                nats_cluster = %self.cluster,
                %account,
                issued_at,
                issued = issued_at.map(time),
                not_logged,
                "another sender published a JWT of this account to the NATS servers, which may have taken it; it is refused \
                 here, and the present one, if there is one, is sent to them again: {reason}"
            );
        }
    }

    /// A JWT of `account` that another mesh sends is refused again and again, and overruled.
    pub(super) fn disagree(&self, account: AccountKey, (node, other): (&str, &str), mesh: &str, longest_seconds: u64) {
        let who = match other {
            "" => format!("node {node} of another mesh"),
            other => format!("node {node} of mesh {other}"),
        };
        if let Some(not_logged) = self.due_of(&format!("disagree {account}"), "disagree") {
            tracing::error!(
                nats_cluster = %self.cluster,
                %account,
                not_logged,
                "two meshes disagree about this account: {who} sends the NATS servers a JWT again and again that is refused here, \
                 and this mesh ({mesh}) sends its own in its place. It now waits longer each time, up to {longest_seconds} seconds, \
                 in which the servers enforce the other one. Have only one of them send to these servers (remove the other's \
                 [[nats]]), or give both the same JWT: push one that was signed now to both; an account that was deleted or shut \
                 in one mesh must be deleted or shut in the other too"
            );
        }
    }

    /// Nothing could be agreed on about a token that another sender published to the servers.
    pub(super) fn not_adopted(&self, account: AccountKey, issued_at: Option<i64>, reason: &str) {
        if let Some(not_logged) = self.due("not adopted") {
            tracing::warn!(
                nats_cluster = %self.cluster,
                not_logged,
                %account,
                issued_at,
                "another sender published a JWT of this account to the NATS servers, which may have taken it; it could not be \
                 stored here: push it again. {reason}"
            );
        }
    }

    /// A lookup or a pack could not be answered.
    pub(super) fn unread(&self, what: &'static str, reason: &str) {
        if let Some(not_logged) = self.due(what) {
            tracing::warn!(nats_cluster = %self.cluster, not_logged, reason, "{what} could not be answered over this NATS cluster");
        }
    }

    pub(super) fn packed(&self, accounts: u64, elapsed_ms: u64) {
        tracing::debug!(nats_cluster = %self.cluster, accounts, elapsed_ms, "sent all accounts over this NATS cluster");
    }
}

/// When a line of each kind was logged last, and how many were not logged since. The code names all kinds.
#[derive(Debug, Default)]
struct Kinds(HashMap<&'static str, (Instant, u64)>);

impl Kinds {
    fn due(&mut self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        match self.0.get_mut(kind) {
            Some((at, not_logged)) if *at + AGAIN > now => {
                *not_logged += 1;
                None
            }
            known => {
                let not_logged = known.map_or(0, |(_, not_logged)| *not_logged);
                self.0.insert(kind, (now, 0));
                Some(not_logged)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn g12_each_kind_is_logged_once_a_minute_with_the_number_of_the_others() {
        let mut kinds = Kinds::default();
        assert_eq!(kinds.due("refused"), Some(0));
        for _ in 0..100 {
            assert_eq!(kinds.due("refused"), None);
        }
        assert_eq!(kinds.due("overruled"), Some(0), "another kind is not kept out");
        tokio::time::advance(AGAIN).await;
        assert_eq!(kinds.due("refused"), Some(100));
        assert_eq!(kinds.due("refused"), None);
    }
}
