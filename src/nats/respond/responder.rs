//! The responder: the task that answers the requests of one NATS cluster. It reads them as fast as they come, and gives
//! each a permit and a task, or refuses it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use super::answers::Answers;
use super::digest::Digest;
use super::limits::Limits;
use super::notices::Notices;
use super::overrule::Refusals;
use super::pack::SentPacks;
use super::published::{BUSY, admitted};
use super::{lookup, pack, update};
use crate::clock::Clock;
use crate::config::NatsCluster;
use crate::jwt::{AccountKey, Token};
use crate::nats::connection::{Connection, Ended, Incoming, Request, Requests, Route};
use crate::nats::payload;
use crate::nats::subjects::{self, Asked, Denied, OwnInfo};
use crate::nats::wait::until;
use crate::resolver::{Protected, Resolver};
use crate::tasks::Scope;

/// A connection that lasted this long counts as useful, so that the next one is tried without a pause.
const USEFUL_AFTER: Duration = Duration::from_secs(10);

/// How long there may be no connection before that is logged here: the publisher logs the same failures at once.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// How often a node that has nothing to answer from looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How often the creds file is looked at while a permission is missing.
const CREDS_EVERY: Duration = Duration::from_secs(5);

/// A shutdown waits until no request has come for so long, but no longer than that.
const QUIET: Duration = Duration::from_millis(10);
const QUIET_PATIENCE: Duration = Duration::from_millis(500);

/// How long a shutdown waits for answers on their way, and then for the connection to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
const LAST_PATIENCE: Duration = Duration::from_millis(250);

/// The task that answers the requests of one NATS cluster.
pub(super) struct Responder {
    pub(super) node: String,
    pub(super) cluster: NatsCluster,
    pub(super) resolver: Resolver,
    pub(super) clock: Clock,
    pub(super) route: Route,
    pub(super) limits: Limits,
    pub(super) digest: Digest,
    pub(super) sent: SentPacks,
    pub(super) refusals: Refusals,
    pub(super) notices: Notices,
}

/// What the tasks of one connection's requests need.
struct Serving {
    scope: Scope,
    answers: Answers,
}

/// Why a connection is no longer used.
enum End {
    Stopped,
    Lost(String),
}

/// What woke the task.
enum Woken {
    Stop,
    Incoming(Incoming),
    Creds,
    Request(Option<Request>),
}

impl Responder {
    pub(super) async fn run(mut self, scope: Scope) {
        while let Some((connection, creds)) = self.connect(&scope).await {
            let opened = Instant::now();
            match self.serve(connection, creds, &scope).await {
                End::Stopped => return,
                End::Lost(reason) => self.notices.lost(&reason),
            }
            self.route.ended(if opened.elapsed() >= USEFUL_AFTER {
                Ended::Useful
            } else {
                Ended::Useless
            });
        }
    }

    /// Tries until there is a connection; `None` if the scope stops.
    async fn connect(&mut self, scope: &Scope) -> Option<(Connection, Stamp)> {
        let since = Instant::now();
        loop {
            scope.until_stop(self.ready()).await?;
            let (pause, url) = self.route.attempt();
            let opening = async {
                sleep(pause).await;
                // Before they are read: a change meanwhile must not go unnoticed.
                let creds = stamp(&self.cluster.creds).await;
                let opened = Connection::open_to_answer(&self.node, &self.cluster, &url).await;
                opened.map(|connection| (connection, creds))
            };
            match scope.until_stop(opening).await? {
                Ok((connection, creds)) => {
                    self.route.learn(connection.server().others);
                    return Some((connection, creds));
                }
                Err(reason) if since.elapsed() >= SILENT_FOR => {
                    self.notices.not_answering(&reason, since.elapsed().as_secs());
                }
                Err(_) => {}
            }
        }
    }

    /// Waits until there is a state to answer from: until then another node of the queue group has to.
    async fn ready(&self) {
        let mut looks = interval(LOOK_EVERY);
        while !self.resolver.view().ready {
            looks.tick().await;
        }
    }

    /// Answers over one connection until it ends or the scope stops.
    async fn serve(&mut self, mut connection: Connection, creds: Stamp, scope: &Scope) -> End {
        // Requests wait unread from the subscription on, so that comes last.
        let stated = self.stated_limit(&connection).await;
        let (mut requests, sending) = match connection.answer().await {
            Ok(both) => both,
            Err(reason) => return End::Lost(reason),
        };
        self.notices.answering(connection.url());
        self.resolver.protect(connection.account(), Protected::Own);
        let server = server_info(&self.node, &self.resolver);
        let serving = Serving {
            scope: scope.clone(),
            answers: Answers::new(sending, stated, server, self.clock.clone(), self.notices.clone()),
        };
        let mut look_at_creds = None;
        let end = loop {
            let woken = tokio::select! {
                biased;
                () = scope.stopping() => Woken::Stop,
                incoming = connection.next() => Woken::Incoming(incoming),
                () = until(look_at_creds) => Woken::Creds,
                request = requests.next() => Woken::Request(request),
            };
            match woken {
                Woken::Stop => break End::Stopped,
                Woken::Incoming(Incoming::End(reason)) => return End::Lost(reason),
                Woken::Incoming(Incoming::Complaint(words)) => {
                    if self.log_complaint(&connection, &words, look_at_creds.is_some()) {
                        look_at_creds.get_or_insert_with(|| Instant::now() + CREDS_EVERY);
                    }
                }
                Woken::Incoming(Incoming::Message { .. } | Incoming::NoResponders { .. } | Incoming::LameDuck) => {}
                Woken::Creds if stamp(&self.cluster.creds).await == creds => {
                    look_at_creds = Some(Instant::now() + CREDS_EVERY);
                }
                Woken::Creds => break End::Lost("the creds file has changed".to_owned()),
                Woken::Request(Some(request)) => self.take(request, &serving),
                Woken::Request(None) => return End::Lost("no more requests come".to_owned()),
            }
        };
        self.finish(connection, requests, &serving).await;
        end
    }

    /// The largest message that our user may send, by its JWT and its account's; `None` if they do not say.
    async fn stated_limit(&self, connection: &Connection) -> Option<usize> {
        let row = self.resolver.lookup(connection.account()?).await.ok().flatten();
        let token = row.and_then(|row| Token::parse(&row.token).ok());
        let account = token.and_then(|token| token.unverified_claims()).unwrap_or_default();
        payload::stated(connection.user(), &account)
    }

    /// Answers what was sent to this node before the server knows that it wants no more, and closes the connection.
    ///
    /// The client library forgets a subscription as soon as it has written that it ends, and with it what the server had
    /// sent by then. So that is done in a moment in which nothing comes.
    async fn finish(&self, connection: Connection, mut requests: Requests, serving: &Serving) {
        let begun = Instant::now();
        while begun.elapsed() < QUIET_PATIENCE
            && let Ok(Some(request)) = timeout(QUIET, requests.next()).await
        {
            self.take(request, serving);
        }
        let until = Instant::now() + CLOSE_PATIENCE;
        drop(timeout_at(until, requests.drain()).await);
        while let Ok(Some(request)) = timeout_at(until, requests.next()).await {
            self.take(request, serving);
        }
        self.limits.idle(until).await;
        drop(timeout_at(until + LAST_PATIENCE, connection.close()).await);
    }

    /// Logs a server's complaint. `true` if it is about a permission that is missing; of several, the first is logged.
    fn log_complaint(&self, connection: &Connection, words: &str, was_denied: bool) -> bool {
        let Some(denied) = subjects::denied(words) else {
            self.notices.complaint(words);
            return false;
        };
        if denied == Denied::Publish {
            self.sent.denied();
        }
        if !was_denied {
            self.notices.denied(&connection.user_name(), &denied, words);
        }
        true
    }

    /// Gives a request its permit, and answers it in a task of its own. Waits for nothing.
    fn take(&self, request: Request, serving: &Serving) {
        let Some(asked) = subjects::asked(&request.subject) else {
            return;
        };
        let Request { reply, payload, .. } = request;
        let reply = reply.filter(|reply| subjects::may_answer(reply));
        match (asked, reply) {
            (Asked::Update, reply) => self.update(&payload, reply, serving),
            (Asked::Delete, reply) => self.delete(&payload, reply, serving),
            // What is only asked for is answered, or nothing is done.
            (_, None) => {}
            (Asked::Lookup(account), Some(reply)) => self.lookup(account, reply, serving),
            (Asked::List, Some(reply)) => self.list(reply, serving),
            (Asked::Pack, Some(reply)) => self.pack(payload, reply, serving),
        }
    }

    fn update(&self, payload: &[u8], reply: Option<String>, serving: &Serving) {
        let arrived = Instant::now();
        let (permit, body) = match admitted(&self.limits, &self.notices, payload, Limits::update) {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.notices.refused(None, &reason, reply.is_some());
                if let Some(reply) = reply {
                    self.fail(reply, move || format!("{} - {reason}", update::FAILED), serving);
                }
                return;
            }
        };
        let (resolver, notices) = (self.resolver.clone(), self.notices.clone());
        let (answers, refusals) = (serving.answers.clone(), self.refusals.clone());
        serving.scope.spawn_for_client(async move {
            update::answer(&resolver, &answers, &notices, &refusals, body, (reply, arrived)).await;
            drop(permit);
        });
    }

    fn delete(&self, payload: &[u8], reply: Option<String>, serving: &Serving) {
        let arrived = Instant::now();
        let (permit, body) = match admitted(&self.limits, &self.notices, payload, Limits::update) {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.notices.not_deleted(&reason, reply.is_some());
                if let Some(reply) = reply {
                    let payload = Bytes::copy_from_slice(subjects::kept_of_delete(payload));
                    self.fail(reply, move || subjects::not_deleted(&payload, &reason), serving);
                }
                return;
            }
        };
        let (resolver, notices, answers) = (self.resolver.clone(), self.notices.clone(), serving.answers.clone());
        serving.scope.spawn_for_client(async move {
            update::delete(&resolver, &answers, &notices, body, (reply, arrived)).await;
            drop(permit);
        });
    }

    fn lookup(&self, account: AccountKey, reply: String, serving: &Serving) {
        let arrived = Instant::now();
        let Some(permit) = self.limits.lookup() else {
            return self.notices.too_many("lookups");
        };
        let (resolver, answers) = (self.resolver.clone(), serving.answers.clone());
        let (limits, notices) = (self.limits.clone(), self.notices.clone());
        serving.scope.spawn_for_client(async move {
            lookup::lookup(&resolver, &answers, (&limits, &notices), account, (&reply, arrived)).await;
            drop(permit);
        });
    }

    fn list(&self, reply: String, serving: &Serving) {
        let arrived = Instant::now();
        let Some(permit) = self.limits.list() else {
            self.notices.too_many("lists");
            return self.fail(reply, || format!("list accounts failed - {BUSY}"), serving);
        };
        let (resolver, answers, scope) = (self.resolver.clone(), serving.answers.clone(), serving.scope.clone());
        serving.scope.spawn_for_client(async move {
            lookup::list(&resolver, &answers, &scope, (&reply, arrived)).await;
            drop(permit);
        });
    }

    fn pack(&self, hash: Bytes, reply: String, serving: &Serving) {
        let Some(permit) = self.limits.waiting_pack() else {
            return self.notices.too_many("packs");
        };
        let (resolver, answers) = (self.resolver.clone(), serving.answers.clone());
        let (digest, sent) = (self.digest.clone(), self.sent.clone());
        let (limits, notices, scope) = (self.limits.clone(), self.notices.clone(), serving.scope.clone());
        // No hash is longer, and the message may be.
        let hash = Bytes::copy_from_slice(&hash[..hash.len().min(33)]);
        serving.scope.spawn_for_client(async move {
            let packing = async {
                let _sending = limits.pack().await;
                let began = Instant::now();
                match pack::pack(&resolver, &answers, (&digest, &sent), (&hash, &reply)).await {
                    Ok(count) => notices.packed(count, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)),
                    Err(reason) => notices.unread("a request for all accounts", &reason),
                }
            };
            scope.until_stop(packing).await;
            drop(permit);
        });
    }

    /// Answers with an error. What `describe` reads of the request is read in the task, with a permit.
    fn fail(&self, reply: String, describe: impl FnOnce() -> String + Send + 'static, serving: &Serving) {
        let Some(permit) = self.limits.error() else {
            return self.notices.too_many("refused requests");
        };
        let answers = serving.answers.clone();
        serving.scope.spawn_for_client(async move {
            answers.failed(&reply, None, &describe()).await;
            drop(permit);
        });
    }
}

/// The node, as its answers name it.
fn server_info(node: &str, resolver: &Resolver) -> OwnInfo {
    let mesh = resolver.mesh().unwrap_or_default();
    OwnInfo {
        name: format!("jwtmesh-{node}"),
        id: format!("{mesh}-{node}"),
    }
}

/// What tells a file from a later one of the same name; `None` if it cannot be read.
type Stamp = Option<(SystemTime, u64)>;

async fn stamp(file: &Path) -> Stamp {
    let found = tokio::fs::metadata(file).await.ok()?;
    Some((found.modified().ok()?, found.len()))
}
