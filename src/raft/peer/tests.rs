//! A peer that is wrong or hostile: what it sends is refused, and the node goes on.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::vote::RaftLeaderId;

use super::handler::Own;
use super::messages::{Answer, Candidacy, Envelope, Piece, Request, Transfer, Uuid};
use super::network::NoPeers;
use super::refusal::PeerRefusal;
use crate::clock::Clock;
use crate::config::{Acknowledge, Timing};
use crate::folder::Folder;
use crate::raft::forms::{decode, encode};
use crate::raft::runtime::{Entry, LogId, Member, Vote};
use crate::raft::stores::{Stores, real_disk};
use crate::raft::{Raft, Settings};
use crate::tasks::{FaultHandle, Scope};

const PEER: &str = "n2";
const PEER_STORE: Uuid = [9; 16];

/// A node that is alone in its mesh, and what a peer would send it.
struct Target {
    raft: Raft,
    scope: Scope,
    own: Own,
    _folder: tempfile::TempDir,
}

impl Target {
    async fn start() -> Self {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = Folder::take(temp.path(), "m", "n1").expect("a data folder");
        let scope = Scope::new(FaultHandle::default());
        let (stores, _threads) = Stores::open(&folder, scope.fault(), real_disk).expect("stores");
        let own = Own {
            name: "n1".to_owned(),
            cluster: "m".to_owned(),
            store: folder.identity().store_bytes(),
            nodes: ["n1", PEER].map(|name| (name.to_owned(), String::new())).into(),
        };
        let settings = Settings {
            cluster: "m".to_owned(),
            member: Member {
                name: "n1".to_owned(),
                store: folder.identity().store.clone(),
                ..Member::default()
            },
            timing: Timing::Lan,
            acknowledge: Acknowledge::Majority,
        };
        let raft = Raft::open(settings, own.clone(), stores, NoPeers, Clock::system(), &scope).expect("opens");
        raft.begin(own.store, 1).await.expect("begins");
        raft.form().await.expect("forms");
        raft.resume().await.expect("leads");
        Self {
            raft,
            scope,
            own,
            _folder: temp,
        }
    }

    fn envelope(&self) -> Envelope {
        Envelope {
            mesh: self.own.store,
            from: 2,
            from_store: PEER_STORE,
            to: 1,
            to_store: self.own.store,
            now: 0,
        }
    }

    async fn says(&self, names: &[&str], envelope: Envelope, request: Request) -> Result<Answer, PeerRefusal> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let body = encode(&(envelope, request));
        let answer = self.raft.handler().handle(&names, &body).await?;
        Ok(decode(&answer).expect("an answer"))
    }
}

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    Vote {
        leader_id: LeaderId::new(term, node),
        committed,
    }
}

fn id(term: u64, node: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, node), index)
}

fn append(vote: Vote, previous: Option<LogId>, entries: &[LogId]) -> Request {
    let entry = |id: &LogId| Entry {
        log_id: *id,
        payload: EntryPayload::Blank,
    };
    let request = AppendEntriesRequest {
        vote,
        prev_log_id: previous,
        entries: entries.iter().map(entry).collect(),
        leader_commit: None,
    };
    Request::Append(request.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_who_it_says_is_refused() {
    let target = Target::start().await;
    let good = target.envelope();
    let hello = || Request::Hello;
    assert!(target.says(&[PEER], good, hello()).await.is_ok());
    for (names, envelope, what) in [(&["stranger"][..], good, "another name"), (&[], good, "no name")] {
        let refused = target.says(names, envelope, hello()).await;
        assert!(matches!(refused, Err(PeerRefusal::Stranger(_))), "{what}: {refused:?}");
    }
    let ask = || Request::Applied(0);
    assert!(target.says(&[PEER], good, ask()).await.is_ok());
    let other = [1; 16];
    for (envelope, what) in [
        (Envelope { mesh: other, ..good }, "another mesh"),
        (Envelope { to: 3, ..good }, "another receiver"),
        (
            Envelope {
                to_store: other,
                ..good
            },
            "another store",
        ),
        (Envelope { from: 1, ..good }, "this node itself"),
    ] {
        let refused = target.says(&[PEER], envelope, ask()).await;
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
    let join = Request::Join {
        cluster: "m".to_owned(),
        node_id: 7,
    };
    let refused = target.says(&[PEER], Envelope { mesh: other, ..good }, join).await;
    assert!(refused.is_err(), "it is a member already: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_openraft_relies_on_is_checked_before_it_sees_it() {
    let target = Target::start().await;
    let good = target.envelope();
    let last = *target.raft.revision().borrow();
    let handover = TransferLeaderRequest::new(vote(9, 1, true), 1, None);
    for (request, what) in [
        (append(vote(9, 2, false), None, &[]), "entries of a candidate"),
        (append(vote(9, 3, true), None, &[]), "entries of another leader"),
        (
            append(vote(9, 2, true), Some(id(9, 2, last)), &[id(9, 2, last + 2)]),
            "a gap",
        ),
        (append(vote(9, 2, true), None, &[id(9, 2, 1)]), "no beginning"),
        (
            append(vote(9, 2, true), Some(id(8, 2, 90)), &[id(7, 2, 91)]),
            "a leader before the last one",
        ),
        (
            append(vote(9, 2, true), Some(id(10, 2, 90)), &[]),
            "a later leader than itself",
        ),
        (
            append(vote(9, 2, true), None, &[id(9, 2, 0)]),
            "another first entry than the committed one",
        ),
        (
            append(vote(9, 2, true), Some(id(9, 2, last)), &[]),
            "another last entry than the committed one",
        ),
        (
            Request::Vote(Candidacy::from(VoteRequest::new(vote(9, 3, false), None))),
            "a candidacy for another",
        ),
        (
            Request::PreVote(Candidacy::from(VoteRequest::new(vote(9, 2, true), None))),
            "a candidacy of a leader",
        ),
        (Request::Transfer(Transfer::from(handover)), "a handover of another"),
        (
            Request::Snapshot(Piece::new(vote(9, 3, true), id(9, 3, 90), 0, None)),
            "a snapshot of another",
        ),
        (
            Request::Snapshot(Piece::new(vote(0, 2, true), id(0, 2, 90), 0, None)),
            "a snapshot of a leader of before",
        ),
        (
            Request::Snapshot(Piece::new(
                vote(9, 2, true),
                id(9, 2, 90),
                0,
                Some(Bytes::from_static(b"xxxxx")),
            )),
            "a snapshot that is none",
        ),
        (
            Request::Snapshot(Piece::new(vote(9, 2, true), id(9, 2, 90), 0, None)),
            "a snapshot without a piece",
        ),
        (Request::Propose(Bytes::from_static(b"\xff")), "no command"),
    ] {
        let refused = target.says(&[PEER], good, request).await;
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
    let names = [PEER.to_owned()];
    for length in 0..64 {
        let noise: Vec<u8> = (0..length).map(|n: u8| n.wrapping_mul(167)).collect();
        assert!(target.raft.handler().handle(&names, &noise).await.is_err());
    }
    assert!(!target.scope.fault().is_reported());
    assert!(target.raft.is_leading(), "nothing of it reached openraft");
}
