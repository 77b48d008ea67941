//! What the log says of one NATS cluster, and how often: a line that returns with every attempt is said once a minute.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Server;
use super::publish::{Lane, Summary};
use super::subjects::{MissingPermission, Reply, Verdict};
use crate::jwt::AccountKey;

/// How soon the same is said again: often enough to be seen by somebody who begins to look.
const AGAIN: Duration = Duration::from_secs(60);

/// Different lines that are remembered. They are few; a server that makes up new ones is not listened to.
const SAID: usize = 64;

/// What `said` calls a connection, before its URL.
const CONNECTED: &str = "connected to ";

/// Servers named in one line.
const NAMES: usize = 8;

/// How often catching up says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// The voice of the task that keeps one NATS cluster told.
pub(super) struct Notices {
    cluster: String,
    /// What was said, and when.
    said: HashMap<String, Instant>,
    progress_at: Instant,
}

impl Notices {
    /// Of the NATS cluster with this name.
    pub(super) fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            said: HashMap::new(),
            progress_at: Instant::now(),
        }
    }

    /// A connection was of use; whatever follows is news again.
    pub(super) fn forget(&mut self) {
        self.said.clear();
    }

    /// Whoever read of the trouble wants to read of its end.
    fn recovery_is_news(&mut self) {
        self.said.retain(|line, _| !line.starts_with(CONNECTED));
    }

    pub(super) fn connected(&mut self, url: &str, server: &Server) {
        if self.is_due(&format!("{CONNECTED}{url}")) {
            tracing::info!(
                nats_cluster = %self.cluster,
                url,
                server = %server.name,
                version = %server.version,
                "connected to NATS cluster"
            );
        }
    }

    pub(super) fn not_connected(&mut self, reason: &str) {
        if self.is_due(reason) {
            self.recovery_is_news();
            tracing::warn!(nats_cluster = %self.cluster, reason, "not connected to this NATS cluster; trying on");
        }
    }

    pub(super) fn lost(&mut self, reason: &str) {
        if self.is_due(&format!("lost: {reason}")) {
            self.recovery_is_news();
            tracing::warn!(nats_cluster = %self.cluster, reason, "the connection to this NATS cluster is lost; connecting again");
        }
    }

    pub(super) fn going_away(&self) {
        tracing::info!(nats_cluster = %self.cluster, "the server we are connected to is going away");
    }

    pub(super) fn catching_up(&mut self, from: u64, to: u64) {
        if self.is_due("catching up") {
            tracing::info!(nats_cluster = %self.cluster, from, to, "telling it what may have passed it by");
        }
        self.progress_at = Instant::now();
    }

    /// How far catching up is, after changes of `lane` were read.
    pub(super) fn progress(&mut self, lane: Lane, catching_up: Option<(u64, u64)>) {
        if lane == Lane::Fresh {
            return;
        }
        match catching_up {
            None => {
                if self.is_due("caught up") {
                    tracing::info!(nats_cluster = %self.cluster, "everything that may have passed it by was sent");
                }
            }
            Some((at, to)) if self.progress_at.elapsed() >= PROGRESS_EVERY => {
                self.progress_at = Instant::now();
                tracing::info!(nats_cluster = %self.cluster, at, to, "still telling it what may have passed it by");
            }
            Some(_) => {}
        }
    }

    pub(super) fn unreadable(&mut self, reason: &str) {
        if self.is_due(reason) {
            tracing::warn!(nats_cluster = %self.cluster, reason, "the changes to tell it of cannot be read; trying on");
        }
    }

    pub(super) fn too_large(&mut self, account: AccountKey, revision: u64, bytes: usize, limit: usize) {
        // Anybody may ask for it to be sent again and again.
        if !self.is_due(&format!("too large {account} {revision}")) {
            return;
        }
        tracing::error!(
            nats_cluster = %self.cluster,
            %account,
            revision,
            token_bytes = bytes,
            max_payload_bytes = limit,
            "this account's JWT has {bytes} bytes, and the NATS server takes messages of {limit}: it cannot be told of this \
             change. Raise max_payload above {bytes} on all its servers, or make the JWT smaller (old revocations, \
             imports), and push it again; servers that restart fetch it over HTTP"
        );
    }

    pub(super) fn asked_too_much(&mut self, lost: u64) {
        if !self.is_due("asked too much") {
            return;
        }
        tracing::warn!(nats_cluster = %self.cluster, lost, "asked to send too many accounts again at once; ask for the rest again");
    }

    pub(super) fn no_room(&mut self, account: AccountKey) {
        if !self.is_due("no room") {
            return;
        }
        tracing::warn!(nats_cluster = %self.cluster, %account, "too many accounts are waiting to be sent; ask for this one again");
    }

    pub(super) fn told(&mut self, summary: &Summary) {
        self.missing(summary);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    nats_cluster = %self.cluster,
                    account = %summary.account,
                    revision = summary.revision,
                    updated = summary.updated,
                    skipped = summary.skipped,
                    refused = summary.refused,
                    first_answer_ms = summary.first_answer_ms,
                    again = summary.again,
                    "account propagated"
                )
            };
        }
        // One line for each of a million accounts at the first start would hide all others.
        if summary.routine { line!(debug) } else { line!(info) }
    }

    /// Servers that should have answered and did not. Every change finds the same ones, so it is said once a minute.
    fn missing(&mut self, summary: &Summary) {
        if summary.missing.is_empty() {
            return;
        }
        let mut servers = summary.missing[..summary.missing.len().min(NAMES)].join(", ");
        if summary.missing.len() > NAMES {
            servers.push_str(", and others");
        }
        let (cluster, account, revision) = (self.cluster.clone(), summary.account, summary.revision);
        if summary.again && self.is_due(&format!("waiting for {servers}")) {
            tracing::warn!(
                nats_cluster = cluster,
                servers,
                %account,
                revision,
                "servers that answered earlier changes have not answered this one; it is sent again until they do"
            );
        } else if !summary.again && self.is_due(&format!("not waiting for {servers}")) {
            tracing::warn!(
                nats_cluster = cluster,
                servers,
                %account,
                revision,
                "servers that answered earlier changes never answered this one, and are no longer waited for. Those that \
                 still run may enforce an older JWT: restart them, then they fetch this one"
            );
        }
    }

    /// What a server answered; `routine`: as one of many.
    pub(super) fn answer(&self, account: AccountKey, revision: u64, reply: &Reply, routine: bool) {
        let (cluster, server) = (self.cluster.as_str(), reply.server.as_str());
        match &reply.verdict {
            Verdict::Updated => {
                tracing::debug!(nats_cluster = cluster, server, %account, revision, result = "updated", "a server answered");
            }
            Verdict::Skipped if routine => {
                tracing::debug!(nats_cluster = cluster, server, %account, revision, result = "skipped", "a server answered");
            }
            Verdict::Skipped => {
                tracing::info!(nats_cluster = cluster, server, %account, revision, result = "skipped", "a server does not have this account loaded");
            }
            Verdict::Refused(reason) => {
                tracing::info!(nats_cluster = cluster, server, %account, revision, result = %reason, "a server refused this account's JWT");
            }
        }
    }

    /// A server refused an account's JWT for the last time. It may refuse thousands, so one of them is named a minute.
    pub(super) fn refused(&mut self, account: AccountKey, revision: u64, server: &str, words: &str) {
        if self.is_due(&format!("{server} refused: {words}")) {
            tracing::error!(
                nats_cluster = %self.cluster,
                server,
                %account,
                revision,
                result = words,
                "a server keeps refusing this account's JWT, and enforces an older one. If its operator JWT is older than the \
                 one jwtmesh has, give it that one and restart it: a nats-server does not reload operators"
            );
        }
    }

    pub(super) fn no_answer(&self, account: AccountKey, revision: u64, bytes: usize) {
        tracing::warn!(nats_cluster = %self.cluster, %account, revision, bytes, "an answer that no nats-server gives");
    }

    pub(super) fn nobody(&mut self) {
        if self.is_due("nobody") {
            tracing::warn!(
                nats_cluster = %self.cluster,
                "nobody listens to $SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE here: the creds are of a user outside the system account, or \
                 no server has an account resolver. Trying on"
            );
        }
    }

    pub(super) fn complaint(&mut self, words: &str) {
        if self.is_due(words) {
            tracing::warn!(nats_cluster = %self.cluster, complaint = words, "a complaint of the server");
        }
    }

    pub(super) fn missing_permission(&mut self, permission: MissingPermission, words: &str) {
        let advice = match permission {
            MissingPermission::Publish => {
                "the user may not tell servers of changes: `nsc edit user -a SYS -n jwtmesh --allow-pub \
                 '$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE'`, then generate its creds again; they are read within seconds"
            }
            MissingPermission::Subscribe => {
                "the user may not receive the servers' answers: `nsc edit user -a SYS -n jwtmesh --allow-sub \
                 '_INBOX.jwtmesh.>'`, then generate its creds again; they are read within seconds"
            }
        };
        // By the advice, for each complaint names another account.
        if self.is_due(advice) {
            tracing::error!(nats_cluster = %self.cluster, complaint = words, "{advice}");
        }
    }

    /// Whether `what` was not said within the last minute; if so, it is now.
    fn is_due(&mut self, what: &str) -> bool {
        let now = Instant::now();
        self.said.retain(|_, at| *at + AGAIN > now);
        if self.said.contains_key(what) || self.said.len() >= SAID {
            return false;
        }
        self.said.insert(what.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn g12_the_same_is_said_once_a_minute_and_no_more_than_so_many_different_things() {
        let mut notices = Notices::new("test");
        assert!(notices.is_due("refused"));
        tokio::time::advance(AGAIN - Duration::from_millis(1)).await;
        assert!(!notices.is_due("refused"));
        assert!(notices.is_due("something else"), "that is another matter");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(notices.is_due("refused"));
        let said = (0..1_000).filter(|n| notices.is_due(&n.to_string())).count();
        assert_eq!(said, SAID - 2);
        notices.forget();
        assert!(
            notices.is_due("refused"),
            "after a connection that was of use it is news"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_each_trouble_that_is_told_its_end_is_told_too() {
        let mut notices = Notices::new("test");
        let connection = format!("{CONNECTED}nats://127.0.0.1");
        assert!(notices.is_due(&connection) && !notices.is_due(&connection));
        notices.not_connected("refused");
        assert!(notices.is_due(&connection));
        notices.lost("closed");
        assert!(notices.is_due(&connection));
        notices.lost("closed");
        assert!(!notices.is_due(&connection), "a line that was not said needs no answer");
    }
}
