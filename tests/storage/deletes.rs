//! Tombstones and closing tokens: what a deleted or a shut account lets in again, and where it is seen.

use ::redb::backends::InMemoryBackend;
use jwtmesh::jwt::OperatorKey;
use jwtmesh::state::{
    ClosingOutcome, Command, DeleteAccounts, DeleteOutcome, KillAccount, OverrideAccount, PutAccount, PutClosing,
    PutOperator, PutOperators, RemoveClosing, RowKind, State,
};

use crate::model::{Outcome, account, apply, flush, item, operator, options, put, token_of, trust_operator, trusting};

pub(crate) fn delete(issued_at: i64, claim: &str, accounts: &[u8]) -> Command {
    DeleteAccounts {
        trust_epoch: 1,
        operator: operator(),
        issued_at,
        claim: claim.to_owned().into(),
        accounts: accounts.iter().map(|n| account(*n)).collect(),
    }
    .into()
}

fn upload(item: PutAccount) -> Command {
    put(1, vec![item])
}

fn insist(item: PutAccount) -> Command {
    OverrideAccount {
        trust_epoch: 1,
        item,
        barred: Vec::new(),
    }
    .into()
}

pub(crate) fn keep(item: PutAccount) -> Command {
    PutClosing { trust_epoch: 1, item }.into()
}

pub(crate) fn kill(item: PutAccount) -> Command {
    KillAccount { trust_epoch: 1, item }.into()
}

fn done(revision: u64, were_there: &[bool]) -> Vec<Outcome> {
    let were_there = were_there.to_vec();
    vec![Outcome::Removed(DeleteOutcome::Done { revision, were_there })]
}

fn refused(outcome: DeleteOutcome) -> Vec<Outcome> {
    vec![Outcome::Removed(outcome)]
}

fn closed(outcome: ClosingOutcome) -> Vec<Outcome> {
    vec![Outcome::Closing(outcome)]
}

fn deleted(issued_after: i64, revision: u64) -> Vec<Outcome> {
    vec![Outcome::Deleted { issued_after, revision }]
}

/// Applies commands one after the other, each also after everything before it was flushed, opened again, and received as a
/// snapshot, and expects the same outcome.
struct Log {
    states: Vec<(State, bool)>,
    index: u64,
}

impl Log {
    fn new() -> Self {
        Self {
            states: vec![(trusting(), false), (trusting(), true)],
            index: 1,
        }
    }

    fn expect(&mut self, command: Command, outcomes: &[Outcome], what: &str) {
        self.index += 1;
        for (state, flushes) in &mut self.states {
            if *flushes {
                flush(state);
                let mut export = state.snapshot().unwrap().export();
                let received = State::open_backend(InMemoryBackend::new(), options()).unwrap();
                let mut import = received.begin_import().unwrap();
                while let Some(piece) = export.next_piece().unwrap() {
                    import.add(&piece).expect("a sound piece");
                }
                received.install(import.finish().expect("whole")).unwrap();
                assert_eq!(received.digest().unwrap(), state.digest().unwrap(), "{what}");
                *state = received;
            }
            let place = if *flushes { "in redb" } else { "in the memtable" };
            assert_eq!(apply(state, self.index, &command), outcomes, "{what}, {place}");
        }
    }

    /// Expects that a token is stored.
    fn stored(&mut self, command: Command, what: &str) {
        let revision = self.index + 1;
        self.expect(command, &[Outcome::Stored { revision }], what);
    }

    /// Expects that a request is carried out, and which of its accounts were there.
    fn deleted(&mut self, command: Command, were_there: &[bool], what: &str) {
        self.expect(command, &done(self.index + 1, were_there), what);
    }

    /// Expects that what a command says of a closing token is done.
    fn done(&mut self, command: Command, what: &str) {
        let revision = self.index + 1;
        self.expect(command, &closed(ClosingOutcome::Done { revision }), what);
    }

    /// The token of account 1, if it is not deleted.
    fn token(&self) -> Option<String> {
        let tokens = self.states.iter().map(|(state, _)| token_of(state, 1));
        let tokens: Vec<_> = tokens.collect();
        assert_eq!(tokens[0], tokens[1]);
        tokens[0].clone().filter(|token| !token.is_empty())
    }
}

#[test]
fn g8_a_deleted_account_comes_back_with_a_newer_token_only() {
    let mut log = Log::new();
    log.stored(upload(item(1, 100, "a")), "created");
    log.deleted(delete(200, "claim", &[1, 9]), &[true, false], "deleted");
    assert_eq!(log.token(), None);
    log.expect(upload(item(1, 100, "a")), &deleted(200, 3), "the token before it");
    log.expect(
        upload(item(1, 199, "b")),
        &deleted(200, 3),
        "one from before the request",
    );
    log.deleted(delete(200, "claim", &[1]), &[false], "the request again");
    log.expect(
        upload(item(1, 150, "c")),
        &deleted(200, 3),
        "the floor is the first request's",
    );
    log.deleted(delete(300, "later", &[1]), &[false], "a later request");
    log.expect(
        upload(item(1, 250, "d")),
        &deleted(300, 8),
        "the floor is the later request's",
    );
    log.stored(upload(item(1, 301, "e")), "a newer one");
    assert_eq!(log.token().as_deref(), Some("e"));
    let superseded = DeleteOutcome::Superseded {
        account: account(1),
        stored_issued_at: 301,
    };
    log.expect(delete(300, "later", &[1]), &refused(superseded), "a replay");
    assert_eq!(log.token().as_deref(), Some("e"));
}

#[test]
fn g8_within_one_second_neither_the_token_nor_the_request_can_be_replayed() {
    let mut log = Log::new();
    log.stored(upload(item(1, 100, "a")), "created");
    log.stored(upload(item(1, 100, "b")), "changed");
    log.deleted(delete(100, "claim", &[1]), &[true], "deleted");
    for token in ["a", "b"] {
        log.expect(upload(item(1, 100, token)), &deleted(100, 4), token);
    }
    log.stored(upload(item(1, 100, "c")), "another token");
    let replayed = DeleteOutcome::Replayed { account: account(1) };
    log.expect(
        delete(100, "claim", &[1]),
        &refused(replayed.clone()),
        "the same request",
    );
    assert_eq!(log.token().as_deref(), Some("c"));
    // An administrator puts an old token back: the request is newer than it, and was carried out all the same.
    log.stored(insist(item(1, 50, "old")), "insisted on");
    log.expect(delete(100, "claim", &[1]), &refused(replayed), "the same request again");
    log.deleted(delete(100, "other", &[1]), &[true], "another request of that second");
    log.expect(
        upload(item(1, 100, "c")),
        &deleted(100, 11),
        "what was barred stays barred",
    );
}

/// A server may still have its token, and give it to the mesh later.
#[test]
fn g8_a_deleted_account_that_the_mesh_never_had_does_not_come_with_an_old_token() {
    let mut log = Log::new();
    log.deleted(delete(0, "undated", &[1]), &[false], "without a time");
    for (state, _) in &log.states {
        assert_eq!(state.account(account(1)).unwrap(), None, "it leaves nothing");
    }
    log.deleted(delete(200, "claim", &[1]), &[false], "it was not there");
    log.deleted(delete(200, "claim", &[1]), &[false], "again");
    log.expect(upload(item(1, 199, "old")), &deleted(200, 3), "an old token");
    log.stored(upload(item(1, 201, "new")), "a newer one");
}

/// Tools that sign without times give the same bytes each time: over an authenticated way the order of arrival counts.
#[test]
fn g8_without_issue_times_the_order_of_arrival_counts() {
    let mut log = Log::new();
    for round in 0..3 {
        log.stored(insist(item(1, 0, "same")), "created");
        assert_eq!(log.token().as_deref(), Some("same"));
        log.deleted(delete(0, "same", &[1]), &[true], "deleted");
        assert_eq!(log.token(), None, "round {round}");
        log.deleted(delete(0, "same", &[1]), &[false], "deleted before");
    }
    // A floor of before stays.
    log.stored(upload(item(1, 100, "dated")), "dated");
    log.deleted(delete(0, "same", &[1]), &[true], "deleted");
    log.expect(upload(item(1, 100, "dated")), &deleted(100, 12), "the token before it");
    log.expect(insist(item(1, 100, "dated")), &deleted(100, 12), "insisted on");
    log.stored(insist(item(1, 101, "newer")), "a newer one insisted on");
}

#[test]
fn g8_a_request_deletes_all_of_its_accounts_or_none() {
    let [first, second] = [7, 8].map(|n| OperatorKey::from_bytes([n; 32]));
    let state = State::open_backend(InMemoryBackend::new(), options()).unwrap();
    let trusted = |operator: OperatorKey| PutOperator {
        operator,
        issued_at: 1,
        token: operator.to_string().into(),
    };
    let items = vec![trusted(first), trusted(second)];
    apply(&state, 1, &PutOperators { items }.into());
    let of = |n: u8, operator| PutAccount {
        operator,
        ..item(n, 100, &format!("{n}"))
    };
    apply(&state, 2, &put(2, vec![of(1, first), of(2, second), of(3, first)]));
    let request = |trust_epoch, operator, issued_at, accounts: &[u8]| {
        Command::from(DeleteAccounts {
            trust_epoch,
            operator,
            issued_at,
            claim: "claim".into(),
            accounts: accounts.iter().map(|n| account(*n)).collect(),
        })
    };
    let other = |n: u8, owner| DeleteOutcome::OtherOperator {
        account: account(n),
        owner,
    };
    let newer = DeleteOutcome::Superseded {
        account: account(1),
        stored_issued_at: 100,
    };
    let stranger = OperatorKey::from_bytes([9; 32]);
    let stale = DeleteOutcome::StaleTrust { trust_epoch: 2 };
    for (index, command, outcome) in [
        (3, request(2, first, 200, &[1, 2, 3]), other(2, second)),
        (4, request(2, second, 0, &[2, 1]), other(1, first)),
        (5, request(2, first, 99, &[3, 1]), newer),
        (6, request(1, first, 200, &[1]), stale),
        (7, request(2, stranger, 200, &[1]), DeleteOutcome::NotTrusted),
    ] {
        assert_eq!(apply(&state, index, &command), refused(outcome));
        assert!((1..=3).all(|n| token_of(&state, n) == Some(n.to_string())), "{index}");
    }
    let twice = request(2, first, 200, &[3, 1, 3, 9]);
    assert_eq!(apply(&state, 8, &twice), done(8, &[true, true, true, false]));
    let never_was = state.account(account(9)).unwrap().expect("a tombstone");
    assert!(never_was.is_deleted() && never_was.issued_at == 200 && never_was.operator == first);
    // A tombstone keeps its owner.
    let taken = PutAccount {
        issued_at: 300,
        ..of(1, second)
    };
    let owned = Outcome::OtherOperator {
        owner: first,
        revision: 8,
    };
    assert_eq!(apply(&state, 9, &put(2, vec![taken])), [owned]);
    assert_eq!(
        apply(&state, 10, &request(2, second, 400, &[1])),
        refused(other(1, first))
    );
}

#[test]
fn g8_a_tombstone_is_a_change_and_a_version_and_in_no_list() {
    for flushed in [false, true] {
        let state = trusting();
        apply(&state, 2, &put(1, vec![item(1, 100, "a"), item(2, 100, "b")]));
        apply(&state, 3, &delete(200, "claim", &[1]));
        if flushed {
            flush(&state);
        }
        let changes = match state.recent_changes(2, 10) {
            Some(changes) => changes,
            None => state.rows_since(2, 10).unwrap(),
        };
        assert_eq!(flushed, state.recent_changes(2, 10).is_none());
        assert_eq!(changes.rows.len(), 1);
        assert!(changes.rows[0].is_deleted() && !changes.rows[0].is_first());
        flush(&state);
        assert_eq!(state.account_keys(9).unwrap(), (vec![account(2)], 1));
        let listed = state.accounts(None, 1).unwrap();
        assert_eq!(listed[0].account, account(2), "a page is as long as it should be");
        let versions = state.history(account(1)).unwrap();
        let kinds: Vec<_> = versions
            .iter()
            .map(|version| (version.revision, version.kind))
            .collect();
        assert_eq!(kinds, [(3, RowKind::Tombstone), (2, RowKind::Token)]);
        // A request that is sent again and again does not fill the history.
        for index in 4..30 {
            apply(&state, index, &delete(200 + index.cast_signed(), "claim", &[1]));
        }
        flush(&state);
        assert_eq!(state.history(account(1)).unwrap().len(), 2);
    }
}

#[test]
fn g9_a_shut_account_is_opened_by_a_newer_token_only() {
    let mut log = Log::new();
    let closing = item(1, 50, "closing");
    log.expect(kill(closing.clone()), &closed(ClosingOutcome::Unknown), "no account");
    log.expect(keep(closing.clone()), &closed(ClosingOutcome::Unknown), "no account");
    log.stored(upload(item(1, 100, "a")), "created");
    log.done(keep(closing.clone()), "kept");
    log.expect(
        keep(closing.clone()),
        &closed(ClosingOutcome::Unchanged { revision: 5 }),
        "again",
    );
    assert_eq!(log.token().as_deref(), Some("a"), "kept is not used");
    log.expect(
        kill(item(1, 50, "an old public one")),
        &closed(ClosingOutcome::NotKept),
        "another than the one kept",
    );
    assert_eq!(log.token().as_deref(), Some("a"));
    log.done(kill(closing.clone()), "shut");
    log.expect(
        kill(closing),
        &closed(ClosingOutcome::Unchanged { revision: 8 }),
        "shut before",
    );
    assert_eq!(log.token().as_deref(), Some("closing"));
    let superseded = [Outcome::Superseded {
        stored_issued_at: 100,
        revision: 8,
    }];
    log.expect(upload(item(1, 100, "a")), &superseded, "the token before it");
    log.expect(upload(item(1, 99, "b")), &superseded, "an older one");
    let remove = RemoveClosing { account: account(1) };
    log.done(remove.clone().into(), "removed");
    log.expect(remove.into(), &closed(ClosingOutcome::Unknown), "removed before");
    log.stored(upload(item(1, 101, "c")), "a newer one");
    assert_eq!(log.token().as_deref(), Some("c"));
}

/// Servers are sent the closing token of a deleted account: it must not count as newer than what comes after it.
#[test]
fn g9_the_closing_token_of_a_deleted_account_is_older_than_what_creates_it_again() {
    let mut log = Log::new();
    log.stored(upload(item(1, 100, "a")), "created");
    log.done(keep(item(1, 150, "closing")), "kept");
    log.deleted(delete(120, "claim", &[1]), &[true], "deleted");
    log.expect(
        upload(item(1, 149, "b")),
        &deleted(150, 4),
        "older than the closing token",
    );
    log.expect(upload(item(1, 150, "closing")), &deleted(150, 4), "the closing token");
    log.expect(
        kill(item(1, 150, "closing")),
        &closed(ClosingOutcome::Deleted { revision: 4 }),
        "it is deleted",
    );
    log.done(keep(item(1, 170, "later")), "another one");
    for (state, _) in &log.states {
        let row = state.account(account(1)).unwrap().expect("a tombstone");
        assert_eq!((row.revision, row.issued_at), (8, 170), "the publishers look again");
        assert_eq!(&state.closing(account(1)).unwrap().expect("kept").token[..], b"later");
    }
    log.expect(upload(item(1, 170, "later")), &deleted(170, 8), "the closing token");
    log.stored(upload(item(1, 170, "c")), "another token");
}

/// An earlier version would take a deleted account for one that never was.
#[test]
fn g8_a_file_with_a_tombstone_is_one_that_an_earlier_version_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let kept = || keep(item(1, 1, "closing"));
    let remove = RemoveClosing { account: account(1) };
    for (name, commands, format) in [
        ("plain", vec![upload(item(2, 100, "b"))], 3),
        ("deleted", vec![delete(200, "claim", &[1])], 4),
        ("kept", vec![kept()], 4),
        ("shut", vec![kept(), kill(item(1, 1, "closing")), remove.into()], 4),
    ] {
        let path = folder.path().join(name);
        let state = State::open_file(&path, options()).unwrap();
        apply(&state, 1, &trust_operator(1));
        apply(&state, 2, &upload(item(1, 100, "a")));
        let last = 2 + commands.len() as u64;
        for (index, command) in (3..).zip(&commands) {
            apply(&state, index, command);
        }
        flush(&state);
        state.checkpoint().unwrap();
        let mut export = state.snapshot().unwrap().export();
        let header = export.next_piece().unwrap().expect("a header");
        // Kind, checksum, and eight bytes that say whose it is come before it.
        assert_eq!(u32::from(header[13]), format - 1, "{name}: the stream");
        let received = folder.path().join(format!("{name}-received"));
        let copy = State::open_file(&received, options()).unwrap();
        copy.install(state.snapshot().unwrap()).unwrap();
        drop((state, export, copy));
        for path in [path, received] {
            assert_eq!(format_of(&path), format, "{name}");
            let state = State::open_file(&path, options()).expect("it opens again");
            assert_eq!(state.applied().map(|mark| mark.index), Some(last));
        }
    }
}

fn format_of(path: &std::path::Path) -> u32 {
    use ::redb::ReadableDatabase as _;
    let database = ::redb::Database::open(path).unwrap();
    let table = ::redb::TableDefinition::<&str, &[u8]>::new("meta_v1");
    let table = database.begin_read().unwrap().open_table(table).unwrap();
    let format = table.get("format").unwrap().expect("written");
    u32::from_le_bytes(format.value().try_into().unwrap())
}
