//! What nats-server accepts although it is probably a mistake: taken, and said in the log, by `account push` and `inspect`.

use std::fs;

use serde_json::{Value, json};

use crate::support::mint::{Account, Operator, now};
use crate::support::nats_server::NatsServer;
use crate::support::node::{Node, jwtmesh};
use crate::support::tools::NATS_SERVER_VERSIONS;

/// What `inspect --json` says about `token`, and its exit code.
pub(crate) fn inspect(token: &str) -> (Value, Option<i32>) {
    let output = jwtmesh().args(["inspect", "--json", token]).output().unwrap();
    let said = serde_json::from_slice(&output.stdout);
    let said = said.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (said, output.status.code())
}

/// Operators by what nats-server does with them: the field under `nats`, its value, and the warning or the refusal.
fn operators() -> Vec<(&'static str, Value, &'static str)> {
    let services = |url: &str| ("operator_service_urls", json!([url]), "operator-url");
    let server = |url: &str| ("account_server_url", json!(url), "operator-url");
    vec![
        services("nats://n.example.net:4222/path"),
        services("nats://n.example.net:4222/"),
        services("https://n.example.net"),
        services("n.example.net"),
        services("n.example.net:4222"),
        services("nats://user:password@n.example.net:4222"),
        services("nats://a.example.net:4222,nats://b.example.net:4222"),
        services("nats://a b"),
        services("://"),
        server("resolver.example.net/jwt/v1"),
        server("resolver.example.net:9090/jwt/v1"),
        server("http://resolver.example.net:${PORT}/jwt/v1"),
        server("https://resolver.example.net/%"),
        ("operator_service_urls", json!(["", "wss://n.example.net"]), ""),
        ("account_server_url", json!("nats://n.example.net:4222"), ""),
    ]
}

#[test]
fn every_operator_that_nats_server_runs_with_is_trusted_with_a_warning() {
    for (field, value, code) in operators() {
        let operator = Operator::new("O");
        let token = operator.token_with(|claims| claims["nats"][field] = value.clone());
        let config = format!(
            "operator: {token}\nresolver: MEMORY\nresolver_preload: {{ {}: {} }}\n",
            operator.system.id(),
            operator.system_token()
        );
        for version in NATS_SERVER_VERSIONS {
            NatsServer::start(version, &config);
        }
        let node = Node::plain(&token);
        let has_warning = !code.is_empty();
        assert_eq!(node.log().contains("doubtful"), has_warning, "{value}:\n{}", node.log());
        assert!(!node.log().contains("password"), "{}", node.log());
        let (said, exit) = inspect(&token);
        assert_eq!((&said["valid"], exit), (&json!(true), Some(0)), "{value}: {said}");
        let codes: Vec<&str> = said["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|found| found["code"].as_str())
            .collect();
        assert_eq!(codes, if has_warning { vec![code] } else { vec![] }, "{value}");
    }
}

/// A mapping that nats-server answers with "updated" and does not install, and times in milliseconds.
#[test]
fn what_an_account_probably_does_not_mean_is_said_in_the_log_by_push_and_by_inspect() {
    let operator = Operator::new("O");
    let node = Node::of(&operator);
    let ms = now() * 1000;
    for (code, change) in [
        (
            "mapping-not-installed",
            json!({"nats": {"mappings": {"foo": [{"subject": "bar.$2"}]}}}),
        ),
        ("milliseconds", json!({"nats": {"revocations": {"*": ms}}})),
        ("milliseconds", json!({"exp": ms})),
    ] {
        let account = Account::new("A");
        let token = operator.account_with(&account, |claims| {
            for (name, value) in change.as_object().expect("an object") {
                match value.as_object() {
                    Some(fields) => claims[name].as_object_mut().expect("claims").extend(fields.clone()),
                    None => claims[name] = value.clone(),
                }
            }
        });
        let (said, exit) = inspect(&token);
        assert_eq!((&said["warnings"][0]["code"], exit), (&json!(code), Some(0)), "{said}");
        node.put(&account, &token);
        let line = node.log();
        let line = line
            .lines()
            .find(|line| line.contains(&account.id()) && line.contains(" WARN "));
        assert!(line.is_some(), "no warning about {code} in {}", node.log());
        let file = node.folder().join("a.jwt");
        fs::write(&file, &token).unwrap();
        let pushed = node.cli_json(&["account", "push", &file.display().to_string()]);
        assert_eq!(pushed[0]["warnings"][0]["code"], code, "{pushed}");
    }
    for field in ["iat", "nbf"] {
        let account = Account::new("A");
        let token = operator.account_with(&account, |claims| claims[field] = json!(ms));
        let refused = node.post_account(&account.id(), &token);
        assert_eq!(refused.status, 400);
        assert!(refused.text().contains("milliseconds"), "{}", refused.text());
    }
}

#[test]
fn an_operator_that_no_nats_server_starts_with_is_refused() {
    let account = Operator::new("another").system.id();
    for (field, value, code) in [
        ("signing_keys", json!([account]), "signing-key"),
        ("signing_keys", json!(["nonsense"]), "signing-key"),
        ("system_account", json!("nonsense"), "system-account"),
        ("assert_server_version", json!("2.10"), "operator-version"),
        ("assert_server_version", json!("2.-1.0"), "operator-version"),
        ("operator_service_urls", json!("nats://n.example.net"), "field-type"),
        ("account_server_url", json!(["https://n.example.net"]), "field-type"),
    ] {
        let operator = Operator::new("O");
        let token = operator.token_with(|claims| claims["nats"][field] = value.clone());
        let config = format!("operator: {token}\nresolver: MEMORY\n");
        for version in NATS_SERVER_VERSIONS {
            assert!(
                NatsServer::try_start(version, &config, &[]).is_err(),
                "nats-server {version} runs with {value}"
            );
        }
        let (said, exit) = inspect(&token);
        assert_eq!((&said["problems"][0]["code"], exit), (&json!(code), Some(4)), "{said}");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("operator.jwt"), &token).unwrap();
        let config = "[cluster]\nname = \"test\"\noperators = [\"operator.jwt\"]\n[[node]]\nname = \"n\"\ndata = \"data\"\npublic = \"127.0.0.1:0\"\n";
        fs::write(folder.path().join("cluster.toml"), config).unwrap();
        let start = jwtmesh()
            .arg("serve")
            .arg("--config")
            .arg(folder.path().join("cluster.toml"))
            .output()
            .unwrap();
        assert_eq!(
            start.status.code(),
            Some(2),
            "{}",
            String::from_utf8_lossy(&start.stderr)
        );
    }
}
