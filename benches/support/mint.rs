//! Keys, tokens and creds for a bench. Nothing here is a secret: it is made for one run and forgotten.

use std::thread;

use data_encoding::BASE32_NOPAD;
use jwtmesh::jwt::AccountKey;
use jwtmesh::sign::{self, Claims};
use nkeys::KeyPair;
use rand::RngCore;
use serde_json::json;

/// How long the token of an ordinary account is: a few exports, imports and limits.
pub(crate) const TOKEN_BYTES: usize = 1_536;

/// An operator with its private key, and its system account.
pub(crate) struct Operator {
    key: KeyPair,
    /// The account whose users may speak to servers.
    pub(crate) system: KeyPair,
}

/// An account's token and the key it is for.
pub(crate) struct Minted {
    /// The account's public key.
    pub(crate) id: String,
    /// The token.
    pub(crate) token: String,
}

/// A user: its token and private key.
pub(crate) struct User {
    /// The private key.
    pub(crate) key: KeyPair,
    /// The token.
    pub(crate) token: String,
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self {
            key: KeyPair::new_operator(),
            system: KeyPair::new_account(),
        }
    }

    /// The operator's own token.
    pub(crate) fn token(&self) -> String {
        sign(Claims::operator(&self.key, "bench", &self.system), &self.key)
    }

    /// An account's token, without a user revoked or with one, padded to `TOKEN_BYTES`.
    pub(crate) fn account(&self, id: &str, name: &str, revoked: Option<&str>) -> String {
        let mut claims = Claims::account(id, name);
        if let Some(user) = revoked {
            claims.revoke(user, now());
        }
        // Three parts: base64 takes 4 characters for 3 bytes; header and signature are 134 of them with the dots.
        let room = (TOKEN_BYTES - 134) / 4 * 3;
        let bare = claims.clone().with(|nats| nats["description"] = json!(""));
        let bare = bare.into_value(&self.key, now()).expect("plain data").to_string().len();
        let padding = random_text(room.saturating_sub(bare));
        sign(claims.with(|nats| nats["description"] = json!(padding)), &self.key)
    }

    /// `count` tokens of accounts never seen before, on every core.
    pub(crate) fn accounts(&self, count: usize) -> Vec<Minted> {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let share = |worker: usize| (count * worker / workers)..(count * (worker + 1) / workers);
        let mint = |_: usize| {
            let id = random_account();
            let token = self.account(&id, &format!("bench-{}", &id[1..9]), None);
            Minted { id, token }
        };
        thread::scope(|scope| {
            let shares: Vec<_> = (0..workers)
                .map(|worker| scope.spawn(move || share(worker).map(mint).collect::<Vec<_>>()))
                .collect();
            shares
                .into_iter()
                .flat_map(|share| share.join().expect("minting does not panic"))
                .collect()
        })
    }

    /// A user of the system account.
    pub(crate) fn system_user(&self) -> User {
        user(&self.system)
    }
}

/// A user of `account` who may do anything in it.
pub(crate) fn user(account: &KeyPair) -> User {
    let key = KeyPair::new_user();
    let token = sign(Claims::user(&key, "user", &[], &[]), account);
    User { key, token }
}

impl User {
    /// As the text of a creds file.
    pub(crate) fn creds(&self) -> String {
        sign::creds(&self.token, &self.key).expect("the key has its private half")
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn sign(claims: Claims, issuer: &KeyPair) -> String {
    claims.sign(issuer, now()).expect("the key has its private half")
}

/// A public account key without a private half: an account's own key signs nothing here.
fn random_account() -> String {
    let mut bytes = [0; 32];
    rand::thread_rng().fill_bytes(&mut bytes);
    AccountKey::from_bytes(bytes).to_string()
}

/// Text that does not compress, so that a store gains nothing by trying.
fn random_text(length: usize) -> String {
    let mut raw = vec![0; length * 5 / 8 + 1];
    rand::thread_rng().fill_bytes(&mut raw);
    let mut text = BASE32_NOPAD.encode(&raw);
    text.truncate(length);
    text
}
