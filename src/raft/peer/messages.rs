//! WHAT PEERS SAY: every request and its answer, in forms of our own.
//!
//! A message is an [`Envelope`] and a [`Request`], encoded with postcard, under a path that carries the version. A
//! variant is only ever added, at the end; a changed one is a new variant. The answer is an [`Answer`], which carries the
//! answering node's time and how far it has applied beside what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::config::Timing;
use crate::raft::forms;
use crate::raft::runtime::{self, Entry, Payload, Types};
use crate::state::Outcomes;

/// The most that a node waits before it answers [`Request::Applied`], and that an upload's answer is held up for it.
pub(in crate::raft) const SETTLE_WITHIN: Duration = Duration::from_millis(500);

/// Of a mesh or a store: 16 random bytes.
pub type Uuid = [u8; 16];

/// A uuid as memberships and identities write it.
pub(in crate::raft) fn hex(uuid: &Uuid) -> String {
    data_encoding::HEXLOWER.encode(uuid)
}

/// Who sends a message to whom. A node that has not been admitted yet has the id 0, and no mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Envelope {
    /// The mesh; zero in [`Request::Hello`] of a node that does not know it.
    pub(in crate::raft) mesh: Uuid,
    /// The sender's id.
    pub(in crate::raft) from: u64,
    /// The sender's store.
    pub(in crate::raft) from_store: Uuid,
    /// The receiver's id; 0 where the sender does not know it yet.
    pub(in crate::raft) to: u64,
    /// The receiver's store; zero where the sender does not know it yet.
    pub(in crate::raft) to_store: Uuid,
    /// The sender's clock, Unix seconds.
    pub(in crate::raft) now: i64,
}

/// What is asked of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum Request {
    /// Who are you?
    Hello,
    /// Become this member of the mesh in the envelope.
    Join {
        /// The mesh's name, which the receiver's configuration must have too.
        cluster: String,
        /// The id of the receiver.
        node_id: u64,
    },
    /// Raft: entries, or a heartbeat.
    Append(Append),
    /// Raft: a vote in an election.
    Vote(Candidacy),
    /// Raft: would you vote for me? Changes nothing.
    PreVote(Candidacy),
    /// Raft: become the leader.
    Transfer(Transfer),
    /// A piece of a snapshot.
    Snapshot(Piece),
    /// A command that a follower was asked to have agreed on.
    Propose(Bytes),
    /// Tell when this revision can be read, or soon anyway.
    Applied(u64),
    /// Which revision has everything that was acknowledged before? Asked of the leader.
    Newest,
    /// Somebody asked for this account to be sent to the NATS clusters again.
    Resend([u8; 32]),
    /// A question to a publisher of NATS clusters, which only the rooms above read.
    Publisher(Bytes),
}

/// Entries from a leader; a heartbeat has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Append {
    vote: forms::Vote,
    previous: Option<forms::LogId>,
    committed: Option<forms::LogId>,
    entries: Vec<EntryForm>,
    /// How long ago a quorum last acknowledged this leader, in milliseconds; `u64::MAX` if none has.
    pub(in crate::raft) quorum_age_ms: u64,
    /// The mesh's time minus the leader's clock, in seconds.
    pub(in crate::raft) time_offset: i64,
    /// Which one it is of those that are sent without waiting for the answers before; none if it was sent alone.
    pub(in crate::raft) place: Option<Place>,
}

/// The place of an append among those of its stream. They arrive in any order, and are taken in this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Place {
    /// Which link of its sender: one sends entries, another one heartbeats.
    pub(in crate::raft) link: u64,
    /// Which stream of that link, which has one at a time.
    pub(in crate::raft) stream: u64,
    /// Its number there, from 0.
    pub(in crate::raft) number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EntryForm {
    id: forms::LogId,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Content {
    Blank,
    Command(Bytes),
    Membership(forms::Membership),
}

/// Who wants to lead, and what its log ends with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Candidacy {
    vote: forms::Vote,
    last: Option<forms::LogId>,
    /// The leader has asked it to.
    is_handover: bool,
}

/// A leader hands over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Transfer {
    from: forms::Vote,
    to: u64,
    last: Option<forms::LogId>,
}

/// A piece of a snapshot. Pieces arrive in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Piece {
    vote: forms::Vote,
    /// Which snapshot it is: the last entry that it covers.
    last: forms::LogId,
    /// Its number, from 0.
    pub(in crate::raft) number: u64,
    /// Its content; none says that the snapshot is whole.
    pub(in crate::raft) bytes: Option<Bytes>,
}

impl Piece {
    /// Piece `number` of the snapshot that ends with `last`, sent by the leader that holds `vote`.
    pub(in crate::raft) fn new(vote: runtime::Vote, last: runtime::LogId, number: u64, bytes: Option<Bytes>) -> Self {
        Self {
            vote: vote.into(),
            last: last.into(),
            number,
            bytes,
        }
    }

    /// The vote of the leader that sends it.
    pub(in crate::raft) fn vote(&self) -> runtime::Vote {
        self.vote.into()
    }

    /// The last entry that the snapshot covers.
    pub(in crate::raft) fn last(&self) -> runtime::LogId {
        self.last.into()
    }
}

/// An answer, and what every answer tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Answer {
    /// The answering node's clock, Unix seconds.
    pub(in crate::raft) now: i64,
    /// The newest revision that can be read there.
    pub(in crate::raft) applied: u64,
    /// Whether its disk is nearly full or hangs, so that it must not lead.
    pub(in crate::raft) is_disk_bad: bool,
    /// What was asked for.
    pub(in crate::raft) content: AnswerContent,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum AnswerContent {
    /// Of [`Request::Hello`].
    Hello(Introduction),
    /// Of [`Request::Join`]: the node is a member, for good.
    Joined,
    /// Of [`Request::Append`].
    Append(Appended),
    /// Of [`Request::Vote`] and [`Request::PreVote`].
    Vote {
        /// The vote that the node holds.
        vote: forms::Vote,
        /// Whether it was given.
        is_granted: bool,
        /// What its log ends with.
        last: Option<forms::LogId>,
    },
    /// Of [`Request::Transfer`].
    Transfer(Handover),
    /// Of [`Request::Snapshot`]: the number of the piece that is wanted next.
    Wanted(u64),
    /// Of the last [`Request::Snapshot`]: it is installed, or was not needed. With the vote that the node holds.
    Installed(forms::Vote),
    /// Of [`Request::Propose`].
    Proposed(Result<Proposed, NotProposed>),
    /// Of [`Request::Applied`]: every answer tells how far the node has applied.
    Applied,
    /// Of [`Request::Newest`].
    Newest(u64),
    /// Of [`Request::Resend`].
    Noted,
    /// Of [`Request::Publisher`]; `None` where the node does not publish.
    Publisher(Option<Bytes>),
}

/// What a node says of itself before it is a member of anything.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its name in `cluster.toml`.
    pub name: String,
    /// The mesh's name there.
    pub cluster: String,
    /// Its store.
    pub store: Uuid,
    /// The nodes that `cluster.toml` names, with their peer addresses.
    pub nodes: BTreeMap<String, String>,
    /// Its timers.
    pub timing: Timing,
}

/// A node that introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Introduction {
    /// Its name in its `cluster.toml`.
    pub(in crate::raft) name: String,
    /// The mesh's name there.
    pub(in crate::raft) cluster: String,
    /// Its store.
    pub(in crate::raft) store: Uuid,
    /// The mesh that it is a member of, and its id there.
    pub(in crate::raft) member_of: Option<(Uuid, u64)>,
    /// The newest revision that can be read there.
    pub(in crate::raft) applied: u64,
    /// The version of its program.
    pub(in crate::raft) version: String,
    /// Whether somebody has it form a mesh now.
    pub(in crate::raft) is_forming: bool,
    /// The nodes that its `cluster.toml` names.
    pub(in crate::raft) nodes: BTreeSet<String>,
    /// Whether its timers are those of nodes that are far apart.
    pub(in crate::raft) is_wan: bool,
}

impl Introduction {
    /// The introduction of the node that says `own` of itself.
    pub(in crate::raft) fn of(own: &Own, member_of: Option<(Uuid, u64)>, applied: u64, is_forming: bool) -> Self {
        Self {
            name: own.name.clone(),
            cluster: own.cluster.clone(),
            store: own.store,
            member_of,
            applied,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            is_forming,
            nodes: own.nodes.keys().cloned().collect(),
            is_wan: own.timing == Timing::Wan,
        }
    }

    /// What its `cluster.toml` says otherwise than that of the node `own`, if anything.
    pub(in crate::raft) fn difference(&self, own: &Own) -> Option<String> {
        let names = |names: &mut dyn Iterator<Item = &String>| names.map(String::as_str).collect::<Vec<_>>().join(", ");
        if !self.nodes.iter().eq(own.nodes.keys()) {
            let (theirs, ours) = (names(&mut self.nodes.iter()), names(&mut own.nodes.keys()));
            return Some(format!(
                "it names the nodes {theirs}, and that of {:?} {ours}",
                own.name
            ));
        }
        let timing = |is_wan| if is_wan { "wan" } else { "lan" };
        let is_wan = own.timing == Timing::Wan;
        (self.is_wan != is_wan).then(|| {
            let (theirs, ours) = (timing(self.is_wan), timing(is_wan));
            format!("its timing is {theirs:?}, and that of {:?} {ours:?}", own.name)
        })
    }
}

/// What became of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum Appended {
    /// All are on disk.
    All,
    /// Those up to here are on disk.
    UpTo(Option<forms::LogId>),
    /// The log does not have the entry before them.
    Conflict,
    /// There is a newer leader or candidate.
    HigherVote(forms::Vote),
}

/// What became of a handover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum Handover {
    /// The node begins an election.
    Begun,
    /// The node has seen another leader since.
    VoteChanged {
        /// That of the leader that hands over.
        expected: forms::Vote,
        /// Its own.
        actual: forms::Vote,
    },
    /// The node does not have the end of the leader's log yet.
    Behind {
        /// The end of the leader's log.
        expected: Option<forms::LogId>,
        /// The end of its own.
        actual: Option<forms::LogId>,
    },
}

/// A command that was agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Proposed {
    /// The entry that carries it.
    pub(in crate::raft) revision: u64,
    /// What applying it gave.
    pub(in crate::raft) outcomes: Outcomes,
}

/// Why a command was not agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum NotProposed {
    /// This node does not lead; nothing was proposed.
    NotLeader,
    /// Too many submissions wait; nothing was proposed.
    Busy,
    /// Nothing was proposed, for this reason.
    Unavailable(String),
    /// It may be agreed on later.
    OutcomeUnknown,
    /// The leader verified it and refuses it.
    Refused(String),
}

impl From<AppendEntriesRequest<Types>> for Append {
    fn from(request: AppendEntriesRequest<Types>) -> Self {
        let entry = |entry: Entry| EntryForm {
            id: entry.log_id.into(),
            content: match entry.payload {
                EntryPayload::Blank => Content::Blank,
                EntryPayload::Normal(Payload(bytes)) => Content::Command(bytes),
                EntryPayload::Membership(membership) => Content::Membership((&membership).into()),
            },
        };
        Self {
            vote: request.vote.into(),
            previous: request.prev_log_id.map(Into::into),
            committed: request.leader_commit.map(Into::into),
            entries: request.entries.into_iter().map(entry).collect(),
            quorum_age_ms: u64::MAX,
            time_offset: 0,
            place: None,
        }
    }
}

/// The most entries of one message. openraft sends 64 at the most.
const MAX_ENTRIES: usize = 1024;

impl Append {
    /// What openraft is given, or what is wrong with it: openraft relies on these without checking them.
    pub(in crate::raft) fn checked(self) -> Result<AppendEntriesRequest<Types>, String> {
        if !self.vote.is_committed() {
            return Err("entries from a node that was not elected".to_owned());
        }
        if self.entries.len() > MAX_ENTRIES {
            return Err(format!("{} entries at once", self.entries.len()));
        }
        let mut last = self.previous.map(runtime::LogId::from);
        let mut entries = Vec::with_capacity(self.entries.len());
        for form in self.entries {
            let log_id = runtime::LogId::from(form.id);
            let follows = match &last {
                Some(last) => log_id.index == last.index.saturating_add(1) && log_id.leader_id >= last.leader_id,
                None => log_id.index == 0,
            };
            if !follows {
                return Err(format!("entry {log_id} does not follow the one before it"));
            }
            last = Some(log_id);
            let payload = match form.content {
                Content::Blank => EntryPayload::Blank,
                Content::Command(bytes) => EntryPayload::Normal(Payload(bytes)),
                Content::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
            };
            entries.push(Entry { log_id, payload });
        }
        let vote = runtime::Vote::from(self.vote);
        if last.is_some_and(|last| last.leader_id > vote.leader_id) {
            return Err("an entry of a later leader than the one that sends it".to_owned());
        }
        let committed = self.committed.map(runtime::LogId::from);
        if committed.is_some_and(|id| id.leader_id > vote.leader_id) {
            return Err("a committed entry of a later leader than the one that sends it".to_owned());
        }
        // Terms only grow along a log. openraft would take it for one that the follower has.
        let is_beyond =
            |id: runtime::LogId| last.is_some_and(|last| id.index > last.index && id.leader_id < last.leader_id);
        if committed.is_some_and(is_beyond) {
            return Err("a committed entry of an earlier leader behind entries of a later one".to_owned());
        }
        Ok(AppendEntriesRequest {
            vote,
            prev_log_id: self.previous.map(Into::into),
            entries,
            leader_commit: committed,
        })
    }

    /// Whether it carries entries, and is no mere heartbeat.
    pub(in crate::raft) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }
}

impl From<AppendEntriesResponse<Types>> for Appended {
    fn from(response: AppendEntriesResponse<Types>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::All,
            AppendEntriesResponse::PartialSuccess(upto) => Self::UpTo(upto.map(Into::into)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<Appended> for AppendEntriesResponse<Types> {
    fn from(form: Appended) -> Self {
        match form {
            Appended::All => Self::Success,
            Appended::UpTo(upto) => Self::PartialSuccess(upto.map(Into::into)),
            Appended::Conflict => Self::Conflict,
            Appended::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<VoteRequest<Types>> for Candidacy {
    fn from(request: VoteRequest<Types>) -> Self {
        Self {
            vote: request.vote.into(),
            last: request.last_log_id.map(Into::into),
            is_handover: request.leadership_transfer,
        }
    }
}

impl Candidacy {
    /// What openraft is given, if the sender asks for itself: a node may not run for another one.
    pub(in crate::raft) fn checked(self, from: u64) -> Result<VoteRequest<Types>, String> {
        let vote = runtime::Vote::from(self.vote);
        if vote.committed || vote.leader_id.node_id != from {
            return Err("a candidacy for another node".to_owned());
        }
        let mut request = VoteRequest::new(vote, self.last.map(Into::into));
        request.leadership_transfer = self.is_handover;
        Ok(request)
    }
}

impl From<VoteResponse<Types>> for AnswerContent {
    fn from(response: VoteResponse<Types>) -> Self {
        Self::Vote {
            vote: response.vote.into(),
            is_granted: response.vote_granted,
            last: response.last_log_id.map(Into::into),
        }
    }
}

impl From<TransferLeaderRequest<Types>> for Transfer {
    fn from(request: TransferLeaderRequest<Types>) -> Self {
        Self {
            from: (*request.from_leader()).into(),
            to: *request.to_node_id(),
            last: request.last_log_id().copied().map(Into::into),
        }
    }
}

impl From<Transfer> for TransferLeaderRequest<Types> {
    fn from(form: Transfer) -> Self {
        Self::new(form.from.into(), form.to, form.last.map(Into::into))
    }
}

impl From<TransferLeaderResponse<Types>> for Handover {
    fn from(response: TransferLeaderResponse<Types>) -> Self {
        use openraft::raft::TransferLeaderError;
        match response {
            Ok(()) => Self::Begun,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => Self::VoteChanged {
                expected: expected.into(),
                actual: actual.into(),
            },
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Self::Behind {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            },
        }
    }
}
