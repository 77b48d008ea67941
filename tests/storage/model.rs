//! A model of the state, written as simply as possible, and the parts that the tests of the state are made of.

use std::collections::BTreeMap;

use ::redb::backends::InMemoryBackend;
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use jwtmesh::jwt::{AccountKey, OperatorKey};
use jwtmesh::state::{
    AccountOutcome, ClosingOutcome, Command, DeleteAccounts, DeleteOutcome, Effect, ForgetServer, KillAccount, Lease,
    Mark, MarkPropagated, OperatorOutcome, Options, Outcomes, PutAccount, PutAccounts, PutClosing, PutOperator,
    PutOperators, RemoveClosing, Server, State, TakeLease, UpdateRoster, UpdateRosterIf,
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
    Changed,
    Marked,
    Lease(Option<u64>),
    Roster(bool),
    Deleted { issued_after: i64, revision: u64 },
    Removed(DeleteOutcome),
    Closing(ClosingOutcome),
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
            AccountOutcome::Changed => Self::Changed,
            AccountOutcome::Deleted { issued_after, revision } => Self::Deleted { issued_after, revision },
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
        Outcomes::Marked => vec![Outcome::Marked],
        Outcomes::Lease(granted) => vec![Outcome::Lease(granted)],
        Outcomes::Roster(done) => vec![Outcome::Roster(done)],
        Outcomes::Deleted(outcome) => vec![Outcome::Removed(outcome)],
        Outcomes::Closing(outcome) => vec![Outcome::Closing(outcome)],
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
    /// Versions with the time that they count as, a tombstone as an empty token.
    pub(crate) accounts: BTreeMap<AccountKey, Vec<(i64, Bytes, u64)>>,
    /// Requests to delete it that have had their effect.
    claims: BTreeMap<AccountKey, Vec<(i64, Bytes)>>,
    /// Closing tokens: of what time and of what revision.
    closings: BTreeMap<AccountKey, (i64, Bytes, u64)>,
    positions: BTreeMap<String, u64>,
    leases: BTreeMap<String, Lease>,
    rosters: BTreeMap<String, BTreeMap<String, Server>>,
    /// When each roster was last updated where the update before was named.
    last_updates: BTreeMap<String, u64>,
    forgotten: BTreeMap<String, u64>,
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
                self.advance(nats_cluster, *position);
                vec![Outcome::Marked]
            }
            Command::TakeLease(command) => vec![Outcome::Lease(self.take(revision, command))],
            Command::UpdateRoster(command) => vec![Outcome::Roster(self.update(command))],
            Command::UpdateRosterIf(command) => {
                let last = self.last_updates.get(&command.update.nats_cluster).copied();
                let is_applied = command.present == last.unwrap_or(0) && self.update(&command.update);
                if is_applied {
                    self.last_updates.insert(command.update.nats_cluster.clone(), revision);
                }
                vec![Outcome::Roster(is_applied)]
            }
            Command::ForgetServer(ForgetServer { nats_cluster, id }) => {
                let servers = self.rosters.entry(nats_cluster.clone()).or_default();
                let was_there = servers.remove(id).is_some();
                if was_there {
                    self.forgotten.insert(nats_cluster.clone(), revision);
                }
                vec![Outcome::Roster(was_there)]
            }
            Command::DeleteAccounts(command) => vec![Outcome::Removed(self.delete(revision, command))],
            Command::PutClosing(command) => vec![Outcome::Closing(self.keep(revision, command))],
            Command::RemoveClosing(RemoveClosing { account }) => {
                let was_kept = self.closings.remove(account).is_some();
                vec![Outcome::Closing(match was_kept {
                    true => ClosingOutcome::Done { revision },
                    false => ClosingOutcome::Unknown,
                })]
            }
            Command::KillAccount(command) => vec![Outcome::Closing(self.kill(revision, command))],
            // Tested one by one in `state.rs`, and never among the random commands.
            Command::OverrideAccount(_) | Command::PutAccountIf(_) | Command::ReplaceOperator(_) => {
                panic!("the model does not know {command:?}")
            }
        }
    }

    fn advance(&mut self, nats_cluster: &str, position: u64) {
        let present = self.positions.entry(nats_cluster.to_owned()).or_default();
        *present = (*present).max(position);
    }

    fn lease(&self, nats_cluster: &str) -> Lease {
        let none = Lease {
            holder: 0,
            granted: 0,
            term: 0,
        };
        self.leases.get(nats_cluster).copied().unwrap_or(none)
    }

    fn take(&mut self, revision: u64, command: &TakeLease) -> Option<u64> {
        let present = self.lease(&command.nats_cluster);
        if command.before != present.granted {
            return None;
        }
        let term = match command.holder {
            0 => 0,
            holder if holder == present.holder => present.term,
            _ => revision,
        };
        let lease = Lease {
            holder: command.holder,
            granted: revision,
            term,
        };
        self.leases.insert(command.nats_cluster.clone(), lease);
        Some(revision)
    }

    fn update(&mut self, command: &UpdateRoster) -> bool {
        if command.term != self.lease(&command.nats_cluster).term {
            return false;
        }
        self.advance(&command.nats_cluster, command.position);
        let servers = self.rosters.entry(command.nats_cluster.clone()).or_default();
        for server in command.seen.iter().filter(|server| server.name.len() <= 256) {
            servers.insert(server.id.clone(), server.clone());
        }
        for id in &command.gone {
            servers.remove(id);
        }
        true
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
        let is_deleted = versions.last().is_some_and(|(_, token, _)| token.is_empty());
        let outcome = match judge(versions.last(), item.issued_at, &item.token, revision) {
            Outcome::Stored { .. } if replaced => Outcome::Superseded {
                stored_issued_at: item.issued_at,
                revision: versions.last().map_or(0, |(_, _, there)| *there),
            },
            outcome => outcome,
        };
        if matches!(outcome, Outcome::Stored { .. }) {
            versions.push((item.issued_at, item.token.clone(), revision));
            self.forget_claims(item.account, item.issued_at);
        }
        match outcome {
            Outcome::Superseded {
                stored_issued_at,
                revision,
            } if is_deleted => Outcome::Deleted {
                issued_after: stored_issued_at,
                revision,
            },
            outcome => outcome,
        }
    }

    fn delete(&mut self, revision: u64, command: &DeleteAccounts) -> DeleteOutcome {
        let trust_epoch = self.epoch;
        if command.trust_epoch != trust_epoch {
            return DeleteOutcome::StaleTrust { trust_epoch };
        }
        if self.operator.is_none() {
            return DeleteOutcome::NotTrusted;
        }
        let mut sorted = command.accounts.clone();
        sorted.sort();
        sorted.dedup();
        let claim = (command.issued_at, command.claim.clone());
        for account in &sorted {
            let Some((issued_at, token, _)) = self.accounts.get(account).and_then(|versions| versions.last()) else {
                continue;
            };
            if token.is_empty() || command.issued_at == 0 {
                continue;
            }
            let account = *account;
            if self.claims.get(&account).is_some_and(|claims| claims.contains(&claim)) {
                return DeleteOutcome::Replayed { account };
            }
            if command.issued_at < *issued_at {
                let stored_issued_at = *issued_at;
                return DeleteOutcome::Superseded {
                    account,
                    stored_issued_at,
                };
            }
        }
        let were_there = command.accounts.iter().map(|account| self.is_live(*account)).collect();
        for account in sorted {
            self.entomb(revision, account, Some(claim.clone()).filter(|(at, _)| *at > 0), false);
        }
        DeleteOutcome::Done { revision, were_there }
    }

    fn is_live(&self, account: AccountKey) -> bool {
        let newest = self.accounts.get(&account).and_then(|versions| versions.last());
        newest.is_some_and(|(_, token, _)| !token.is_empty())
    }

    fn entomb(&mut self, revision: u64, account: AccountKey, claim: Option<(i64, Bytes)>, always: bool) {
        let closing = self.closings.get(&account).map_or(0, |(at, ..)| *at);
        let Some(versions) = self.accounts.get_mut(&account).filter(|versions| !versions.is_empty()) else {
            if let Some(claim) = claim {
                let floor = claim.0.max(closing);
                self.accounts.insert(account, vec![(floor, Bytes::new(), revision)]);
                self.claims.insert(account, vec![claim]);
            }
            return;
        };
        let (before, token, _) = versions.last().expect("not empty").clone();
        let issued_at = before.max(closing).max(claim.as_ref().map_or(0, |(at, _)| *at));
        let claims = self.claims.entry(account).or_default();
        let is_new = claim.is_some_and(|claim| {
            let is_new = !claims.contains(&claim);
            if is_new {
                claims.push(claim);
            }
            is_new
        });
        if !token.is_empty() {
            versions.push((issued_at, Bytes::new(), revision));
        } else if always || is_new || issued_at != before {
            *versions.last_mut().expect("not empty") = (issued_at, Bytes::new(), revision);
        }
    }

    fn keep(&mut self, revision: u64, command: &PutClosing) -> ClosingOutcome {
        let item = &command.item;
        if let Err(outcome) = self.judge_closing(command.trust_epoch, item.account) {
            return outcome;
        }
        if let Some((_, _, revision)) = self
            .closings
            .get(&item.account)
            .filter(|(_, kept, _)| *kept == item.token)
        {
            return ClosingOutcome::Unchanged { revision: *revision };
        }
        self.closings
            .insert(item.account, (item.issued_at, item.token.clone(), revision));
        if !self.is_live(item.account) {
            self.entomb(revision, item.account, None, true);
        }
        ClosingOutcome::Done { revision }
    }

    fn kill(&mut self, revision: u64, command: &KillAccount) -> ClosingOutcome {
        let item = &command.item;
        if let Err(outcome) = self.judge_closing(command.trust_epoch, item.account) {
            return outcome;
        }
        let versions = self.accounts.get_mut(&item.account).expect("judged");
        let (before, token, there) = versions.last().expect("judged").clone();
        if token.is_empty() {
            return ClosingOutcome::Deleted { revision: there };
        }
        if token == item.token {
            return ClosingOutcome::Unchanged { revision: there };
        }
        let kept = self.closings.get(&item.account);
        if kept.is_none_or(|(_, kept, _)| *kept != item.token) {
            return ClosingOutcome::NotKept;
        }
        let issued_at = item.issued_at.max(before);
        versions.push((issued_at, item.token.clone(), revision));
        self.forget_claims(item.account, issued_at);
        ClosingOutcome::Done { revision }
    }

    /// Those that a row of this time refuses without remembering them.
    fn forget_claims(&mut self, account: AccountKey, issued_at: i64) {
        if let Some(claims) = self.claims.get_mut(&account) {
            claims.retain(|(at, _)| *at >= issued_at);
        }
    }

    fn judge_closing(&self, trust_epoch: u64, account: AccountKey) -> Result<(), ClosingOutcome> {
        if trust_epoch != self.epoch {
            let trust_epoch = self.epoch;
            return Err(ClosingOutcome::StaleTrust { trust_epoch });
        }
        if self.operator.is_none() {
            return Err(ClosingOutcome::NotTrusted);
        }
        match self.accounts.get(&account).and_then(|versions| versions.last()) {
            Some(_) => Ok(()),
            None => Err(ClosingOutcome::Unknown),
        }
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
        for nats_cluster in NATS_CLUSTERS {
            assert_eq!(state.lease(nats_cluster), self.leases.get(nats_cluster).copied());
            let forgotten = self.forgotten.get(nats_cluster).copied();
            assert_eq!(state.forgotten(nats_cluster), forgotten.unwrap_or(0));
            let servers = self.rosters.get(nats_cluster).into_iter().flat_map(BTreeMap::values);
            assert_eq!(state.servers(nats_cluster), servers.cloned().collect::<Vec<_>>());
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
        let live: Vec<_> = wanted
            .keys()
            .copied()
            .filter(|account| self.is_live(*account))
            .collect();
        assert_eq!(view.keys(1000).expect("readable"), live, "tombstones are no accounts");
        let listed = view.accounts(None, 1000).expect("readable");
        assert_eq!(listed.iter().map(|listed| listed.account).collect::<Vec<_>>(), live);
        assert_eq!(view.len(), live.len() as u64);
        let closings = view.closings(None, 1000).expect("readable").into_iter();
        let closings = closings.map(|listed| listed.closing.expect("sound"));
        let closings = closings.map(|closing| (closing.account, (closing.issued_at, closing.token, closing.revision)));
        assert_eq!(closings.collect::<BTreeMap<_, _>>(), self.closings);
        let mut rosters = self.rosters.clone();
        rosters.retain(|_, servers| !servers.is_empty());
        assert_eq!(view.rosters().expect("sound servers"), rosters);
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

const NATS_CLUSTERS: [&str; 2] = ["east", "west"];

pub(crate) fn server(id: &str, behind: Option<u64>) -> Server {
    Server {
        id: id.to_owned(),
        name: format!("server {id}"),
        cluster: String::new(),
        version: "2.12.0".to_owned(),
        behind,
    }
}

/// A change of a roster, or what its term depends on. The lease of the second NATS cluster is never taken.
fn random_roster_command(random: &mut SmallRng, model: &Model) -> Command {
    let nats_cluster = NATS_CLUSTERS[random.gen_range(0..2)].to_owned();
    let id = |random: &mut SmallRng| format!("N{}", random.gen_range(0..8));
    let lease = model.lease(&nats_cluster);
    let is_right = random.gen_bool(0.8);
    match random.gen_range(0..4) {
        0 => TakeLease {
            nats_cluster: NATS_CLUSTERS[0].to_owned(),
            holder: random.gen_range(0..3),
            before: model.lease(NATS_CLUSTERS[0]).granted + u64::from(!is_right),
        }
        .into(),
        1 => ForgetServer {
            nats_cluster,
            id: id(random),
        }
        .into(),
        _ => {
            let mut seen: Vec<_> = (0..random.gen_range(0..5))
                .map(|_| {
                    let behind = random.gen_bool(0.5).then(|| random.gen_range(0..50));
                    server(&id(random), behind)
                })
                .collect();
            for server in seen.iter_mut().filter(|_| random.gen_bool(0.05)) {
                server.name = "n".repeat(257);
            }
            let last = model.last_updates.get(&nats_cluster).copied().unwrap_or(0);
            let update = UpdateRoster {
                nats_cluster,
                term: lease.term + u64::from(!is_right),
                position: random.gen_range(0..50),
                seen,
                gone: (0..random.gen_range(0..3)).map(|_| id(random)).collect(),
            };
            if random.gen_bool(0.3) {
                return update.into();
            }
            let present = last + u64::from(random.gen_bool(0.2));
            UpdateRosterIf { update, present }.into()
        }
    }
}

/// A request to delete accounts, or what is done with a closing token.
fn random_removal(random: &mut SmallRng, epoch: u64) -> Command {
    let account = |random: &mut SmallRng| account(random.gen_range(0..ACCOUNTS));
    let trust_epoch = if random.gen_bool(0.05) { epoch + 1 } else { epoch };
    let issued_at = random.gen_range(0..6) + epoch.cast_signed();
    let closing = |random: &mut SmallRng| {
        let text = format!("closing {issued_at} {}", random.gen_range(0..2));
        item(random.gen_range(0..ACCOUNTS), issued_at, &text)
    };
    match random.gen_range(0..8) {
        0 => RemoveClosing {
            account: account(random),
        }
        .into(),
        1 => {
            let item = closing(random);
            KillAccount { trust_epoch, item }.into()
        }
        2..=3 => {
            let item = closing(random);
            PutClosing { trust_epoch, item }.into()
        }
        _ => {
            let issued_at = if random.gen_bool(0.2) { 0 } else { issued_at };
            DeleteAccounts {
                trust_epoch,
                operator: operator(),
                issued_at,
                claim: format!("claim {issued_at} {}", random.gen_range(0..2)).into(),
                accounts: (0..random.gen_range(0..4)).map(|_| account(random)).collect(),
            }
            .into()
        }
    }
}

pub(crate) fn random_command(random: &mut SmallRng, model: &Model) -> Command {
    let epoch = model.epoch;
    match random.gen_range(0..24) {
        2..=5 => random_roster_command(random, model),
        6..=10 => random_removal(random, epoch),
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
