//! Every call of the state to its disk that can fail, at the start and while running; rows and files that are damaged.
//!
//! A read that fails is an answer that fails. A write, a sync or a commit that fails ends the node.

use std::collections::BTreeSet;

use ::redb::{Database, TableDefinition};
use jwtmesh::jwt::AccountKey;
use jwtmesh::state::{Command, Fault, State};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::model::{Outcome, account, apply, flush, item, options, put, token_of, trust_operator};
use crate::redb::{CALLS, Call, CrashingDisk};

const ROWS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("rows_v1");
const ACCOUNTS: TableDefinition<&[u8; 32], (u64, u32)> = TableDefinition::new("accounts_v1");

const FILLED: u8 = 60;

/// A token of several hundred bytes: a page holds a few rows.
fn token(n: u8) -> String {
    format!("token {n};").repeat(80)
}

fn log() -> [Command; 3] {
    let items = |accounts: std::ops::Range<u8>| accounts.map(|n| item(n, 10, &token(n))).collect();
    [trust_operator(1), put(1, items(0..30)), put(1, items(30..FILLED))]
}

/// The disk of a state with [`FILLED`] accounts, closed.
fn filled() -> CrashingDisk {
    let disk = CrashingDisk::default();
    let state = State::open_backend(disk.clone(), options()).unwrap();
    for (index, command) in (1..).zip(&log()) {
        apply(&state, index, command);
    }
    flush(&state);
    state.checkpoint().unwrap();
    drop(state);
    disk
}

fn copy(disk: &CrashingDisk) -> CrashingDisk {
    CrashingDisk::holding(disk.bytes())
}

/// Where the row of account `n` has its token.
fn place(disk: &CrashingDisk, n: u8) -> usize {
    let (bytes, token) = (disk.bytes(), token(n));
    let at = bytes.windows(token.len()).position(|found| found == token.as_bytes());
    at.expect("the token is on the disk")
}

/// The accounts that cannot be read; of each other one the token is the right one.
fn unreadable(state: &State) -> BTreeSet<AccountKey> {
    let accounts = (0..FILLED).map(account);
    let failed = accounts.filter(|key| match state.account(*key) {
        Ok(row) => {
            let n = key.as_bytes()[0];
            assert_eq!(row.expect("it was stored").token, token(n), "account {n}");
            false
        }
        Err(fault) => {
            assert!(fault.is_of_one_read(), "{fault}");
            true
        }
    });
    failed.collect()
}

/// A listing names the accounts that cannot be read; what changed is told of all others.
fn expect_the_others(state: &State, failed: &BTreeSet<AccountKey>) {
    for page in [1, 7, 1000] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let rows = state.accounts(after, page).unwrap();
            let Some(last) = rows.last() else { break };
            after = Some(last.account);
            listed.extend(rows);
        }
        let damaged = listed
            .iter()
            .filter(|listed| listed.row.is_err())
            .map(|listed| listed.account);
        assert_eq!(&damaged.collect::<BTreeSet<_>>(), failed, "pages of {page}");
        assert_eq!(listed.len(), usize::from(FILLED));

        let (mut changed, mut position) = (BTreeSet::new(), 0);
        loop {
            let changes = state.rows_since(position, page).unwrap();
            changed.extend(changes.rows.iter().map(|row| row.account));
            assert!(changes.position > position || !changes.more, "it goes on");
            position = changes.position;
            if !changes.more {
                break;
            }
        }
        assert_eq!(position, state.flushed());
        let others = (0..FILLED).map(account).filter(|key| !failed.contains(key));
        assert_eq!(changed, others.collect(), "pages of {page}");
    }
}

/// Uploads go on, and the state can be opened again.
fn expect_to_go_on(state: State, disk: &CrashingDisk, failed: &BTreeSet<AccountKey>) {
    let first = *failed.first().expect("one failed");
    let n = first.as_bytes()[0];
    let index = state.applied().unwrap().index + 1;
    let outcomes = apply(
        &state,
        index,
        &put(1, vec![item(200, 10, "another"), item(n, 11, "newer")]),
    );
    let stored = Outcome::Stored { revision: index };
    assert_eq!(
        outcomes,
        [stored.clone(), stored],
        "the newer token replaces the damaged row"
    );
    flush(&state);
    state.checkpoint().unwrap();
    drop(state);
    let state = State::open_backend(disk.clone(), options()).unwrap();
    assert_eq!(token_of(&state, n).as_deref(), Some("newer"));
    assert_eq!(token_of(&state, 200).as_deref(), Some("another"));
    assert!(state.history(account(n)).unwrap().len() <= 2);
}

#[test]
fn a_sector_that_the_disk_does_not_give_fails_the_lookups_that_need_it_and_no_other() {
    let disk = filled();
    for n in [0, 17, FILLED - 1] {
        let disk = copy(&disk);
        let at = place(&disk, n) as u64;
        let state = State::open_backend(disk.clone(), options()).unwrap();
        disk.lose(at..at + 1);
        let fault = state.account(account(n)).expect_err("it is not given");
        assert!(
            fault.is_of_one_read() && jwtmesh::tasks::chain(&fault).contains("os error 5"),
            "{fault:?}"
        );
        let failed = unreadable(&state);
        assert!(
            failed.contains(&account(n)) && failed.len() < 12,
            "a page: {}",
            failed.len()
        );
        assert_eq!(unreadable(&state), failed, "the next lookups");
        expect_the_others(&state, &failed);
        if n == FILLED - 1 {
            // The newest rows: the next ones belong into the same page. What cannot be written ends the node.
            apply(&state, 4, &put(1, vec![item(200, 10, "another")]));
            let fault = state.flush_step(16).expect_err("the page is not given");
            assert!(
                !fault.is_of_one_read() && jwtmesh::tasks::chain(&fault).contains("os error 5"),
                "{fault:?}"
            );
        } else {
            expect_to_go_on(state, &disk, &failed);
        }
    }
}

#[test]
fn a_page_of_rows_that_holds_other_bytes_fails_its_lookups_and_no_other() {
    let sound = filled();
    let random = &mut SmallRng::seed_from_u64(1);
    for round in 0..60 {
        let disk = copy(&sound);
        let n = random.gen_range(0..FILLED);
        let page = place(&disk, n) / 4096 * 4096;
        let mut bytes = vec![0; if round % 2 == 0 { 4096 } else { 64 }];
        random.fill_bytes(&mut bytes);
        // A page begins with its kind: these keep one that redb believes.
        match round % 3 {
            0 => bytes[0] = 1,
            1 => bytes[0] = 2,
            _ => {}
        }
        // The rows may be in a page whose beginning is far before the token.
        let at = if round % 5 == 0 { place(&disk, n) } else { page };
        disk.overwrite(at, &bytes);
        let state = State::open_backend(disk.clone(), options()).unwrap();
        let failed = unreadable(&state);
        assert_eq!(unreadable(&state), failed, "round {round}");
        if !failed.is_empty() {
            expect_the_others(&state, &failed);
        }
    }
}

/// How the row of account 7 is damaged, and whether its fields can still be read.
const DAMAGES: [(&str, bool); 5] = [
    ("a byte of its token", true),
    ("its end", true),
    ("its version", false),
    ("the whole row", false),
    ("its place", false),
];

const DAMAGED: u8 = 7;

fn damaged(folder: &std::path::Path, how: &str) -> State {
    let path = folder.join("state.redb");
    let state = State::open_file(&path, options()).unwrap();
    for (index, command) in (1..).zip(&log()) {
        apply(&state, index, command);
    }
    flush(&state);
    state.checkpoint().unwrap();
    drop(state);
    let database = Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    {
        let mut rows = writing.open_table(ROWS).unwrap();
        let mut accounts = writing.open_table(ACCOUNTS).unwrap();
        let id = (2, u32::from(DAMAGED));
        let mut bytes = ::redb::ReadableTable::get(&rows, id).unwrap().unwrap().value().to_vec();
        match how {
            "a byte of its token" => *bytes.last_mut().unwrap() ^= 1,
            "its end" => bytes.truncate(bytes.len() - 9),
            "its version" => bytes[0] = 9,
            "the whole row" => bytes.fill(0xff),
            _ => drop(accounts.insert(account(DAMAGED).as_bytes(), (2, 8)).unwrap()),
        }
        rows.insert(id, bytes.as_slice()).unwrap();
    }
    writing.commit().unwrap();
    drop(database);
    State::open_file(&path, options()).unwrap()
}

#[test]
fn g2_an_agreed_upload_replaces_a_damaged_row_and_what_remains_of_it_still_refuses_an_older_token() {
    let stored = || Outcome::Stored { revision: 4 };
    let older = || Outcome::Superseded {
        stored_issued_at: 10,
        revision: 2,
    };
    for (how, remains) in DAMAGES {
        for (upload, issued_at, expected) in [
            ("newer".to_owned(), 11, stored()),
            (
                token(DAMAGED),
                10,
                if remains {
                    Outcome::Unchanged { revision: 2 }
                } else {
                    stored()
                },
            ),
            ("older".to_owned(), 9, if remains { older() } else { stored() }),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let state = damaged(folder.path(), how);
            let fault = state.account(account(DAMAGED)).expect_err("it is damaged");
            let text = fault.to_string();
            assert!(
                matches!(fault, Fault::Row { .. }) && text.contains("push the account"),
                "{how}: {text}"
            );
            assert!(text.contains(&account(DAMAGED).to_string()), "{how}: {text}");
            let may = state.may_replace_damaged(account(DAMAGED), issued_at, upload.as_bytes());
            assert_eq!(
                may,
                remains && upload != "older",
                "{how}, {upload:.5}: what may be submitted"
            );
            let outcomes = apply(&state, 4, &put(1, vec![item(DAMAGED, issued_at, &upload)]));
            assert_eq!(outcomes, std::slice::from_ref(&expected), "{how}, {upload:.5}");
            flush(&state);
            if matches!(expected, Outcome::Superseded { .. }) {
                assert!(state.account(account(DAMAGED)).is_err());
            } else {
                assert_eq!(token_of(&state, DAMAGED), Some(upload), "{how}");
            }
            assert_eq!(token_of(&state, 8), Some(token(8)), "{how}: the others stay");
        }
    }
}

#[test]
fn a_row_that_is_mended_is_the_one_that_was_damaged() {
    let sound = State::open_backend(filled(), options()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = damaged(folder.path(), DAMAGES[0].0);
    // In one entry with others, whose places must not change.
    let command = put(
        1,
        vec![item(1, 11, "a"), item(DAMAGED, 10, &token(DAMAGED)), item(2, 11, "b")],
    );
    assert_eq!(apply(&state, 4, &command), apply(&sound, 4, &command));
    flush(&state);
    flush(&sound);
    assert_eq!(state.digest().unwrap(), sound.digest().unwrap());
}

#[test]
fn a_row_that_remembers_rows_of_other_accounts_never_has_them_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let state = State::open_file(&path, options()).unwrap();
    for (index, command) in (1..).zip(&log()) {
        apply(&state, index, command);
    }
    for round in 0..15_u8 {
        apply(
            &state,
            4 + u64::from(round),
            &put(1, vec![item(DAMAGED, 11 + i64::from(round), &format!("again {round}"))]),
        );
    }
    flush(&state);
    drop(state);
    let database = Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    {
        // Its oldest version is said to be the row of account 8, and its token is damaged.
        let mut rows = writing.open_table(ROWS).unwrap();
        let mut bytes = ::redb::ReadableTable::get(&rows, (18, 0))
            .unwrap()
            .unwrap()
            .value()
            .to_vec();
        let oldest = bytes
            .windows(2)
            .rposition(|id| id == [2, DAMAGED])
            .expect("the id of its first row");
        bytes[oldest + 1] = 8;
        *bytes.last_mut().unwrap() ^= 1;
        rows.insert((18, 0), bytes.as_slice()).unwrap();
    }
    writing.commit().unwrap();
    drop(database);
    let state = State::open_file(&path, options()).unwrap();
    assert!(state.account(account(DAMAGED)).is_err());
    apply(&state, 19, &put(1, vec![item(DAMAGED, 90, "newest")]));
    flush(&state);
    assert_eq!(token_of(&state, DAMAGED).as_deref(), Some("newest"));
    assert_eq!(token_of(&state, 8), Some(token(8)));
}

#[test]
fn a_state_file_that_was_overwritten_at_its_start_is_named_as_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let sound = filled().bytes();
    let path = folder.path().join("state.redb");
    let random = &mut SmallRng::seed_from_u64(1);
    let mut refused = 0;
    for round in 0..300 {
        let (from, length) = match round % 4 {
            0 => (0, 4096),
            1 => (0, random.gen_range(1..4096)),
            2 => (random.gen_range(9..320), random.gen_range(1..64)),
            _ => (random.gen_range(0..sound.len() / 2), random.gen_range(1..8192)),
        };
        let mut bytes = sound.clone();
        let end = (from + length).min(bytes.len());
        match round % 3 {
            0 => bytes[from..end].fill(0),
            1 => bytes[from..end].fill(0xff),
            _ => random.fill_bytes(&mut bytes[from..end]),
        }
        std::fs::write(&path, &bytes).unwrap();
        // What is not refused is served as far as it can be read.
        match State::open_file(&path, options()) {
            Ok(state) => drop(
                (0..FILLED)
                    .map(|n| state.account(account(n)).is_ok())
                    .collect::<Vec<_>>(),
            ),
            Err(fault) => {
                let text = fault.to_string();
                assert!(text.contains(&path.display().to_string()), "round {round}: {text}");
                let says = [
                    "from a backup",
                    "not a state file of jwtmesh",
                    "run the version",
                    "belongs to the store",
                ];
                assert!(says.iter().any(|advice| text.contains(advice)), "round {round}: {text}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// What of a state's work a failing call may end.
enum Ends {
    /// Nothing failed.
    Nothing,
    /// One answer.
    Answer(Fault),
    /// The node.
    Node(Fault),
}

/// Some work of each kind: lookups, listings, entries, flushes, a checkpoint.
fn work(state: &State) -> Ends {
    let ends = |fault: Fault| match fault {
        fault if fault.is_of_one_read() => Ends::Answer(fault),
        fault => Ends::Node(fault),
    };
    for n in (0..FILLED).step_by(6) {
        if let Err(fault) = state.account(account(n)) {
            return ends(fault);
        }
    }
    for read in [
        state
            .accounts(None, 1000)
            .map(|rows| rows.into_iter().find_map(|listed| listed.row.err())),
        state.rows_since(0, 1000).map(|_| None),
    ] {
        match read {
            Ok(None) => {}
            Ok(Some(fault)) | Err(fault) => return ends(fault),
        }
    }
    for round in 0..3_u8 {
        let index = state.applied().unwrap().index + 1;
        apply(
            state,
            index,
            &put(
                1,
                vec![item(round, 20, &token(round)), item(100 + round, 20, &token(round))],
            ),
        );
        while match state.flush_step(1) {
            Ok(more) => more,
            Err(fault) => return Ends::Node(fault),
        } {}
    }
    match state.checkpoint() {
        Ok(_) => Ends::Nothing,
        Err(fault) => Ends::Node(fault),
    }
}

#[test]
fn a_call_that_fails_at_the_start_is_named_and_the_next_start_finds_everything() {
    for call in CALLS {
        for happens in [false, true] {
            let mut failed = 0;
            for skip in 0.. {
                let disk = filled();
                let sound = State::open_backend(copy(&disk), options()).unwrap().digest().unwrap();
                disk.fail(call, skip, happens);
                match State::open_backend(disk.clone(), options()) {
                    Ok(state) if disk.is_failing() => {
                        drop(state);
                        break;
                    }
                    // redb reads again, or does not need it.
                    Ok(_) => {}
                    Err(fault) => {
                        failed += 1;
                        let text = jwtmesh::tasks::chain(&fault);
                        assert!(!fault.is_of_one_read(), "{call:?} {skip} at the start: {text}");
                        assert!(text.contains("os error 5"), "{call:?} {skip} at the start: {text}");
                    }
                }
                disk.recover();
                let state = State::open_backend(copy(&disk), options()).unwrap();
                assert_eq!(state.digest().unwrap(), sound, "{call:?} {skip}, happened: {happens}");
            }
            // No file grows at a start, so that a node starts on a full disk.
            assert_eq!(failed == 0, call == Call::SetLen, "{call:?}: {failed}");
        }
    }
}

#[test]
fn a_read_that_fails_is_that_answers_and_every_other_call_that_fails_ends_the_node_and_loses_nothing() {
    let sound = filled();
    for call in CALLS {
        for happens in [false, true] {
            let (mut answers, mut nodes) = (0, 0);
            for skip in 0.. {
                let disk = copy(&sound);
                let state = State::open_backend(disk.clone(), options()).unwrap();
                disk.fail(call, skip, happens);
                match work(&state) {
                    Ends::Nothing if disk.is_failing() => break,
                    Ends::Nothing => {}
                    Ends::Answer(fault) => {
                        answers += 1;
                        assert_eq!(call, Call::Read, "{fault}");
                        assert!(jwtmesh::tasks::chain(&fault).contains("os error 5"), "{fault:?}");
                        // The others are answered, and every step of the node succeeds.
                        assert!(unreadable(&state).len() < 12);
                    }
                    Ends::Node(fault) => {
                        nodes += 1;
                        let text = jwtmesh::tasks::chain(&fault);
                        assert!(text.contains("os error 5"), "{call:?} {skip}: {text}");
                        assert!(!fault.is_of_one_read(), "{call:?} {skip}: {text}");
                    }
                }
                let checkpointed = state.checkpointed();
                drop(state);
                disk.recover();
                // A process that ended: what it wrote is there. The log has what came after the checkpoint.
                let state = State::open_backend(copy(&disk), options()).unwrap();
                let found = state.applied().unwrap().index;
                assert!(found >= checkpointed, "{call:?} {skip}: {found} after {checkpointed}");
                assert!(unreadable(&state).is_empty(), "{call:?} {skip}");
            }
            let ended = if call == Call::Read { answers } else { nodes };
            assert!(
                ended > 0 || call == Call::Len,
                "{call:?}, happened: {happens}: nothing failed"
            );
        }
    }
}
