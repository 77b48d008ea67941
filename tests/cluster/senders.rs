//! What others give to the servers: other meshes, and programs with creds of the system account.

use serde_json::json;

use crate::support::asker::{Answering, update_of};
use crate::support::mint::Account;
use crate::support::node::Node;
use crate::support::process::eventually;
use crate::support::tools::NEWEST;

fn lines_about(node: &Node, words: &str, account: &Account) -> Vec<String> {
    let log = node.log();
    let lines = log
        .lines()
        .filter(|line| line.contains(words) && line.contains(&account.id()));
    lines.map(ToOwned::to_owned).collect()
}

const HEARD: &str = "another sender published a JWT";

/// Its publisher repeats what it has. An administrator's program sends each token once.
#[test]
fn g6_an_undated_jwt_is_adopted_from_a_program_and_never_from_another_mesh() {
    let mesh = Answering::start(NEWEST);
    let (account, mut system) = (&mesh.account, mesh.system());
    let undated = |name: &str| {
        mesh.operator.account_with(account, |claims| {
            claims["name"] = json!(name);
            claims.as_object_mut().expect("claims").remove("iat");
        })
    };
    let (older, newer) = (undated("older"), undated("newer"));
    for token in [&older, &newer] {
        system.0.publish(&update_of(account), token.as_bytes());
        eventually("it is adopted", || {
            (mesh.node.get_account(&account.id()).text() == *token).then_some(())
        });
    }
    let theirs = format!("{}0", mesh.node.publishers_inbox(account));
    system
        .0
        .request_to(&update_of(account), &theirs, None, older.as_bytes());
    eventually("it was looked at", || {
        let is_adopted = mesh.node.get_account(&account.id()).text() == older;
        assert!(!is_adopted, "the older one is back: {}", mesh.node.log());
        (!lines_about(&mesh.node, HEARD, account).is_empty()).then_some(())
    });
    assert_eq!(mesh.node.get_account(&account.id()).text(), newer);
}
