//! The agreed state: which token replaces which, which changes are reported, what is refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redb::backends::InMemoryBackend;
use bytes::Bytes;
use jwtmesh::jwt::OperatorKey;
use jwtmesh::state::{
    Barred, Command, DeleteAccounts, Effect, Fault, ForgetServer, KillAccount, Lease, Listed, MarkPropagated, Options,
    Outcomes, OverrideAccount, PutAccount, PutClosing, PutOperator, PutOperators, RemoveClosing, ReplaceOperator,
    Server, State, TakeLease, UpdateRoster, UpdateRosterIf, Version,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::model::{Model, Outcome, account, apply, flush, item, mark, options, put, random_command};
use crate::model::{token_of, trust_operator, trusting};

#[test]
fn g2_an_older_token_never_replaces_a_newer_one_wherever_that_one_lies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let open = || State::open_file(&path, options()).expect("opens");
    let state = open();
    apply(&state, 1, &trust_operator(1));
    apply(&state, 2, &put(1, vec![item(1, 100, "newer")]));
    let superseded = [Outcome::Superseded {
        stored_issued_at: 100,
        revision: 2,
    }];
    let older = put(1, vec![item(1, 99, "older")]);
    assert_eq!(apply(&state, 3, &older), superseded, "in the memtable");
    flush(&state);
    assert_eq!(apply(&state, 4, &older), superseded, "in redb");
    assert_eq!(token_of(&state, 1).as_deref(), Some("newer"));
    assert_eq!(apply(&state, 5, &older), superseded, "in the cache");
    flush(&state);
    state.checkpoint().expect("durable");
    drop(state);
    let state = open();
    assert_eq!(apply(&state, 6, &older), superseded, "after opening again");
    assert_eq!(token_of(&state, 1).as_deref(), Some("newer"));
}

#[test]
fn g2_the_same_bytes_again_are_unchanged_and_make_no_revision() {
    let state = trusting();
    let same = put(1, vec![item(1, 100, "token")]);
    assert_eq!(apply(&state, 2, &same), [Outcome::Stored { revision: 2 }]);
    assert_eq!(
        apply(&state, 3, &same),
        [Outcome::Unchanged { revision: 2 }],
        "in the memtable"
    );
    flush(&state);
    assert_eq!(apply(&state, 4, &same), [Outcome::Unchanged { revision: 2 }], "in redb");
    flush(&state);
    assert_eq!(state.account(account(1)).unwrap().unwrap().revision, 2);
    assert_eq!(state.history(account(1)).unwrap().len(), 1);
    assert_eq!(state.rows_since(2, 10).unwrap().rows, []);
}

#[test]
fn g2_of_two_tokens_of_one_second_the_later_entry_wins() {
    let state = trusting();
    apply(&state, 2, &put(1, vec![item(1, 100, "first")]));
    let first = state.account(account(1)).unwrap().unwrap();
    assert_eq!(
        apply(&state, 3, &put(1, vec![item(1, 100, "second")])),
        [Outcome::Stored { revision: 3 }]
    );
    let second = state.account(account(1)).unwrap().unwrap();
    assert_eq!(&second.token[..], b"second");
    assert_ne!(first.etag, second.etag, "the etag names the bytes, not the second");
}

#[test]
fn g12_a_large_token_is_in_memory_once_however_many_are_answered_with_it() {
    let state = trusting();
    apply(
        &state,
        2,
        &put(1, vec![item(1, 100, &"a".repeat(100_000)), item(2, 100, "usual")]),
    );
    flush(&state);
    for usual_or_large in [1, 2] {
        let first = state.account(account(usual_or_large)).unwrap().unwrap();
        let second = state.account_at_hand(account(usual_or_large)).expect("in the cache");
        assert_eq!(first, second);
    }
    let [first, second] = [0; 2].map(|_| state.account_at_hand(account(1)).expect("in the cache"));
    assert_eq!(first.token.as_ptr(), second.token.as_ptr());
}

#[test]
fn g2_a_token_that_was_replaced_within_its_second_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let state = State::open_file(&path, options()).expect("opens");
    apply(&state, 1, &trust_operator(1));
    for (at, text) in ["unrevoked", "revoked", "revoked twice"].into_iter().enumerate() {
        let index = 2 + at as u64;
        let outcomes = apply(&state, index, &put(1, vec![item(1, 100, text)]));
        assert_eq!(outcomes, [Outcome::Stored { revision: index }]);
    }
    let again = put(1, vec![item(1, 100, "unrevoked"), item(1, 100, "revoked")]);
    let superseded = Outcome::Superseded {
        stored_issued_at: 100,
        revision: 4,
    };
    let both = [superseded.clone(), superseded];
    assert_eq!(apply(&state, 5, &again), both, "in the memtable");
    flush(&state);
    state.checkpoint().expect("durable");
    drop(state);
    let state = State::open_file(&path, options()).expect("opens");
    assert_eq!(apply(&state, 6, &again), both, "after opening again");
    assert_eq!(token_of(&state, 1).as_deref(), Some("revoked twice"));
    // A token of the next second is stored: signing the old content again is deliberate.
    let outcomes = apply(&state, 7, &put(1, vec![item(1, 101, "unrevoked")]));
    assert_eq!(outcomes, [Outcome::Stored { revision: 7 }]);
}

#[test]
fn g2_a_later_item_of_one_entry_sees_the_earlier_ones() {
    let state = trusting();
    let items = vec![
        item(1, 5, "a"),
        item(1, 4, "b"),
        item(1, 5, "a"),
        item(1, 5, "c"),
        item(2, 1, "d"),
    ];
    let stored = Outcome::Stored { revision: 2 };
    let superseded = Outcome::Superseded {
        stored_issued_at: 5,
        revision: 2,
    };
    let unchanged = Outcome::Unchanged { revision: 2 };
    let outcomes = apply(&state, 2, &put(1, items));
    assert_eq!(
        outcomes,
        [stored.clone(), superseded, unchanged, stored.clone(), stored]
    );
    assert_eq!(token_of(&state, 1).as_deref(), Some("c"));
    flush(&state);
    assert_eq!(token_of(&state, 1).as_deref(), Some("c"));
    let changes = state.rows_since(1, 1).unwrap();
    let tokens: Vec<_> = changes.rows.iter().map(|row| row.token.clone()).collect();
    assert_eq!(
        tokens,
        ["c", "d"],
        "one revision is never split, and holds each account once"
    );
}

#[test]
fn g3_an_account_is_judged_by_the_trust_that_holds_when_it_is_applied() {
    let state = State::open_backend(InMemoryBackend::new(), options()).unwrap();
    assert_eq!(
        apply(&state, 1, &put(0, vec![item(1, 1, "x")])),
        [Outcome::NotTrusted],
        "no operator is agreed yet"
    );
    apply(&state, 2, &trust_operator(1));
    assert_eq!(
        apply(&state, 3, &put(0, vec![item(1, 1, "x")])),
        [Outcome::StaleTrust { trust_epoch: 1 }]
    );
    assert_eq!(
        apply(&state, 4, &put(1, vec![item(1, 1, "x")])),
        [Outcome::Stored { revision: 4 }]
    );
    let foreign = PutAccount {
        operator: OperatorKey::from_bytes([7; 32]),
        ..item(2, 1, "y")
    };
    assert_eq!(apply(&state, 5, &put(1, vec![foreign])), [Outcome::NotTrusted]);
    assert_eq!(token_of(&state, 2), None);
}

#[test]
fn g3_only_the_first_command_brings_operators_and_later_ones_renew_them() {
    let state = State::open_backend(InMemoryBackend::new(), options()).unwrap();
    let operator = |n: u8, issued_at: i64, token: &'static str| PutOperator {
        operator: OperatorKey::from_bytes([n; 32]),
        issued_at,
        token: Bytes::from_static(token.as_bytes()),
    };
    let stored = |revision| Outcome::Stored { revision };
    let put = |items| Command::from(PutOperators { items });
    let both = put(vec![operator(9, 5, "nine"), operator(3, 5, "three")]);
    assert_eq!(apply(&state, 1, &both), [stored(1), stored(1)]);
    assert_eq!(state.trust().epoch, 2);
    let mixed = vec![
        operator(4, 9, "four"),
        operator(9, 4, "old"),
        operator(3, 5, "three"),
        operator(3, 5, "other"),
    ];
    let outcomes = apply(&state, 2, &put(mixed));
    let superseded = Outcome::Superseded {
        stored_issued_at: 5,
        revision: 1,
    };
    assert_eq!(
        outcomes,
        [
            Outcome::NotTrusted,
            superseded,
            Outcome::Unchanged { revision: 1 },
            stored(2)
        ]
    );
    flush(&state);
    let kept = state.snapshot().unwrap().trust().unwrap();
    assert_eq!(kept, *state.trust(), "redb and memory agree");
    assert_eq!(kept.epoch, 3);
    let tokens: Vec<_> = kept.operators.iter().map(|row| row.token.clone()).collect();
    assert_eq!(tokens, ["other", "nine"], "in the order of their keys");
}

#[test]
fn g12_a_full_memtable_says_so_until_it_is_flushed_and_durable() {
    let state = State::open_backend(
        InMemoryBackend::new(),
        Options {
            memtable_bytes: 100_000,
            ..options()
        },
    )
    .unwrap();
    apply(&state, 1, &trust_operator(1));
    let mut index = 1;
    while !state.is_full() {
        index += 1;
        assert!(index < 200, "100 kB hold less than 200 tokens of 1 kB");
        apply(
            &state,
            index,
            &put(1, vec![item((index % 250) as u8, 1, &"x".repeat(1000))]),
        );
    }
    assert!(index > 50, "100 kB hold more than 50 tokens of 1 kB");
    assert!(state.flush_step(8).unwrap(), "more is waiting");
    assert_eq!(state.flushed(), 8, "eight entries, the operator's among them");
    // A start after a crash applies all of it anew, and must have room for it.
    assert!(state.is_full(), "nothing of it is durable yet");
    state.checkpoint().unwrap();
    assert!(!state.is_full());
    flush(&state);
    assert_eq!(state.unflushed_bytes(), 0);
    state.checkpoint().unwrap();
    // Blank entries count too.
    while !state.is_full() {
        index += 1;
        assert!(index < 1000);
        state.apply(mark(index), Effect::Blank).unwrap();
    }
}

#[test]
fn g12_the_history_of_an_account_is_bounded_by_versions_and_by_bytes() {
    let state = trusting();
    for index in 2..60 {
        apply(
            &state,
            index,
            &put(1, vec![item(1, index.cast_signed(), &format!("token {index}"))]),
        );
        if index % 7 == 0 {
            flush(&state);
        }
    }
    flush(&state);
    let revisions: Vec<_> = state
        .history(account(1))
        .unwrap()
        .iter()
        .map(|version| version.revision)
        .collect();
    assert_eq!(revisions, (44..60).rev().collect::<Vec<_>>());
    assert_eq!(
        state.snapshot().unwrap().rows().unwrap().count(),
        16,
        "nothing forgotten stays in the file"
    );
    // Token 61 has 200 kB of history before it. Token 62 would have 400 kB, so everything before token 61 is forgotten.
    apply(&state, 60, &put(1, vec![item(1, 60, &"x".repeat(200_000))]));
    apply(&state, 61, &put(1, vec![item(1, 61, &"y".repeat(200_000))]));
    apply(&state, 62, &put(1, vec![item(1, 62, "z")]));
    flush(&state);
    let revisions: Vec<_> = state
        .history(account(1))
        .unwrap()
        .iter()
        .map(|version| version.revision)
        .collect();
    assert_eq!(revisions, [62, 61]);
    assert_eq!(state.snapshot().unwrap().rows().unwrap().count(), 2);
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_row_is_not_lost_while_a_flush_runs_and_its_account_is_applied_again() {
    let state = &trusting();
    let done = &AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Acquire) || state.unflushed_bytes() > 0 {
                state.flush_step(3).unwrap();
            }
        });
        for _ in 0..2 {
            threads.spawn(|| {
                let mut seen = [0; 4];
                while !done.load(Ordering::Acquire) {
                    for n in 0..4 {
                        let revision = state.account(account(n)).unwrap().map_or(0, |row| row.revision);
                        assert!(revision >= seen[usize::from(n)], "account {n} went backwards");
                        seen[usize::from(n)] = revision;
                    }
                }
            });
        }
        // Also when an assertion below fails, or the other threads would run forever.
        let _end = Ending(done);
        for index in 2..=4001_u64 {
            let n = (index % 4) as u8;
            apply(
                state,
                index,
                &put(1, vec![item(n, index.cast_signed(), &format!("token {index}"))]),
            );
            assert_eq!(
                state.account(account(n)).unwrap().unwrap().revision,
                index,
                "what was applied is seen"
            );
        }
    });
    for n in 0..4 {
        assert_eq!(
            token_of(state, n).unwrap(),
            format!("token {}", 3998 + (u64::from(n) + 2) % 4)
        );
    }
    assert_eq!(state.unflushed_bytes(), 0);
}

#[test]
fn the_same_commands_make_the_same_bytes_however_they_are_flushed() {
    let random = &mut SmallRng::seed_from_u64(7);
    let mut model = Model::default();
    let mut log = vec![trust_operator(1)];
    model.apply(1, &log[0]);
    for index in 2..400 {
        let command = random_command(random, &model);
        model.apply(index, &command);
        log.push(command);
    }
    let digests = [1, 5, 400].map(|rows| {
        let state = State::open_backend(
            InMemoryBackend::new(),
            Options {
                store: rows.to_string(),
                ..options()
            },
        );
        let state = state.unwrap();
        for (at, command) in log.iter().enumerate() {
            apply(&state, at as u64 + 1, command);
            if at % rows == 0 {
                state.flush_step(rows).unwrap();
                state.checkpoint().unwrap();
            }
        }
        flush(&state);
        model.expect_flushed(&state);
        state.digest().unwrap()
    });
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    let other = trusting();
    flush(&other);
    assert_ne!(digests[0], other.digest().unwrap());
}

#[test]
fn changes_are_reported_completely_and_in_order_however_small_the_steps() {
    let random = &mut SmallRng::seed_from_u64(11);
    let mut model = Model::default();
    let state = State::open_backend(InMemoryBackend::new(), options()).unwrap();
    for index in 1..300 {
        let command = if index == 1 {
            trust_operator(1)
        } else {
            random_command(random, &model)
        };
        model.apply(index, &command);
        apply(&state, index, &command);
        if index % 40 != 0 {
            continue;
        }
        flush(&state);
        for limit in [1, 2, 5, 1000] {
            let (mut position, mut reported) = (0, BTreeMap::new());
            loop {
                let changes = state.rows_since(position, limit).unwrap();
                assert!(changes.position > position || !changes.more, "each step makes progress");
                for row in changes.rows {
                    assert!(position < row.revision && row.revision <= changes.position);
                    assert!(
                        reported.insert(row.account, row.token.clone()).is_none(),
                        "an account is reported once"
                    );
                }
                position = changes.position;
                if !changes.more {
                    break;
                }
            }
            assert_eq!(position, index);
            let stored = model
                .accounts
                .iter()
                .filter_map(|(key, rows)| Some((*key, rows.last()?.1.clone())));
            assert_eq!(reported, stored.collect());
        }
        let all = state.accounts(None, 1000).unwrap();
        let some = state.accounts(Some(all[2].account), 3).unwrap();
        let keys = |page: &[Listed]| page.iter().map(|listed| listed.account).collect::<Vec<_>>();
        assert_eq!(keys(&some), keys(&all[3..6]));
        for listed in &some {
            let row = listed.row.as_ref().expect("a sound disk");
            assert_eq!((row.account, row.revision), (listed.account, listed.revision));
        }
    }
}

#[test]
fn an_unknown_command_stops_the_node_and_is_never_skipped() {
    let state = trusting();
    let sound = put(1, vec![item(1, 1, "x")]).encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = sound.to_vec();
        bytes[at] = byte;
        bytes
    };
    let surplus = [&sound[..], &[0]].concat();
    for bytes in [
        vec![],
        vec![1],
        with(0, 2),
        with(1, 12),
        sound[..sound.len() - 1].to_vec(),
        surplus,
    ] {
        let fault = state
            .apply(mark(2), Effect::Command(&bytes))
            .expect_err("no such command");
        assert!(matches!(fault, Fault::Entry { index: 2, .. }), "{fault:?}");
        assert_eq!(state.applied(), Some(mark(1)), "nothing moved");
    }
    state.apply(mark(2), Effect::Command(&sound)).expect("the sound one");
    let fault = state.apply(mark(2), Effect::Blank).expect_err("applied already");
    assert!(matches!(fault, Fault::Order { index: 2, applied: 2 }));
}

#[test]
fn commands_keep_their_bytes() {
    // What is in a log stays readable: a change of these bytes needs a new version.
    let mark = Command::from(MarkPropagated {
        nats_cluster: "east".to_owned(),
        position: 300,
    });
    assert_eq!(&mark.encode()[..], b"\x01\x02\x04east\xac\x02");
    let operators = trust_operator(1).encode();
    assert_eq!(operators[..3], [1, 1, 1]);
    assert_eq!(operators[3..35], [200; 32]);
    assert_eq!(operators[35..], *b"\x02\x0aoperator 1");
    let barred = Barred {
        issued_at: 7,
        digest: [8; 16],
    };
    let overridden = overriding(3, item(1, -5, "x"), vec![barred]).encode();
    assert_eq!(overridden[..3], [1, 3, 3]);
    assert_eq!(
        overridden[67..],
        *b"\x09\x00\x09account 1\x01x\x01\x0e\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08"
    );
    let replaced = replace(7, offered(8, 1)).encode();
    assert_eq!(
        (&replaced[..2], &replaced[2..34], &replaced[34..66]),
        (&[1, 4][..], &[7; 32][..], &[8; 32][..])
    );
    assert_eq!(replaced[66..], *b"\x02\x0coperator 8 1");
    let lease = Command::from(TakeLease {
        nats_cluster: "east".to_owned(),
        holder: 3,
        before: 300,
    });
    assert_eq!(&lease.encode()[..], b"\x01\x05\x04east\x03\xac\x02");
    let update = UpdateRoster {
        nats_cluster: "east".to_owned(),
        term: 300,
        position: 7,
        seen: vec![Server {
            id: "NA".to_owned(),
            name: "n1".to_owned(),
            cluster: String::new(),
            version: "2.1".to_owned(),
            behind: Some(5),
        }],
        gone: vec!["NB".to_owned()],
    };
    let encoded = b"\x04east\xac\x02\x07\x01\x02NA\x02n1\x00\x032.1\x01\x05\x01\x02NB";
    let alone = Command::from(update.clone());
    assert_eq!(&alone.encode()[..], [b"\x01\x06", &encoded[..]].concat());
    let present = 300;
    let update = Command::from(UpdateRosterIf { update, present });
    assert_eq!(&update.encode()[..], [b"\x01\x0d", &encoded[..], b"\xac\x02"].concat());
    let forget = Command::from(ForgetServer {
        nats_cluster: "east".to_owned(),
        id: "NA".to_owned(),
    });
    assert_eq!(&forget.encode()[..], b"\x01\x07\x04east\x02NA");
    for command in [
        mark,
        lease,
        alone,
        update,
        forget,
        trust_operator(7),
        put(3, vec![item(1, -5, "x"), item(2, 9, "y")]),
        overriding(3, item(1, -5, "x"), vec![barred]),
        replace(7, offered(8, 1)),
    ] {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
}

#[test]
fn commands_that_delete_and_shut_keep_their_bytes() {
    let delete = Command::from(DeleteAccounts {
        trust_epoch: 3,
        operator: OperatorKey::from_bytes([7; 32]),
        issued_at: -1,
        claim: Bytes::from_static(b"c"),
        accounts: vec![account(9)],
    });
    let expected = [&[1, 8, 3][..], &[7; 32], b"\x01\x01c\x01", &[9; 32]].concat();
    assert_eq!(&delete.encode()[..], expected);
    let closing = item(1, -5, "x");
    let keep = Command::from(PutClosing {
        trust_epoch: 3,
        item: closing.clone(),
    });
    let kill = Command::from(KillAccount {
        trust_epoch: 3,
        item: closing,
    });
    for (command, kind) in [(&keep, 9), (&kill, 11)] {
        let encoded = command.encode();
        assert_eq!(encoded[..3], [1, kind, 3]);
        assert_eq!(encoded[67..], *b"\x09\x00\x09account 1\x01x");
    }
    let remove = Command::from(RemoveClosing { account: account(9) });
    assert_eq!(&remove.encode()[..], [&[1, 10][..], &[9; 32]].concat());
    for command in [delete, keep, kill, remove] {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
}

/// G3: whichever of two trusted operators signed an account first keeps it; the other's newer token does not take it.
#[test]
fn g3_an_account_stays_with_the_operator_that_signed_it_first_wherever_its_row_lies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let open = || State::open_file(&path, options()).expect("opens");
    let [first, second] = [200, 201].map(|n| OperatorKey::from_bytes([n; 32]));
    let signed_by = |operator, issued_at, token: &str| PutAccount {
        operator,
        ..item(1, issued_at, token)
    };
    let state = open();
    let items = [first, second].map(|operator| PutOperator {
        operator,
        issued_at: 1,
        token: Bytes::from_static(b"operator"),
    });
    let stored = Outcome::Stored { revision: 1 };
    let trusted = Command::from(PutOperators { items: items.to_vec() });
    assert_eq!(apply(&state, 1, &trusted), [stored.clone(), stored]);
    // The second item of one entry sees the first, which is in no table yet.
    let both = put(
        2,
        vec![signed_by(first, 100, "first's"), signed_by(second, 200, "second's")],
    );
    let refused = Outcome::OtherOperator {
        owner: first,
        revision: 2,
    };
    assert_eq!(
        apply(&state, 2, &both),
        [Outcome::Stored { revision: 2 }, refused.clone()],
        "in one entry"
    );
    let taken = put(
        2,
        vec![signed_by(second, 200, "second's"), signed_by(second, 50, "older")],
    );
    let twice = [refused.clone(), refused];
    assert_eq!(apply(&state, 3, &taken), twice, "in the memtable");
    flush(&state);
    state.checkpoint().expect("durable");
    drop(state);
    let state = open();
    assert_eq!(apply(&state, 4, &taken), twice, "in redb, after opening again");
    assert_eq!(token_of(&state, 1).as_deref(), Some("first's"));
    let next = put(2, vec![signed_by(first, 101, "first's next")]);
    assert_eq!(apply(&state, 5, &next), [Outcome::Stored { revision: 5 }]);
}

fn overriding(trust_epoch: u64, item: PutAccount, barred: Vec<Barred>) -> Command {
    OverrideAccount {
        trust_epoch,
        item,
        barred,
    }
    .into()
}

/// The state as it is, and as it is once its rows are in redb and it was opened again.
fn wherever_rows_lie(commands: &[Command], check: impl Fn(&State, u64)) {
    for reopened in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let mut state = State::open_file(&path, options()).expect("opens");
        let mut index = 1;
        for command in commands {
            apply(&state, index, command);
            index += 1;
            if reopened {
                flush(&state);
                state.checkpoint().expect("durable");
                drop(state);
                state = State::open_file(&path, options()).expect("opens");
            }
        }
        check(&state, index);
    }
}

#[test]
fn g2_an_overridden_token_does_not_come_back_by_its_later_issue_time() {
    let state = trusting();
    let versions = |state: &State| state.history(account(1)).expect("readable");
    for (index, text) in [(2, "first"), (3, "second"), (4, "ahead")] {
        apply(&state, index, &put(1, vec![item(1, index.cast_signed() * 100, text)]));
    }
    flush(&state);
    let barred = versions(&state).iter().map(Version::barred).collect();
    let commands = [
        trust_operator(1),
        put(1, vec![item(1, 200, "first")]),
        put(1, vec![item(1, 300, "second")]),
        put(1, vec![item(1, 400, "ahead")]),
        overriding(1, item(1, 250, "meant"), barred),
    ];
    wherever_rows_lie(&commands, |state, index| {
        assert_eq!(token_of(state, 1).as_deref(), Some("meant"));
        let again = put(
            1,
            vec![item(1, 200, "first"), item(1, 300, "second"), item(1, 400, "ahead")],
        );
        let superseded = Outcome::Superseded {
            stored_issued_at: 250,
            revision: 5,
        };
        assert_eq!(
            apply(state, index, &again),
            [superseded.clone(), superseded.clone(), superseded]
        );
        // A newer one is stored, and what is newer than that one stays barred.
        let next = put(
            1,
            vec![item(1, 350, "next"), item(1, 400, "ahead"), item(1, 300, "second")],
        );
        let superseded = Outcome::Superseded {
            stored_issued_at: 350,
            revision: index + 1,
        };
        let stored = Outcome::Stored { revision: index + 1 };
        assert_eq!(apply(state, index + 1, &next), [stored, superseded.clone(), superseded]);
        // Insisting again takes it all the same.
        let insisted = overriding(1, item(1, 400, "ahead"), Vec::new());
        let stored = [Outcome::Stored { revision: index + 2 }];
        assert_eq!(apply(state, index + 2, &insisted), stored);
        let after = put(1, vec![item(1, 400, "another")]);
        assert_eq!(
            apply(state, index + 3, &after),
            [Outcome::Stored { revision: index + 3 }]
        );
    });
}

#[test]
fn g2_a_token_without_an_issue_time_keeps_the_time_of_the_one_before_it() {
    let commands = [
        trust_operator(1),
        put(1, vec![item(1, 100, "dated")]),
        overriding(1, item(1, 0, "undated"), Vec::new()),
        overriding(1, item(1, 0, "undated too"), Vec::new()),
        overriding(1, item(1, 0, "undated"), Vec::new()),
        overriding(1, item(2, 0, "the first of its account"), Vec::new()),
    ];
    wherever_rows_lie(&commands, |state, index| {
        assert_eq!(token_of(state, 1).as_deref(), Some("undated"));
        let issued_at = |n| state.account(account(n)).expect("readable").map(|row| row.issued_at);
        assert_eq!((issued_at(1), issued_at(2)), (Some(100), Some(0)));
        let superseded = Outcome::Superseded {
            stored_issued_at: 100,
            revision: 5,
        };
        let refused = put(1, vec![item(1, 99, "older"), item(1, 100, "dated")]);
        assert_eq!(apply(state, index, &refused), [superseded.clone(), superseded]);
        let newer = put(1, vec![item(1, 101, "newer")]);
        assert_eq!(
            apply(state, index + 1, &newer),
            [Outcome::Stored { revision: index + 1 }]
        );
    });
}

/// An override is judged like any other submission in everything but its time.
#[test]
fn g3_an_override_needs_the_trust_and_the_owner_like_any_other_token() {
    let state = trusting();
    apply(&state, 2, &put(1, vec![item(1, 100, "present")]));
    let foreign = PutAccount {
        operator: OperatorKey::from_bytes([201; 32]),
        ..item(1, 50, "foreign")
    };
    for (index, command, outcome) in [
        (
            3,
            overriding(7, item(1, 50, "x"), vec![]),
            Outcome::StaleTrust { trust_epoch: 1 },
        ),
        (4, overriding(1, foreign, vec![]), Outcome::NotTrusted),
        (
            5,
            overriding(1, item(1, 50, "present"), vec![]),
            Outcome::Unchanged { revision: 2 },
        ),
    ] {
        assert_eq!(apply(&state, index, &command), [outcome]);
    }
}

#[test]
fn g12_the_overridden_tokens_of_an_account_that_are_barred_are_bounded() {
    let state = trusting();
    let mut index = 2;
    for n in 0..200 {
        apply(
            &state,
            index,
            &overriding(1, item(1, 1_000 - n, &format!("token {n}")), Vec::new()),
        );
        index += 1;
    }
    // The newest 64 that were overridden are refused; of those before, `iat` decides.
    for (n, stored) in [(198, false), (135, false)] {
        let outcome = apply(&state, index, &put(1, vec![item(1, 1_000 - n, &format!("token {n}"))]));
        assert_eq!(matches!(outcome[0], Outcome::Stored { .. }), stored, "token {n}");
        index += 1;
    }
    let outcome = apply(&state, index, &put(1, vec![item(1, 866, "token 134")]));
    assert_eq!(outcome, [Outcome::Stored { revision: index }], "token 134");
}

fn offered(n: u8, issued_at: i64) -> PutOperator {
    PutOperator {
        operator: OperatorKey::from_bytes([n; 32]),
        issued_at,
        token: Bytes::from(format!("operator {n} {issued_at}")),
    }
}

fn replace(old: u8, new: PutOperator) -> Command {
    let old = OperatorKey::from_bytes([old; 32]);
    ReplaceOperator { old, new }.into()
}

#[test]
fn g3_the_successor_of_an_operator_owns_its_accounts_and_it_owns_none_any_more() {
    let signed_by = |n: u8, issued_at, token: &str| PutAccount {
        operator: OperatorKey::from_bytes([n; 32]),
        ..item(1, issued_at, token)
    };
    let commands = [
        Command::from(PutOperators {
            items: vec![offered(200, 1), offered(9, 1)],
        }),
        put(2, vec![signed_by(200, 100, "by 200")]),
        replace(200, offered(201, 1)),
        replace(201, offered(202, 1)),
    ];
    wherever_rows_lie(&commands, |state, index| {
        let trust = state.trust();
        let key = |n| OperatorKey::from_bytes([n; 32]);
        let trusted: Vec<_> = trust.operators.iter().map(|row| row.operator).collect();
        assert_eq!(trusted, [key(9), key(202)]);
        assert_eq!((trust.owner(key(200)), trust.owner(key(9))), (key(202), key(9)));
        let items = vec![
            signed_by(200, 150, "by 200 again"),
            signed_by(9, 150, "by another"),
            signed_by(202, 50, "older"),
            signed_by(202, 150, "by 202"),
        ];
        let outcomes = apply(state, index, &put(trust.epoch, items));
        let owner = key(202);
        let expected = [
            Outcome::NotTrusted,
            Outcome::OtherOperator { owner, revision: 2 },
            Outcome::Superseded {
                stored_issued_at: 100,
                revision: 2,
            },
            Outcome::Stored { revision: index },
        ];
        assert_eq!(outcomes, expected);
        // Repeated, of an unknown one, of itself, with an older token of a trusted one; then back again, and into one.
        let unchanged = Outcome::Unchanged { revision: 4 };
        let older = Outcome::Superseded {
            stored_issued_at: 1,
            revision: 1,
        };
        for (at, command, outcome) in [
            (1, replace(201, offered(202, 1)), unchanged.clone()),
            (2, replace(200, offered(202, 1)), unchanged),
            (3, replace(201, offered(202, 2)), Outcome::NotTrusted),
            (4, replace(77, offered(203, 1)), Outcome::NotTrusted),
            (5, replace(202, offered(202, 2)), Outcome::NotTrusted),
            (6, replace(202, offered(9, 0)), older),
            (
                7,
                replace(202, offered(200, 1)),
                Outcome::Stored { revision: index + 7 },
            ),
            (8, replace(200, offered(9, 2)), Outcome::Stored { revision: index + 8 }),
        ] {
            assert_eq!(apply(state, index + at, &command), [outcome], "{at}");
        }
        let trust = state.trust();
        let owners = [200, 201, 202, 9].map(|n| trust.owner(key(n)));
        assert_eq!(owners, [key(9); 4]);
        flush(state);
        assert_eq!(state.snapshot().expect("a view").trust().expect("readable"), *trust);
    });
}

#[test]
fn a_lease_is_given_to_a_node_that_names_the_one_before_it() {
    let state = trusting();
    let take = |index: u64, holder: u64, before: u64| {
        let command = Command::from(TakeLease {
            nats_cluster: "east".to_owned(),
            holder,
            before,
        });
        state
            .apply(mark(index), Effect::Command(&command.encode()))
            .expect("applies")
    };
    let lease = |holder, granted, term| Some(Lease { holder, granted, term });
    assert_eq!(state.lease("east"), None);
    assert_eq!(take(2, 7, 0), Outcomes::Lease(Some(2)));
    assert_eq!(state.lease("east"), lease(7, 2, 2));
    assert_eq!(take(3, 8, 0), Outcomes::Lease(None), "it did not know of the first");
    assert_eq!(take(4, 7, 2), Outcomes::Lease(Some(4)), "renewed");
    assert_eq!(state.lease("east"), lease(7, 4, 2));
    assert_eq!(take(5, 8, 2), Outcomes::Lease(None), "renewed meanwhile");
    assert_eq!(take(6, 0, 4), Outcomes::Lease(Some(6)), "given back");
    assert_eq!(state.lease("east"), lease(0, 6, 0));
    assert_eq!(take(7, 8, 6), Outcomes::Lease(Some(7)));
    assert_eq!(state.lease("east"), lease(8, 7, 7));
    assert_eq!(state.lease("west"), None);
    // It is kept like everything else, and no position of the NATS cluster itself.
    flush(&state);
    assert_eq!(
        state.snapshot().expect("a view").positions().expect("read")["east/granted"],
        7
    );
    assert_eq!(state.position("east"), 0);
}
