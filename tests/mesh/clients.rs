//! The clients of a simulated mesh: what they upload and read at any node, and what they may believe of the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use jwtmesh::jwt::{AccountKey, OperatorKey};
use jwtmesh::raft::Raft;
use jwtmesh::resolver::{AtLeast, ProposeError, Resolver, SubmitError, Submitted, Submitter};
use jwtmesh::sign::Claims;
use jwtmesh::state::{PutOperator, PutOperators, State};
use nkeys::{KeyPair, KeyPairType};
use serde_json::json;

use crate::network::Network;
use crate::node::BEGINNING;
use crate::planted::Defect;

/// Accounts of a simulated mesh: few, so that submissions often concern the same one.
pub(crate) const ACCOUNTS: u8 = 12;

/// The longest that a client waits.
const PATIENCE: Duration = Duration::from_secs(4);

/// The operator and the accounts.
pub(crate) struct Keys {
    operator: KeyPair,
    system: KeyPair,
    accounts: Vec<(String, AccountKey)>,
}

fn pair(kind: KeyPairType, seed: u8) -> KeyPair {
    KeyPair::new_from_raw(kind, [seed; 32]).expect("a key")
}

impl Keys {
    pub(crate) fn new() -> Self {
        let accounts = (0..ACCOUNTS).map(|account| {
            let key = pair(KeyPairType::Account, account + 1).public_key();
            let parsed = key.parse().expect("an account's key");
            (key, parsed)
        });
        Self {
            operator: pair(KeyPairType::Operator, 99),
            system: pair(KeyPairType::Account, 98),
            accounts: accounts.collect(),
        }
    }

    pub(crate) fn account(&self, account: u8) -> AccountKey {
        self.accounts[usize::from(account)].1
    }

    /// A token of `account` that says `words`.
    pub(crate) fn token(&self, account: u8, issued_at: i64, words: &str) -> Bytes {
        let claims = Claims::account(&self.accounts[usize::from(account)].0, "simulated");
        let claims = claims.with(|nats| nats["description"] = json!(words));
        claims.sign(&self.operator, issued_at).expect("a token").into()
    }

    /// What the mesh trusts first.
    pub(crate) fn trust(&self) -> PutOperators {
        let claims = Claims::operator(&self.operator, "simulated", &self.system);
        let token = claims.sign(&self.operator, BEGINNING).expect("a token").into();
        let operator: OperatorKey = self.operator.public_key().parse().expect("an operator's key");
        PutOperators {
            items: vec![PutOperator {
                operator,
                issued_at: BEGINNING,
                token,
            }],
        }
    }
}

/// A token that was uploaded, and what its clients were told.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) account: u8,
    pub(crate) issued_at: i64,
    /// The revisions at which it was said to be stored.
    pub(crate) acknowledged: BTreeSet<u64>,
    /// Why it was not stored, as somebody was told.
    pub(crate) refused: Option<String>,
    /// How many have been told nothing, or that the outcome is not known.
    pub(crate) unknown: u32,
}

#[derive(Default)]
struct Inner {
    uploads: BTreeMap<Bytes, Upload>,
    /// The tokens of each account, in the order in which they were made.
    tokens: BTreeMap<u8, Vec<Bytes>>,
    /// The newest revision of each account that any client was told of.
    newest: BTreeMap<u8, u64>,
    /// How many strong reads were answered.
    reads: u64,
    /// How many uploads were answered by a node that did not lead.
    forwarded: u64,
}

/// What all clients have seen. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Inner>>);

/// Where a client is connected.
pub(crate) struct At {
    pub(crate) node: u64,
    pub(crate) life: u64,
    pub(crate) raft: Raft,
    pub(crate) resolver: Resolver,
    pub(crate) network: Network,
    pub(crate) defect: Option<Defect>,
}

impl History {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Every token, with what was said of it.
    pub(crate) fn uploads(&self) -> BTreeMap<Bytes, Upload> {
        self.inner().uploads.clone()
    }

    pub(crate) fn reads(&self) -> u64 {
        self.inner().reads
    }

    pub(crate) fn forwarded(&self) -> u64 {
        self.inner().forwarded
    }

    /// The newest revision of `account` that any client was told of; 0 if none.
    pub(crate) fn newest(&self, account: u8) -> u64 {
        self.inner().newest.get(&account).copied().unwrap_or(0)
    }

    fn told(&self, account: u8, revision: u64) {
        let mut inner = self.inner();
        let newest = inner.newest.entry(account).or_default();
        *newest = revision.max(*newest);
    }

    /// Notes a token that is about to be uploaded, maybe not for the first time.
    pub(crate) fn uploading(&self, account: u8, issued_at: i64, token: &Bytes) {
        let mut inner = self.inner();
        let upload = Upload {
            account,
            issued_at,
            acknowledged: BTreeSet::new(),
            refused: None,
            unknown: 0,
        };
        if !inner.uploads.contains_key(token) {
            inner.uploads.insert(token.clone(), upload);
            inner.tokens.entry(account).or_default().push(token.clone());
        }
    }

    /// One of the newest tokens of `account`, the `back`-th from the end.
    pub(crate) fn earlier(&self, account: u8, back: usize) -> Option<Bytes> {
        let inner = self.inner();
        inner.tokens.get(&account)?.iter().rev().nth(back).cloned()
    }

    fn judge(&self, token: &Bytes, verdict: impl FnOnce(&mut Upload)) {
        verdict(self.inner().uploads.get_mut(token).expect("a token that was uploaded"));
    }

    /// Uploads `token` of `account`, and, if its outcome is not known, uploads it once more where `again` says.
    pub(crate) async fn upload(self, account: u8, token: Bytes, at: At, again: Option<At>) {
        if self.upload_once(account, &token, &at).await {
            return;
        }
        let Some(again) = again.filter(|again| again.network.is_alive(again.node, again.life)) else {
            return;
        };
        if again.defect == Some(Defect::ForwardedTwice) {
            // As if it were the first time: what is superseded now may have been stored then.
            self.judge(&token, |upload| upload.unknown -= 1);
        }
        self.upload_once(account, &token, &again).await;
    }

    /// Whether the client knows what became of it.
    async fn upload_once(&self, account: u8, token: &Bytes, at: &At) -> bool {
        let before = self.newest(account);
        self.judge(token, |upload| upload.unknown += 1);
        let leads = at.raft.is_leading();
        let said = tokio::time::timeout(PATIENCE, at.submit(account, token)).await;
        if !at.network.is_alive(at.node, at.life) {
            return false;
        }
        match said {
            Ok(Ok(Submitted { stored, revision })) => {
                at.network.note(format_args!("stored {stored} at {revision}"));
                assert!(
                    revision >= before && (revision > before || !stored),
                    "account {account} was at revision {before}, and an upload that began later got {revision} \
                     (stored: {stored}) at node {}",
                    at.node
                );
                self.judge(token, |upload| {
                    upload.acknowledged.insert(revision);
                    upload.unknown -= 1;
                });
                self.told(account, revision);
                self.inner().forwarded += u64::from(!leads);
                true
            }
            Ok(Err(SubmitError::NotAgreed(ProposeError::OutcomeUnknown))) | Err(_) => {
                at.network.note("unknown");
                false
            }
            Ok(Err(error)) => {
                at.network.note(format_args!("refused: {error}"));
                self.judge(token, |upload| {
                    upload.refused = Some(format!("node {}: {error}", at.node));
                    upload.unknown -= 1;
                });
                true
            }
        }
    }

    /// Reads `account`, and asks for everything that was acknowledged before.
    pub(crate) async fn read(self, account: u8, key: AccountKey, at: At) {
        let before = self.newest(account);
        let wanted = match at.defect {
            Some(Defect::ReadWithoutAsking) => AtLeast::Revision(0),
            _ => AtLeast::Newest,
        };
        let read = async {
            at.resolver.read_at_least(wanted).await?;
            at.resolver.lookup(key).await
        };
        let Ok(Ok(row)) = tokio::time::timeout(PATIENCE, read).await else {
            return;
        };
        if !at.network.is_alive(at.node, at.life) {
            return;
        }
        let found = row.map_or(0, |row| row.revision);
        at.network.note(format_args!("read {found}"));
        assert!(
            found >= before,
            "account {account} was at revision {before}, and a strong read that began later saw {found} at node {}",
            at.node
        );
        self.told(account, found);
        self.inner().reads += 1;
    }
}

impl At {
    async fn submit(&self, account: u8, token: &Bytes) -> Result<Submitted, SubmitError> {
        if self.defect == Some(Defect::FollowerSaysUnchanged) {
            let key = Keys::new().account(account);
            if let Some(row) = self.resolver.lookup(key).await?.filter(|row| row.token == *token) {
                return Ok(Submitted {
                    stored: false,
                    revision: row.revision,
                });
            }
        }
        let submitter = match self.defect {
            Some(Defect::OlderStored) => Submitter::Insisting,
            _ => Submitter::Anyone,
        };
        self.resolver.submit(None, token.clone(), submitter).await
    }
}

/// The ETags of the versions of an account that `state` keeps.
pub(crate) fn versions(state: &State, key: AccountKey) -> BTreeSet<String> {
    let kept = state.history(key).expect("a readable history");
    kept.into_iter().map(|version| version.etag).collect()
}

/// The ETag of `token`.
pub(crate) fn etag(token: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&blake3::hash(token).as_bytes()[..16])
}
