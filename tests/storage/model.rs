//! A model of the state, written as simply as possible, and the parts that the tests of the state are made of.

use std::collections::BTreeMap;

use ::redb::backends::InMemoryBackend;
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use jwtmesh::jwt::{AccountKey, OperatorKey};
use jwtmesh::state::{
    AccountOutcome, Command, Effect, Mark, MarkPropagated, OperatorOutcome, Options, Outcomes, PutAccount, PutAccounts,
    PutOperator, PutOperators, State,
};
use rand::Rng;
use rand::rngs::SmallRng;

/// The outcome of one item, of any command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stored { revision: u64 },
    Unchanged { revision: u64 },
    Superseded { stored_issued_at: i64, revision: u64 },
    OtherOperator { owner: OperatorKey, revision: u64 },
    StaleTrust { trust_epoch: u64 },
    NotTrusted,
    Marked,
}

impl From<AccountOutcome> for Outcome {
    fn from(outcome: AccountOutcome) -> Self {
        match outcome {
            AccountOutcome::Stored { revision } => Self::Stored { revision },
            AccountOutcome::Unchanged { revision } => Self::Unchanged { revision },
            AccountOutcome::Superseded {
                stored_issued_at,
                revision,
            } => Self::Superseded {
                stored_issued_at,
                revision,
            },
            AccountOutcome::OtherOperator { owner, revision } => Self::OtherOperator { owner, revision },
            AccountOutcome::StaleTrust { trust_epoch } => Self::StaleTrust { trust_epoch },
            AccountOutcome::NotTrusted => Self::NotTrusted,
        }
    }
}

impl From<OperatorOutcome> for Outcome {
    fn from(outcome: OperatorOutcome) -> Self {
        match outcome {
            OperatorOutcome::Stored { revision } => Self::Stored { revision },
            OperatorOutcome::Unchanged { revision } => Self::Unchanged { revision },
            OperatorOutcome::Superseded {
                stored_issued_at,
                revision,
            } => Self::Superseded {
                stored_issued_at,
                revision,
            },
            OperatorOutcome::NotTrusted => Self::NotTrusted,
        }
    }
}

pub(crate) fn account(n: u8) -> AccountKey {
    AccountKey::from_bytes([n; 32])
}

pub(crate) fn operator() -> OperatorKey {
    OperatorKey::from_bytes([200; 32])
}

pub(crate) fn options() -> Options {
    Options {
        cache_bytes: 1 << 20,
        row_cache_bytes: 1 << 20,
        memtable_bytes: 1 << 20,
        ..Options::new("this-store")
    }
}

pub(crate) fn mark(index: u64) -> Mark {
    Mark {
        index,
        log_id: Bytes::copy_from_slice(&index.to_be_bytes()),
    }
}

pub(crate) fn item(n: u8, issued_at: i64, token: &str) -> PutAccount {
    PutAccount {
        account: account(n),
        operator: operator(),
        issued_at,
        expires_at: 0,
        name: format!("account {n}"),
        token: Bytes::copy_from_slice(token.as_bytes()),
    }
}

pub(crate) fn trust_operator(issued_at: i64) -> Command {
    let token = Bytes::from(format!("operator {issued_at}"));
    let items = vec![PutOperator {
        operator: operator(),
        issued_at,
        token,
    }];
    PutOperators { items }.into()
}

pub(crate) fn put(trust_epoch: u64, items: Vec<PutAccount>) -> Command {
    PutAccounts { trust_epoch, items }.into()
}

pub(crate) fn apply(state: &State, index: u64, command: &Command) -> Vec<Outcome> {
    let outcomes = state.apply(mark(index), Effect::Command(&command.encode()));
    match outcomes.expect("an applicable command") {
        Outcomes::None => panic!("a command has an outcome"),
        Outcomes::Accounts(each) => each.into_iter().map(Outcome::from).collect(),
        Outcomes::Operators(each) => each.into_iter().map(Outcome::from).collect(),
        Outcomes::Marked | Outcomes::Lease(_) => vec![Outcome::Marked],
    }
}

/// A state in memory with the operator trusted at index 1, epoch 1.
pub(crate) fn trusting() -> State {
    let state = State::open_backend(InMemoryBackend::new(), options()).expect("a new state");
    assert_eq!(apply(&state, 1, &trust_operator(1)), [Outcome::Stored { revision: 1 }]);
    state
}

pub(crate) fn flush(state: &State) {
    while state.flush_step(16).expect("a step") {}
    assert_eq!(Some(state.flushed()), state.applied().map(|mark| mark.index));
}

pub(crate) fn token_of(state: &State, n: u8) -> Option<String> {
    let row = state.account(account(n)).expect("readable")?;
    Some(String::from_utf8(row.token.to_vec()).unwrap())
}

/// What the state should hold, computed as simply as possible.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) epoch: u64,
    operator: Option<(i64, Bytes, u64)>,
    pub(crate) accounts: BTreeMap<AccountKey, Vec<(i64, Bytes, u64)>>,
    positions: BTreeMap<String, u64>,
}

impl Model {
    pub(crate) fn after(log: &[Command]) -> Self {
        let mut model = Self::default();
        for (at, command) in log.iter().enumerate() {
            model.apply(at as u64 + 1, command);
        }
        model
    }

    pub(crate) fn apply(&mut self, revision: u64, command: &Command) -> Vec<Outcome> {
        match command {
            Command::PutAccounts(PutAccounts { trust_epoch, items }) => items
                .iter()
                .map(|item| self.put(revision, *trust_epoch, item))
                .collect(),
            Command::PutOperators(PutOperators { items }) => items
                .iter()
                .map(|item| {
                    let outcome = judge(self.operator.as_ref(), item.issued_at, &item.token, revision);
                    if matches!(outcome, Outcome::Stored { .. }) {
                        self.operator = Some((item.issued_at, item.token.clone(), revision));
                        self.epoch += 1;
                    }
                    outcome
                })
                .collect(),
            Command::MarkPropagated(MarkPropagated { nats_cluster, position }) => {
                let present = self.positions.entry(nats_cluster.clone()).or_default();
                *present = (*present).max(*position);
                vec![Outcome::Marked]
            }
            // Tested one by one in `state.rs`, and never among the random commands.
            Command::OverrideAccount(_) | Command::ReplaceOperator(_) | Command::TakeLease(_) => {
                panic!("the model does not know {command:?}")
            }
        }
    }

    fn put(&mut self, revision: u64, trust_epoch: u64, item: &PutAccount) -> Outcome {
        if trust_epoch != self.epoch {
            return Outcome::StaleTrust {
                trust_epoch: self.epoch,
            };
        }
        if self.operator.is_none() {
            return Outcome::NotTrusted;
        }
        let versions = self.accounts.entry(item.account).or_default();
        let replaced = versions.split_last().is_some_and(|(_, before)| {
            before
                .iter()
                .any(|(at, token, _)| (*at, token) == (item.issued_at, &item.token))
        });
        let outcome = match judge(versions.last(), item.issued_at, &item.token, revision) {
            Outcome::Stored { .. } if replaced => Outcome::Superseded {
                stored_issued_at: item.issued_at,
                revision: versions.last().map_or(0, |(_, _, there)| *there),
            },
            outcome => outcome,
        };
        if matches!(outcome, Outcome::Stored { .. }) {
            versions.push((item.issued_at, item.token.clone(), revision));
        }
        outcome
    }

    pub(crate) fn expect(&self, state: &State) {
        for n in 0..ACCOUNTS {
            let found = state.account(account(n)).expect("readable");
            let found = found.map(|row| (row.issued_at, row.token.clone(), row.revision));
            let wanted = self
                .accounts
                .get(&account(n))
                .and_then(|versions| versions.last().cloned());
            assert_eq!(found, wanted, "account {n}");
        }
        assert_eq!(state.trust().epoch, self.epoch);
        for (nats_cluster, position) in &self.positions {
            assert_eq!(state.position(nats_cluster), *position);
        }
    }

    /// Compares what redb holds, including the history. Redb must have reached what is applied.
    pub(crate) fn expect_flushed(&self, state: &State) {
        let mut rows = BTreeMap::new();
        let view = state.snapshot().expect("a view");
        for row in view.rows().expect("rows") {
            let row = row.expect("a sound row");
            rows.insert(row.account, (row.issued_at, row.token.clone(), row.revision));
        }
        let accounts = self.accounts.iter().filter(|(_, versions)| !versions.is_empty());
        let wanted: BTreeMap<_, _> = accounts
            .map(|(key, rows)| (*key, rows.last().unwrap().clone()))
            .collect();
        assert_eq!(rows, wanted);
        for (key, versions) in &self.accounts {
            let kept = view.history(*key).expect("readable");
            let kept: Vec<_> = kept
                .iter()
                .map(|version| (version.revision, version.issued_at))
                .collect();
            let all: Vec<_> = versions
                .iter()
                .rev()
                .map(|(issued_at, _, revision)| (*revision, *issued_at))
                .collect();
            assert_eq!(
                kept,
                all[..all.len().min(16)],
                "{key}: the newest versions, and at most 16"
            );
        }
    }
}

fn judge(stored: Option<&(i64, Bytes, u64)>, issued_at: i64, token: &Bytes, revision: u64) -> Outcome {
    match stored {
        Some((_, bytes, there)) if bytes == token => Outcome::Unchanged { revision: *there },
        Some((newer, _, there)) if *newer > issued_at => Outcome::Superseded {
            stored_issued_at: *newer,
            revision: *there,
        },
        _ => Outcome::Stored { revision },
    }
}

pub(crate) const ACCOUNTS: u8 = 12;

pub(crate) fn random_command(random: &mut SmallRng, epoch: u64) -> Command {
    match random.gen_range(0..20) {
        0 => trust_operator(random.gen_range(0..40)),
        1 => MarkPropagated {
            nats_cluster: "east".to_owned(),
            position: random.gen_range(0..50),
        }
        .into(),
        _ => {
            let items = (0..random.gen_range(0..5)).map(|_| {
                let length = if random.gen_bool(0.02) {
                    20_000
                } else {
                    random.gen_range(1..2500)
                };
                // Half of them have three base64 parts, as tokens have; the others are stored as they are.
                let text: String = if random.gen_bool(0.5) {
                    let part = |share: usize| BASE64URL_NOPAD.encode(&vec![length as u8; length / share]);
                    [part(40), part(2), part(25)].join(".")
                } else {
                    std::iter::repeat_n(random.gen_range('a'..='z'), length).collect()
                };
                item(
                    random.gen_range(0..ACCOUNTS),
                    random.gen_range(0..6) + epoch.cast_signed(),
                    &text,
                )
            });
            let items = items.collect();
            put(if random.gen_bool(0.05) { epoch + 1 } else { epoch }, items)
        }
    }
}
