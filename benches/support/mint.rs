//! Keys, tokens and creds for a bench. Nothing here is a secret: it is made for one run and forgotten.

use std::thread;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use rand::RngCore;

/// How long the token of an ordinary account is: a few exports, imports and limits.
pub(crate) const TOKEN_BYTES: usize = 1_536;

/// Prefix byte of a public account key (nkeys, `strkey.go`).
const ACCOUNT_PREFIX: u8 = 0;

/// An operator with its private key, and its system account.
pub(crate) struct Operator {
    key: KeyPair,
    id: String,
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
        let key = KeyPair::new_operator();
        let id = key.public_key();
        Self {
            key,
            id,
            system: KeyPair::new_account(),
        }
    }

    /// The operator's own token.
    pub(crate) fn token(&self) -> String {
        let system = self.system.public_key();
        let nats = format!(r#""system_account":"{system}","type":"operator","version":2"#);
        sign(&self.key, &claims(&self.id, "bench", &self.id, &nats))
    }

    /// An account's token, without a user revoked or with one, padded to `TOKEN_BYTES`.
    pub(crate) fn account(&self, id: &str, name: &str, revoked: Option<&str>) -> String {
        let limits =
            r#""subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1"#;
        let revocations = match revoked {
            Some(user) => format!(r#""revocations":{{"{user}":{}}},"#, now()),
            None => String::new(),
        };
        let nats = |description: &str| {
            format!(
                r#""limits":{{{limits}}},{revocations}"default_permissions":{{"pub":{{}},"sub":{{}}}},"authorization":{{}},"description":"{description}","type":"account","version":2"#
            )
        };
        // Three chunks: base64 takes 4 characters for 3 bytes; header and signature are 133 of them with the dots.
        let room = (TOKEN_BYTES - 135) / 4 * 3;
        let bare = claims(&self.id, name, id, &nats("")).len();
        let padding = random_text(room.saturating_sub(bare));
        sign(&self.key, &claims(&self.id, name, id, &nats(&padding)))
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
    let nats = r#""pub":{},"sub":{},"subs":-1,"data":-1,"payload":-1,"type":"user","version":2"#;
    let token = sign(account, &claims(&account.public_key(), "user", &key.public_key(), nats));
    User { key, token }
}

impl User {
    /// As the text of a creds file.
    pub(crate) fn creds(&self) -> String {
        let seed = self.key.seed().expect("the key has its private half");
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
            self.token
        )
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn claims(issuer: &str, name: &str, subject: &str, nats: &str) -> String {
    let id = random_text(52);
    let now = now();
    format!(r#"{{"jti":"{id}","iat":{now},"iss":"{issuer}","name":"{name}","sub":"{subject}","nats":{{{nats}}}}}"#)
}

fn sign(signer: &KeyPair, claims: &str) -> String {
    const HEADER: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ";
    let mut token = String::with_capacity(2_048);
    token.push_str(HEADER);
    token.push('.');
    BASE64URL_NOPAD.encode_append(claims.as_bytes(), &mut token);
    let signature = signer.sign(token.as_bytes()).expect("the key has its private half");
    token.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut token);
    token
}

/// A public account key whose private half nobody has: an account's own key signs nothing here.
fn random_account() -> String {
    let mut raw = [ACCOUNT_PREFIX; 35];
    rand::thread_rng().fill_bytes(&mut raw[1..33]);
    let crc = crc16(&raw[..33]);
    raw[33..].copy_from_slice(&crc.to_le_bytes());
    BASE32_NOPAD.encode(&raw)
}

/// Text that does not compress, so that a store gains nothing by trying.
fn random_text(length: usize) -> String {
    let mut raw = vec![0; length * 5 / 8 + 1];
    rand::thread_rng().fill_bytes(&mut raw);
    let mut text = BASE32_NOPAD.encode(&raw);
    text.truncate(length);
    text
}

/// CRC-16/XMODEM, as in nkeys' `crc16.go`.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}
