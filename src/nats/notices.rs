//! The log lines about one NATS cluster. A line that would return with every attempt is logged once a minute.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Server;
use super::payload::Limit;
use super::publish::{Lane, News, Summary};
use super::said::{AGAIN, Said};
use super::subjects::{MissingPermission, Reply, ServerInfo, Verdict};
use crate::jwt::{AccountKey, time};

/// The prefix under which `said` remembers a connection; its URL follows.
const CONNECTED: &str = "connected to ";

/// How often the progress of catching up is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Writes the log lines of the publisher of one NATS cluster.
pub(super) struct Notices {
    cluster: String,
    said: Said,
    progress_at: Instant,
    firsts: Option<Firsts>,
}

/// New accounts that were propagated and not logged yet.
struct Firsts {
    accounts: u64,
    /// The last of them.
    last: AccountKey,
    since: Instant,
}

impl Notices {
    /// For the NATS cluster with this name.
    pub(super) fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            said: Said::default(),
            progress_at: Instant::now(),
            firsts: None,
        }
    }

    /// A connection was useful: from now on every line is new, and is logged again.
    pub(super) fn forget(&mut self) {
        self.said.forget();
    }

    /// After a logged failure the next connection is logged too, so that the log shows the end of the failure.
    fn log_next_connection(&mut self) {
        self.said.forget_those_with(CONNECTED);
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
            self.log_next_connection();
            tracing::warn!(nats_cluster = %self.cluster, reason, "cannot connect to this NATS cluster; trying again");
        }
    }

    /// Connected to another server at the same time, which the first connection does not reach.
    pub(super) fn also_connected(&mut self, url: &str, server: &Server) {
        if self.is_due(&format!("also {url}")) {
            tracing::info!(
                nats_cluster = %self.cluster,
                url,
                server = %server.name,
                "also connected to this server, which is not reached over the other connection: it is sent everything as well"
            );
        }
    }

    /// The server at `url` is reached over the first connection again.
    pub(super) fn no_longer_needed(&self, url: &str) {
        tracing::info!(
            nats_cluster = %self.cluster,
            url,
            "this server is reached over the first connection again; the one of its own is closed"
        );
    }

    /// Another connection than the first is lost.
    pub(super) fn another_lost(&mut self, url: &str) {
        if self.is_due(&format!("lost also {url}")) {
            tracing::info!(nats_cluster = %self.cluster, url, "the further connection to this server is lost");
        }
    }

    /// This node began to publish, or no longer does.
    pub(super) fn lease(&self, held: bool) {
        if held {
            tracing::info!(nats_cluster = %self.cluster, "this node publishes to this NATS cluster now");
        } else {
            tracing::info!(nats_cluster = %self.cluster, "another node may publish to this NATS cluster now");
        }
    }

    pub(super) fn lost(&mut self, reason: &str) {
        if self.is_due(&format!("lost: {reason}")) {
            self.log_next_connection();
            tracing::warn!(nats_cluster = %self.cluster, reason, "the connection to this NATS cluster is lost; connecting again");
        }
    }

    pub(super) fn going_away(&self) {
        tracing::info!(nats_cluster = %self.cluster, "the server we are connected to is going away");
    }

    pub(super) fn catching_up(&mut self, from: u64, to: u64) {
        if self.is_due("catching up") {
            tracing::info!(nats_cluster = %self.cluster, from, to, "sending what this NATS cluster may have missed");
        }
        self.progress_at = Instant::now();
    }

    /// Logs how far catching up is, after changes of `lane` were read.
    pub(super) fn progress(&mut self, lane: Lane, catching_up: Option<(u64, u64)>) {
        if lane.is_fresh() {
            return;
        }
        match catching_up {
            None => {
                if self.is_due("caught up") {
                    tracing::info!(nats_cluster = %self.cluster, "everything that this NATS cluster may have missed was sent");
                }
            }
            Some((at, to)) if self.progress_at.elapsed() >= PROGRESS_EVERY => {
                self.progress_at = Instant::now();
                tracing::info!(nats_cluster = %self.cluster, at, to, "still sending what this NATS cluster may have missed");
            }
            Some(_) => {}
        }
    }

    pub(super) fn unreadable(&mut self, reason: &str) {
        if self.is_due(reason) {
            tracing::warn!(nats_cluster = %self.cluster, reason, "cannot read the changes for this NATS cluster; trying again");
        }
    }

    /// An account's JWT has more `bytes` than a message may have.
    pub(super) fn too_large(&mut self, account: AccountKey, revision: u64, bytes: usize, limit: Limit) {
        // Clients may ask for it to be sent any number of times.
        if !self.is_due(&format!("too large {account} {revision}")) {
            return;
        }
        let most = limit.most();
        let why = match limit {
            Limit::Server(most) => format!(
                "the NATS server takes messages of at most {most}. Raise max_payload above {bytes} on all its servers"
            ),
            Limit::Stated(most) => format!(
                "the NATS servers take messages of at most {most} from the user that jwtmesh connects with: its JWT or \
                 its account's says so. Raise the payload limit of both (`nsc edit user --payload -1`, `nsc edit \
                 account --payload -1`)"
            ),
            Limit::Below(bytes) => format!(
                "the NATS servers have ended the connection over a message of {bytes}: the JWT of the user that jwtmesh \
                 connects with, or its account's, limits payloads. Raise the limit of both (`nsc edit user --payload \
                 -1`, `nsc edit account --payload -1`)"
            ),
        };
        tracing::error!(
            nats_cluster = %self.cluster,
            %account,
            revision,
            token_bytes = bytes,
            max_payload_bytes = most,
            "this account's JWT has {bytes} bytes, so the change cannot be sent: {why}, or make the JWT smaller (old \
             revocations, imports), and push it again; servers that restart fetch it over HTTP"
        );
    }

    /// The same for the server of a further connection only.
    pub(super) fn too_large_there(
        &mut self,
        url: &str,
        account: AccountKey,
        revision: u64,
        bytes: usize,
        limit: Limit,
    ) {
        if !self.is_due(&format!("too large {url} {account} {revision}")) {
            return;
        }
        tracing::error!(
            nats_cluster = %self.cluster,
            url,
            %account,
            revision,
            token_bytes = bytes,
            max_payload_bytes = limit.most(),
            "this account's JWT has {bytes} bytes, which is too large for this server: while its part of the NATS cluster is cut              off, the change cannot be sent to it. Raise max_payload there, and the payload limits of the user that jwtmesh connects with and of its account"
        );
    }

    pub(super) fn requests_dropped(&mut self, lost: u64) {
        if !self.is_due("requests dropped") {
            return;
        }
        tracing::warn!(nats_cluster = %self.cluster, lost, "too many requests to send an account again; some were dropped, repeat them");
    }

    pub(super) fn no_room(&mut self, account: AccountKey) {
        if !self.is_due("no room") {
            return;
        }
        tracing::warn!(nats_cluster = %self.cluster, %account, "too many accounts are waiting to be sent; request this one again");
    }

    pub(super) fn concluded(&mut self, summary: &Summary) {
        let what = match (summary.updated, summary.skipped, summary.refused) {
            (0, _, 1..) => "account refused",
            (0, 1.., 0) => "account sent; no server that answered has it loaded",
            _ if summary.missing > 0 => "account propagated to the servers that answered",
            (.., 1..) => "account propagated, and refused by some servers",
            _ => "account propagated to every server",
        };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    nats_cluster = %self.cluster,
                    account = %summary.account,
                    revision = summary.revision,
                    updated = summary.updated,
                    skipped = summary.skipped,
                    refused = summary.refused,
                    missing = summary.missing,
                    first_answer_ms = summary.first_answer_ms,
                    again = summary.again,
                    "{what}"
                )
            };
        }
        // No server has it loaded, as is usual for a new account: an import has a hundred thousand of them.
        let is_new = summary.first && summary.skipped > 0 && summary.updated + summary.refused == 0;
        if is_new && !summary.again {
            self.count_first(summary.account);
        }
        // One line for each of a million accounts at the first start would hide all others.
        if summary.routine || is_new {
            line!(debug)
        } else {
            line!(info)
        }
    }

    fn count_first(&mut self, account: AccountKey) {
        let firsts = self.firsts.get_or_insert_with(|| Firsts {
            accounts: 0,
            last: account,
            since: Instant::now(),
        });
        firsts.accounts += 1;
        firsts.last = account;
    }

    /// Logs how many new accounts were propagated: once a minute, and when no more are waiting.
    pub(super) fn firsts(&mut self, waiting: bool) {
        let due = |firsts: &mut Firsts| !waiting || firsts.since.elapsed() >= AGAIN;
        let Some(firsts) = self.firsts.take_if(due) else {
            return;
        };
        tracing::info!(
            nats_cluster = %self.cluster,
            accounts = firsts.accounts,
            last_account = %firsts.last,
            "new accounts propagated; no server has them loaded, and each fetches one when its first client connects"
        );
    }

    /// Logs what became of a server. Hundreds may be cut off at once: what exceeds the limit of different lines is left out.
    pub(super) fn server(&mut self, news: &News) {
        let cluster = self.cluster.clone();
        match news {
            News::Missing { server } => {
                if self.is_due(&format!("missing {}", server.id)) {
                    tracing::warn!(
                        nats_cluster = %cluster,
                        server = %server.name,
                        server_id = %server.id,
                        version = %server.version,
                        "this server does not answer, and may enforce older JWTs: it is asked until it answers, and then brought \
                         up to date. If it was shut down for good: `jwtmesh nats forget {}`",
                        server.id
                    );
                }
            }
            News::UpToDate {
                server,
                was_missing: true,
            } => {
                if self.is_due(&format!("back {}", server.id)) {
                    tracing::info!(
                        nats_cluster = %cluster,
                        server = %server.name,
                        server_id = %server.id,
                        "this server answers again, and enforces every change"
                    );
                }
            }
            News::UpToDate { server, .. } => {
                tracing::debug!(nats_cluster = %cluster, server = %server.name, server_id = %server.id, "this server enforces every change");
            }
            News::Gone { server } => {
                tracing::debug!(nats_cluster = %cluster, server = %server.name, server_id = %server.id, "this server has ended");
            }
        }
    }

    /// A server enforces another JWT of an account than the current one, which is refused. Of each server one is logged a
    /// minute: thousands may have changed while it was away.
    pub(super) fn other(&mut self, server: &ServerInfo, account: AccountKey, issued_at: Option<i64>, reason: &str) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    nats_cluster = %self.cluster,
                    server = %server.name,
                    server_id = %server.id,
                    %account,
                    issued_at,
                    issued = issued_at.map(time),
                    "this server enforces another JWT of this account than the current one, which is sent to it; others within \
                     a minute are logged at level debug: {reason}"
                )
            };
        }
        if self.is_due(&format!("other {}", server.id)) {
            line!(warn)
        } else {
            line!(debug)
        }
    }

    /// A server holds an older JWT of an account, and was not known to enforce the current one.
    pub(super) fn lags(&self, server: &ServerInfo, account: AccountKey, issued_at: Option<i64>) {
        tracing::debug!(
            nats_cluster = %self.cluster,
            server = %server.name,
            server_id = %server.id,
            %account,
            issued_at,
            issued = issued_at.map(time),
            "this server has an older JWT of this account still; the current one is sent to it"
        );
    }

    /// A server enforces the closing JWT of an account that is not shut here. It is said once of each account in a while.
    pub(super) fn is_shut(&mut self, server: &ServerInfo, account: AccountKey) {
        if self.is_due(&format!("shut {account}")) {
            tracing::warn!(
                nats_cluster = %self.cluster,
                server = %server.name,
                server_id = %server.id,
                %account,
                "this server enforces the closing JWT that is kept for this account, and the account is not shut here: the server \
                 was away when the account was opened again, or an older copy of this mesh's data was put back, or another mesh \
                 has shut it. The current JWT is sent, which opens it; `jwtmesh account kill` shuts it again"
            );
        }
    }

    /// A server enforces a JWT of an account that is not known here, and that is refused. It is said once of each account.
    pub(super) fn unknown_account(
        &self,
        server: &ServerInfo,
        account: AccountKey,
        issued_at: Option<i64>,
        reason: &str,
    ) {
        tracing::warn!(
            nats_cluster = %self.cluster,
            server = %server.name,
            server_id = %server.id,
            %account,
            issued_at,
            issued = issued_at.map(time),
            "this server has an account loaded that is not stored here, and its JWT is refused: {reason}"
        );
    }

    /// A newer JWT was stored because a server enforces it. After an older backup was put back there may be thousands.
    pub(super) fn adopted(&mut self, server: &ServerInfo, account: AccountKey, revision: u64, issued_at: Option<i64>) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    nats_cluster = %self.cluster,
                    server = %server.name,
                    server_id = %server.id,
                    %account,
                    revision,
                    issued_at,
                    issued = issued_at.map(time),
                    "adopted a newer JWT of this account, which this server enforces; others within a minute are logged at \
                     level debug"
                )
            };
        }
        if self.is_due(&format!("adopted {}", server.id)) {
            line!(warn)
        } else {
            line!(debug)
        }
    }

    /// Logs a server's answer. `routine`: it is one of many, of interest to a debugger only.
    pub(super) fn answer(&mut self, account: AccountKey, revision: u64, reply: &Reply, routine: bool) {
        let server = reply.server.name.as_str();
        let due =
            matches!(&reply.verdict, Verdict::Refused(reason) if self.is_due(&format!("{server} refuses: {reason}")));
        let cluster = &self.cluster;
        match &reply.verdict {
            Verdict::Updated => {
                tracing::debug!(nats_cluster = %cluster, server, %account, revision, result = "updated", "a server answered");
            }
            Verdict::Skipped if routine => {
                tracing::debug!(nats_cluster = %cluster, server, %account, revision, result = "skipped", "a server answered");
            }
            Verdict::Skipped => {
                tracing::info!(nats_cluster = %cluster, server, %account, revision, result = "skipped", "a server does not have this account loaded");
            }
            Verdict::Refused(reason) => {
                let version = reply.server.version.as_str();
                if due {
                    tracing::warn!(
                        nats_cluster = %cluster,
                        server,
                        version,
                        %account,
                        revision,
                        result = %reason,
                        "a server refused this account's JWT; it is sent again. If the operator was replaced or got another signing key, \
                         restart that server with the present operator JWT (`jwtmesh nats config`): it reads that only when it starts"
                    );
                } else if routine {
                    tracing::debug!(nats_cluster = %cluster, server, version, %account, revision, result = %reason, "a server refused this account's JWT");
                } else {
                    tracing::info!(nats_cluster = %cluster, server, version, %account, revision, result = %reason, "a server refused this account's JWT");
                }
            }
        }
    }

    /// A server refused an account's JWT for the last time. It may refuse thousands, so one a minute is logged.
    pub(super) fn refused(&mut self, account: AccountKey, revision: u64, server: &ServerInfo, words: &str) {
        let version = match server.version.as_str() {
            "" => "unknown",
            version => version,
        };
        let server = server.name.as_str();
        if self.is_due(&format!("{server} refused: {words}")) {
            tracing::error!(
                nats_cluster = %self.cluster,
                server,
                version,
                %account,
                revision,
                result = words,
                "nats-server {server}, version {version}, keeps refusing this account's JWT, and enforces an older one if it \
                 has one. Either its operator JWT is another than the one jwtmesh has: give it that one and restart it, since \
                 a nats-server does not reload operators. Or its rules are older than those of the version that jwtmesh \
                 follows: its own log has the reason, and a newer version or a changed account is the remedy"
            );
        }
    }

    /// Logs that the servers' clocks and ours began to differ, or agree again. `ours` in Unix seconds; `offset` is theirs
    /// minus ours, in seconds.
    pub(super) fn clocks(&self, differ: bool, ours: i64, offset: i64) {
        let (here, there) = (time(ours), time(ours.saturating_add(offset)));
        if differ {
            tracing::warn!(
                nats_cluster = %self.cluster,
                offset_seconds = offset,
                "this machine's clock says {here}, and those of the NATS servers say {there}: either may be wrong. A JWT is \
                 judged by the clock of the machine that checks it, so set both right"
            );
        } else {
            tracing::info!(
                nats_cluster = %self.cluster,
                offset_seconds = offset,
                "this machine's clock and those of the NATS servers agree again: {here}"
            );
        }
    }

    pub(super) fn unknown_reply(&self, account: AccountKey, revision: u64, bytes: usize) {
        tracing::warn!(nats_cluster = %self.cluster, %account, revision, bytes, "ignored a reply that no nats-server sends");
    }

    pub(super) fn no_responders(&mut self) {
        if self.is_due("no responders") {
            tracing::warn!(
                nats_cluster = %self.cluster,
                "no server listens to $SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE: the creds are of a user outside the system \
                 account, or no server has an account resolver. Trying again"
            );
        }
    }

    pub(super) fn foreign(&mut self, account: Option<AccountKey>, creds: &Path) {
        if self.is_due("foreign") {
            let account = account.map(tracing::field::display);
            tracing::error!(
                nats_cluster = %self.cluster,
                account,
                creds = %creds.display(),
                "the creds are of a user of this account, which is not the system account of a trusted operator: if the \
                 servers agree, no change reaches them. Make creds of the system account, as \
                 `nsc generate creds -a SYS -n USER` prints them; they are read within seconds"
            );
        }
    }

    pub(super) fn complaint(&mut self, words: &str) {
        if self.is_due(words) {
            tracing::warn!(nats_cluster = %self.cluster, complaint = words, "the server complains");
        }
    }

    pub(super) fn missing_permission(&mut self, user: &str, permission: MissingPermission, words: &str) {
        let (what, option) = (permission.lack(), permission.option());
        let advice = format!(
            "{what}: run `nsc edit user -a SYS -n {user} {option}`, then generate its creds again; {}",
            if permission.ends_the_connection() {
                "they are read within seconds"
            } else {
                "they are read for the next connection, so restart this node"
            }
        );
        // Remembered by the advice, because each complaint names another account.
        if !self.is_due(&advice) {
            return;
        }
        match permission {
            MissingPermission::Publish | MissingPermission::Subscribe => {
                tracing::error!(nats_cluster = %self.cluster, complaint = words, "{advice}");
            }
            MissingPermission::Ask | MissingPermission::Events | MissingPermission::Watch => {
                tracing::warn!(nats_cluster = %self.cluster, complaint = words, "{advice}");
            }
        }
    }

    /// Whether `what` was not logged within the last minute; if so, it counts as logged now.
    fn is_due(&mut self, what: &str) -> bool {
        self.said.is_due(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_each_logged_failure_its_end_is_logged_too() {
        let mut notices = Notices::new("test");
        let connection = format!("{CONNECTED}nats://127.0.0.1");
        assert!(notices.is_due(&connection) && !notices.is_due(&connection));
        notices.not_connected("refused");
        assert!(notices.is_due(&connection));
        notices.lost("closed");
        assert!(notices.is_due(&connection));
        notices.lost("closed");
        assert!(
            !notices.is_due(&connection),
            "a failure that was not logged has no end to log"
        );
    }
}
