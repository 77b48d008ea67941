//! The responder: the task that answers the requests of one NATS cluster. It reads them as fast as they come, and gives
//! each its place and a task, or refuses it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use super::answers::Answers;
use super::digest::Digest;
use super::limits::{Limits, Place};
use super::notices::Notices;
use super::overrule::Overrules;
use super::pack::Sent;
use super::{lookup, pack, published, update};
use crate::clock::Clock;
use crate::config::NatsCluster;
use crate::jwt::{AccountKey, MAX_TOKEN_BYTES, Token};
use crate::nats::connection::{Connection, Ended, Incoming, Request, Requests, Route};
use crate::nats::payload;
use crate::nats::subjects::{self, Asked, ServerInfo};
use crate::nats::wait::until;
use crate::resolver::Resolver;
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

/// Bytes allowed after the largest token, for the line end that editors and scripts append.
const LINE_END_BYTES: usize = 16;

/// Refused accounts that wait to be sent again; past it they are not.
const REFUSED: usize = 256;

const BUSY: &str = "too many requests at once; nothing was stored, try again in a second";

/// The task that answers the requests of one NATS cluster.
pub(super) struct Responder {
    pub(super) node: String,
    pub(super) cluster: NatsCluster,
    pub(super) resolver: Resolver,
    pub(super) clock: Clock,
    pub(super) route: Route,
    pub(super) limits: Limits,
    pub(super) digest: Digest,
    pub(super) sent: Sent,
    pub(super) notices: Notices,
}

/// What the tasks of one connection's requests need.
struct Desk {
    scope: Scope,
    answers: Answers,
    refused: mpsc::Sender<AccountKey>,
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
    Refused(AccountKey),
    Overrule,
    Creds,
    Request(Option<Request>),
}

impl Responder {
    pub(super) async fn run(mut self, scope: Scope) {
        while let Some(connection) = self.connect(&scope).await {
            let opened = Instant::now();
            match self.serve(connection, &scope).await {
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
    async fn connect(&mut self, scope: &Scope) -> Option<Connection> {
        let since = Instant::now();
        loop {
            scope.until_stop(self.ready()).await?;
            let (pause, url) = self.route.attempt();
            let opening = async {
                sleep(pause).await;
                Connection::open_to_answer(&self.node, &self.cluster, &url).await
            };
            match scope.until_stop(opening).await? {
                Ok(connection) => {
                    self.route.learn(connection.server().others);
                    return Some(connection);
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
    async fn serve(&mut self, mut connection: Connection, scope: &Scope) -> End {
        let (mut requests, sending) = match connection.answer().await {
            Ok(both) => both,
            Err(reason) => return End::Lost(reason),
        };
        self.notices.answering(connection.url());
        let server = server_info(&self.node, &self.resolver);
        let stated = self.stated_limit(&connection).await;
        let (refused, mut refusals) = mpsc::channel(REFUSED);
        let desk = Desk {
            scope: scope.clone(),
            answers: Answers::new(sending, stated, server, self.clock.clone(), self.notices.clone()),
            refused,
        };
        let mut overrules = Overrules::default();
        let creds = stamp(&self.cluster.creds).await;
        let mut look_at_creds = None;
        loop {
            let woken = tokio::select! {
                biased;
                () = scope.stopping() => Woken::Stop,
                incoming = connection.next() => Woken::Incoming(incoming),
                Some(account) = refusals.recv() => Woken::Refused(account),
                () = until(overrules.next()) => Woken::Overrule,
                () = until(look_at_creds) => Woken::Creds,
                request = requests.next() => Woken::Request(request),
            };
            match woken {
                Woken::Stop => break,
                Woken::Incoming(Incoming::End(reason)) => return End::Lost(reason),
                Woken::Incoming(Incoming::Complaint(words)) => {
                    if self.heard(&words, look_at_creds.is_some()) {
                        look_at_creds.get_or_insert_with(|| Instant::now() + CREDS_EVERY);
                    }
                }
                Woken::Incoming(Incoming::Reply { .. } | Incoming::NoResponders | Incoming::LameDuck) => {}
                Woken::Refused(account) => {
                    self.resolver.republish(account);
                    overrules.refused(account, Instant::now());
                }
                Woken::Overrule => {
                    let due = overrules.take_due(Instant::now());
                    due.into_iter().for_each(|account| self.resolver.republish(account));
                }
                Woken::Creds if stamp(&self.cluster.creds).await == creds => {
                    look_at_creds = Some(Instant::now() + CREDS_EVERY);
                }
                Woken::Creds => return End::Lost("the creds file has changed".to_owned()),
                Woken::Request(Some(request)) => self.take(request, &desk),
                Woken::Request(None) => return End::Lost("no more requests come".to_owned()),
            }
        }
        self.finish(connection, requests, &desk).await;
        End::Stopped
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
    async fn finish(&self, connection: Connection, mut requests: Requests, desk: &Desk) {
        let begun = Instant::now();
        while begun.elapsed() < QUIET_PATIENCE
            && let Ok(Some(request)) = timeout(QUIET, requests.next()).await
        {
            self.take(request, desk);
        }
        let until = Instant::now() + CLOSE_PATIENCE;
        drop(timeout_at(until, requests.drain()).await);
        while let Ok(Some(request)) = timeout_at(until, requests.next()).await {
            self.take(request, desk);
        }
        self.limits.idle(until).await;
        drop(timeout_at(until + LAST_PATIENCE, connection.close()).await);
    }

    /// Logs a server's complaint. `true` if it is about a permission that is missing; of several, the first is logged.
    fn heard(&self, words: &str, was_denied: bool) -> bool {
        let Some(denied) = subjects::denied(words) else {
            self.notices.complaint(words);
            return false;
        };
        if !was_denied {
            self.notices.denied(&denied, words);
        }
        true
    }

    /// Gives a request its place, and answers it in a task of its own. Waits for nothing.
    fn take(&self, request: Request, desk: &Desk) {
        let Some(asked) = subjects::asked(&request.subject) else {
            return;
        };
        let Request { reply, payload, .. } = request;
        if matches!(asked, Asked::Published(_)) && reply.as_deref().is_some_and(subjects::is_from_publisher) {
            return;
        }
        let reply = reply.filter(|reply| subjects::may_answer(reply));
        match (asked, reply) {
            (Asked::Update, reply) => self.update(&payload, reply, desk),
            (Asked::Published(account), _) => self.published(account, &payload, desk),
            // What is only asked for is answered, or nothing is done.
            (_, None) => {}
            (Asked::Lookup(account), Some(reply)) => self.lookup(account, reply, desk),
            (Asked::List, Some(reply)) => self.list(reply, desk),
            (Asked::Pack, Some(reply)) => self.pack(payload, reply, desk),
            (Asked::Delete, Some(reply)) => self.fail(reply, lookup::not_deleted(&payload), desk),
        }
    }

    fn update(&self, payload: &[u8], reply: Option<String>, desk: &Desk) {
        let arrived = Instant::now();
        let (place, body) = match self.admitted(payload) {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.notices.refused(None, &reason, reply.is_some());
                if let Some(reply) = reply {
                    self.fail(reply, format!("{} - {reason}", update::FAILED), desk);
                }
                return;
            }
        };
        let (resolver, notices) = (self.resolver.clone(), self.notices.clone());
        let (answers, refused) = (desk.answers.clone(), desk.refused.clone());
        desk.scope.spawn_for_client(async move {
            update::answer(&resolver, &answers, &notices, &refused, body, (reply, arrived)).await;
            drop(place);
        });
    }

    fn published(&self, account: AccountKey, payload: &[u8], desk: &Desk) {
        let (place, body) = match self.admitted(payload) {
            Ok(admitted) => admitted,
            Err(reason) => return self.notices.not_adopted(account, None, &reason),
        };
        let (resolver, notices) = (self.resolver.clone(), self.notices.clone());
        let (refused, scope) = (desk.refused.clone(), desk.scope.clone());
        desk.scope.spawn_for_client(async move {
            let taking = published::take_in(&resolver, &notices, &refused, account, body);
            scope.until_stop(taking).await;
            drop(place);
        });
    }

    /// A place for a token that is to be stored, and the token in memory of its own; or why there is none.
    fn admitted(&self, payload: &[u8]) -> Result<(Place, Bytes), String> {
        if payload.len() > MAX_TOKEN_BYTES + LINE_END_BYTES
            && let Err(rejection) = Token::parse(payload)
        {
            return Err(rejection.to_string());
        }
        let Some(place) = self.limits.update(payload.len()) else {
            self.notices.too_many("updates");
            return Err(BUSY.to_owned());
        };
        Ok((place, Bytes::copy_from_slice(payload)))
    }

    fn lookup(&self, account: AccountKey, reply: String, desk: &Desk) {
        let arrived = Instant::now();
        let Some(place) = self.limits.lookup() else {
            return self.notices.too_many("lookups");
        };
        let (resolver, answers) = (self.resolver.clone(), desk.answers.clone());
        let (limits, notices) = (self.limits.clone(), self.notices.clone());
        desk.scope.spawn_for_client(async move {
            lookup::lookup(&resolver, &answers, (&limits, &notices), account, (&reply, arrived)).await;
            drop(place);
        });
    }

    fn list(&self, reply: String, desk: &Desk) {
        let arrived = Instant::now();
        let Some(place) = self.limits.list() else {
            self.notices.too_many("lists");
            return self.fail(reply, format!("list accounts failed - {BUSY}"), desk);
        };
        let (resolver, answers) = (self.resolver.clone(), desk.answers.clone());
        desk.scope.spawn_for_client(async move {
            lookup::list(&resolver, &answers, (&reply, arrived)).await;
            drop(place);
        });
    }

    fn pack(&self, hash: Bytes, reply: String, desk: &Desk) {
        let Some(place) = self.limits.waiting_pack() else {
            return self.notices.too_many("packs");
        };
        let (resolver, answers) = (self.resolver.clone(), desk.answers.clone());
        let (digest, sent) = (self.digest.clone(), self.sent.clone());
        let (limits, notices, scope) = (self.limits.clone(), self.notices.clone(), desk.scope.clone());
        // No hash is longer, and the message may be.
        let hash = Bytes::copy_from_slice(&hash[..hash.len().min(33)]);
        desk.scope.spawn_for_client(async move {
            let packing = async {
                let _sending = limits.pack().await;
                let began = Instant::now();
                match pack::pack(&resolver, &answers, (&digest, &sent), (&hash, &reply)).await {
                    Ok(count) => notices.packed(count, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)),
                    Err(reason) => notices.unread("a request for all accounts", &reason),
                }
            };
            scope.until_stop(packing).await;
            drop(place);
        });
    }

    /// Answers with an error.
    fn fail(&self, reply: String, description: String, desk: &Desk) {
        let Some(place) = self.limits.error() else {
            return self.notices.too_many("refused requests");
        };
        let answers = desk.answers.clone();
        desk.scope.spawn_for_client(async move {
            answers.failed(&reply, None, &description).await;
            drop(place);
        });
    }
}

/// Who answers, as the answers say.
fn server_info(node: &str, resolver: &Resolver) -> ServerInfo {
    let mesh = resolver.mesh().unwrap_or_default();
    ServerInfo {
        name: format!("jwtmesh-{node}"),
        id: format!("{mesh}-{node}"),
    }
}

/// What tells a file from a later one of the same name; `None` if it cannot be read.
async fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let found = tokio::fs::metadata(file).await.ok()?;
    Some((found.modified().ok()?, found.len()))
}
