//! What earlier formats wrote is still read, and this build writes format 1 byte for byte as it was written then.
//!
//! `tests/fixtures/README.md` says what is in `v1` and `v2`, and how a new format gets a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use bytes::Bytes;
use jwtmesh::jwt::OperatorKey;
use jwtmesh::raft::log::RealDisk;
use jwtmesh::raft::{Entry, Vote};
use jwtmesh::state::{
    Command, DeleteAccounts, Effect, ForgetServer, KillAccount, Lease, MarkPropagated, Options, PutAccounts,
    PutClosing, PutOperator, PutOperators, RemoveClosing, RowKind, Server, State, TakeLease, UpdateRoster,
};
use openraft::EntryPayload;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

use crate::driven::{Contents, Log, blank, id, membership, normal, options};
use crate::model::{flush, item, mark, server};

/// Small enough that the log goes over several of them.
const SEGMENT_BYTES: u64 = 8 * 1024;

fn fixture(name: &str) -> PathBuf {
    fixture_of("v1", name)
}

fn fixture_of(version: &str, name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join(version).join(name)
}

/// Every kind of record and payload, over more than one segment.
fn write_log(folder: &Path) {
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    let mut log = Log::open_on(disk, &options(SEGMENT_BYTES)).unwrap();
    let vote = |log: &mut Log, vote: Vote| {
        let mut store = log.store.clone();
        log.run(async move { store.save_vote(&vote).await }).unwrap();
    };
    let append = |log: &mut Log, entries: Vec<Entry>| {
        let mut store = log.store.clone();
        log.run(async move { store.blocking_append(entries).await }).unwrap();
    };
    vote(&mut log, Vote::new(1, 1));
    append(&mut log, vec![membership(1, 0)]);
    vote(&mut log, Vote::new_committed(1, 1));
    append(&mut log, vec![blank(1, 1)]);
    log.committed(id(1, 1));
    append(&mut log, (2..6).map(|index| normal(1, index, 300)).collect());
    vote(&mut log, Vote::new(2, 300));
    append(&mut log, (6..9).map(|index| normal(2, index, 3_000)).collect());
    log.truncate_after(id(2, 7));
    vote(&mut log, Vote::new_committed(3, 7));
    append(&mut log, vec![blank(3, 8), normal(3, 9, 6_000), membership(3, 10)]);
    log.committed(id(3, 9));
    log.purge(id(1, 3));
    append(&mut log, vec![normal(3, 11, 1)]);
}

/// What the log of format 1 holds, as it was meant.
fn expected_log() -> Contents {
    let mut entries = BTreeMap::new();
    let kept = (4..6)
        .map(|index| normal(1, index, 300))
        .chain((6..8).map(|index| normal(2, index, 3_000)))
        .chain([blank(3, 8), normal(3, 9, 6_000), membership(3, 10), normal(3, 11, 1)]);
    entries.extend(kept.map(|entry| (entry.log_id.index, entry)));
    Contents {
        entries,
        purged: Some(id(1, 3)),
        vote: Some(Vote::new_committed(3, 7)),
    }
}

/// Everything that a state kept in `v1`: two operators, accounts with history, replaced versions and odd tokens,
/// positions, members.
fn write_state(path: &Path) {
    write_commands(path, commands());
}

/// The same with what `v2` keeps beside it: leases with their terms, and servers.
fn write_state_2(path: &Path) {
    let take = |holder, before| TakeLease {
        nats_cluster: "east".to_owned(),
        holder,
        before,
    };
    let update = |nats_cluster: &str, term, seen, gone| UpdateRoster {
        nats_cluster: nats_cluster.to_owned(),
        term,
        position: 9,
        seen,
        gone,
    };
    let longest = Server {
        id: "N".repeat(64),
        name: "n".repeat(256),
        cluster: "c".repeat(256),
        version: "2".repeat(64),
        behind: Some(u64::MAX),
    };
    let first = vec![server("NA", None), server("NB", Some(3)), server("NC", None), longest];
    let more: [Command; 6] = [
        take(7, 0).into(),
        take(7, 10).into(),
        update("east", 10, first, Vec::new()).into(),
        update("west", 0, vec![server("NA", Some(300))], Vec::new()).into(),
        update("east", 10, vec![server("NB", Some(8))], vec!["NC".to_owned()]).into(),
        ForgetServer {
            nats_cluster: "east".to_owned(),
            id: "NA".to_owned(),
        }
        .into(),
    ];
    write_commands(path, commands().into_iter().chain(more).collect());
}

/// The same with what `v3` keeps beside it: a tombstone, an account that is shut, closing tokens.
fn write_state_3(path: &Path) {
    let kept = |n: u8, token: &str| PutClosing {
        trust_epoch: 2,
        item: item(n, 12, token),
    };
    let delete = |issued_at, claim: &'static str, n: u8| DeleteAccounts {
        trust_epoch: 2,
        operator: crate::model::operator(),
        issued_at,
        claim: Bytes::from_static(claim.as_bytes()),
        accounts: vec![crate::model::account(n)],
    };
    let more: [Command; 7] = [
        kept(1, "QUJD.REVG.QUFB").into(),
        kept(3, "a closing token").into(),
        kept(2, "removed").into(),
        delete(20, "QQ.QUI.QUJD", 1).into(),
        delete(0, "without a time", 2).into(),
        KillAccount {
            trust_epoch: 2,
            item: item(3, 12, "a closing token"),
        }
        .into(),
        RemoveClosing {
            account: crate::model::account(2),
        }
        .into(),
    ];
    write_commands(path, commands().into_iter().chain(more).collect());
}

fn commands() -> Vec<Command> {
    let operator = |n: u8, issued_at, token: &'static str| PutOperator {
        operator: OperatorKey::from_bytes([n; 32]),
        issued_at,
        token: Bytes::from_static(token.as_bytes()),
    };
    let put = |trust_epoch, items| Command::from(PutAccounts { trust_epoch, items });
    vec![
        PutOperators {
            items: vec![operator(200, 5, "QQ.QUI.QUJD"), operator(7, -1, "not base64!")],
        }
        .into(),
        put(
            2,
            vec![
                item(1, 10, "QUJD.REVG.R0hJ"),
                item(2, 10, "QUJD.REVG."),
                item(3, 0, "no three parts"),
            ],
        ),
        put(2, vec![item(1, 20, "QUJD.REVG.QQ"), item(1, 20, "QUJD.REVG.QUE")]),
        put(1, vec![item(4, 1, "of a stale trust")]),
        MarkPropagated {
            nats_cluster: "east".to_owned(),
            position: 3,
        }
        .into(),
        MarkPropagated {
            nats_cluster: "west".to_owned(),
            position: 300,
        }
        .into(),
        put(2, vec![item(5, i64::MAX, &"e30.".repeat(2_000)), item(2, 11, "x")]),
    ]
}

fn write_commands(path: &Path, commands: Vec<Command>) {
    let state = State::open_file(path, state_options()).unwrap();
    let members = Effect::Membership(Bytes::from_static(b"members"));
    state.apply(mark(1), members).unwrap();
    state.apply(mark(2), Effect::Blank).unwrap();
    for (index, command) in (3..).zip(commands) {
        state.apply(mark(index), Effect::Command(&command.encode())).unwrap();
    }
    flush(&state);
    state.checkpoint().unwrap();
}

fn state_options() -> Options {
    Options {
        cache_bytes: 1 << 20,
        row_cache_bytes: 1 << 20,
        memtable_bytes: 1 << 20,
        ..Options::new("a store of format 1")
    }
}

/// A hash over what a log holds, entry by entry, in bytes of this test's own.
fn log_digest(log: &mut Log) -> String {
    let contents = log.contents();
    let committed = log.read_committed();
    let mut hash = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for entry in contents.entries.values() {
        let log_id = entry.log_id;
        for number in [log_id.leader_id.term, log_id.leader_id.node_id, log_id.index] {
            add(&number.to_le_bytes());
        }
        match &entry.payload {
            EntryPayload::Blank => add(b"blank"),
            EntryPayload::Normal(payload) => add(&payload.0),
            EntryPayload::Membership(members) => {
                add(format!("{:?}", members.get_joint_config()).as_bytes());
                for (id, member) in members.nodes() {
                    add(format!("{id} {} {} {}", member.name, member.peer, member.store).as_bytes());
                }
            }
        }
    }
    for log_id in [contents.purged, committed].into_iter().flatten() {
        add(&log_id.index.to_le_bytes());
    }
    let vote = contents.vote.expect("a vote");
    add(format!("{} {} {}", vote.leader_id.term, vote.leader_id.node_id, vote.committed).as_bytes());
    hex(hash.finalize().as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// A folder's files as they are stored: without the zeros that were only allocated, and without segments of nothing else.
fn trimmed(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = fs::read(entry.path()).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        bytes.truncate(end);
        if !bytes.is_empty() {
            files.insert(entry.file_name().into_string().unwrap(), bytes);
        }
    }
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn digest(of: &str) -> String {
    digest_of("v1", of)
}

fn digest_of(version: &str, of: &str) -> String {
    let text = fs::read_to_string(fixture_of(version, "digests")).expect("the digests beside the fixture");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{of} ")));
    line.expect("a line for each").to_owned()
}

/// Writes the fixture, where it is asked to.
fn write_if_asked() {
    static WRITTEN: Once = Once::new();
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        WRITTEN.call_once(write_fixture);
    }
}

fn write_fixture() {
    assert!(
        !fixture("digests").exists(),
        "{} is there: a fixture is never written again, a new format gets a new folder",
        fixture("").display()
    );
    let temp = tempfile::tempdir().unwrap();
    write_log(&temp.path().join("log"));
    fs::create_dir_all(fixture("log")).unwrap();
    for (name, bytes) in trimmed(&temp.path().join("log")) {
        fs::write(fixture("log").join(name), bytes).unwrap();
    }
    write_state(&fixture("state.redb"));
    let mut log = Log::open_on(
        Arc::new(RealDisk::open(&temp.path().join("log")).unwrap()),
        &options(SEGMENT_BYTES),
    )
    .unwrap();
    let state = State::open_file(&fixture("state.redb"), state_options()).unwrap();
    let lines = format!(
        "log {}\nstate {}\n",
        log_digest(&mut log),
        hex(&state.digest().unwrap())
    );
    fs::write(fixture("digests"), lines).unwrap();
}

#[test]
fn a_log_of_format_1_is_read_record_by_record() {
    write_if_asked();
    let temp = tempfile::tempdir().unwrap();
    copy(&fixture("log"), temp.path());
    let disk = Arc::new(RealDisk::open(temp.path()).unwrap());
    let mut log = Log::open_on(disk, &options(SEGMENT_BYTES)).expect("it opens");
    assert_eq!(log.contents(), expected_log());
    assert_eq!(log.read_committed(), Some(id(3, 9)));
    assert_eq!(log_digest(&mut log), digest("log"));
    // It goes on from there.
    assert!(log.append(vec![normal(4, 12, 10)]));
}

#[test]
fn a_log_is_written_as_format_1_was() {
    write_if_asked();
    let temp = tempfile::tempdir().unwrap();
    write_log(temp.path());
    let (written, stored) = (trimmed(temp.path()), trimmed(&fixture("log")));
    assert_eq!(
        written.keys().collect::<Vec<_>>(),
        stored.keys().collect::<Vec<_>>(),
        "the same segments"
    );
    for (name, bytes) in stored {
        assert!(
            written[&name] == bytes,
            "{name} is written otherwise: another layout needs another format number and a fixture of its own"
        );
    }
}

#[test]
fn a_state_file_of_format_3_opens_with_the_digest_beside_it() {
    write_if_asked();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.redb");
    fs::copy(fixture("state.redb"), &path).unwrap();
    let state = State::open_file(&path, state_options()).expect("it opens");
    assert_eq!(hex(&state.digest().unwrap()), digest("state"));
    assert_eq!(state.membership().as_deref(), Some(&b"members"[..]));
    assert_eq!((state.position("east"), state.position("west")), (3, 300));
    assert_eq!(state.trust().epoch, 2);
    let row = state.account(crate::model::account(1)).unwrap().expect("stored");
    assert_eq!(row.token, "QUJD.REVG.QUE");
    assert!(
        row.supersedes(20, b"QUJD.REVG.QQ"),
        "what was replaced within its second stays replaced"
    );

    // The same commands, the same state: every byte of a row, a position, the members.
    let fresh = temp.path().join("fresh.redb");
    write_state(&fresh);
    let fresh = State::open_file(&fresh, state_options()).unwrap();
    assert_eq!(hex(&fresh.digest().unwrap()), digest("state"));
}

fn write_2_if_asked() {
    static WRITTEN: Once = Once::new();
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        WRITTEN.call_once(|| write_later_fixture("v2", write_state_2));
    }
}

fn write_3_if_asked() {
    static WRITTEN: Once = Once::new();
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        WRITTEN.call_once(|| write_later_fixture("v3", write_state_3));
    }
}

fn write_later_fixture(version: &str, write_state: fn(&Path)) {
    let (path, digests) = (fixture_of(version, "state.redb"), fixture_of(version, "digests"));
    assert!(!digests.exists(), "{} is there", digests.display());
    fs::create_dir_all(fixture_of(version, "")).unwrap();
    write_state(&path);
    let state = State::open_file(&path, state_options()).unwrap();
    let mut export = state.snapshot().unwrap().export();
    let mut snapshot = Vec::new();
    while let Some(piece) = export.next_piece().unwrap() {
        snapshot.extend(u32::try_from(piece.len()).unwrap().to_le_bytes());
        snapshot.extend(&piece);
    }
    fs::write(fixture_of(version, "snapshot"), snapshot).unwrap();
    fs::write(digests, format!("state {}\n", hex(&state.digest().unwrap()))).unwrap();
}

/// The state that the snapshot of a fixture becomes, in a file of its own.
fn received(version: &str, folder: &Path) -> State {
    let state = State::open_file(&folder.join("state.redb"), state_options()).unwrap();
    let mut import = state.begin_import().unwrap();
    let stored = fs::read(fixture_of(version, "snapshot")).unwrap();
    let mut rest = &stored[..];
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (piece, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        import.add(piece).expect("a piece that is still read");
        rest = behind;
    }
    state.install(import.finish().expect("a whole snapshot")).unwrap();
    state
}

fn expect_servers_of_2(state: &State) {
    let lease = state.lease("east").expect("taken");
    assert_eq!((lease.holder, lease.granted, lease.term), (7, 11, 10));
    let servers = state.servers("east");
    assert_eq!(servers[0], server("NB", Some(8)));
    assert_eq!(
        (servers.len(), servers[1].id.len(), servers[1].behind),
        (2, 64, Some(u64::MAX))
    );
    assert_eq!(state.servers("west"), [server("NA", Some(300))]);
    assert_eq!((state.forgotten("east"), state.position("east")), (15, 9));
}

/// An earlier version sends it to this one while the nodes of a mesh are upgraded one by one.
#[test]
fn a_snapshot_of_format_1_is_received_as_a_state_without_servers() {
    let temp = tempfile::tempdir().unwrap();
    let state = received("v1", temp.path());
    assert_eq!(hex(&state.digest().unwrap()), digest("state"));
    assert_eq!(state.servers("east"), []);
}

#[test]
fn a_state_file_with_servers_opens_with_the_digest_beside_it() {
    write_2_if_asked();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.redb");
    fs::copy(fixture_of("v2", "state.redb"), &path).unwrap();
    let state = State::open_file(&path, state_options()).expect("it opens");
    assert_eq!(hex(&state.digest().unwrap()), digest_of("v2", "state"));
    expect_servers_of_2(&state);
    // The same commands, the same state.
    let fresh = temp.path().join("fresh.redb");
    write_state_2(&fresh);
    let fresh = State::open_file(&fresh, state_options()).unwrap();
    assert_eq!(hex(&fresh.digest().unwrap()), digest_of("v2", "state"));
}

#[test]
fn a_snapshot_of_format_2_is_received_with_its_servers() {
    write_2_if_asked();
    let temp = tempfile::tempdir().unwrap();
    let state = received("v2", temp.path());
    assert_eq!(hex(&state.digest().unwrap()), digest_of("v2", "state"));
    expect_servers_of_2(&state);
}

fn expect_deletes_of_3(state: &State) {
    let row = |n: u8| state.account(crate::model::account(n)).unwrap().expect("a row");
    let gone = row(1);
    assert_eq!((gone.kind, gone.issued_at, gone.revision), (RowKind::Tombstone, 20, 13));
    assert!(gone.supersedes(20, b"QUJD.REVG.QUE") && gone.bars(b"QQ.QUI.QUJD"));
    assert_eq!((row(2).kind, row(2).issued_at), (RowKind::Tombstone, 12));
    let shut = row(3);
    assert_eq!(
        (shut.kind, &shut.token[..]),
        (RowKind::Closing, &b"a closing token"[..])
    );
    let closing = |n: u8| state.closing(crate::model::account(n)).unwrap();
    let kept = closing(1).expect("kept");
    assert_eq!(
        (kept.revision, kept.issued_at, &kept.token[..]),
        (10, 12, &b"QUJD.REVG.QUFB"[..])
    );
    assert_eq!(closing(2), None);
    assert_eq!(state.account_keys(9).unwrap().1, 2);
}

#[test]
fn g8_a_state_file_with_tombstones_opens_with_the_digest_beside_it() {
    write_3_if_asked();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.redb");
    fs::copy(fixture_of("v3", "state.redb"), &path).unwrap();
    let state = State::open_file(&path, state_options()).expect("it opens");
    assert_eq!(hex(&state.digest().unwrap()), digest_of("v3", "state"));
    expect_deletes_of_3(&state);
    // The same commands, the same state.
    let fresh = temp.path().join("fresh.redb");
    write_state_3(&fresh);
    let fresh = State::open_file(&fresh, state_options()).unwrap();
    assert_eq!(hex(&fresh.digest().unwrap()), digest_of("v3", "state"));
}

#[test]
fn g8_a_snapshot_of_format_3_is_received_with_its_tombstones() {
    write_3_if_asked();
    let temp = tempfile::tempdir().unwrap();
    let state = received("v3", temp.path());
    assert_eq!(hex(&state.digest().unwrap()), digest_of("v3", "state"));
    expect_deletes_of_3(&state);
}

/// A lease that was taken before leases had terms begins one with its renewal.
#[test]
fn a_lease_without_a_term_gets_one_when_it_is_renewed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.redb");
    fs::copy(fixture("state.redb"), &path).unwrap();
    let database = ::redb::Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    {
        let positions = ::redb::TableDefinition::<&str, u64>::new("positions_v1");
        let mut positions = writing.open_table(positions).unwrap();
        positions.insert("east/holder", 7).unwrap();
        positions.insert("east/granted", 5).unwrap();
    }
    writing.commit().unwrap();
    drop(database);
    let state = State::open_file(&path, state_options()).expect("it opens");
    for (index, before, term) in [(10, 5, 10), (11, 10, 10)] {
        let renewed = Command::from(TakeLease {
            nats_cluster: "east".to_owned(),
            holder: 7,
            before,
        });
        state.apply(mark(index), Effect::Command(&renewed.encode())).unwrap();
        let (holder, granted) = (7, index);
        let lease = Lease { holder, granted, term };
        assert_eq!(state.lease("east"), Some(lease));
    }
}
