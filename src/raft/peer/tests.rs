//! A peer that is wrong or hostile: what it sends is refused, and the node goes on.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::vote::RaftLeaderId;

use super::messages::{
    Answer, AnswerContent, Append, Appended, Candidacy, Envelope, Own, Piece, Request, Transfer, Uuid, hex,
};
use super::network::NoPeers;
use super::refusal::PeerRefusal;
use crate::clock::Clock;
use crate::config::{Acknowledge, Timing};
use crate::folder::Folder;
use crate::raft::forms::{decode, encode};
use crate::raft::log::{Disk, DiskFile, Room};
use crate::raft::machine::{Core, snapshot_of};
use crate::raft::runtime::{Entry, LogId, Member, Payload, Vote};
use crate::raft::stores::{OpenDisk, Stores, real_disk};
use crate::raft::{Raft, Settings};
use crate::state::{MarkPropagated, State};
use crate::tasks::{FaultHandle, Scope};

const PEER: &str = "n2";
const PEER_STORE: Uuid = [9; 16];

/// A node that is alone in its mesh, and what a peer would send it.
struct Target {
    raft: Raft,
    state: State,
    scope: Scope,
    own: Own,
    _folder: tempfile::TempDir,
}

impl Target {
    async fn start() -> Self {
        let target = Self::begin().await;
        target.raft.form().await.expect("forms");
        target.raft.resume().await.expect("leads");
        target
    }

    /// The same with the peer as a second voter, so that there is no leader.
    async fn start_of_two() -> Self {
        Self::begin().await.form_with_peer().await
    }

    async fn form_with_peer(self) -> Self {
        let target = self;
        let member = |name: &str, store: &Uuid| Member {
            name: name.to_owned(),
            store: hex(store),
            ..Member::default()
        };
        let members = [(1, member("n1", &target.own.store)), (2, member(PEER, &PEER_STORE))];
        let formed = target.core().initialize(BTreeMap::from(members)).await;
        formed.expect("forms");
        target
    }

    async fn begin() -> Self {
        Self::begin_on(real_disk).await
    }

    async fn begin_on(disk: impl OpenDisk) -> Self {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = Folder::take(temp.path(), "m", "n1").expect("a data folder");
        let scope = Scope::new(FaultHandle::default());
        let (stores, _threads) = Stores::open(&folder, scope.fault(), disk).expect("stores");
        let state = stores.state.clone();
        let own = Own {
            name: "n1".to_owned(),
            cluster: "m".to_owned(),
            store: folder.identity().store_bytes(),
            nodes: ["n1", PEER].map(|name| (name.to_owned(), String::new())).into(),
            timing: Timing::Lan,
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
        Self {
            raft,
            state,
            scope,
            own,
            _folder: temp,
        }
    }

    fn core(&self) -> &Core {
        &self.raft.handler().inner().member.get().expect("a member").core
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
    committing(vote, previous, entries, None)
}

fn committing(vote: Vote, previous: Option<LogId>, entries: &[LogId], committed: Option<LogId>) -> Request {
    let entry = |id: &LogId| Entry {
        log_id: *id,
        payload: EntryPayload::Blank,
    };
    let request = AppendEntriesRequest {
        vote,
        prev_log_id: previous,
        entries: entries.iter().map(entry).collect(),
        leader_commit: committed,
    };
    Request::Append(request.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_who_it_says_is_refused() {
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

#[tokio::test(flavor = "multi_thread")]
async fn what_no_mesh_ever_comes_to_is_refused() {
    let target = Target::start().await;
    for (request, what) in [
        (append(vote(u64::MAX, 2, true), None, &[]), "the last term of all"),
        (
            append(vote(9, 2, true), None, &vec![id(9, 2, 0); 2_000]),
            "more entries than openraft sends",
        ),
        (
            committing(vote(9, 2, true), None, &[id(9, 2, 0)], Some(id(8, 2, 1 << 40))),
            "a committed entry that no log can hold behind these",
        ),
        (
            Request::Vote(Candidacy::from(VoteRequest::new(vote(u64::MAX, 2, false), None))),
            "a candidacy for the last term of all",
        ),
        (
            Request::Snapshot(Piece::new(vote(u64::MAX, 2, true), id(9, 2, 90), 1, None)),
            "a snapshot of the last term of all",
        ),
    ] {
        let refused = target.says(&[PEER], target.envelope(), request).await;
        assert!(matches!(refused, Err(PeerRefusal::Wrong(_))), "{what}: {refused:?}");
    }
    assert!(target.raft.is_leading(), "nothing of it reached openraft");
}

/// The tail was left by a leader without followers; meanwhile others have agreed on more, in an older term.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_ends_in_an_older_term_takes_the_place_of_a_tail_that_was_never_agreed_on() {
    let source = Target::start().await;
    for position in 0..9 {
        let mark = MarkPropagated {
            nats_cluster: "a".to_owned(),
            position,
        };
        source.raft.propose(mark).await.expect("agreed on");
    }
    let newest = *source.raft.revision().borrow();
    while source.state.flushed() < newest {
        tokio::task::yield_now().await;
    }
    let snapshot = snapshot_of(source.state.snapshot().expect("a view")).expect("a snapshot");
    let last = snapshot.meta.last_log_id.expect("an entry");
    let mut export = snapshot.snapshot.export();

    let target = Target::start_of_two().await;
    let good = target.envelope();
    let previous = id(0, 1, 0);
    let tail = [id(8, 2, 1), id(9, 2, 2)];
    let answer = target
        .says(&[PEER], good, append(vote(9, 2, true), Some(previous), &tail))
        .await
        .expect("taken");
    assert_eq!(answer.content, AnswerContent::Append(Appended::All));

    let leader = vote(10, 2, true);
    for number in 0.. {
        let bytes = export.next_piece().expect("readable");
        let is_last = bytes.is_none();
        let piece = Request::Snapshot(Piece::new(leader, last, number, bytes));
        let answer = target.says(&[PEER], good, piece).await.expect("taken");
        if is_last {
            assert_eq!(answer.content, AnswerContent::Installed(leader.into()));
            break;
        }
    }
    assert!(*target.raft.revision().borrow() >= last.index);
    assert!(!target.scope.fault().is_reported());
    // What a snapshot ends with is not in the log any more, and counts all the same.
    for previous in [id(10, 2, last.index), id(10, 2, last.index - 1)] {
        let others = append(leader, Some(previous), &[]);
        let refused = target.says(&[PEER], good, others).await;
        assert!(matches!(refused, Err(PeerRefusal::Wrong(_))), "{refused:?}");
    }
}

/// The others have lost entry 2, which this node knows to be agreed on, and have another one in its place.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_neither_overwritten_nor_replaced_by_a_snapshot() {
    let target = Target::start_of_two().await;
    let good = target.envelope();
    let contradicted = || target.raft.handler().inner().contacts.contradiction().is_some();
    let (first, second) = (id(9, 2, 1), id(9, 2, 2));
    let taken = committing(vote(9, 2, true), Some(id(0, 1, 0)), &[first, second], Some(second));
    target.says(&[PEER], good, taken).await.expect("taken");
    let leader = vote(10, 2, true);
    target
        .says(&[PEER], good, append(leader, None, &[]))
        .await
        .expect("a leader");
    for _ in 0..2 {
        let other = append(leader, Some(first), &[id(10, 2, 2)]);
        let refused = target.says(&[PEER], good, other).await;
        assert!(matches!(refused, Err(PeerRefusal::Wrong(_))), "{refused:?}");
        assert!(contradicted());
        let piece = Request::Snapshot(Piece::new(leader, id(10, 2, 90), 1, None));
        let refused = target.says(&[PEER], good, piece).await;
        assert!(matches!(refused, Err(PeerRefusal::Wrong(_))), "{refused:?}");
        // What both have proves nothing.
        let both = append(leader, Some(id(0, 1, 0)), &[first]);
        target.says(&[PEER], good, both).await.expect("it has that");
        assert!(contradicted());
    }
    let third = id(11, 2, 3);
    let next = committing(vote(11, 2, true), Some(second), &[third], Some(third));
    target.says(&[PEER], good, next).await.expect("taken");
    assert!(!contradicted());
}

/// A disk on which no sync returns while this is set.
type Hold = Arc<AtomicBool>;

struct HeldDisk(Arc<dyn Disk>, Hold);

struct HeldFile(Arc<dyn DiskFile>, Hold);

impl Disk for HeldDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HeldFile(self.0.open(name, create)?, self.1.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn room(&self) -> io::Result<Room> {
        self.0.room()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }
}

impl DiskFile for HeldFile {
    fn preallocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.0.preallocate(from, to)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, into)
    }

    fn sync(&self) -> io::Result<()> {
        while self.1.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        self.0.sync()
    }
}

/// A leader gives up and sends again, for as long as the disk hangs.
#[tokio::test(flavor = "multi_thread")]
async fn g12_behind_a_disk_that_hangs_no_more_than_a_few_mib_gather() {
    const MIB: usize = 1 << 20;
    let hold = Hold::default();
    let disk = {
        let hold = hold.clone();
        move |folder: &Path| Ok(Arc::new(HeldDisk(real_disk(folder)?, hold)) as Arc<dyn Disk>)
    };
    let target = Target::begin_on(disk).await.form_with_peer().await;
    let request = || {
        Request::Append(Append::from(AppendEntriesRequest {
            vote: vote(9, 2, true),
            prev_log_id: Some(id(0, 1, 0)),
            entries: vec![Entry {
                log_id: id(9, 2, 1),
                payload: EntryPayload::Normal(Payload(Bytes::from(vec![0; MIB]))),
            }],
            leader_commit: None,
        }))
    };
    hold.store(true, Ordering::SeqCst);
    let mut waiting = 0;
    for _ in 0..30 {
        let sent = target.says(&[PEER], target.envelope(), request());
        match tokio::time::timeout(Duration::from_millis(20), sent).await {
            Err(_) => waiting += 1,
            Ok(answer) => assert!(matches!(answer, Err(PeerRefusal::NotNow(_))), "{answer:?}"),
        }
    }
    assert!((1..10).contains(&waiting), "{waiting} MiB wait");
    hold.store(false, Ordering::SeqCst);
    let taken = tokio::time::timeout(Duration::from_secs(30), async {
        while target.says(&[PEER], target.envelope(), request()).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    taken.await.expect("it is taken once the disk goes on");
    assert!(!target.scope.fault().is_reported());
}
