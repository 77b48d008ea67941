//! openraft's way to the peers: each of its calls becomes a message, and the answer is checked.

use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftLogReader, RaftNetworkFactory, RaftNetworkV2};
use tokio::time::Instant;

use super::handler::{Handler, Membered};
use super::messages::{
    Answer, AnswerContent, Append, Envelope, Handover, Introduction, NotProposed, Piece, Place, Proposed, Request, Uuid,
};
use super::pipeline::{AllGranted, Granted, fits, pipelined};
use super::refusal::CallError;
use crate::raft::forms::{decode, encode};
use crate::raft::machine::members;
use crate::raft::runtime::{LogId, Member, Snapshot, Types, Vote};
use crate::state::SnapshotView;
use crate::tasks::{chain, off_the_workers};

/// Pauses between attempts to reach a peer that does not answer. Short, because an attempt costs little and a peer that
/// is back should not wait to hear from its leader.
const BACKOFF: Duration = Duration::from_millis(100);

/// How long a peer may take for a piece of a snapshot: the last one is answered when the snapshot is installed, whose
/// last sync writes up to 64 MiB.
const PIECE_PATIENCE: Duration = Duration::from_secs(30);

/// After this long without progress a snapshot is given up; a newer one is tried.
const SNAPSHOT_STUCK: Duration = Duration::from_secs(60);

/// The pause after a snapshot that was refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// How long a peer may take for entries, however many are on their way before them: 2 MiB at 10 Mbit/s.
const ENTRIES_PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to look for a voter's newest entry in the log here.
const NOTE_PATIENCE: Duration = Duration::from_millis(20);

/// How long a peer may take to note that an account is to be sent again.
const RESEND_PATIENCE: Duration = Duration::from_secs(1);

/// On which connection a message travels: what is large or slow must not hold up heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Raft's messages.
    Messages,
    /// Snapshots, and commands of followers.
    Bulk,
}

impl Lane {
    /// The path of its messages, which carries the version of the protocol.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Messages => "/peer/v1/messages",
            Self::Bulk => "/peer/v1/bulk",
        }
    }
}

/// Carries messages to peers.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Sends `body` to `to` and brings the answer, within `patience`.
    fn call(
        &self,
        to: &Member,
        lane: Lane,
        body: Bytes,
        patience: Duration,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send;
}

/// The transport of a mesh of one node, which has no peer to send to.
#[derive(Debug, Clone, Copy)]
pub struct NoPeers;

impl Transport for NoPeers {
    async fn call(&self, _: &Member, _: Lane, _: Bytes, _: Duration) -> Result<Bytes, CallError> {
        Err(CallError::NotSent("cluster.toml has no [peer]".to_owned()))
    }
}

/// The peers of a node, over a transport. Clones share it.
#[derive(Debug, Clone)]
pub struct Peers<T> {
    handler: Handler,
    transport: T,
    /// What each voter that elected this node had then, of those of which this node has it too.
    granted: Arc<AllGranted>,
    /// Counts the links. Their numbers repeat after a restart, which does no harm: each append says itself what it follows.
    links: Arc<AtomicU64>,
}

impl<T: Transport> Peers<T> {
    /// The peers of the node that `handler` answers for.
    pub fn new(handler: Handler, transport: T) -> Self {
        Self {
            handler,
            transport,
            granted: Arc::default(),
            links: Arc::default(),
        }
    }

    /// Notes that the voter `to` has elected this node and had the entry `last` then, if this log has that entry too: what
    /// comes before is the same in both logs. The voter takes entries from no other node until it votes again, and it has
    /// synced those before its vote: openraft saves a vote behind everything that it began before, an installation included.
    async fn note_granted(&self, to: u64, vote: Vote, last: LogId) {
        let mut log = self.handler.inner().log.clone();
        let own = log.try_get_log_entries(last.index..=last.index).await;
        if own.is_ok_and(|own| own.first().is_some_and(|entry| entry.log_id == last)) {
            self.granted.note(to, Granted { vote, last });
        }
    }

    fn envelope(&self, to: u64, store: Uuid) -> Envelope {
        let own = self.handler.inner();
        let member = own.member.get();
        Envelope {
            mesh: member.map_or([0; 16], |member| member.mesh),
            from: member.map_or(0, |member| member.node_id),
            from_store: own.own.store,
            to,
            to_store: store,
            now: own.clock.now(),
        }
    }

    /// Sends `request` and gives what it was answered. The contact is remembered.
    async fn ask(
        &self,
        to: u64,
        peer: &Member,
        lane: Lane,
        request: Request,
        patience: Duration,
    ) -> Result<AnswerContent, CallError> {
        let answered = self.call(to, peer, lane, request, patience).await;
        self.note(to, peer, &answered);
        answered.map(|answer| answer.content)
    }

    /// Remembers how a call to the member `to` ended.
    fn note(&self, to: u64, peer: &Member, answered: &Result<Answer, CallError>) {
        let own = self.handler.inner();
        match answered {
            Ok(answer) => {
                let offset = answer.now.saturating_sub(own.clock.now());
                own.contacts
                    .answered(to, &peer.name, answer.applied, offset, answer.is_disk_bad);
            }
            Err(error) => own.contacts.failed(to, &peer.name, &error.to_string()),
        }
    }

    async fn call(
        &self,
        to: u64,
        peer: &Member,
        lane: Lane,
        request: Request,
        patience: Duration,
    ) -> Result<Answer, CallError> {
        let body = encode(&(self.envelope(to, uuid(&peer.store)), request));
        let answered = self.transport.call(peer, lane, body, patience).await?;
        // It did what it was asked, whatever that was.
        decode(&answered).map_err(|error| CallError::NoAnswer(format!("its answer is unreadable: {error}")))
    }

    /// Asks the node at `peer`, which may not be a member, who it is.
    pub(super) async fn say_hello(
        &self,
        peer: &Member,
        lane: Lane,
        patience: Duration,
    ) -> Result<Introduction, CallError> {
        // It has no number yet under which the contact could be remembered.
        match self.call(0, peer, lane, Request::Hello, patience).await?.content {
            AnswerContent::Hello(introduction) => Ok(introduction),
            _ => Err(unexpected()),
        }
    }

    /// Whether a node answers where the member `to` should be. Only what the member itself answers is remembered: any node
    /// says who it is, also one that takes nothing else from this one.
    pub(super) async fn greet_member(
        &self,
        to: u64,
        peer: &Member,
        lane: Lane,
        patience: Duration,
    ) -> Result<(), CallError> {
        let answered = self.call(to, peer, lane, Request::Hello, patience).await;
        let mesh = self.handler.inner().member.get().map(|member| member.mesh);
        let is_other = matches!(&answered, Ok(Answer { content: AnswerContent::Hello(said), .. })
            if said.member_of.map(|(mesh, _)| mesh) != mesh || said.store != uuid(&peer.store));
        if !is_other {
            self.note(to, peer, &answered);
        }
        answered.map(drop)
    }

    /// Has the node at `peer` become member `node_id` of this node's mesh.
    pub(super) async fn join(&self, peer: &Member, node_id: u64, patience: Duration) -> Result<(), CallError> {
        let cluster = self.handler.inner().own.cluster.clone();
        let request = Request::Join { cluster, node_id };
        match self.ask(node_id, peer, Lane::Bulk, request, patience).await? {
            AnswerContent::Joined => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// The revision that can be read at `to`: `wanted` or later, unless that takes long.
    pub(super) async fn wait_applied(
        &self,
        to: u64,
        peer: &Member,
        wanted: u64,
        patience: Duration,
    ) -> Result<u64, CallError> {
        match self
            .ask(to, peer, Lane::Messages, Request::Applied(wanted), patience)
            .await?
        {
            AnswerContent::Applied => Ok(self.handler.inner().contacts.of(to).applied),
            _ => Err(unexpected()),
        }
    }

    /// The revision that has everything that was acknowledged before, as the leader `to` says.
    pub(super) async fn ask_newest(&self, to: u64, peer: &Member, patience: Duration) -> Result<u64, CallError> {
        match self.ask(to, peer, Lane::Messages, Request::Newest, patience).await? {
            AnswerContent::Newest(revision) => Ok(revision),
            _ => Err(unexpected()),
        }
    }

    /// Tells `to` that somebody asked for `account` to be sent again.
    pub(super) async fn tell_resend(&self, to: u64, peer: &Member, account: [u8; 32]) -> Result<(), CallError> {
        let request = Request::Resend(account);
        self.ask(to, peer, Lane::Bulk, request, RESEND_PATIENCE).await.map(drop)
    }

    /// Asks the publishers of `to` something; `None` if it does not publish.
    pub(super) async fn question(
        &self,
        to: u64,
        peer: &Member,
        question: Bytes,
        patience: Duration,
    ) -> Result<Option<Bytes>, CallError> {
        let request = Request::Publisher(question);
        match self.ask(to, peer, Lane::Bulk, request, patience).await? {
            AnswerContent::Publisher(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    /// Has the leader `to` have `command` agreed on.
    pub(super) async fn forward(
        &self,
        to: u64,
        peer: &Member,
        command: Bytes,
        patience: Duration,
    ) -> Result<Result<Proposed, NotProposed>, CallError> {
        match self
            .ask(to, peer, Lane::Bulk, Request::Propose(command), patience)
            .await?
        {
            AnswerContent::Proposed(outcome) => Ok(outcome),
            _ => Err(unexpected()),
        }
    }
}

fn uuid(hex: &str) -> Uuid {
    let mut uuid = [0; 16];
    // The store of a peer that is not known yet is an empty text.
    if hex.len() == 32 {
        let _ = data_encoding::HEXLOWER.decode_mut(hex.as_bytes(), &mut uuid);
    }
    uuid
}

fn unexpected() -> CallError {
    CallError::NoAnswer("it answered something else than it was asked".to_owned())
}

impl<T: Transport> RaftNetworkFactory<Types> for Peers<T> {
    type Network = Link<T>;

    /// Only remembers whom to call: openraft waits for this in its core.
    async fn new_client(&mut self, to: u64, peer: &Member) -> Link<T> {
        Link {
            peers: self.clone(),
            to,
            peer: peer.clone(),
            stream: Place {
                link: self.links.fetch_add(1, Ordering::Relaxed),
                ..Place::default()
            },
        }
    }
}

/// openraft's way to one peer.
pub struct Link<T> {
    peers: Peers<T>,
    to: u64,
    peer: Member,
    /// The first place of its latest stream of appends; it has one at a time.
    stream: Place,
}

impl<T: Transport> Link<T> {
    async fn ask(&self, request: Request, patience: Duration) -> Result<AnswerContent, RPCError<Types>> {
        let asked = self.peers.ask(self.to, &self.peer, Lane::Messages, request, patience);
        asked.await.map_err(RPCError::from)
    }

    /// Sends a snapshot piece by piece, each until it is taken. Ends when nothing gets on for a while, and after the first
    /// piece that the peer refuses.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let broken = |error: CallError| StreamingError::from(Unreachable::new(&error));
        let unreadable = |reason: String| broken(CallError::NotSent(reason));
        let last = snapshot.meta.last_log_id;
        let last = last.ok_or_else(|| unreadable("an empty snapshot".to_owned()))?;
        self.peers.handler.inner().contacts.sends_snapshot(self.to, last.index);
        let mut export = Some(snapshot.snapshot.export());
        let (mut number, mut bytes) = (0, None);
        let mut stuck_since = Instant::now();
        let mut wanted = 0;
        loop {
            // Pieces that the peer has from an attempt before this one are read and not sent.
            while number <= wanted {
                let reading = export.take();
                let Some(mut reading) = reading else {
                    return Err(unreadable("a piece was asked for that there is not".to_owned()));
                };
                let read = off_the_workers(move || {
                    let piece = reading.next_piece();
                    (reading, piece)
                });
                let (reading, piece) = read.await;
                bytes = match piece {
                    Ok(bytes) => bytes,
                    Err(fault) => {
                        tracing::error!(
                            peer = self.peer.name,
                            "this node cannot send its state to a node that needs it: {}. Stop this node, so that one with a sound copy leads",
                            chain(&fault)
                        );
                        tokio::time::sleep(REFUSED_PAUSE).await;
                        return Err(unreadable(chain(&fault)));
                    }
                };
                // After the last piece comes one without content, which says so.
                export = bytes.is_some().then_some(reading);
                number += 1;
            }
            let piece = Piece::new(vote, last, wanted, bytes.clone());
            let asked = self.peers.ask(
                self.to,
                &self.peer,
                Lane::Bulk,
                Request::Snapshot(piece),
                PIECE_PATIENCE,
            );
            match asked.await {
                Ok(AnswerContent::Installed(vote)) => return Ok(SnapshotResponse::new(vote.into())),
                Ok(AnswerContent::Wanted(next)) if next >= wanted => {
                    if next > wanted {
                        stuck_since = Instant::now();
                    } else if stuck_since.elapsed() > SNAPSHOT_STUCK {
                        return Err(broken(unexpected()));
                    } else {
                        tokio::time::sleep(BACKOFF).await;
                    }
                    wanted = next;
                }
                // The peer has lost what it had: from the beginning, with a newer snapshot.
                Ok(_) => return Err(broken(unexpected())),
                Err(error @ CallError::Refused(_)) => {
                    // Such as for want of room, and the next attempt counts everything again.
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    return Err(broken(error));
                }
                Err(error) if stuck_since.elapsed() > SNAPSHOT_STUCK => return Err(broken(error)),
                Err(_) => tokio::time::sleep(BACKOFF).await,
            }
        }
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<Types>,
        place: Option<Place>,
        patience: Duration,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let own = self.peers.handler.inner();
        // openraft sends heartbeats while its core waits for the disk, and would stay leader without ever writing anything.
        if own.health.is_hanging() {
            let hanging = CallError::NotSent("the disk of this node hangs".to_owned());
            return Err(Unreachable::new(&hanging).into());
        }
        let (vote, sent) = (request.vote, Instant::now());
        let previous = request.prev_log_id;
        let newest = request.entries.last().map(|entry| entry.log_id);
        let last = newest.or(previous);
        let mut append = Append::from(request);
        let age = self.quorum_age(vote).map(|age| age.as_millis());
        append.quorum_age_ms = age.map_or(u64::MAX, |age| u64::try_from(age).unwrap_or(u64::MAX));
        append.time_offset = own.contacts.median_offset();
        append.place = place;
        own.contacts.set_time_offset(append.time_offset);
        let (peer, contacts) = (&self.peer, &own.contacts);
        let request = Request::Append(append);
        let asked = self.peers.ask(self.to, peer, Lane::Messages, request, patience);
        let answered = asked.await.inspect_err(|error| {
            if let CallError::Refused(reason) = error {
                contacts.refused(self.to, &peer.name, reason);
            }
        });
        match answered? {
            AnswerContent::Append(appended) => {
                let response = AppendEntriesResponse::from(appended);
                if !fits(&response, previous, last) {
                    return Err(wrong());
                }
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    contacts.acknowledged(vote, self.to, sent);
                    if let (Some(age), Some(member)) = (self.quorum_age(vote), self.member()) {
                        contacts.set_leading_view(&member.core, vote, age);
                    }
                }
                match (&response, previous, newest) {
                    (AppendEntriesResponse::Success, _, Some(last)) => contacts.has_entries(self.to, last.index),
                    (AppendEntriesResponse::Conflict, Some(at), _) => {
                        contacts.lacks(self.to, &peer.name, at.index);
                        self.peers.granted.lacks(self.to, at);
                    }
                    _ => {}
                }
                Ok(response)
            }
            _ => Err(wrong()),
        }
    }

    fn member(&self) -> Option<&Membered> {
        self.peers.handler.inner().member.get()
    }

    /// The age of this leader's quorum.
    fn quorum_age(&self, vote: Vote) -> Option<Duration> {
        let member = self.member()?;
        let members = members(&member.core);
        let voters = members.membership().get_joint_config();
        let contacts = &self.peers.handler.inner().contacts;
        contacts.quorum_age(vote, member.node_id, voters)
    }
}

/// For an answer that does not belong to what was asked.
fn wrong() -> RPCError<Types> {
    Unreachable::new(&unexpected()).into()
}

/// What openraft's stream of appends gives.
type StreamedFuture<'s> = BoxFuture<'s, Result<Streamed<'s>, RPCError<Types>>>;
type Streamed<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl<T: Transport> RaftNetworkV2<Types> for Link<T> {
    type SnapshotData = SnapshotView;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.append(request, None, option.hard_ttl()).await
    }

    fn stream_append<'s, S>(&'s mut self, requests: S, option: RPCOption) -> StreamedFuture<'s>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        self.stream.stream += 1;
        let link: &'s Self = self;
        let send = move |request: AppendEntriesRequest<Types>, place, ahead: u32| {
            // The peer takes those before it first.
            let mut patience = option.hard_ttl() * (ahead + 1);
            if !request.entries.is_empty() {
                patience = patience.max(ENTRIES_PATIENCE);
            }
            link.append(request, Some(place), patience)
        };
        let has = |request: &AppendEntriesRequest<Types>| link.peers.granted.cover(link.to, request);
        Box::pin(ready(Ok(pipelined(requests, link.stream, has, send).boxed())))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let vote = request.vote;
        let response = voted(self.ask(Request::Vote(request.into()), option.hard_ttl()).await?)?;
        if let Some(last) = response.last_log_id
            && response.vote_granted
            && response.vote == vote
        {
            // A vote is not lost for a log that is slow to read.
            let noted = self.peers.note_granted(self.to, vote, last);
            drop(tokio::time::timeout(NOTE_PATIENCE, noted).await);
        }
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        voted(self.ask(Request::PreVote(request.into()), option.hard_ttl()).await?)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.ask(Request::Transfer(request.into()), option.hard_ttl()).await? {
            AnswerContent::Transfer(Handover::Begun) => Ok(Ok(())),
            AnswerContent::Transfer(Handover::VoteChanged { expected, actual }) => {
                Ok(Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                }))
            }
            AnswerContent::Transfer(Handover::Behind { expected, actual }) => {
                Ok(Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(Into::into),
                    actual: actual.map(Into::into),
                }))
            }
            _ => Err(wrong()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut cancel = std::pin::pin!(cancel);
        tokio::select! {
            closed = &mut cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot) => sent,
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

fn voted(content: AnswerContent) -> Result<VoteResponse<Types>, RPCError<Types>> {
    match content {
        AnswerContent::Vote { vote, is_granted, last } => Ok(VoteResponse {
            vote: vote.into(),
            vote_granted: is_granted,
            last_log_id: last.map(Into::into),
        }),
        _ => Err(wrong()),
    }
}
