//! What arrives from peers: checked here, and only then given to openraft, which relies on much without checking it.
//!
//! A wrong or hostile peer gets a refusal. Whatever carries the messages, a port or a simulation, calls
//! [`Handler::handle`] with the names in the sender's certificate.

mod checks;
mod queue;
mod receive;
mod turns;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use openraft::RaftLogReader;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, SnapshotResponse, TransferLeaderRequest};
use openraft::storage::RaftLogStorage;
use tokio::sync::{Mutex, RwLock, watch};

use checks::{check_committed, check_term};
use queue::{ENDING, Queue};
use receive::{Received, Receiving};
use turns::Turns;

use super::contacts::Contacts;
use super::health::Health;
use super::messages::{
    Answer, AnswerContent, Append, Appended, Envelope, Introduction, NotProposed, Own, Piece, Proposed, Request,
    SETTLE_WITHIN, Uuid, hex,
};
use super::refusal::PeerRefusal;
use crate::clock::Clock;
use crate::raft::error::ProposeError;
use crate::raft::forms::{decode, encode};
use crate::raft::log::LogStore;
use crate::raft::machine::{Core, members};
use crate::raft::runtime::{LogId, Snapshot, Types, Vote};
use crate::state::{Command, Outcomes, Revision, State};
use crate::tasks::Scope;

/// What the resolver does for other nodes: it has their commands agreed on, since it verifies what they carry.
pub trait Leading: Send + Sync {
    /// Verifies `command` of the member `from` again, and has it agreed on if this node leads.
    fn lead(&self, from: u64, command: Command) -> BoxFuture<'static, Result<Led, NotLed>>;

    /// Has `account` sent again to the NATS clusters that this node publishes to.
    fn resend(&self, account: [u8; 32]);

    /// Answers a question to this node's publishers; `None` if it does not publish.
    fn ask_publisher(&self, question: Bytes) -> BoxFuture<'static, Option<Bytes>>;
}

/// What became of a follower's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    /// The entry that carries it.
    pub revision: Revision,
    /// What applying it gave.
    pub outcomes: Outcomes,
}

/// Why a follower's command was not agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLed {
    /// It does not verify here.
    Refused(String),
    /// It was not proposed, or the outcome is unknown.
    NotAgreed(ProposeError),
}

/// A node's part in its mesh, once it has one.
#[derive(Clone)]
pub(in crate::raft) struct Membered {
    pub(in crate::raft) mesh: Uuid,
    pub(in crate::raft) node_id: u64,
    pub(in crate::raft) core: Core,
}

/// Makes this node a member: writes its identity and starts its core.
pub type Join = Box<JoinFn>;

type JoinFn = dyn Fn(Uuid, u64) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// What the rooms above do for this handler.
#[derive(Default)]
struct Hooks {
    join: Option<Arc<JoinFn>>,
    leading: Option<Arc<dyn Leading>>,
}

/// Answers peers. Clones are the same.
#[derive(Clone)]
pub struct Handler(Arc<Inner>);

pub(in crate::raft) struct Inner {
    pub(in crate::raft) own: Own,
    pub(in crate::raft) member: OnceLock<Membered>,
    pub(in crate::raft) contacts: Contacts,
    pub(in crate::raft) log: LogStore,
    receiving: Receiving,
    applied: watch::Receiver<Revision>,
    pub(in crate::raft) health: Health,
    /// Held by whatever changes the log through openraft, until it has: entries and a snapshot must not pass each other.
    order: Arc<RwLock<()>>,
    turns: Turns,
    queue: Queue,
    /// Held while this node becomes a member, which it does once.
    joining: Mutex<()>,
    hooks: StdMutex<Hooks>,
    /// Whether `member bootstrap` runs here.
    is_forming: AtomicBool,
    pub(in crate::raft) clock: Clock,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handler({})", self.0.own.name)
    }
}

impl Handler {
    /// For the node `own`, with its two stores; `applied` is the revision that can be read there.
    pub fn new(
        own: Own,
        log: LogStore,
        state: State,
        applied: watch::Receiver<Revision>,
        health: Health,
        clock: Clock,
        scope: &Scope,
    ) -> Self {
        Self(Arc::new(Inner {
            own,
            member: OnceLock::new(),
            contacts: Contacts::default(),
            log,
            receiving: Receiving::new(state, health.clone(), scope.fault().clone()),
            applied,
            health,
            order: Arc::default(),
            turns: Turns::default(),
            queue: Queue::new(scope.clone()),
            joining: Mutex::new(()),
            hooks: StdMutex::default(),
            is_forming: AtomicBool::new(false),
            clock,
        }))
    }

    pub(in crate::raft) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// Drops what is left of a snapshot that arrives no further.
    pub(in crate::raft) async fn tidy(&self) {
        let applied = *self.0.applied.borrow();
        self.0.receiving.tidy(applied).await;
    }

    /// From now on this node is member `node_id` of `mesh`, and `core` is its openraft.
    pub fn begin(&self, mesh: Uuid, node_id: u64, core: Core) {
        // A node joins once: the identity on its disk says so before this is called.
        let _ = self.0.member.set(Membered { mesh, node_id, core });
    }

    /// Whom commands of followers are given to.
    pub fn set_leading(&self, leading: Arc<dyn Leading>) {
        self.hooks().leading = Some(leading);
    }

    /// How this node becomes a member.
    pub fn set_join(&self, join: Join) {
        self.hooks().join = Some(join.into());
    }

    /// Forgets both: they know this handler, and would keep open everything that it knows.
    pub(in crate::raft) fn unhook(&self) {
        *self.hooks() = Hooks::default();
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the message in `body`; `certified` are the names in its sender's certificate.
    pub async fn handle(&self, certified: &[String], body: &[u8]) -> Result<Bytes, PeerRefusal> {
        let read = decode::<(Envelope, Request)>(body);
        let (envelope, request) = read.map_err(|error| PeerRefusal::Wrong(format!("unreadable: {error}")))?;
        let content = match request {
            Request::Hello => {
                self.check_node(certified)?;
                AnswerContent::Hello(self.introduce())
            }
            Request::Join { cluster, node_id } => self.invited(certified, &envelope, &cluster, node_id).await?,
            request => {
                let member = self.admitted(certified, &envelope)?;
                if members(&member.core).membership().get_node(&envelope.from).is_some() {
                    self.0.contacts.heard(envelope.from);
                }
                self.answer(member, &envelope, request).await?
            }
        };
        Ok(encode(&Answer {
            now: self.0.clock.now(),
            applied: *self.0.applied.borrow(),
            is_disk_bad: self.0.health.is_bad(),
            content,
        }))
    }

    /// The name in the sender's certificate that `cluster.toml` names too.
    fn known<'c>(&self, certified: &'c [String]) -> Result<&'c str, PeerRefusal> {
        let found = certified.iter().find(|name| self.0.own.nodes.contains_key(*name));
        found.map(String::as_str).ok_or_else(|| {
            PeerRefusal::Stranger(format!(
                "the certificate names {certified:?}, and {}'s cluster.toml has no such node",
                self.0.own.name
            ))
        })
    }

    /// Refuses a sender whose certificate has these names where none of them is a node that this one knows.
    pub(super) fn check_node(&self, certified: &[String]) -> Result<(), PeerRefusal> {
        let is_member = |member: &Membered| {
            let members = members(&member.core);
            members
                .membership()
                .nodes()
                .any(|(_, node)| certified.contains(&node.name))
        };
        if self.0.member.get().is_some_and(is_member) {
            return Ok(());
        }
        self.known(certified).map(drop)
    }

    fn introduce(&self) -> Introduction {
        let member = self.0.member.get().map(|member| (member.mesh, member.node_id));
        let is_forming = self.0.is_forming.load(Ordering::SeqCst);
        Introduction::of(&self.0.own, member, *self.0.applied.borrow(), is_forming)
    }

    /// While what it returns lives, this node says that it forms the mesh.
    pub(in crate::raft) fn say_forming(&self) -> Forming {
        self.0.is_forming.store(true, Ordering::SeqCst);
        Forming(self.clone())
    }

    /// This node's membership, if the sender is a member of the same mesh and means this node.
    fn admitted(&self, certified: &[String], envelope: &Envelope) -> Result<&Membered, PeerRefusal> {
        let Some(member) = self.0.member.get() else {
            if envelope.to_store != self.0.own.store && self.known(certified).is_ok() {
                self.0.contacts.set_missed();
            }
            return Err(PeerRefusal::NotNow(if self.0.contacts.is_missed() {
                "this node has lost its data, and is not the member any more that it was"
            } else {
                "this node is not a member of a mesh yet"
            }));
        };
        if envelope.mesh != member.mesh {
            return Err(PeerRefusal::Stranger("this node belongs to another mesh".to_owned()));
        }
        if envelope.to != member.node_id || envelope.to_store != self.0.own.store {
            return Err(PeerRefusal::Wrong(format!(
                "the message is for node {} with another store, this is node {}",
                envelope.to, member.node_id
            )));
        }
        let members = members(&member.core);
        match members.membership().get_node(&envelope.from) {
            Some(sender) => {
                if !certified.contains(&sender.name) {
                    return Err(PeerRefusal::Stranger(format!(
                        "node {} is {:?}, and the certificate names {certified:?}",
                        envelope.from, sender.name
                    )));
                }
                if sender.store != hex(&envelope.from_store) {
                    return Err(PeerRefusal::Stranger(format!(
                        "node {} ({:?}) has lost its store: a new one needs a new id",
                        envelope.from, sender.name
                    )));
                }
            }
            // This node may have missed when the sender became a member.
            None => {
                let name = self.known(certified)?;
                let mut nodes = members.membership().nodes();
                if let Some((id, _)) = nodes.find(|(_, node)| node.name == name) {
                    return Err(PeerRefusal::Stranger(format!(
                        "{name:?} is node {id} here, not node {}",
                        envelope.from
                    )));
                }
            }
        }
        Ok(member)
    }

    /// Makes this node member `node_id` of `mesh`, unless it is one already.
    pub(in crate::raft) async fn join(&self, mesh: Uuid, node_id: u64) -> Result<(), String> {
        let _joining = self.0.joining.lock().await;
        if let Some(member) = self.0.member.get() {
            return if (member.mesh, member.node_id) == (mesh, node_id) {
                Ok(())
            } else {
                Err("this node holds the store of another mesh".to_owned())
            };
        }
        let join = self
            .hooks()
            .join
            .clone()
            .ok_or_else(|| "this node is starting".to_owned())?;
        join(mesh, node_id).await
    }

    async fn invited(
        &self,
        certified: &[String],
        envelope: &Envelope,
        cluster: &str,
        node_id: u64,
    ) -> Result<AnswerContent, PeerRefusal> {
        self.known(certified)?;
        if cluster != self.0.own.cluster {
            return Err(PeerRefusal::Wrong(format!(
                "this node's cluster.toml is of mesh {:?}, not {cluster:?}",
                self.0.own.cluster
            )));
        }
        if envelope.to_store != self.0.own.store {
            return Err(PeerRefusal::Wrong("this node has another store by now".to_owned()));
        }
        self.join(envelope.mesh, node_id).await.map_err(PeerRefusal::Wrong)?;
        Ok(AnswerContent::Joined)
    }

    async fn answer(
        &self,
        member: &Membered,
        envelope: &Envelope,
        request: Request,
    ) -> Result<AnswerContent, PeerRefusal> {
        let core = &member.core;
        match request {
            Request::Append(append) => self.append(core, envelope, append).await,
            Request::Vote(candidacy) => {
                let request = candidacy.checked(envelope.from).map_err(PeerRefusal::Wrong)?;
                check_term(core, &request.vote)?;
                Ok(core.vote(request).await.map_err(|_| ENDING)?.into())
            }
            Request::PreVote(candidacy) => {
                let request = candidacy.checked(envelope.from).map_err(PeerRefusal::Wrong)?;
                check_term(core, &request.vote)?;
                Ok(core.pre_vote(request).await.map_err(|_| ENDING)?.into())
            }
            Request::Transfer(transfer) => {
                let request = TransferLeaderRequest::from(transfer);
                if request.from_leader().leader_id.node_id != envelope.from {
                    return Err(PeerRefusal::Wrong("a handover of another leader".to_owned()));
                }
                let response = core.handle_transfer_leader(request).await.map_err(|_| ENDING)?;
                Ok(AnswerContent::Transfer(response.into()))
            }
            Request::Propose(bytes) => self.propose(envelope.from, &bytes).await,
            Request::Resend(account) => {
                if let Some(leading) = self.hooks().leading.clone() {
                    leading.resend(account);
                }
                Ok(AnswerContent::Noted)
            }
            Request::Publisher(question) => {
                let leading = self.hooks().leading.clone();
                let asked = leading.map(|leading| leading.ask_publisher(question));
                Ok(AnswerContent::Publisher(OptionFuture::from(asked).await.flatten()))
            }
            Request::Applied(wanted) => {
                let mut applied = self.0.applied.clone();
                let reached = applied.wait_for(|applied| *applied >= wanted);
                // The answer tells how far it is.
                drop(tokio::time::timeout(SETTLE_WITHIN, reached).await);
                Ok(AnswerContent::Applied)
            }
            Request::Newest => {
                let newest = self.0.contacts.newest(core).await;
                newest
                    .map(AnswerContent::Newest)
                    .ok_or(PeerRefusal::NotNow("this node does not lead"))
            }
            Request::Snapshot(piece) => {
                if piece.vote().leader_id.node_id != envelope.from {
                    return Err(PeerRefusal::Wrong("a snapshot of another leader".to_owned()));
                }
                check_term(core, &piece.vote())?;
                let (handler, core) = (self.clone(), core.clone());
                let taking = async move { handler.take(&core, piece).await };
                self.0.queue.finish("taking a snapshot", taking).await?
            }
            Request::Hello | Request::Join { .. } => unreachable!("answered without a membership"),
        }
    }

    /// Takes a piece of a snapshot, and installs the snapshot if it is whole. Not where it would replace the last copy of
    /// uploads that the others have lost.
    async fn take(&self, core: &Core, piece: Piece) -> Result<AnswerContent, PeerRefusal> {
        if self.0.contacts.contradiction().is_some() {
            return Err(PeerRefusal::Wrong("a snapshot of another history".to_owned()));
        }
        match self.0.receiving.take(core, piece).await? {
            Received::Answer(content) => Ok(content),
            Received::Whole(vote, snapshot) => {
                let response = self.install(core, vote, snapshot).await?;
                Ok(AnswerContent::Installed(response.vote.into()))
            }
        }
    }

    async fn append(&self, core: &Core, envelope: &Envelope, append: Append) -> Result<AnswerContent, PeerRefusal> {
        let (age, time_offset, place) = (append.quorum_age_ms, append.time_offset, append.place);
        let has_entries = append.has_entries();
        let request = append.checked().map_err(PeerRefusal::Wrong)?;
        if request.vote.leader_id.node_id != envelope.from {
            return Err(PeerRefusal::Wrong("entries of another leader".to_owned()));
        }
        check_term(core, &request.vote)?;
        let committed = request.leader_commit.map(|id| id.index);
        let newest = request.entries.last().map(|entry| entry.log_id.index);
        // What a leader sends that was replaced takes no turn from the one that replaced it.
        let is_replaced = request.vote < core.metrics().borrow_watched().vote;
        let turn = match place.filter(|_| !is_replaced) {
            Some(place) => Some(self.0.turns.wait(envelope.from, place).await?),
            None => None,
        };
        let order = if has_entries {
            Some(self.0.order.clone().read_owned().await)
        } else {
            None
        };
        let applied = *self.0.applied.borrow();
        if !is_replaced {
            check_committed(core, &self.0.log, &self.0.contacts, applied, &request).await?;
        }
        let given = || {
            if let Some(turn) = turn {
                turn.pass();
            }
        };
        let response = self.0.queue.append(core, request, order, given).await?;
        let appended = Appended::from(response);
        if !matches!(appended, Appended::HigherVote(_)) {
            if newest > Some(applied) && matches!(appended, Appended::All) {
                self.0.contacts.agrees();
            }
            // From a leader with another history this node learns nothing, and so it looks as old as it is.
            if self.0.contacts.contradiction().is_none() {
                self.0.contacts.set_heard();
                if age != u64::MAX {
                    let (age, applied) = (Duration::from_millis(age), *self.0.applied.borrow());
                    self.0.contacts.set_view(age, committed.unwrap_or(0), applied);
                }
            }
            let time = envelope.now.saturating_add(time_offset);
            self.0.contacts.set_time_offset(time.saturating_sub(self.0.clock.now()));
        }
        if matches!(appended, Appended::All) && committed <= Some(*self.0.applied.borrow()) {
            self.0.contacts.set_caught_up();
        }
        Ok(AnswerContent::Append(appended))
    }

    /// Installs a snapshot that arrived whole, unless the log has the entry that it ends with: then everything before
    /// that entry is here too.
    async fn install(
        &self,
        core: &Core,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Types>, PeerRefusal> {
        let _order = self.0.order.write().await;
        if let Some(last) = snapshot.meta.last_log_id {
            // openraft would set back how far it has written, which its own assertions refuse.
            let mut log = self.0.log.clone();
            let found = log
                .try_get_log_entries(last.index..=last.index)
                .await
                .map_err(|_| ENDING)?;
            let promised = core.metrics().borrow_watched().vote;
            if promised >= vote && found.first().is_some_and(|entry| entry.log_id == last) {
                // The leader takes the answer for a promise that a power cut does not break.
                let durable = async {
                    while !self.0.log.is_durable(last.index) {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                };
                let durable = tokio::time::timeout(DURABLE_PATIENCE, durable).await;
                let hanging = |_| PeerRefusal::NotNow("the disk of this node has not taken those entries yet");
                return durable.map(|()| SnapshotResponse::new(promised)).map_err(hanging);
            }
            let applied = core.metrics().borrow_watched().last_applied;
            if applied.is_some_and(|applied| applied.index >= last.index && applied < last) {
                return Err(PeerRefusal::Wrong(format!("{last} is not what is committed there")));
            }
            self.drop_tail(core, vote, last).await?;
        }
        let revision = snapshot.meta.last_log_id.map(|id| id.index);
        tracing::info!(
            revision,
            "this node missed more than the log holds: it has received the whole state and begins to use it"
        );
        core.install_full_snapshot(vote, snapshot).await.map_err(|_| ENDING)
    }

    /// Has openraft drop what follows the entries of a snapshot that ends with `last`, if that is of a later term and so no
    /// part of it: another leader left it here, and it was never agreed on. openraft's own assertion takes the last entry
    /// of a snapshot with a greater index for greater than every entry here.
    async fn drop_tail(&self, core: &Core, vote: Vote, last: LogId) -> Result<(), PeerRefusal> {
        const UNREADABLE: PeerRefusal = PeerRefusal::NotNow("the log of this node cannot be read");
        let mut log = self.0.log.clone();
        let state = log.get_log_state().await.map_err(|_| UNREADABLE)?;
        let Some(newest) = state.last_log_id else { return Ok(()) };
        if newest <= last || newest.index >= last.index {
            return Ok(());
        }
        // Terms only grow along a log: the first entry of a later one is found by halving.
        let (mut first, mut end) = (*self.0.applied.borrow() + 1, newest.index);
        while first < end {
            let middle = first.midpoint(end);
            let found = log.try_get_log_entries(middle..=middle).await.map_err(|_| UNREADABLE)?;
            match found.first() {
                Some(entry) if entry.log_id > last => end = middle,
                _ => first = middle + 1,
            }
        }
        let dropping = AppendEntriesRequest {
            vote,
            // No log has this and the entry that lies here; openraft drops what contradicts it.
            prev_log_id: Some(LogId::new(last.leader_id, first)),
            entries: Vec::new(),
            leader_commit: None,
        };
        let dropped = core.append_entries(dropping).await;
        dropped
            .map(drop)
            .map_err(|_| PeerRefusal::NotNow("this node is ending"))
    }

    async fn propose(&self, from: u64, bytes: &[u8]) -> Result<AnswerContent, PeerRefusal> {
        let command = Command::decode(bytes).map_err(|error| PeerRefusal::Wrong(error.to_string()))?;
        let leading = self.hooks().leading.clone();
        let leading = leading.ok_or(PeerRefusal::NotNow("this node is starting"))?;
        let led = leading.lead(from, command).await;
        Ok(AnswerContent::Proposed(match led {
            Ok(Led { revision, outcomes }) => Ok(Proposed { revision, outcomes }),
            Err(error) => Err(NotProposed::from(error)),
        }))
    }
}

/// A node that forms the mesh says so while this lives.
pub(in crate::raft) struct Forming(Handler);

impl Drop for Forming {
    fn drop(&mut self) {
        self.0.0.is_forming.store(false, Ordering::SeqCst);
    }
}

impl From<NotLed> for NotProposed {
    fn from(error: NotLed) -> Self {
        match error {
            NotLed::Refused(reason) => Self::Refused(reason),
            NotLed::NotAgreed(ProposeError::NoLeader) => Self::NotLeader,
            NotLed::NotAgreed(ProposeError::Busy) => Self::Busy,
            NotLed::NotAgreed(ProposeError::Unavailable { reason }) => Self::Unavailable(reason),
            NotLed::NotAgreed(ProposeError::Refused { reason }) => Self::Refused(reason),
            NotLed::NotAgreed(ProposeError::OutcomeUnknown) => Self::OutcomeUnknown,
        }
    }
}

/// How long a log may take to sync entries that it has.
const DURABLE_PATIENCE: Duration = Duration::from_secs(2);

/// The pause before that is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
