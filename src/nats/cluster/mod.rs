//! The publisher: the task that keeps one NATS cluster updated. It wakes, looks at the current state, and does one
//! bounded piece of work.
//!
//! `send.rs` sends tokens, `answer.rs` takes in what servers say and asks them, `judge.rs` judges the tokens that they hold,
//! `others.rs` has further connections, to servers that the first does not reach, `count.rs` counts connections that a
//! revocation has closed, `search.rs` asks for streams, and `agree.rs` has the mesh agree on the outcome.

mod agree;
mod answer;
mod count;
mod judge;
mod others;
mod search;
mod send;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, timeout};

use super::clocks::Clocks;
use super::connection::{Connection, Ended, Incoming, Route};
use super::lease::{Asked, Lease};
use super::notices::Notices;
use super::payload::{Learned, Unanswered};
use super::publish::{ANSWER_MS, Changed, Lane, Propagation, Step};
use super::respond::Published;
use super::subjects::ServerInfo;
use super::wait::{outcome, until};
use crate::clock::Clock;
use crate::config::NatsCluster;
use crate::jwt::AccountKey;
use crate::resolver::{Asking, Changes, Found, Inquiry, Protected, ReadError, Resolver, Revision, Seen};
use crate::tasks::{Scope, chain};
use count::Counting;
use judge::{Judge, Judgement};
use others::{Happened, Others};
use streams::Streams;

/// Steps taken before replies and the stop signal are looked at again.
const STEPS: usize = 64;

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
            propagation: Propagation::new(resolver.position(&cluster.name), resolver.servers(&cluster.name)),
            judge: Judge::new(resolver.clone()),
            published: Published::start(&cluster.name, resolver, scope),
            found: BTreeMap::new(),
            unknown: BTreeSet::new(),
            mesh: String::new(),
            term: 0,
            forgotten: 0,
            comparing: FuturesUnordered::new(),
            inquiries: resolver.attend(&cluster.name),
            waiting: Vec::new(),
            answer_at: Instant::now(),
            counting: Counting::default(),
            streams: Streams::default(),
            lease: Lease::new(resolver.clone(), &cluster.name),
            is_publishing: false,
            started: Instant::now(),
            marking: None,
            reading: None,
            route: Route::new(&cluster.servers),
            connected: None,
            others: Others::new(),
            lacks: BTreeSet::new(),
            is_shown: false,
            answered: false,
            unanswered: Unanswered::default(),
            learned: None,
            left_out: BTreeSet::new(),
            may_send_left_out: false,
            doubted: None,
            clock: clock.clone(),
            clocks: Clocks::default(),
            notices: Notices::new(&cluster.name),
        };
        publisher.show();
        scope.spawn("the publisher of a NATS cluster", publisher.run(scope.clone()));
    }
}

type Marking = Pin<Box<dyn Future<Output = (u64, bool)> + Send>>;
type Comparing = BoxFuture<'static, Compared>;
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
    /// The mesh of this node, and the term of the lease under which it publishes.
    mesh: String,
    term: Revision,
    /// The revision at which an administrator last had a server forgotten.
    forgotten: Revision,
    /// What servers hold, being compared with the state.
    comparing: FuturesUnordered<Comparing>,
    judge: Judge,
    /// Where what other senders publish is adopted or overruled.
    published: Published,
    /// How many tokens that servers held were adopted and overruled, by their ids.
    found: BTreeMap<String, Found>,
    /// Accounts that are not known here and were reported.
    unknown: BTreeSet<AccountKey>,
    /// Questions, and those at which servers a token is in force that are not answered yet.
    inquiries: mpsc::Receiver<Asking>,
    waiting: Vec<Inquiry>,
    /// When to look at those again.
    answer_at: Instant,
    /// Those for which closed connections are counted.
    counting: Counting,
    /// The streams of accounts that are to be deleted.
    streams: Streams,
    lease: Lease,
    /// Whether this node was allowed to send when it last looked.
    is_publishing: bool,
    started: Instant,
    marking: Option<Marking>,
    reading: Option<Reading>,
    // The connection.
    route: Route,
    /// The server that this node is connected to, and what our user may not do there.
    connected: Option<String>,
    lacks: BTreeSet<&'static str>,
    /// Connections to servers that are not reached over it.
    others: Others,
    /// Whether what this node sees is shown.
    is_shown: bool,
    /// Whether a server has answered over this connection.
    answered: bool,
    /// What was sent over this connection and not answered.
    unanswered: Unanswered,
    learned: Option<Learned>,
    /// Accounts that were left out because of it.
    left_out: BTreeSet<AccountKey>,
    /// Whether the limit was raised since.
    may_send_left_out: bool,
    /// The revision of our user's account at which it was doubted.
    doubted: Option<(AccountKey, Revision)>,
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

/// What a server holds, compared with the state.
enum Compared {
    /// Which accounts a server has loaded.
    Listed {
        server: ServerInfo,
        accounts: Vec<AccountKey>,
    },
    /// Which of the accounts that it has loaded have changed since it was up to date; `None` if that could not be read.
    Loaded {
        server: String,
        changed: Option<Vec<AccountKey>>,
    },
    /// What it holds of an account.
    Held {
        server: ServerInfo,
        account: AccountKey,
        /// The revision that it was known to enforce when it said so, if it was known to enforce the current one.
        enforced: Option<Revision>,
        judgement: Judgement,
    },
}

/// What woke the task.
enum Woken {
    Stop,
    Incoming(Incoming),
    Revision,
    Asked(Result<AccountKey, RecvError>),
    Marked((u64, bool)),
    Read((Lane, Result<Changes, ReadError>)),
    Compared(Compared),
    Inquiry(Asking),
    Other(Happened),
    Lease(Asked),
    /// Something that another sender published was neither adopted nor refused.
    Unheard,
    Time,
}

impl Publisher {
    async fn run(mut self, scope: Scope) {
        while let Some(mut connection) = self.connect(&scope).await {
            let opened = Instant::now();
            self.answered = false;
            self.unanswered = Unanswered::default();
            self.is_publishing = self.lease.is_held();
            self.look();
            self.begin_term();
            self.propagation.connected(self.now());
            self.note_catching_up();
            self.connected = Some(connection.url().to_owned());
            self.resolver.protect(connection.account(), Protected::Own);
            self.lacks.clear();
            self.show();
            let end = self.serve(&mut connection, &scope).await;
            let learned = self.learn_limit(&connection, &end).await;
            self.propagation.disconnected(self.now());
            self.connected = None;
            self.show();
            self.others.clear();
            self.reading = None;
            self.comparing.clear();
            self.waiting.clear();
            self.counting.clear();
            self.streams.clear();
            if matches!(end, End::Stopped) {
                // While the term lasts.
                self.last_mark().await;
            }
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
        // What was to be agreed before may still come, and must not come after what is found from now on.
        if held == self.is_publishing || (held && self.marking.is_some()) {
            return;
        }
        self.is_publishing = held;
        self.notices.lease(held);
        self.others.clear();
        self.reading = None;
        self.comparing.clear();
        self.waiting.clear();
        self.counting.clear();
        self.streams.clear();
        let name = &self.cluster.name;
        self.propagation = Propagation::new(self.resolver.position(name), self.resolver.servers(name));
        self.found.clear();
        self.unknown.clear();
        self.begin_term();
        if held {
            self.propagation.taken_over(self.now());
        }
        self.look();
        self.propagation.connected(self.now());
        if held {
            self.note_catching_up();
        }
        self.show();
    }

    /// What is agreed from now on is agreed under the present lease.
    fn begin_term(&mut self) {
        let lease = self.resolver.lease(&self.cluster.name);
        self.term = lease.map_or(0, |lease| lease.term);
        self.mesh = self.resolver.mesh().unwrap_or_default();
        self.forgotten = self.resolver.forgotten(&self.cluster.name);
    }

    /// Shows what this node sees, for whoever asks.
    fn show(&self) {
        let seen = Seen {
            connected: self.connected.clone(),
            publishes: self.is_publishing && self.connected.is_some(),
            lacks: self.lacks.iter().copied().collect(),
            troubled: if self.is_publishing {
                self.propagation.troubled()
            } else {
                BTreeMap::new()
            },
            found: self.found.clone(),
        };
        self.resolver.show_publisher(&self.cluster.name, seen);
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
        let forgotten = self.resolver.forgotten(&self.cluster.name);
        if forgotten != self.forgotten {
            self.forgotten = forgotten;
            let servers = self.resolver.servers(&self.cluster.name);
            let ids: BTreeSet<String> = servers.into_iter().map(|server| server.id).collect();
            self.propagation.forgotten(&ids, self.now());
        }
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
                // Nothing is known without a connection: dropped, it tells whoever asks.
                Some(_) = self.inquiries.recv() => {}
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
            let answer_at = self.answer_inquiries();
            let asking_at = match self.ask_for_inquiries(connection).await {
                Ok(at) => at,
                Err(reason) => return End::Lost(reason),
            };
            let wake = [wake, give_up, trial, answer_at, asking_at].into_iter().flatten().min();
            let woken = tokio::select! {
                biased;
                () = scope.stopping(), if give_up.is_none() => Woken::Stop,
                Ok(()) = self.revision.changed() => Woken::Revision,
                incoming = connection.next() => Woken::Incoming(incoming),
                asked = self.republished.recv() => Woken::Asked(asked),
                done = outcome(&mut self.marking) => Woken::Marked(done),
                done = outcome(&mut self.reading) => Woken::Read(done),
                Some(done) = self.comparing.next() => Woken::Compared(done),
                Some(inquiry) = self.inquiries.recv() => Woken::Inquiry(inquiry),
                happened = self.others.next() => Woken::Other(happened),
                done = outcome(&mut self.lease.asking) => Woken::Lease(done),
                () = self.published.unheard() => Woken::Unheard,
                () = until(wake) => Woken::Time,
            };
            match woken {
                Woken::Stop if !self.is_publishing => return End::Stopped,
                Woken::Stop => {
                    self.propagation.drain();
                    give_up = Some(Instant::now() + DRAIN);
                }
                Woken::Incoming(incoming) => {
                    if let Some(end) = self.take_in(connection, incoming, scope) {
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
                Woken::Compared(compared) => self.compared(compared),
                Woken::Inquiry(Asking::InForce(inquiry)) => self.inquire(inquiry),
                Woken::Inquiry(Asking::Streams(inquiry)) => self.search(inquiry),
                Woken::Other(happened) => self.other_happened(happened, scope),
                Woken::Lease(asked) => self.lease.asked(asked),
                Woken::Unheard => self.propagation.unheard(self.now()),
                Woken::Time => {}
            }
        }
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
        self.send_left_out();
        for _ in 0..STEPS {
            // Looked at for each step: a disk or a connection may hang between two.
            if !self.lease.is_held() {
                return Ok(Some(Instant::now()));
            }
            match self.propagation.next(self.now()) {
                Step::Send(account) => self.send(connection, account).await?,
                Step::Read { lane, after, limit } => self.read(lane, after, limit).await,
                Step::Concluded(summary) => {
                    self.notices.concluded(&summary);
                    self.is_shown &= summary.refused + summary.missing == 0;
                }
                Step::Mark(agreement) => self.mark(agreement),
                Step::Ask(question) => self.ask(connection, question).await?,
                Step::News(news) => {
                    self.notices.server(&news);
                    self.is_shown = false;
                }
                Step::Leave => {
                    self.propagation.left(&connection.server().id, self.now());
                    let seconds = ANSWER_MS / 1_000;
                    return Err(format!("no answer from {} for {seconds} s", connection.url()));
                }
                Step::Wait(until) => {
                    if !std::mem::replace(&mut self.is_shown, true) {
                        self.show();
                    }
                    self.notices.firsts(self.propagation.has_firsts());
                    let until = until.map(|at| self.started + Duration::from_millis(at));
                    let trying = self.pursue_missing(connection);
                    return Ok([until, pursued, trying].into_iter().flatten().min());
                }
            }
        }
        Ok(Some(Instant::now()))
    }

    /// Connects to servers that are missing, too. Gives when that is to be tried.
    fn pursue_missing(&mut self, connection: &Connection) -> Option<Instant> {
        if !self.propagation.misses_any() {
            self.others.rest();
            return None;
        }
        self.others.pursue(&self.node, &self.cluster, connection.url())
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
                let ahead = i64::try_from(self.now()).unwrap_or(i64::MAX) - 1_000 * self.clock.now();
                let changed = changes.rows.iter().map(|row| Changed {
                    account: row.account,
                    revision: row.revision,
                    first: row.is_first(),
                    issued: row.issued_at.saturating_mul(1_000).saturating_add(ahead),
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
}
