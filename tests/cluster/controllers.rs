//! Controllers that push accounts over the system account: what they send, and how they judge what they are answered,
//! with three nodes and uploads beside.
//!
//! None of them can be installed here, so their requests and rules are replayed: edgefarm/vault-plugin-secrets-nats
//! (`pkg/resolver`), WirelessCar/nauth (`internal/adapter/outbound/nats`), thomas-maurice/nis (`internal/infrastructure/nats`).
//! None sends headers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::asker::{Asker, LIST, UPDATE, lookup_of};
use crate::support::load::Uploads;
use crate::support::mesh::{Nodes, nats_link_as};
use crate::support::mint::{Account, Operator, claims, now};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::process::free_port;
use crate::support::tools::NEWEST;

/// What the design grants an answer: the most impatient of them gives up after a second.
const IN_TIME: Duration = Duration::from_millis(700);

/// How long the vault plugin gathers answers, whatever it has.
const GATHERS: Duration = Duration::from_secs(1);

/// The first answer, which comes in time.
#[track_caller]
fn request(system: &mut Asker, subject: &str, payload: &[u8]) -> Vec<u8> {
    let answer = system.try_ask(subject, None, payload, IN_TIME);
    let (message, _) = answer.unwrap_or_else(|| panic!("{subject}: no answer within {IN_TIME:?}"));
    assert!(!message.has_headers, "{subject}");
    message.payload
}

/// The vault plugin, as nsc: it gathers answers for a second, and stops at the first that it does not like. One that it
/// likes is enough. Gives how many those were.
#[track_caller]
fn vault_pushes(system: &mut Asker, token: &str) -> Result<usize, String> {
    let inbox = system.0.inbox();
    let asked = Instant::now();
    system.0.request_to(UPDATE, &inbox, None, token.as_bytes());
    let mut liked = 0;
    while let Some(message) = system.0.next(GATHERS.saturating_sub(asked.elapsed())) {
        let answer: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let server = &answer["server"];
        assert!(
            server["name"].as_str().is_some_and(|name| !name.is_empty()),
            "it crashes without a server: {answer}"
        );
        // Fields that it reads into a struct of Go, where another type is an error.
        server["time"]
            .as_str()
            .and_then(|time| time.parse::<jiff::Timestamp>().ok())
            .unwrap_or_else(|| panic!("RFC 3339: {answer}"));
        for (field, is_right) in [
            ("host", server["host"].is_string()),
            ("id", server["id"].is_string()),
            ("ver", server["ver"].is_string()),
            ("seq", server["seq"].is_u64()),
            (
                "jetstream",
                server["jetstream"].is_boolean() || server["jetstream"].is_null(),
            ),
        ] {
            assert!(is_right, "{field}: {answer}");
        }
        if let Some(words) = answer["error"]["description"].as_str() {
            return if liked > 0 { Ok(liked) } else { Err(words.to_owned()) };
        }
        assert!(!answer["data"].is_null(), "{answer}");
        liked += 1;
    }
    assert!(liked > 0, "no response from server");
    Ok(liked)
}

/// nauth: one answer counts, an error in it or another code than 200 is an error.
#[track_caller]
fn nauth_pushes(system: &mut Asker, token: &str) -> Result<(), String> {
    let answer = request(system, UPDATE, token.as_bytes());
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        assert!(error["code"].is_i64(), "{answer}");
        return Err(error["description"].as_str().unwrap_or_default().to_owned());
    }
    assert!(answer["data"]["message"].is_string(), "{answer}");
    match answer["data"]["code"].as_i64() {
        Some(200) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// NIS: whatever does not begin with a dash is success, so it sees what became of its push by looking the account up.
#[track_caller]
fn nis_pushes(system: &mut Asker, account: &Account, token: &str) -> String {
    let answer = request(system, UPDATE, token.as_bytes());
    assert!(!answer.starts_with(b"-"), "{}", String::from_utf8_lossy(&answer));
    let stored = String::from_utf8(request(system, &lookup_of(account), b"")).expect("a token");
    assert!(!stored.is_empty() && !stored.starts_with('-'));
    stored
}

/// What NIS compares its accounts with.
#[track_caller]
fn nis_lists(system: &mut Asker) -> Vec<String> {
    let answer: Value = serde_json::from_slice(&request(system, LIST, b"")).expect("JSON");
    let keys = answer["data"].as_array().unwrap_or_else(|| panic!("{answer}"));
    keys.iter().map(|key| key.as_str().expect("a key").to_owned()).collect()
}

#[test]
fn g7_controllers_are_answered_in_time_by_three_nodes_under_load_and_with_an_error_without_a_quorum() {
    let (operator, port) = (Arc::new(Operator::new("O")), free_port());
    let [vault, nauth, nis] = ["vault", "nauth", "nis"].map(Account::new);
    let (_creds, link) = nats_link_as(&operator.system.answering_user(), port);
    let mut mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let mut system = Asker::new(&server, &operator);
    system.wait_until_answered(&operator.system);
    // Before it does anything else, nauth looks whether it is in the system account.
    assert!(!request(&mut system, "$SYS.REQ.SERVER.PING", b"").is_empty());

    let uploads = Uploads::begin(&operator, &mesh.nodes);
    let begun = now() - 100;
    for round in 0..6 {
        let [of_vault, of_nauth, of_nis] =
            [&vault, &nauth, &nis].map(|account| operator.account_at(account, begun + round));
        if round % 3 == 0 {
            assert_eq!(vault_pushes(&mut system, &of_vault), Ok(1), "one node answers");
        }
        assert_eq!(nauth_pushes(&mut system, &of_nauth), Ok(()));
        let found = request(&mut system, &lookup_of(&nauth), b"");
        assert_eq!(String::from_utf8_lossy(&found), of_nauth);
        assert_eq!(nis_pushes(&mut system, &nis, &of_nis), of_nis);
        let listed = nis_lists(&mut system);
        for account in [&operator.system, &vault, &nauth, &nis] {
            assert!(listed.contains(&account.id()), "{listed:?}");
        }
        uploads.wait_for(&[0, 1, 2]);
    }
    let older = |account: &Account| operator.account_at(account, begun - 10);
    for refused in [
        vault_pushes(&mut system, &older(&vault)).map(drop),
        nauth_pushes(&mut system, &older(&nauth)),
    ] {
        let words = refused.expect_err("it is older");
        assert!(words.contains("has a newer JWT"), "{words}");
    }
    let stored = nis_pushes(&mut system, &nis, &older(&nis));
    assert_eq!(claims(&stored)["iat"], begun + 5, "what it pushed is not what it finds");

    mesh.nodes[1].kill();
    mesh.nodes[2].kill();
    system.wait_until_answered(&nis);
    let newer = |account: &Account| operator.account_at(account, begun + 50);
    for refused in [
        vault_pushes(&mut system, &newer(&vault)).map(drop),
        nauth_pushes(&mut system, &newer(&nauth)),
    ] {
        let words = refused.expect_err("nothing can be agreed");
        assert!(words.contains("majority") || words.contains("agreed on it"), "{words}");
    }
    assert_eq!(claims(&nis_pushes(&mut system, &nis, &newer(&nis)))["iat"], begun + 5);
    assert!(nis_lists(&mut system).contains(&nis.id()));
}
