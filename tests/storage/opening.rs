//! Opening, refusing and replacing the state file.

use std::path::Path;

use ::redb::backends::InMemoryBackend;
use ::redb::{Database, ReadableTable, TableDefinition};
use bytes::Bytes;
use jwtmesh::state::{Effect, Fault, Options, State};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::model::{Model, account, apply, flush, item, mark, options, put, random_command, token_of, trust_operator};
use crate::redb::CrashingDisk;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta_v1");

fn filled(path: &Path) -> State {
    let state = State::open_file(path, options()).expect("a new file");
    apply(&state, 1, &trust_operator(1));
    state
        .apply(mark(2), Effect::Membership(Bytes::from_static(b"members")))
        .unwrap();
    apply(
        &state,
        3,
        &put(
            1,
            (0..40).map(|n| item(n, 1, &format!("token {n}").repeat(100))).collect(),
        ),
    );
    apply(&state, 4, &put(1, vec![item(3, 2, "newer")]));
    flush(&state);
    state.checkpoint().unwrap();
    state
}

fn refusal(path: &Path, options: Options) -> String {
    let fault = State::open_file(path, options).expect_err("refused");
    let text = fault.to_string();
    assert!(text.contains(&path.display().to_string()), "names the file: {text}");
    text
}

#[test]
fn a_row_that_is_not_as_it_was_stored_is_not_served() {
    const ROWS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("rows_v1");
    const ACCOUNTS: TableDefinition<&[u8; 32], (u64, u32)> = TableDefinition::new("accounts_v1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(filled(&path));
    let database = Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    {
        // Damages the last byte of account 0's row, which belongs to its token; and points account 1 at the row of
        // account 2.
        let mut rows = writing.open_table(ROWS).unwrap();
        let mut bytes = rows.get((3, 0)).unwrap().unwrap().value().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        rows.insert((3, 0), bytes.as_slice()).unwrap();
        let mut accounts = writing.open_table(ACCOUNTS).unwrap();
        accounts.insert(account(1).as_bytes(), (3, 2)).unwrap();
    }
    writing.commit().unwrap();
    drop(database);
    let state = State::open_file(&path, options()).unwrap();
    for (n, defect) in [(0, "not the one that was stored"), (1, "it is the row of")] {
        let fault = state.account(account(n)).expect_err("it is not served");
        assert!(matches!(fault, Fault::Row { .. }), "{fault}");
        assert!(fault.to_string().contains(defect), "{fault}");
    }
    assert!(state.account(account(2)).unwrap().is_some(), "the others are sound");
    // Two of the forty are missing: the damaged row, and the row of account 1, which no account points at any more.
    let changes = state.rows_since(2, 100).unwrap();
    assert_eq!((changes.rows.len(), changes.position, changes.more), (38, 4, false));
}

#[test]
fn everything_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let state = filled(&path);
    let (digest, trust) = (state.digest().unwrap(), state.trust());
    drop(state);
    let state = State::open_file(&path, options()).unwrap();
    assert_eq!(state.digest().unwrap(), digest);
    assert_eq!(state.trust(), trust);
    assert_eq!(state.applied(), Some(mark(4)));
    assert_eq!((state.flushed(), state.checkpointed()), (4, 4));
    assert_eq!(state.membership().as_deref(), Some(&b"members"[..]));
    assert_eq!(token_of(&state, 3).as_deref(), Some("newer"));
}

#[test]
fn a_file_of_another_store_or_format_or_owner_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(filled(&path));
    let text = refusal(
        &path,
        Options {
            store: "other-store".to_owned(),
            ..options()
        },
    );
    assert!(text.contains("this-store") && text.contains("other-store"), "{text}");

    for other in [1_u32, 2, 5] {
        let database = Database::open(&path).unwrap();
        let writing = database.begin_write().unwrap();
        writing
            .open_table(META)
            .unwrap()
            .insert("format", &other.to_le_bytes()[..])
            .unwrap();
        writing.commit().unwrap();
        drop(database);
        let text = refusal(&path, options());
        assert!(
            text.contains(&format!("format {other}")) && text.contains("formats 3 to 4"),
            "{text}"
        );
    }

    let foreign = folder.path().join("foreign.redb");
    let database = Database::create(&foreign).unwrap();
    let writing = database.begin_write().unwrap();
    let other: TableDefinition<u8, u8> = TableDefinition::new("other");
    writing.open_table(other).unwrap().insert(1, 1).unwrap();
    writing.commit().unwrap();
    drop(database);
    assert!(refusal(&foreign, options()).contains("not a state file"));
}

#[test]
fn a_file_that_is_open_or_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let state = filled(&path);
    assert!(refusal(&path, options()).contains("another process"));
    drop(state);
    let sound = std::fs::read(&path).unwrap();
    for (what, bytes) in [
        ("no database", b"{\"not\": \"a database\"}".repeat(1000)),
        ("its first half", sound[..sound.len() / 2].to_vec()),
        ("no magic number", [&[0; 9], &sound[9..]].concat()),
    ] {
        let damaged = folder.path().join("damaged.redb");
        std::fs::write(&damaged, bytes).unwrap();
        let text = refusal(&damaged, options());
        assert!(text.contains("from a backup"), "{what}: {text}");
    }
}

#[test]
fn a_row_that_was_altered_is_a_fault_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(filled(&path));
    let rows: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("rows_v1");
    let database = Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(rows).unwrap().insert((3, 7), &[9, 9][..]).unwrap();
    writing.commit().unwrap();
    drop(database);
    let state = State::open_file(&path, options()).unwrap();
    let fault = state
        .account(crate::model::account(7))
        .expect_err("no row has version 9");
    assert!(fault.to_string().contains("revision 3, row 7"), "{fault}");
    assert_eq!(token_of(&state, 3).as_deref(), Some("newer"), "the others are readable");
}

#[test]
fn an_installed_snapshot_is_the_state_at_once_and_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let source = filled(&folder.path().join("source.redb"));
    let view = source.snapshot().unwrap();
    // The source goes on; the snapshot does not change.
    apply(&source, 5, &put(1, vec![item(3, 3, "newest")]));
    flush(&source);

    let path = folder.path().join("state.redb");
    let target_options = Options {
        store: "target".to_owned(),
        ..options()
    };
    let target = State::open_file(&path, target_options.clone()).unwrap();
    apply(&target, 1, &trust_operator(9));
    apply(&target, 2, &put(1, vec![item(3, 50, "gone"), item(60, 50, "gone too")]));
    flush(&target);
    // Read, so that they are in the cache.
    assert_eq!(token_of(&target, 3).as_deref(), Some("gone"));
    assert_eq!(token_of(&target, 60).as_deref(), Some("gone too"));
    let held = target.snapshot().unwrap();
    target.install(view.clone()).unwrap();

    let expect = |state: &State| {
        assert_eq!(state.applied(), Some(mark(4)));
        assert_eq!((state.flushed(), state.checkpointed()), (4, 4));
        assert_eq!(state.membership().as_deref(), Some(&b"members"[..]));
        assert_eq!(token_of(state, 3).as_deref(), Some("newer"));
        assert_eq!(token_of(state, 60), None);
        assert_eq!(state.digest().unwrap(), view.digest().unwrap());
        assert_eq!(state.trust().operators[0].issued_at, 1);
    };
    expect(&target);
    assert_eq!(held.len(), 2, "a reader of the old file goes on reading it");
    assert!(!folder.path().join("state.redb.new").exists());
    drop(target);
    let target = State::open_file(&path, target_options).unwrap();
    expect(&target);
    apply(&target, 5, &put(1, vec![item(3, 3, "newest")]));
    flush(&target);
    assert_eq!(
        target.digest().unwrap(),
        source.digest().unwrap(),
        "from here on both stay the same"
    );
    let fault = target.install(view).expect_err("older than what is applied");
    assert!(matches!(fault, Fault::Order { index: 4, applied: 5 }));
}

#[test]
fn an_interrupted_creation_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    // As redb leaves the file when the power fails before its first sync.
    std::fs::write(folder.path().join("state.redb.new"), [0; 4096]).unwrap();
    let state = filled(&path);
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "one file, under its own name"
    );
    let fault = State::open_file(&path, options()).expect_err("it is open");
    assert!(fault.to_string().contains("state.redb:"), "{fault}");
    drop(state);
    assert_eq!(
        token_of(&State::open_file(&path, options()).unwrap(), 3).as_deref(),
        Some("newer")
    );
}

#[test]
fn what_an_interrupted_installation_left_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(filled(&path));
    let unfinished = folder.path().join("state.redb.new");
    std::fs::write(&unfinished, b"half of a file").unwrap();
    let state = State::open_file(&path, options()).unwrap();
    assert_eq!(token_of(&state, 3).as_deref(), Some("newer"));
    assert!(!unfinished.exists());
}

#[test]
fn g1_a_power_cut_within_an_installation_leaves_the_old_state_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..150 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let state_of = |state: State, random: &mut SmallRng, entries: u64| {
            let mut model = Model::default();
            for index in 1..entries {
                let command = if index == 1 {
                    trust_operator(1)
                } else {
                    random_command(random, &model)
                };
                model.apply(index, &command);
                apply(&state, index, &command);
            }
            flush(&state);
            state.checkpoint().unwrap();
            (state, model)
        };
        let in_memory = State::open_backend(InMemoryBackend::new(), options()).unwrap();
        let (source, source_model) = state_of(in_memory, random, 60);
        let disk = CrashingDisk::default();
        let (target, target_model) = state_of(State::open_backend(disk.clone(), options()).unwrap(), random, 30);
        disk.cut_after(random.gen_range(0..60));
        let installed = target.install(source.snapshot().unwrap()).is_ok();
        assert!(installed || disk.is_off());
        let found = disk.power_cut(random);
        drop(target);
        let state = State::open_backend(found, options()).unwrap();
        let index = state.applied().unwrap().index;
        assert!(index == 59 || (index == 29 && !installed), "{index}");
        if index == 59 {
            new += 1;
            source_model.expect(&state);
            source_model.expect_flushed(&state);
            assert_eq!(state.digest().unwrap(), source.digest().unwrap());
        } else {
            old += 1;
            target_model.expect(&state);
            target_model.expect_flushed(&state);
        }
    }
    assert!(old > 10 && new > 10, "both endings were seen: {old} old, {new} new");
}
