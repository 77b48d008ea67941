//! The data folder of an earlier version, opened by this one: `tests/fixtures/v1/folder`.
//!
//! It was written by a node that this file drove; `tests/fixtures/README.md` says how.

use std::fs;
use std::path::{Path, PathBuf};

use jwtmesh::sign::{self, Claims};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::nsc::copy_folder;

/// When everything in the fixture was issued: 2023-11-14.
const ISSUED: i64 = 1_700_000_000;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/folder")
}

/// The same keys in every run, since the fixture stays: known to everyone, and good for nothing else.
fn key(kind: KeyPairType, n: u8) -> KeyPair {
    KeyPair::new_from_raw(kind, [n; 32]).expect("32 bytes")
}

struct Known {
    operator: KeyPair,
    system: KeyPair,
    app: KeyPair,
}

impl Known {
    fn new() -> Self {
        Self {
            operator: key(KeyPairType::Operator, 1),
            system: key(KeyPairType::Account, 2),
            app: key(KeyPairType::Account, 3),
        }
    }

    fn operator_token(&self) -> String {
        let claims = Claims::operator(&self.operator, "fixture", &self.system);
        claims.sign(&self.operator, ISSUED).expect("a private key")
    }

    /// A token of `account`, with `description` in it.
    fn account(&self, account: &KeyPair, name: &str, issued_at: i64, description: &str) -> String {
        let claims = Claims::account(&account.public_key(), name).with(|nats| nats["description"] = json!(description));
        let claims: Value = claims.into_value(&self.operator, issued_at).expect("plain data");
        sign::encode(&self.operator, &claims).expect("a private key")
    }

    /// Every upload, in order; the last of an account is its current one.
    fn uploads(&self) -> Vec<(String, String)> {
        let app = |at, text: &str| (self.app.public_key(), self.account(&self.app, "APP", ISSUED + at, text));
        vec![
            (
                self.system.public_key(),
                self.account(&self.system, "SYS", ISSUED, "the system account"),
            ),
            app(0, "first"),
            app(10, "replaced within its second"),
            app(10, "current"),
        ]
    }
}

/// Writes the fixture: what a node left behind, without the zeros that are only allocated in its log.
fn write(known: &Known) {
    assert!(
        !fixture().exists(),
        "{} is there: a fixture is never written again, a new format gets a new folder",
        fixture().display()
    );
    let mut node = Node::plain(&known.operator_token());
    for (account, token) in known.uploads() {
        assert_eq!(node.post_account(&account, &token).status, 200);
    }
    assert!(node.terminate().success());
    let data = node.folder().join("data");
    fs::remove_file(data.join("lock")).expect("made by the node");
    for entry in fs::read_dir(data.join("log")).expect("made by the node") {
        let path = entry.expect("readable").path();
        let mut bytes = fs::read(&path).expect("readable");
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        bytes.truncate(end);
        if bytes.is_empty() {
            fs::remove_file(&path).expect("made by the node");
        } else {
            fs::write(&path, bytes).expect("made by the node");
        }
    }
    copy_folder(&data, &fixture());
}

#[test]
fn a_data_folder_of_format_1_is_opened_and_goes_on() {
    let known = Known::new();
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        write(&known);
    }
    let mut node = Node::plain(&known.operator_token());
    node.kill();
    let data = node.folder().join("data");
    fs::remove_dir_all(&data).expect("made by the node");
    copy_folder(&fixture(), &data);
    node.start_again();

    let uploads = known.uploads();
    let current = |account: &str| {
        let found = uploads.iter().rev().find(|(uploaded, _)| uploaded == account);
        found.expect("uploaded").1.clone()
    };
    for account in [known.system.public_key(), known.app.public_key()] {
        assert_eq!(node.get_account(&account).text(), current(&account));
    }
    let (app, replaced) = &uploads[2];
    assert_eq!(node.post_account(app, replaced).status, 409, "G2 outlives the version");
    let newer = known.account(&known.app, "APP", ISSUED + 11, "newer");
    assert_eq!(node.post_account(app, &newer).status, 200);
    node.start_again();
    assert_eq!(node.get_account(app).text(), newer);
    let verified = node.cli_json(&["verify"]);
    assert_eq!(verified["counts"]["failed"], 0, "{verified}");
}
