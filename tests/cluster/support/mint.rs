//! Makes keys, tokens and creds, also such as no tool would make.

use data_encoding::BASE64URL_NOPAD;
use jwtmesh::sign::{self, Claims};
use nkeys::KeyPair;
use serde_json::{Value, json};

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// `claims` as a v2 token signed by `signer`.
pub(crate) fn sign(signer: &KeyPair, claims: &Value) -> String {
    sign::encode(signer, claims).expect("the key has its private half")
}

/// `claims` as a v1 token: the older header, and only the claims are signed.
pub(crate) fn sign_v1(signer: &KeyPair, claims: &Value) -> String {
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"jwt","alg":"ed25519"}"#);
    let body = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
    let signature = signer.sign(body.as_bytes()).expect("the key has its private half");
    format!("{header}.{body}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// The claims of a token, unchecked.
pub(crate) fn claims(token: &str) -> Value {
    sign::decode(token).expect("a token")
}

/// `claims`, issued now by `issuer`. They have an id of their own, so that two of the same second have different bytes.
fn issued(claims: Claims, issuer: &KeyPair) -> Value {
    let mut claims = claims.into_value(issuer, now()).expect("plain data");
    claims["jti"] = json!(KeyPair::new_module().public_key());
    claims
}

/// An operator with its private key.
pub(crate) struct Operator {
    pub(crate) key: KeyPair,
    pub(crate) name: String,
    pub(crate) system: Account,
}

impl Operator {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            key: KeyPair::new_operator(),
            name: name.to_owned(),
            system: Account::new("SYS"),
        }
    }

    /// The operator's own token.
    pub(crate) fn token(&self) -> String {
        self.token_with(|_| {})
    }

    /// The operator's own token, with its claims changed.
    pub(crate) fn token_with(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = issued(Claims::operator(&self.key, &self.name, &self.system.key), &self.key);
        change(&mut claims);
        sign(&self.key, &claims)
    }

    /// The token of `account`, issued now.
    pub(crate) fn account(&self, account: &Account) -> String {
        self.account_with(account, |_| {})
    }

    /// The token of `account`, issued at `issued_at`.
    pub(crate) fn account_at(&self, account: &Account, issued_at: i64) -> String {
        self.account_with(account, |claims| claims["iat"] = json!(issued_at))
    }

    /// The token of `account`, with its claims changed.
    pub(crate) fn account_with(&self, account: &Account, change: impl FnOnce(&mut Value)) -> String {
        sign(&self.key, &self.account_claims(account, change))
    }

    /// The token of `account`, issued at `issued_at`, with these users revoked now.
    pub(crate) fn revoking(&self, account: &Account, users: &[&User], issued_at: i64) -> String {
        self.account_with(account, |claims| {
            claims["iat"] = json!(issued_at);
            for user in users {
                claims["nats"]["revocations"][user.id()] = json!(now());
            }
        })
    }

    /// The claims of `account`, changed; to be signed with a key other than this operator's identity key.
    pub(crate) fn account_claims(&self, account: &Account, change: impl FnOnce(&mut Value)) -> Value {
        let mut claims = issued(Claims::account(&account.id(), &account.name), &self.key);
        change(&mut claims);
        claims
    }

    /// The token of the system account.
    pub(crate) fn system_token(&self) -> String {
        self.account(&self.system)
    }
}

/// An account with its private key.
pub(crate) struct Account {
    pub(crate) key: KeyPair,
    pub(crate) name: String,
}

impl Account {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            key: KeyPair::new_account(),
            name: name.to_owned(),
        }
    }

    /// The public key, the account's name on the wire.
    pub(crate) fn id(&self) -> String {
        self.key.public_key()
    }

    /// A user of this account who may do anything in it.
    pub(crate) fn user(&self) -> User {
        self.user_with(json!({"pub": {}, "sub": {}}))
    }

    /// A user of this account with these permissions.
    pub(crate) fn user_with(&self, permissions: Value) -> User {
        let key = KeyPair::new_user();
        let claims = Claims::user(&key, "user", &[], &[]).with(|nats| {
            let (nats, permissions) = (nats.as_object_mut().expect("claims"), permissions.as_object());
            nats.extend(permissions.expect("an object").clone());
        });
        let token = sign(&self.key, &issued(claims, &self.key));
        User { key, token }
    }

    /// The user that a node connects as that answers no requests, with the permissions of deploy/nats/README.md for that.
    pub(crate) fn propagating_user(&self) -> User {
        self.user_with(json!({
            "pub": {"allow": [
                "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.*.ACCOUNTZ",
            ]},
            "sub": {"allow": [
                "_INBOX.jwtmesh.>", "$SYS.SERVER.*.STATSZ", "$SYS.SERVER.*.SHUTDOWN",
                "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.ACCOUNT.*.CLAIMS.UPDATE",
            ]},
        }))
    }

    /// The same who may also ask for connections, which is optional.
    pub(crate) fn counting_user(&self) -> User {
        self.user_with(json!({
            "pub": {"allow": [
                "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.*.ACCOUNTZ",
                "$SYS.REQ.SERVER.PING.CONNZ",
            ]},
            "sub": {"allow": ["_INBOX.jwtmesh.>", "$SYS.SERVER.*.STATSZ", "$SYS.SERVER.*.SHUTDOWN"]},
        }))
    }

    /// One that may publish updates and receive the servers' answers, as earlier versions needed it.
    pub(crate) fn sending_user(&self) -> User {
        self.user_with(json!({
            "pub": {"allow": ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE"]},
            "sub": {"allow": ["_INBOX.>"]},
        }))
    }

    /// The same who may also answer requests: all permissions of deploy/nats/README.md.
    pub(crate) fn answering_user(&self) -> User {
        self.answering_user_with(&[])
    }

    /// The same who may also ask for streams, which is optional.
    pub(crate) fn searching_user(&self) -> User {
        self.answering_user_with(&["$SYS.REQ.SERVER.PING.JSZ"])
    }

    fn answering_user_with(&self, more: &[&str]) -> User {
        let publish = [
            "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE",
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.SERVER.*.ACCOUNTZ",
            "_INBOX.>",
            "$SYS._INBOX.>",
        ];
        let publish = [publish.as_slice(), more].concat();
        self.user_with(json!({
            "pub": {"allow": publish},
            "sub": {"allow": [
                "_INBOX.jwtmesh.>", "$SYS.SERVER.*.STATSZ", "$SYS.SERVER.*.SHUTDOWN",
                "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.LIST", "$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.CLAIMS.PACK",
                "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP", "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.ACCOUNT.*.CLAIMS.UPDATE",
            ]},
        }))
    }
}

/// A user: its token and private key.
pub(crate) struct User {
    pub(crate) key: KeyPair,
    pub(crate) token: String,
}

impl User {
    pub(crate) fn id(&self) -> String {
        self.key.public_key()
    }

    /// From a creds file's text.
    pub(crate) fn from_creds(text: &str) -> Self {
        let line_after = |marker: &str| -> String {
            let rest = text.split_once(marker).expect("creds hold a token and a seed").1;
            rest.lines()
                .nth(1)
                .expect("creds hold a token and a seed")
                .trim()
                .to_owned()
        };
        Self {
            key: KeyPair::from_seed(&line_after("BEGIN USER NKEY SEED")).expect("creds hold a seed"),
            token: line_after("BEGIN NATS USER JWT"),
        }
    }

    /// As a creds file's text.
    pub(crate) fn creds(&self) -> String {
        sign::creds(&self.token, &self.key).expect("the key has its private half")
    }
}

/// So many revoked users that a token with them has about 800 KB, near the most that is taken.
pub(crate) struct Revoked(Vec<String>);

impl Revoked {
    pub(crate) fn new() -> Self {
        Self((0..9_000).map(|_| KeyPair::new_user().public_key()).collect())
    }

    /// A token of `account` with all of them.
    pub(crate) fn token(&self, operator: &Operator, account: &Account, issued_at: i64) -> String {
        operator.account_with(account, |claims| {
            claims["iat"] = json!(issued_at);
            for key in &self.0 {
                claims["nats"]["revocations"][key] = json!(1_000_000);
            }
        })
    }
}
