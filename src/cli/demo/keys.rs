//! The demo's keys, and the tokens and creds that are signed once: operator, accounts, users.

use anyhow::Context;
use nkeys::{KeyPair, KeyPairType};
use serde_json::json;

use super::folder::{Folder, Secrecy};
use crate::api::Operator;
use crate::jwt::AccountKey;
use crate::sign::{Claims, creds};

/// The folder of the seeds, in the form that nsc imports.
pub(super) const KEYS: &str = "keys";
/// The operator's token.
pub(super) const OPERATOR: &str = "trust/operator.jwt";
/// The node's system-account user.
pub(super) const NODE_CREDS: &str = "creds/jwtmesh.creds";
/// A user of APP for the administrator.
pub(super) const ALICE_CREDS: &str = "creds/alice.creds";
/// The user of APP that the demo revokes.
pub(super) const BOB_CREDS: &str = "creds/bob.creds";

/// The least permissions that a node needs: to send accounts to nats-servers, to ask them what they hold, to read their
/// replies and reports, and to receive requests and to answer them.
const NODE_PUBLISH: &[&str] = &[
    "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.*.ACCOUNTZ",
    "_INBOX.>",
    "$SYS._INBOX.>",
];
const NODE_SUBSCRIBE: &[&str] = &[
    "_INBOX.jwtmesh.>",
    "$SYS.SERVER.*.STATSZ",
    "$SYS.SERVER.*.SHUTDOWN",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.CLAIMS.LIST",
    "$SYS.REQ.CLAIMS.DELETE",
    "$SYS.REQ.CLAIMS.PACK",
    "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP",
    "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE",
    "$SYS.ACCOUNT.*.CLAIMS.UPDATE",
];

/// The subjects on which every other client receives replies.
const INBOX: &[&str] = &["_INBOX.>"];

/// How long the token of the user that queries nats-server's connections is valid.
const WATCH_SECONDS: i64 = 300;

/// The keys to sign with, and what was signed. They exist only in the demo.
pub(super) struct Keys {
    operator: KeyPair,
    signing: KeyPair,
    system: KeyPair,
    app: KeyPair,
    /// The public key of the node's NATS user.
    pub(super) node_user: String,
    /// The public key of the administrator's user of APP.
    pub(super) alice: String,
    operator_token: String,
}

impl Keys {
    /// Reads the keys from the folder, or makes them.
    pub(super) fn make(folder: &Folder, now: i64) -> anyhow::Result<Self> {
        let system = seed(folder, "system-account", KeyPairType::Account)?;
        let operator = seed(folder, "operator", KeyPairType::Operator)?;
        let signing = seed(folder, "operator-signing", KeyPairType::Operator)?;
        let app = seed(folder, "app-account", KeyPairType::Account)?;
        let url = format!("https://127.0.0.1:{}/jwt/v1", folder.ports.public);
        let operator_token = folder.keep(OPERATOR, Secrecy::Open, || {
            let claims = Claims::operator(&operator, "demo", &system).with(|nats| {
                nats["signing_keys"] = json!([signing.public_key()]);
                nats["account_server_url"] = json!(url);
            });
            claims.sign(&operator, now)
        })?;
        for (key, name) in [(&system, "SYS"), (&app, "APP")] {
            folder.keep(&token_file(name), Secrecy::Open, || {
                Claims::account(&key.public_key(), name).sign(&signing, now)
            })?;
        }
        let node = seed(folder, "jwtmesh-user", KeyPairType::User)?;
        folder.keep(NODE_CREDS, Secrecy::Secret, || {
            // Signed with the identity key: only such users may connect while nats-server has not fetched the account.
            let claims = Claims::user(&node, "jwtmesh", NODE_PUBLISH, NODE_SUBSCRIBE);
            creds(&claims.sign(&system, now)?, &node)
        })?;
        let alice = seed(folder, "alice-user", KeyPairType::User)?;
        folder.keep(ALICE_CREDS, Secrecy::Secret, || {
            creds(&Claims::user(&alice, "alice", &[], &[]).sign(&app, now)?, &alice)
        })?;
        Ok(Self {
            node_user: node.public_key(),
            alice: alice.public_key(),
            operator,
            signing,
            system,
            app,
            operator_token,
        })
    }

    /// The operator, in the API's form.
    pub(super) fn operator(&self) -> Operator {
        Operator {
            operator: self.operator.public_key(),
            name: "demo".to_owned(),
            issued_at: 0,
            signing_keys: vec![self.signing.public_key()],
            strict_signing_key_usage: false,
            system_account: Some(self.system.public_key()),
            account_server_url: String::new(),
            token: self.operator_token.clone(),
        }
    }

    /// The system account.
    pub(super) fn system(&self) -> anyhow::Result<AccountKey> {
        Ok(self.system.public_key().parse()?)
    }

    /// The account APP, which alice and bob belong to.
    pub(super) fn app(&self) -> anyhow::Result<AccountKey> {
        Ok(self.app.public_key().parse()?)
    }

    /// Makes a new user of APP, and returns its public key and creds. The user of the previous run is revoked.
    pub(super) fn bob(&self, folder: &Folder, now: i64) -> anyhow::Result<(String, String)> {
        let bob = KeyPair::new_user();
        let creds = creds(&Claims::user(&bob, "bob", &[], &[]).sign(&self.app, now)?, &bob)?;
        folder.write(BOB_CREDS, Secrecy::Secret, &creds)?;
        Ok((bob.public_key(), creds))
    }

    /// Creds for a query of nats-server's connections; never written to disk.
    pub(super) fn watch(&self, now: i64) -> anyhow::Result<String> {
        let watch = KeyPair::new_user();
        let claims = Claims::user(&watch, "watch", &["$SYS.REQ.ACCOUNT.*.CONNZ"], INBOX).until(now + WATCH_SECONDS);
        creds(&claims.sign(&self.system, now)?, &watch)
    }

    /// APP's current token with `user` revoked and signed again, as by `nsc revocations add-user`.
    pub(super) fn revoke(&self, app_token: &str, user: &str, now: i64) -> anyhow::Result<String> {
        let mut claims = Claims::of_token(app_token).context("cannot read the account's current token")?;
        claims.revoke(user, now);
        claims.sign(&self.signing, now)
    }
}

/// The file of an account's first token.
pub(super) fn token_file(name: &str) -> String {
    format!("accounts/{name}.jwt")
}

fn seed(folder: &Folder, name: &str, kind: KeyPairType) -> anyhow::Result<KeyPair> {
    let file = format!("{KEYS}/{name}.nk");
    let seed = folder.keep(&file, Secrecy::Secret, || {
        KeyPair::new(kind).seed().context("a new key has no seed")
    })?;
    KeyPair::from_seed(seed.trim()).with_context(|| format!("{} is damaged", folder.path(&file).display()))
}
