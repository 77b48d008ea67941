//! What older nats-servers refuse: what `refusals` and `inspect --nats-server` say, and what the servers themselves do.

use serde_json::{Value, json};

use jwtmesh::jwt::{ServerVersion, refusals};

use crate::propagation::Mesh;
use crate::support::mint::{Account, Operator, claims, now};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{Node, jwtmesh};
use crate::support::process::{PATIENCE, eventually};
use crate::support::tools::NATS_SERVER_VERSIONS;

/// The claims under `nats` in each line of the table that the unit tests have too, and two mappings that no server
/// installs: from 2.14.8 and 2.15.1 on nats-server refuses those, but only with a directory resolver.
fn table() -> Vec<Value> {
    let table = include_str!("../vectors/older.tsv");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let claims = lines.map(|line| line.split_once('\t').expect("two columns").1);
    claims
        .chain([
            r#"{"mappings":{"a":[{"subject":"b","weight":50},{"subject":"b","weight":50}]}}"#,
            r#"{"mappings":{"a":[{"subject":"b.$2"}]}}"#,
        ])
        .map(|claims| serde_json::from_str(claims).expect("JSON"))
        .collect()
}

fn token_with(operator: &Operator, account: &Account, changes: &Value) -> String {
    operator.account_with(account, |claims| {
        let nats = claims["nats"].as_object_mut().expect("claims");
        nats.extend(changes.as_object().expect("an object").clone());
    })
}

#[test]
fn every_nats_server_refuses_the_updates_that_are_said_to_be_refused_and_no_others() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let node = Node::of(&operator);
    node.put(&operator.system, &operator.system_token());
    node.put(&account, &operator.account(&account));
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let mut refused = Vec::new();
    for version in NATS_SERVER_VERSIONS {
        let server = NatsServer::start(version, &config);
        let _loads_the_account = NatsUser::connect(server.address(), &account.user()).expect("the account is served");
        let mut publisher =
            NatsUser::connect(server.address(), &operator.system.user()).expect("the account is served");
        let update = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", account.id());
        let parsed: ServerVersion = version.parse().expect("a version");
        let mut count = 0;
        for changes in table() {
            let token = token_with(&operator, &account, &changes);
            let answers = publisher.ask(&update, token.as_bytes(), 1, PATIENCE);
            let answer = answers
                .first()
                .unwrap_or_else(|| panic!("{version} does not answer: {}", server.log()));
            let said = refusals(token.as_bytes(), &[parsed]).expect("it can be read");
            if said.is_empty() {
                assert_eq!(
                    answer["data"]["message"], "jwt updated",
                    "{version}: {changes}: {answer}"
                );
            } else {
                let error = answer["error"]["description"].as_str().unwrap_or_default();
                assert!(
                    error.contains("account validation failed"),
                    "{version}: {changes}: {answer}"
                );
                count += 1;
            }
        }
        refused.push(count);
    }
    assert!(refused[0] >= 8 && refused[1..] == [0, 0, 0], "{refused:?}");
}

/// A server that fetches such an account lets none of its users in.
#[test]
fn inspect_says_which_nats_server_will_not_serve_an_account() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let exporters = [Account::new("X").id(), Account::new("Y").id()];
    let imports = exporters.map(|exporter| json!({"subject": "a", "account": exporter, "type": "service"}));
    let token = token_with(&operator, &account, &json!({ "imports": imports }));
    let node = Node::of(&operator);
    node.put(&operator.system, &operator.system_token());
    node.put(&account, &token);
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let inspect = |versions: &[&str]| {
        let options = versions.iter().flat_map(|version| ["--nats-server", version]);
        let output = jwtmesh().args(["inspect", "--json", &token]).args(options).output();
        let output = output.expect("it runs");
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (said, output.status.code())
    };
    for version in NATS_SERVER_VERSIONS {
        let server = NatsServer::start(version, &config);
        let is_served = NatsUser::connect(server.address(), &account.user()).is_ok();
        let (said, exit) = inspect(&[version]);
        let problems = said["nats_servers"][0]["problems"].as_array().expect("a list");
        assert_eq!(
            (problems.is_empty(), exit == Some(0)),
            (is_served, is_served),
            "{version}: {said}"
        );
    }
    let (said, exit) = inspect(&NATS_SERVER_VERSIONS);
    assert_eq!((exit, &said["valid"]), (Some(4), &json!(true)), "{said}");
    assert_eq!(inspect(&[]).1, Some(0));
    let unknown = jwtmesh().args(["inspect", "--nats-server", "newest", &token]).output();
    assert_eq!(unknown.expect("it runs").status.code(), Some(2));
}

/// It was answered with 200; the server went on with the JWT that it had, and after a restart could not load the account.
#[test]
fn g5_an_upload_that_a_running_server_would_refuse_is_refused_with_the_server_and_the_rule() {
    let oldest = NATS_SERVER_VERSIONS[0];
    let mesh = Mesh::start(oldest, 1);
    let exporters = [Account::new("X").id(), Account::new("Y").id()];
    let imports = exporters.map(|exporter| json!({"subject": "a", "account": exporter, "type": "service"}));
    let token = token_with(&mesh.operator, &mesh.account, &json!({ "imports": imports }));
    eventually("the server is known", || {
        let servers = mesh.node.cli_json(&["nats", "servers"]);
        (servers["items"].as_array()?.len() == 1).then_some(())
    });
    let refused = mesh.node.post_account(&mesh.account.id(), &token);
    let words = refused.text();
    assert_eq!(refused.status, 409, "{words}");
    for named in ["nats-server n1", oldest, "nats-server allows from", "older_servers"] {
        assert!(words.contains(named), "no {named} in {words}");
    }
    let file = mesh.node.folder().join("overlap.jwt");
    std::fs::write(&file, &token).expect("the test's own folder");
    let refused = mesh.node.cli(&["account", "push", &file.display().to_string()]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let pushed = mesh
        .node
        .cli(&["account", "push", "--replace", &file.display().to_string()]);
    assert!(pushed.status.success(), "an administrator may insist: {pushed:?}");
    eventually("the log warns of it", || {
        mesh.node
            .log()
            .contains("would refuse this JWT of account")
            .then_some(())
    });
    // A revocation does not wait for what was stored before.
    let alice = mesh.account.user();
    let revoking = mesh.operator.account_with(&mesh.account, |claims| {
        let nats = claims["nats"].as_object_mut().expect("claims");
        nats.insert("imports".to_owned(), imports_of(&token));
        nats.insert("revocations".to_owned(), json!({ alice.id(): now() }));
        claims["iat"] = json!(now() + 1);
    });
    assert_eq!(mesh.node.post_account(&mesh.account.id(), &revoking).status, 200);
    eventually("the log warns of that too", || {
        let warned = mesh.node.log().matches("would refuse this JWT of account").count();
        (warned >= 2).then_some(())
    });
    // It has not loaded the account, and would not.
    let watched = mesh
        .node
        .cli(&["account", "watch", &mesh.account.id(), "--timeout", "12"]);
    let shown = String::from_utf8_lossy(&watched.stdout).into_owned();
    assert!(
        watched.status.code() == Some(1) && shown.contains("refused     n1"),
        "{watched:?}"
    );
}

fn imports_of(token: &str) -> Value {
    claims(token)["nats"]["imports"].clone()
}
