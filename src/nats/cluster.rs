//! The publisher: the task that keeps one NATS cluster updated. It wakes, looks at the current state, and does one
//! bounded piece of work.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::clocks::Clocks;
use super::connection::{Connection, Ended, Incoming, Route};
use super::lease::{Asked, Lease};
use super::notices::Notices;
use super::payload::{self, Learned, Limit, Unanswered};
use super::publish::{ANSWER_MS, Changed, Lane, Propagation, Step};
use super::subjects::{self, Reply, Verdict};
use super::wait::{outcome, until};
use crate::clock::{Clock, UnixSeconds};
use crate::config::NatsCluster;
use crate::jwt::{AccountKey, Token};
use crate::resolver::{Changes, ReadError, Resolver};
use crate::tasks::{Scope, chain};

/// Steps taken before replies and the stop signal are looked at again.
const STEPS: usize = 64;

/// Replies read at once before the next steps are taken.
const REPLIES: usize = 256;

/// A connection that lasted this long counts as useful, even if no server had anything to answer. A peer that accepts
/// and hangs up (a load balancer without servers behind it) does so within seconds.
const USEFUL_AFTER: Duration = Duration::from_secs(10);

/// How long a connection with creds of a doubtful account is kept without an answer. The next one reads the creds again.
/// Shorter than what makes a connection useful, so that the pauses between them grow.
const TRIAL: Duration = Duration::from_secs(5);

/// How long a shutdown waits for answers to the changes in flight. Unanswered ones are sent again after a restart.
const DRAIN: Duration = Duration::from_secs(3);

/// How long the last agreement on the position may take, and how long the connection may take to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a payload limit that a server showed is believed. The next message that is larger shows it again.
const LIMIT_LASTS: Duration = Duration::from_secs(600);

/// Starts a publisher for each of `clusters` in `scope`; it runs until the scope stops. The NATS clusters need not be
/// reachable yet. `clock` is what their servers' clocks are compared with.
pub fn start(node: &str, clusters: &[NatsCluster], resolver: &Resolver, clock: &Clock, scope: &Scope) {
    for cluster in clusters {
        let publisher = Publisher {
            node: node.to_owned(),
            cluster: cluster.clone(),
            revision: resolver.watch_revision(),
            republished: resolver.republished(),
            resolver: resolver.clone(),
            propagation: Propagation::new(resolver.position(&cluster.name)),
            lease: Lease::new(resolver.clone(), &cluster.name),
            is_publishing: false,
            started: Instant::now(),
            marking: None,
            reading: None,
            route: Route::new(&cluster.servers),
            answered: false,
            unanswered: Unanswered::default(),
            learned: None,
            clock: clock.clone(),
            clocks: Clocks::default(),
            notices: Notices::new(&cluster.name),
        };
        scope.spawn("the publisher of a NATS cluster", publisher.run(scope.clone()));
    }
}

type Marking = Pin<Box<dyn Future<Output = (u64, bool)> + Send>>;
type Reading = Pin<Box<dyn Future<Output = (Lane, Result<Changes, ReadError>)> + Send>>;

/// The task that sends updates to one NATS cluster.
struct Publisher {
    // The node that publishes, and the NATS cluster that is updated.
    node: String,
    cluster: NatsCluster,
    // What it reads and watches in this node.
    resolver: Resolver,
    revision: watch::Receiver<u64>,
    republished: broadcast::Receiver<AccountKey>,
    // What to send next, the position that is being agreed, and the earlier changes that are being read.
    propagation: Propagation,
    lease: Lease,
    /// Whether this node was allowed to send when it last looked.
    is_publishing: bool,
    started: Instant,
    marking: Option<Marking>,
    reading: Option<Reading>,
    // The connection.
    route: Route,
    /// Whether a server has answered over this connection.
    answered: bool,
    /// What was sent over this connection and not answered.
    unanswered: Unanswered,
    learned: Option<Learned>,
    // This node's clock, and how far the servers' are from it.
    clock: Clock,
    clocks: Clocks,
    notices: Notices,
}

/// Why a connection is no longer used.
enum End {
    /// The scope stops.
    Stopped,
    /// The connection is of no more use, for this reason.
    Lost(String),
    /// The server ended it over a message that was too large, in these words.
    TooLarge(String),
    /// The user lacks a permission. The next connection reads the creds again, which may grant it.
    WithoutPermission,
}

/// What woke the task.
enum Woken {
    Stop,
    Incoming(Incoming),
    Revision,
    Asked(Result<AccountKey, RecvError>),
    Marked((u64, bool)),
    Read((Lane, Result<Changes, ReadError>)),
    Lease(Asked),
    Time,
}

impl Publisher {
    async fn run(mut self, scope: Scope) {
        while let Some(mut connection) = self.connect(&scope).await {
            let opened = Instant::now();
            self.answered = false;
            self.unanswered = Unanswered::default();
            self.look();
            self.propagation.connected(self.now());
            self.is_publishing = self.lease.is_held();
            self.note_catching_up();
            let end = self.serve(&mut connection, &scope).await;
            let learned = self.learn_limit(&connection, &end).await;
            self.propagation.disconnected(self.now());
            self.reading = None;
            // Another node may be connected.
            self.lease.give_back(!self.unanswered.is_empty()).await;
            if self.is_publishing && !self.lease.is_held() && !matches!(end, End::Stopped) {
                self.is_publishing = false;
                self.notices.lease(false);
            }
            let ended = match end {
                End::WithoutPermission => Ended::WithoutPermission,
                _ if learned || self.answered || opened.elapsed() >= USEFUL_AFTER => Ended::Useful,
                _ => Ended::Useless,
            };
            if ended == Ended::Useful {
                self.notices.forget();
            }
            self.route.ended(ended);
            match end {
                // A server that no longer reads does not hold up the shutdown.
                End::Stopped => drop(timeout(CLOSE_PATIENCE, connection.close()).await),
                // The account that was too large is named when it is its turn again.
                End::Lost(_) | End::TooLarge(_) if learned => {}
                End::Lost(reason) | End::TooLarge(reason) => self.notices.lost(&reason),
                End::WithoutPermission => {}
            }
        }
        self.last_mark().await;
    }

    /// Begins to publish where whoever published before has been, or stops.
    fn change_over(&mut self) {
        let held = self.lease.is_held();
        if held == self.is_publishing {
            return;
        }
        self.is_publishing = held;
        self.notices.lease(held);
        self.reading = None;
        self.propagation = Propagation::new(self.resolver.position(&self.cluster.name));
        if held {
            self.propagation.taken_over(self.now());
        }
        self.look();
        self.propagation.connected(self.now());
        if held {
            self.note_catching_up();
        }
    }

    fn note_catching_up(&mut self) {
        if let Some((from, to)) = self.propagation.catching_up().filter(|_| self.is_publishing) {
            self.notices.catching_up(from, to);
        }
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn look(&mut self) {
        let newest = *self.revision.borrow_and_update();
        self.propagation.newest(newest);
    }

    /// Tries until there is a connection; `None` if the scope stops.
    async fn connect(&mut self, scope: &Scope) -> Option<Connection> {
        loop {
            if scope.is_stopping() {
                return None;
            }
            let (pause, url) = self.route.attempt();
            let (node, cluster) = (self.node.clone(), self.cluster.clone());
            let opening = async move {
                tokio::time::sleep(pause).await;
                Connection::open(&node, &cluster, &url).await
            };
            match self.meanwhile(scope, opening).await? {
                Ok(connection) => {
                    let server = connection.server();
                    self.notices.connected(connection.url(), &server);
                    self.route.learn(server.others);
                    return Some(connection);
                }
                Err(reason) => self.notices.not_connected(&reason),
            }
        }
    }

    /// Whether `account` is not the system account of any trusted operator: it probably publishes where no server
    /// listens, and nothing says so. Only probably, since a nats-server may run with another JWT of its operator.
    fn is_foreign(&self, account: Option<AccountKey>) -> bool {
        let trust = self.resolver.trust();
        let operators = trust.keys.operators();
        // Where an operator names none, nats-server's configuration does.
        let is_other = |system: Option<AccountKey>| system.is_some() && system != account;
        let mut systems = operators.iter().map(|operator| operator.claims().system_account);
        !operators.is_empty() && account.is_some() && systems.all(is_other)
    }

    /// Waits for `work`, and handles other events meanwhile. `None` if the scope stops.
    async fn meanwhile<T>(&mut self, scope: &Scope, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = scope.stopping() => return None,
                done = &mut work => return Some(done),
                asked = self.republished.recv() => self.asked(asked).await,
                marked = outcome(&mut self.marking) => self.marked(marked),
            }
        }
    }

    /// Publishes over one connection until it ends or the scope stops.
    async fn serve(&mut self, connection: &mut Connection, scope: &Scope) -> End {
        let mut give_up: Option<Instant> = None;
        let mut trial = None;
        if self.is_foreign(connection.account()) {
            self.notices.foreign(connection.account(), &self.cluster.creds);
            trial = Some(Instant::now() + TRIAL);
        }
        loop {
            trial = trial.filter(|_| !self.answered);
            if trial.is_some_and(|at| Instant::now() >= at) {
                let reason = format!("no server has answered this user over {}", connection.url());
                return End::Lost(reason);
            }
            let wake = match self.work(connection).await {
                Ok(wake) => wake,
                Err(reason) => return End::Lost(reason),
            };
            if give_up.is_some_and(|at| self.propagation.is_drained() || Instant::now() >= at) {
                return End::Stopped;
            }
            let wake = [wake, give_up, trial].into_iter().flatten().min();
            let woken = tokio::select! {
                biased;
                () = scope.stopping(), if give_up.is_none() => Woken::Stop,
                Ok(()) = self.revision.changed() => Woken::Revision,
                incoming = connection.next() => Woken::Incoming(incoming),
                asked = self.republished.recv() => Woken::Asked(asked),
                done = outcome(&mut self.marking) => Woken::Marked(done),
                done = outcome(&mut self.reading) => Woken::Read(done),
                done = outcome(&mut self.lease.asking) => Woken::Lease(done),
                () = until(wake) => Woken::Time,
            };
            match woken {
                Woken::Stop if !self.is_publishing => return End::Stopped,
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
                Woken::Read((lane, read)) => {
                    self.reading = None;
                    self.listed(lane, read);
                }
                Woken::Lease(asked) => self.lease.asked(asked),
                Woken::Time => {}
            }
        }
    }

    /// Handles `first` and what else has arrived, at most `REPLIES` of them. `Some` says why the connection is no
    /// longer used.
    fn take_in(&mut self, connection: &mut Connection, first: Incoming) -> Option<End> {
        let mut incoming = first;
        for _ in 0..REPLIES {
            match incoming {
                Incoming::Reply { subject, payload } => self.reply(connection, &subject, &payload),
                // No server received the message; it is sent again when its answer is overdue.
                Incoming::NoResponders => self.notices.no_responders(),
                Incoming::Complaint(words) if subjects::is_payload_violation(&words) => {
                    return Some(End::TooLarge(words));
                }
                Incoming::Complaint(words) => match subjects::missing_permission(&words) {
                    None => self.notices.complaint(&words),
                    Some(permission) => {
                        self.notices.missing_permission(permission, &words);
                        return Some(End::WithoutPermission);
                    }
                },
                Incoming::LameDuck => self.notices.going_away(),
                Incoming::End(reason) => return Some(End::Lost(reason)),
            }
            match connection.next().now_or_never() {
                Some(next) => incoming = next,
                None => break,
            }
        }
        None
    }

    /// Takes up to `STEPS` steps, and gives the time of the next one; `None` if it needs an event. An error says why
    /// the connection is of no more use.
    async fn work(&mut self, connection: &Connection) -> Result<Option<Instant>, String> {
        let pursued = self.lease.pursue();
        self.change_over();
        if !self.is_publishing {
            return Ok(pursued);
        }
        self.propagation.received(connection.received());
        for _ in 0..STEPS {
            // Looked at for each step: a disk or a connection may hang between two.
            if !self.lease.is_held() {
                return Ok(Some(Instant::now()));
            }
            match self.propagation.next(self.now()) {
                Step::Send(account) => self.send(connection, account).await?,
                Step::Read { lane, after, limit } => self.read(lane, after, limit).await,
                Step::Concluded(summary) => self.notices.concluded(&summary),
                Step::Mark(position) => self.mark(position),
                Step::Leave => {
                    let seconds = ANSWER_MS / 1_000;
                    return Err(format!("no answer from {} for {seconds} s", connection.url()));
                }
                Step::Wait(until) => {
                    self.notices.firsts(self.propagation.has_firsts());
                    let until = until.map(|at| self.started + Duration::from_millis(at));
                    return Ok([until, pursued].into_iter().flatten().min());
                }
            }
        }
        Ok(Some(Instant::now()))
    }

    async fn send(&mut self, connection: &Connection, account: AccountKey) -> Result<(), String> {
        // Looked up now and not earlier: nats-server takes an account of any age, so the
        // token that is sent last must be the current one.
        let row = match self.resolver.lookup(account).await {
            Ok(Some(row)) => row,
            Ok(None) => {
                self.propagation.gone(account);
                return Ok(());
            }
            // The resolver has logged it. The other accounts must be sent all the same.
            Err(ReadError::Damaged(_)) => {
                self.propagation.gone(account);
                return Ok(());
            }
            Err(error) => return Err(chain(&error)),
        };
        let bytes = row.token.len();
        if let Some(limit) = self.limit_below(connection, bytes).await {
            self.notices.too_large(account, row.revision, bytes, limit);
            self.propagation.too_large(account);
            return Ok(());
        }
        // The lookup may have waited for a disk, and another node may have sent a newer one meanwhile.
        if !self.lease.is_held() {
            self.is_publishing = false;
            self.notices.lease(false);
            return Ok(());
        }
        self.unanswered.sent(account, row.revision, bytes);
        let reply = subjects::reply_to(connection.inbox(), account, row.revision);
        connection
            .publish(subjects::update(account), reply, row.token.clone())
            .await?;
        self.propagation.sent(account, row.revision, self.now());
        Ok(())
    }

    /// The limit that a message of `bytes` is above; `None` if it may be sent.
    async fn limit_below(&mut self, connection: &Connection, bytes: usize) -> Option<Limit> {
        let announced = Limit::Server(connection.max_payload());
        if !announced.allows(bytes) {
            return Some(announced);
        }
        let learned = self.learned.as_ref().filter(|learned| !learned.limit.allows(bytes))?;
        let (limit, until, then) = (learned.limit, learned.until, learned.account);
        let now = user_account(self.resolver.clone(), connection).await.0;
        if now == then && Instant::now() < until {
            return Some(limit);
        }
        self.learned = None;
        None
    }

    /// Learns how large a message may be, if a server ended the connection because one was larger. It says so in words,
    /// which may be lost with the connection; then what the JWTs state is as good.
    async fn learn_limit(&mut self, connection: &Connection, end: &End) -> bool {
        let said = matches!(end, End::TooLarge(_));
        let Some(largest) = self
            .unanswered
            .largest()
            .filter(|_| said || matches!(end, End::Lost(_)))
        else {
            return false;
        };
        let (account, claims) = user_account(self.resolver.clone(), connection).await;
        let limit = Limit::learned(largest, payload::stated(connection.user(), &claims));
        let is_known = said || matches!(limit, Limit::Stated(_));
        if is_known {
            self.learned = Some(Learned {
                limit,
                account,
                until: Instant::now() + LIMIT_LASTS,
            });
        }
        is_known
    }

    /// Reads changes for `lane`. Fresh ones at once; for others the disk may be needed, and no fresh change waits for it.
    async fn read(&mut self, lane: Lane, after: u64, limit: usize) {
        if lane == Lane::Fresh {
            let read = self.resolver.changes(after, limit).await;
            return self.listed(lane, read);
        }
        let resolver = self.resolver.clone();
        self.reading = Some(Box::pin(async move { (lane, resolver.changes(after, limit).await) }));
    }

    fn listed(&mut self, lane: Lane, read: Result<Changes, ReadError>) {
        match read {
            Ok(changes) => {
                let changed = changes.rows.iter().map(|row| Changed {
                    account: row.account,
                    revision: row.revision,
                    first: row.is_first(),
                });
                let rows: Vec<_> = changed.collect();
                self.propagation.listed(lane, &rows, changes.position, self.now());
                self.notices.progress(lane, self.propagation.catching_up());
            }
            Err(error) => {
                self.propagation.unreadable(lane, self.now());
                self.notices.unreadable(&chain(&error));
            }
        }
    }

    fn mark(&mut self, position: u64) {
        let (resolver, cluster) = (self.resolver.clone(), self.cluster.name.clone());
        self.marking = Some(Box::pin(async move {
            let agreed = resolver.mark_propagated(&cluster, position).await;
            if let Err(error) = &agreed {
                // Nothing is lost: after a restart a few changes are sent again needlessly.
                tracing::debug!(nats_cluster = %cluster, position, %error, "the position is not agreed yet");
            }
            (position, agreed.is_ok())
        }));
    }

    fn marked(&mut self, (position, agreed): (u64, bool)) {
        self.marking = None;
        self.propagation.marked(position, agreed, self.now());
    }

    /// Has the position agreed a last time, so that the next start has nothing to repeat.
    async fn last_mark(&mut self) {
        if !self.is_publishing {
            return;
        }
        let until = Instant::now() + CLOSE_PATIENCE;
        loop {
            if self.marking.is_some() {
                let Ok(done) = timeout_at(until, outcome(&mut self.marking)).await else {
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
        if !self.is_publishing {
            // Whoever publishes was asked too.
            return;
        }
        let account = match asked {
            Ok(account) => account,
            Err(RecvError::Lagged(lost)) => return self.notices.requests_dropped(lost),
            Err(RecvError::Closed) => return,
        };
        let Ok(Some(row)) = self.resolver.lookup(account).await else {
            return;
        };
        if !self.propagation.ask(account, row.revision, self.now()) {
            self.notices.no_room(account);
        }
    }

    fn reply(&mut self, connection: &Connection, subject: &str, payload: &[u8]) {
        let Some((account, revision)) = subjects::about(connection.inbox(), subject) else {
            return;
        };
        let Some(mut reply) = Reply::read(payload) else {
            return self.notices.unknown_reply(account, revision, payload.len());
        };
        if reply.version.is_empty() && matches!(reply.verdict, Verdict::Refused(_)) {
            let server = connection.server();
            if server.name == reply.server {
                reply.version = server.version;
            }
        }
        self.notices
            .answer(account, revision, &reply, self.propagation.is_routine(account));
        if let Verdict::Refused(words) = &reply.verdict
            && self.propagation.is_last_try(account)
        {
            self.notices
                .refused(account, revision, &reply.server, &reply.version, words);
        }
        self.answered = true;
        self.unanswered.answered(account, revision);
        if let Some(time) = reply.time {
            self.heard_time(&reply.server, time);
        }
        self.propagation
            .answered(account, revision, &reply.server, &reply.verdict, self.now());
    }

    /// A server's clock said `theirs` when it replied.
    fn heard_time(&mut self, server: &str, theirs: UnixSeconds) {
        let ours = self.clock.now();
        let comparison = self.clocks.heard(server, theirs, ours);
        self.resolver.heard_time(comparison.offset);
        if let Some(differ) = comparison.changed {
            self.notices.clocks(differ, ours, comparison.offset);
        }
    }
}

/// The account of our user: its key and current revision, and its claims.
async fn user_account(
    resolver: Resolver,
    connection: &Connection,
) -> (Option<(AccountKey, Option<u64>)>, serde_json::Value) {
    let Some(account) = connection.account() else {
        return Default::default();
    };
    let row = resolver.lookup(account).await.ok().flatten();
    let claims = row
        .as_ref()
        .and_then(|row| Token::parse(&row.token).ok()?.unverified_claims());
    let revision = row.map(|row| row.revision);
    (Some((account, revision)), claims.unwrap_or_default())
}
