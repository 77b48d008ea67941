//! What is known of the NATS clusters: the agreed servers of each, what this node's own publisher sees of
//! them now, and at which of them an account's token is in force, as the publisher says.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::handle::Resolver;
use super::nats::{
    About, Answered, Asking, Enforcement, Inquiry, OtherVersion, Question, Seen, StreamsFound, StreamsInquiry,
    StreamsUnknown, Told, decode, encode, not_understood,
};
use crate::jwt::{AccountKey, ServerVersion};
use crate::state::{Revision, Server};

/// Questions that wait for a publisher. It takes them within milliseconds.
const INQUIRIES: usize = 64;

/// How long one question to another node waits; it is repeated. A node that publishes no longer is noticed by then.
const ASK_FOR: Duration = Duration::from_secs(5);

/// How long an answer about streams may travel. A request to delete accounts waits for it.
const TRAVEL: Duration = Duration::from_millis(200);

/// The pause where there is no publisher, or another one from now on.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A NATS cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsView {
    /// Its name in `cluster.toml`.
    pub name: String,
    /// The member that publishes to it; `None` if none does, as far as is agreed.
    pub publisher: Option<String>,
    /// Every change up to here has been sent, and is in force at each server that is not behind.
    pub position: Revision,
    /// Its servers, in the order of their ids.
    pub servers: Vec<Server>,
    /// What this node's own publisher sees.
    pub seen: Seen,
}

impl Resolver {
    /// The publisher of `nats_cluster` on this node sees this now.
    pub fn show_publisher(&self, nats_cluster: &str, seen: Seen) {
        let mut all = self.0.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(nats_cluster.to_owned(), seen);
    }

    /// The NATS clusters of this node's configuration, and those that the mesh has servers of, in the order of their names.
    pub fn nats_clusters(&self) -> Vec<NatsView> {
        let mut all = self.0.publishers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Others that the mesh has servers of.
        for name in self.0.state.rosters().keys() {
            all.entry(name.clone()).or_default();
        }
        all.into_iter().map(|(name, seen)| self.nats_view(name, seen)).collect()
    }

    fn nats_view(&self, name: String, seen: Seen) -> NatsView {
        let holder = self.lease(&name).map(|lease| lease.holder);
        let publisher = match holder {
            _ if self.is_alone() => self.member_id().filter(|_| seen.publishes),
            holder => holder.filter(|holder| *holder != 0),
        };
        NatsView {
            publisher: publisher.and_then(|id| self.0.raft.member_name(id)),
            position: self.position(&name),
            servers: self.servers(&name),
            name,
            seen,
        }
    }

    /// Where the publisher of `nats_cluster` on this node is asked.
    pub fn attend(&self, nats_cluster: &str) -> mpsc::Receiver<Asking> {
        let (asking, asked) = mpsc::channel(INQUIRIES);
        let mut all = self.0.inquiries.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(nats_cluster.to_owned(), asking);
        asked
    }

    /// Whether this node is configured to publish to `nats_cluster`.
    pub(super) fn attends(&self, nats_cluster: &str) -> bool {
        let all = self.0.inquiries.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains_key(nats_cluster)
    }

    /// At which servers of `nats_cluster` `revision` of `account` is in force: as soon as it is at all of them, and at the
    /// latest at `until`. Without a publisher, what is agreed has to do. With `since`, the time is taken since then, and the
    /// connections are counted that were closed because their users were revoked.
    pub async fn in_force(
        &self,
        nats_cluster: &str,
        account: AccountKey,
        revision: Revision,
        until: Instant,
        since: Option<Instant>,
    ) -> Answered {
        loop {
            let slice = until.min(Instant::now() + ASK_FOR);
            let answered = self.ask(nats_cluster, account, revision, slice, since).await;
            let is_over = Instant::now() >= until;
            match answered {
                Some(answered) if is_over || is_everywhere(&answered.told) => {
                    let told = self.judged(account, answered.told).await;
                    return Answered { told, ..answered };
                }
                Some(_) => {}
                None if is_over => {
                    let told = self.agreed(nats_cluster, revision);
                    return Answered {
                        told,
                        closed: None,
                        elapsed_ms: since.map(ms_since),
                    };
                }
                None => tokio::time::sleep_until(until.min(Instant::now() + ASK_AGAIN)).await,
            }
        }
    }

    /// The same, where a server that has not loaded the account would refuse to.
    async fn judged(&self, account: AccountKey, mut told: Vec<Told>) -> Vec<Told> {
        let Ok(Some((_, token))) = self.to_enforce(account).await else {
            return told;
        };
        let version = |told: &Told| told.server.version.parse::<ServerVersion>().ok();
        let versions: BTreeSet<ServerVersion> = told.iter().filter_map(version).collect();
        let Ok(refused) = self.refusals(&token, versions.into_iter().collect()).await else {
            return told;
        };
        for told in told.iter_mut().filter(|told| told.enforcement == Enforcement::InForce) {
            if refused.iter().any(|refusal| Some(refusal.server) == version(told)) {
                told.enforcement = Enforcement::Refused;
            }
        }
        told
    }

    async fn ask(
        &self,
        nats_cluster: &str,
        account: AccountKey,
        revision: Revision,
        until: Instant,
        since: Option<Instant>,
    ) -> Option<Answered> {
        let here = self.ask_here(nats_cluster, account, revision, until, since);
        if let Some(answered) = here.await {
            return Some(answered);
        }
        let about = About::InForce {
            account,
            revision,
            since_ms: since.map(ms_since),
        };
        // Of another version's node nothing is known, as of one that does not answer; the log says why.
        let answered = self.ask_holder(nats_cluster, about, until, ASK_FOR).await;
        answered.ok().flatten()
    }

    /// Which of `accounts` have JetStream streams in `nats_cluster`, said at the latest at `until`.
    pub(super) async fn streams_of(
        &self,
        nats_cluster: &str,
        accounts: &[AccountKey],
        until: Instant,
    ) -> Result<StreamsFound, StreamsUnknown> {
        let here = self.streams_here(nats_cluster, accounts.to_vec(), until);
        if let Some(answered) = here.await {
            return answered;
        }
        let about = About::Streams(accounts.to_vec());
        let answered = self.ask_holder(nats_cluster, about, until, TRAVEL);
        match answered.await {
            Ok(answered) => answered.unwrap_or(Err(StreamsUnknown::NotConnected)),
            Err(OtherVersion) => Err(StreamsUnknown::OtherVersion),
        }
    }

    async fn streams_here(
        &self,
        nats_cluster: &str,
        accounts: Vec<AccountKey>,
        until: Instant,
    ) -> Option<Result<StreamsFound, StreamsUnknown>> {
        let (answer, answered) = oneshot::channel();
        let inquiry = StreamsInquiry {
            accounts,
            until,
            answer,
        };
        self.put(nats_cluster, Asking::Streams(inquiry), until).await?;
        answered.await.ok()
    }

    /// Asks the node that publishes to `nats_cluster`, if that is another one: it answers at `until`, which may take it `more`.
    async fn ask_holder<A: DeserializeOwned>(
        &self,
        nats_cluster: &str,
        about: About,
        until: Instant,
        more: Duration,
    ) -> Result<Option<A>, OtherVersion> {
        let holder = self.lease(nats_cluster).map_or(0, |lease| lease.holder);
        if holder == 0 || Some(holder) == self.member_id() {
            return Ok(None);
        }
        let wait = until.saturating_duration_since(Instant::now());
        let question = Question {
            nats_cluster: nats_cluster.to_owned(),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(0),
            about,
        };
        let answer = self.0.raft.ask_publisher(holder, encode(&question), wait + more).await;
        let answer = answer.map(|answer| decode(&answer)).transpose();
        if answer.is_err() && !self.0.met_other_version.swap(true, Ordering::Relaxed) {
            let node = self.0.raft.member_name(holder).unwrap_or_default();
            tracing::warn!(
                node,
                nats_cluster,
                "this node and the one that publishes run versions of jwtmesh that do not understand each other's questions: until both run the same, this node cannot prove where a JWT is in force, and refuses deletes that depend on streams"
            );
        }
        answer
    }

    /// Puts a question to the publisher of `nats_cluster` on this node, if there is one.
    async fn put(&self, nats_cluster: &str, asking: Asking, until: Instant) -> Option<()> {
        let publisher = {
            let all = self.0.inquiries.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(nats_cluster)?.clone()
        };
        timeout_at(until + ASK_AGAIN, publisher.send(asking)).await.ok()?.ok()
    }

    async fn ask_here(
        &self,
        nats_cluster: &str,
        account: AccountKey,
        revision: Revision,
        until: Instant,
        since: Option<Instant>,
    ) -> Option<Answered> {
        let (answer, answered) = oneshot::channel();
        let inquiry = Inquiry {
            account,
            revision,
            until,
            since,
            answer,
        };
        self.put(nats_cluster, Asking::InForce(inquiry), until).await?;
        answered.await.ok()
    }

    /// The answer to another node's question; `None` where this node does not publish.
    pub(super) async fn answer_peer(&self, question: Bytes) -> Option<Bytes> {
        let Ok(question) = decode::<Question>(&question) else {
            return Some(not_understood());
        };
        let wait = Duration::from_millis(question.wait_ms).min(ASK_FOR);
        let (until, nats_cluster) = (Instant::now() + wait, &question.nats_cluster);
        Some(match question.about {
            About::InForce {
                account,
                revision,
                since_ms,
            } => {
                let since = since_ms.and_then(|ms| Instant::now().checked_sub(Duration::from_millis(ms)));
                encode(&self.ask_here(nats_cluster, account, revision, until, since).await?)
            }
            About::Streams(accounts) => encode(&self.streams_here(nats_cluster, accounts, until).await?),
        })
    }

    /// What is agreed of `revision`.
    fn agreed(&self, nats_cluster: &str, revision: Revision) -> Vec<Told> {
        let is_sent = self.position(nats_cluster) >= revision;
        let told = self.servers(nats_cluster).into_iter().map(|server| {
            let enforcement = match server.behind {
                None if is_sent => Enforcement::InForce,
                _ => Enforcement::Waiting,
            };
            Told { server, enforcement }
        });
        told.collect()
    }
}

/// Whether there are servers, and it is in force at each.
fn is_everywhere(told: &[Told]) -> bool {
    !told.is_empty() && told.iter().all(|told| told.enforcement == Enforcement::InForce)
}

fn ms_since(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
