//! The task that keeps one NATS cluster told: it wakes, looks at what is true now, and does one bounded piece of work.

use std::collections::HashSet;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Connection, Incoming};
use super::pending::{Lane, Step, Summary};
use super::propagate::Propagation;
use super::subjects::{self, Reply, Verdict};
use crate::config::NatsCluster;
use crate::jwt::AccountKey;
use crate::resolver::Resolver;

/// Steps taken before replies and the end are looked at again.
const STEPS: usize = 64;

/// Replies read at once before the next steps are taken.
const REPLIES: usize = 256;

/// Between two rounds of attempts to connect; doubles up to the second. A nats-server restarts within a second or
/// two, and a revocation waits for it.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(1_500);

/// How long the shutdown waits for answers to what is in flight. After a restart it is sent again.
const DRAIN: Duration = Duration::from_secs(3);

/// How long the last agreement on the position may take, and how long the connection may take to close.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// After a read that failed.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// How often catching up says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Servers learnt from other servers that are tried when none of the configured ones answers.
const LEARNT_SERVERS: usize = 32;

/// Different reasons for which one outage is logged. They are few; a server that makes up new ones is not listened to.
const REASONS: usize = 16;

/// The NATS clusters that this node tells of changes.
#[derive(Debug)]
pub struct NatsClusters(Vec<Arc<Status>>);

#[derive(Debug)]
struct Status {
    name: String,
    connected: AtomicBool,
    position: AtomicU64,
}

impl NatsClusters {
    /// Starts telling each of `clusters` of every change, in tasks on `tracker`, until `stop`.
    ///
    /// None of them has to exist yet.
    pub fn start(
        node: &str,
        clusters: &[NatsCluster],
        resolver: Resolver,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let start = |cluster: &NatsCluster| {
            let agreed = resolver.position(&cluster.name);
            let status = Arc::new(Status {
                name: cluster.name.clone(),
                connected: AtomicBool::new(false),
                position: AtomicU64::new(agreed),
            });
            let teller = Teller {
                node: node.to_owned(),
                cluster: cluster.clone(),
                revision: resolver.watch_revision(),
                republished: resolver.republished(),
                resolver: resolver.clone(),
                status: status.clone(),
                propagation: Propagation::new(agreed),
                started: Instant::now(),
                marking: None,
                learnt: Vec::new(),
                said: HashSet::new(),
                progress_at: Instant::now(),
            };
            tracker.spawn(teller.run(stop.clone()));
            status
        };
        Self(clusters.iter().map(start).collect())
    }

    /// Of each NATS cluster: its name, whether there is a connection, and the revision up to which it has been told.
    pub fn statuses(&self) -> Vec<(String, bool, u64)> {
        let read = |status: &Arc<Status>| {
            let connected = status.connected.load(Ordering::Relaxed);
            (status.name.clone(), connected, status.position.load(Ordering::Relaxed))
        };
        self.0.iter().map(read).collect()
    }
}

type Marking = Pin<Box<dyn Future<Output = (u64, bool)> + Send>>;

struct Teller {
    node: String,
    cluster: NatsCluster,
    resolver: Resolver,
    revision: watch::Receiver<u64>,
    republished: broadcast::Receiver<AccountKey>,
    status: Arc<Status>,
    propagation: Propagation,
    started: Instant,
    marking: Option<Marking>,
    learnt: Vec<String>,
    /// What was said about this connection, or this outage, so that it is said once.
    said: HashSet<String>,
    progress_at: Instant,
}

/// Why a connection is no longer used.
enum End {
    /// It is to stop.
    Stopped,
    /// The connection broke.
    Lost,
}

/// What woke the task.
enum Woken {
    Stop,
    Incoming(Incoming),
    Revision,
    Asked(Result<AccountKey, RecvError>),
    Marked((u64, bool)),
    Time,
}

impl Teller {
    async fn run(mut self, stop: CancellationToken) {
        while let Some(mut connection) = self.connect(&stop).await {
            self.said.clear();
            self.look();
            self.propagation.connected(self.now());
            if let Some((from, to)) = self.propagation.catching_up() {
                tracing::info!(nats_cluster = %self.cluster.name, from, to, "telling it what may have passed it by");
                self.progress_at = Instant::now();
            }
            self.status.connected.store(true, Ordering::Relaxed);
            let end = self.serve(&mut connection, &stop).await;
            self.status.connected.store(false, Ordering::Relaxed);
            self.propagation.disconnected(self.now());
            self.said.clear();
            if matches!(end, End::Stopped) {
                // A server that no longer reads does not hold up the shutdown.
                let _ = timeout(LAST_WORDS, connection.close()).await;
            }
        }
        self.last_mark().await;
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn look(&mut self) {
        let newest = *self.revision.borrow_and_update();
        self.propagation.newest(newest);
    }

    /// Tries until there is a connection; `None` when it is to stop.
    async fn connect(&mut self, stop: &CancellationToken) -> Option<Connection> {
        let mut backoff = MIN_BACKOFF;
        loop {
            if stop.is_cancelled() {
                return None;
            }
            let urls: Vec<String> = self.cluster.servers.iter().chain(&self.learnt).cloned().collect();
            for url in urls {
                let (node, cluster) = (self.node.clone(), self.cluster.clone());
                let opening = async move { (Connection::open(&node, &cluster, &url).await, url) };
                let (opened, url) = self.meanwhile(stop, opening).await?;
                match opened {
                    Ok(connection) => {
                        self.greet(&connection, &url);
                        return Some(connection);
                    }
                    Err(reason) => self.say_once(&reason, |cluster, reason| {
                        tracing::warn!(
                            nats_cluster = cluster,
                            reason,
                            "not connected to this NATS cluster; trying on"
                        );
                    }),
                }
            }
            self.meanwhile(stop, tokio::time::sleep(backoff)).await?;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// Waits for `work` without losing what else happens. `None` when it is to stop.
    async fn meanwhile<T>(&mut self, stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                done = &mut work => return Some(done),
                asked = self.republished.recv() => self.asked(asked).await,
                marked = marked(&mut self.marking) => self.marked(marked),
            }
        }
    }

    fn greet(&mut self, connection: &Connection, url: &str) {
        let server = connection.server(url);
        tracing::info!(
            nats_cluster = %self.cluster.name,
            url,
            server = %server.name,
            version = %server.version,
            "connected to NATS cluster"
        );
        self.learnt = server.others;
        self.learnt.retain(|other| !self.cluster.servers.contains(other));
        self.learnt.truncate(LEARNT_SERVERS);
    }

    /// Serves one connection until it breaks or everything is to stop.
    async fn serve(&mut self, connection: &mut Connection, stop: &CancellationToken) -> End {
        let mut give_up: Option<Instant> = None;
        loop {
            let wake = match self.work(connection).await {
                Ok(wake) => wake,
                Err(reason) => {
                    self.lost(&reason);
                    return End::Lost;
                }
            };
            if give_up.is_some_and(|at| self.propagation.is_drained() || Instant::now() >= at) {
                return End::Stopped;
            }
            let wake = [wake, give_up].into_iter().flatten().min();
            let woken = tokio::select! {
                biased;
                () = stop.cancelled(), if give_up.is_none() => Woken::Stop,
                Ok(()) = self.revision.changed() => Woken::Revision,
                incoming = connection.next() => Woken::Incoming(incoming),
                asked = self.republished.recv() => Woken::Asked(asked),
                done = marked(&mut self.marking) => Woken::Marked(done),
                () = until(wake) => Woken::Time,
            };
            match woken {
                Woken::Stop => {
                    self.propagation.drain();
                    give_up = Some(Instant::now() + DRAIN);
                }
                Woken::Incoming(incoming) => {
                    if let Some(end) = self.take_in(connection, incoming) {
                        return end;
                    }
                }
                Woken::Revision => self.look(),
                Woken::Asked(asked) => self.asked(asked).await,
                Woken::Marked(done) => self.marked(done),
                Woken::Time => {}
            }
        }
    }

    /// Handles what came, and what came behind it.
    fn take_in(&mut self, connection: &mut Connection, first: Incoming) -> Option<End> {
        let mut incoming = first;
        for _ in 0..REPLIES {
            match incoming {
                Incoming::Reply { subject, payload } => self.reply(connection.inbox(), &subject, &payload),
                Incoming::Nobody => self.nobody(),
                Incoming::Complaint(words) => self.complaint(&words),
                Incoming::LameDuck => {
                    tracing::info!(nats_cluster = %self.cluster.name, "the server we are connected to is going away");
                }
                Incoming::End => {
                    self.lost("the server ended the connection");
                    return Some(End::Lost);
                }
            }
            match connection.next().now_or_never() {
                Some(next) => incoming = next,
                None => break,
            }
        }
        None
    }

    /// Takes a few steps; gives when to take the next.
    async fn work(&mut self, connection: &Connection) -> Result<Option<Instant>, String> {
        for _ in 0..STEPS {
            match self.propagation.next(self.now()) {
                Step::Send(account) => self.send(connection, account).await?,
                Step::Read { lane, after, limit } => {
                    if !self.read(lane, after, limit).await {
                        return Ok(Some(Instant::now() + READ_AGAIN));
                    }
                }
                Step::Told(summary) => self.told(&summary),
                Step::Mark(position) => self.mark(position),
                Step::Wait(until) => {
                    self.status.position.store(self.propagation.told(), Ordering::Relaxed);
                    return Ok(until.map(|at| self.started + Duration::from_millis(at)));
                }
            }
        }
        Ok(Some(Instant::now()))
    }

    async fn send(&mut self, connection: &Connection, account: AccountKey) -> Result<(), String> {
        // Now and not earlier: what is sent last must be what is current (T7).
        let row = match self.resolver.lookup(account).await {
            Ok(Some(row)) => row,
            Ok(None) => {
                self.propagation.gone(account);
                return Ok(());
            }
            Err(fault) => return Err(fault.to_string()),
        };
        let limit = connection.max_payload();
        if row.token.len() > limit {
            tracing::error!(
                nats_cluster = %self.cluster.name,
                %account,
                revision = row.revision,
                token_bytes = row.token.len(),
                max_payload_bytes = limit,
                "this account's JWT has {} bytes, and the NATS server takes messages of {limit}: it cannot be told of this \
                 change. Raise max_payload above {} on all its servers, or make the JWT smaller (old revocations, \
                 imports), and push it again; servers that restart fetch it over HTTP",
                row.token.len(),
                row.token.len()
            );
            self.propagation.too_large(account);
            return Ok(());
        }
        let reply = subjects::reply_to(connection.inbox(), account, row.revision);
        connection
            .publish(subjects::update(account), reply, row.token.clone())
            .await?;
        self.propagation.sent(account, row.revision, self.now());
        Ok(())
    }

    /// Whether the changes could be read.
    async fn read(&mut self, lane: Lane, after: u64, limit: usize) -> bool {
        match self.resolver.changes(after, limit).await {
            Ok(changes) => {
                let rows: Vec<_> = changes.rows.iter().map(|row| (row.account, row.revision)).collect();
                self.propagation.listed(lane, &rows, changes.position, self.now());
                self.progress(lane);
                true
            }
            Err(error) => {
                let reason = error.to_string();
                self.say_once(&reason, |cluster, reason| {
                    tracing::warn!(
                        nats_cluster = cluster,
                        reason,
                        "the changes to tell it of cannot be read; trying on"
                    );
                });
                false
            }
        }
    }

    fn progress(&mut self, lane: Lane) {
        if lane == Lane::Fresh {
            return;
        }
        match self.propagation.catching_up() {
            None => tracing::info!(nats_cluster = %self.cluster.name, "everything that may have passed it by was sent"),
            Some((at, to)) if self.progress_at.elapsed() >= PROGRESS_EVERY => {
                self.progress_at = Instant::now();
                tracing::info!(nats_cluster = %self.cluster.name, at, to, "still telling it what may have passed it by");
            }
            Some(_) => {}
        }
    }

    fn told(&self, summary: &Summary) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    nats_cluster = %self.cluster.name,
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

    fn mark(&mut self, position: u64) {
        let (resolver, cluster) = (self.resolver.clone(), self.cluster.name.clone());
        self.marking = Some(Box::pin(async move {
            let agreed = resolver.mark_propagated(&cluster, position).await;
            if let Err(error) = &agreed {
                // Nothing is lost by it: after a restart a little more is sent than needed.
                tracing::debug!(nats_cluster = %cluster, position, %error, "the position is not agreed yet");
            }
            (position, agreed.is_ok())
        }));
    }

    fn marked(&mut self, (position, agreed): (u64, bool)) {
        self.marking = None;
        self.propagation.marked(position, agreed, self.now());
    }

    /// Agrees the position a last time, so that the next start has nothing to repeat.
    async fn last_mark(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        loop {
            if self.marking.is_some() {
                let Ok(done) = timeout_at(until, marked(&mut self.marking)).await else {
                    return;
                };
                self.marked(done);
            }
            match self.propagation.next(self.now()) {
                Step::Mark(position) => self.mark(position),
                _ => return,
            }
        }
    }

    async fn asked(&mut self, asked: Result<AccountKey, RecvError>) {
        let cluster = &self.cluster.name;
        let account = match asked {
            Ok(account) => account,
            Err(RecvError::Lagged(lost)) => {
                tracing::warn!(nats_cluster = %cluster, lost, "asked to send too many accounts again at once; ask for the rest again");
                return;
            }
            Err(RecvError::Closed) => return,
        };
        let Ok(Some(row)) = self.resolver.lookup(account).await else {
            return;
        };
        if !self.propagation.ask(account, row.revision, self.now()) {
            tracing::warn!(nats_cluster = %cluster, %account, "too many accounts are waiting to be sent; ask for this one again");
        }
    }

    fn reply(&mut self, inbox: &str, subject: &str, payload: &[u8]) {
        let Some((account, revision)) = subjects::about(inbox, subject) else {
            return;
        };
        let cluster = self.cluster.name.as_str();
        let Some(Reply { server, verdict }) = Reply::read(payload) else {
            tracing::warn!(nats_cluster = cluster, %account, revision, bytes = payload.len(), "an answer that no nats-server gives");
            return;
        };
        match &verdict {
            Verdict::Updated => {
                tracing::debug!(nats_cluster = cluster, server, %account, revision, result = "updated", "a server answered");
            }
            Verdict::Skipped if self.propagation.is_routine(account) => {
                tracing::debug!(nats_cluster = cluster, server, %account, revision, result = "skipped", "a server answered");
            }
            Verdict::Skipped => {
                tracing::info!(nats_cluster = cluster, server, %account, revision, result = "skipped", "a server does not have this account loaded");
            }
            Verdict::Refused(reason) => {
                tracing::info!(nats_cluster = cluster, server, %account, revision, result = %reason, "a server refused this account's JWT");
            }
        }
        let mut hasher = DefaultHasher::new();
        server.hash(&mut hasher);
        self.propagation
            .answered(account, revision, hasher.finish(), &verdict, self.now());
    }

    /// What was published reached nobody; it is sent again when its answer is overdue.
    fn nobody(&mut self) {
        self.say_once("nobody", |cluster, _| {
            tracing::warn!(
                nats_cluster = cluster,
                "nobody listens to $SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE here: the creds are of a user outside the system account, or \
                 no server has an account resolver. Trying on"
            );
        });
    }

    fn complaint(&mut self, words: &str) {
        // Each names its subject, and there is one subject an account: the first of each kind says it all.
        let kind = words.split('"').next().unwrap_or(words).to_owned();
        let advice = if kind.contains("for Publish") || kind.contains("for publish") {
            "the user may not tell servers of changes: `nsc edit user -a SYS -n jwtmesh --allow-pub \
             '$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE'`, then generate its creds again"
        } else if kind.contains("for Subscription") || kind.contains("for subscription") {
            "the user may not receive the servers' answers: `nsc edit user -a SYS -n jwtmesh --allow-sub \
             '_INBOX.jwtmesh.>'`, then generate its creds again"
        } else {
            "a complaint of the server"
        };
        let (words, permission) = (words.to_owned(), kind.contains("ermissions"));
        self.say_once(&kind, |cluster, _| {
            if permission {
                tracing::error!(nats_cluster = cluster, complaint = words, "{advice}");
            } else {
                tracing::warn!(nats_cluster = cluster, complaint = words, "{advice}");
            }
        });
    }

    fn lost(&self, reason: &str) {
        tracing::warn!(nats_cluster = %self.cluster.name, reason, "the connection to this NATS cluster is lost; connecting again");
    }

    fn say_once(&mut self, what: &str, say: impl FnOnce(&str, &str)) {
        if self.said.len() < REASONS && self.said.insert(what.to_owned()) {
            say(&self.cluster.name, what);
        }
    }
}

/// The end of `marking`; never, if there is none.
async fn marked(marking: &mut Option<Marking>) -> (u64, bool) {
    match marking {
        Some(marking) => marking.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        // The timer would round it up to the next millisecond.
        Some(at) if at <= Instant::now() => {}
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
