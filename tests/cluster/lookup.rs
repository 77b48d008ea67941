//! nats-server fetches accounts from a node: every version, every way to write the URL, every kind of TLS.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::http::Connection;
use crate::support::mint::{Account, Operator};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{Node, NodeTls, Options};
use crate::support::process::{eventually, free_port};
use crate::support::tls::Authority;
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST};

/// A client that is refused later than this was kept waiting.
const AT_ONCE: Duration = Duration::from_millis(100);

/// An operator, one account that the node will hold, and one that it will never be sent.
struct Parties {
    operator: Operator,
    known: Account,
    unknown: Account,
}

impl Parties {
    fn new() -> Self {
        Self {
            operator: Operator::new("O"),
            known: Account::new("known"),
            unknown: Account::new("unknown"),
        }
    }

    /// Uploads the system account and the known account.
    fn upload(&self, node: &Node) {
        node.put(&self.operator.system, &self.operator.system_token());
        node.put(&self.known, &self.operator.account(&self.known));
    }

    /// The known account's user gets in and is answered; the other's is refused.
    #[track_caller]
    fn check(&self, server: &NatsServer, version: &str) {
        let mut user = NatsUser::connect(server.address(), &self.known.user())
            .unwrap_or_else(|error| panic!("nats-server {version} refuses a good user: {error}\n{}", server.log()));
        assert!(user.ping(), "nats-server {version}");
        let refused = NatsUser::connect(server.address(), &self.unknown.user());
        assert_eq!(
            refused.err().as_deref(),
            Some("Authorization Violation"),
            "nats-server {version}"
        );
    }

    /// Every version of nats-server starts with `config` and lets the right user in.
    fn check_every_version(&self, config: &str, environment: &[(&str, &Path)]) {
        for version in NATS_SERVER_VERSIONS {
            let server = NatsServer::try_start(version, config, environment)
                .unwrap_or_else(|log| panic!("nats-server {version} ended:\n{log}"));
            self.check(&server, version);
        }
    }
}

#[test]
fn every_nats_server_resolves_over_http() {
    let parties = Parties::new();
    let node = Node::plain(&parties.operator.token());
    parties.upload(&node);
    let config = resolver_config(&parties.operator.token(), &node.accounts_url());
    parties.check_every_version(&config, &[]);
}

#[test]
fn every_nats_server_resolves_over_https_with_a_private_authority() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let parties = Parties::new();
    let node = Node::encrypted(&parties.operator.token(), &authority);
    let help = node.get("/jwt/v1/help").text();
    assert!(
        help.contains("URL(https://HOST:PORT/") && !help.contains("http://"),
        "{help}"
    );
    parties.upload(&node);
    let config = format!(
        "{}resolver_tls {{ ca_file: \"{}\" }}\n",
        resolver_config(&parties.operator.token(), &node.accounts_url()),
        authority.cert().display()
    );
    parties.check_every_version(&config, &[]);
}

#[test]
fn every_nats_server_resolves_over_https_with_a_client_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let client = authority.issue("client");
    let parties = Parties::new();
    let options = Options {
        tls: Some(NodeTls::of(&authority, Some(&client))),
        ..Options::default()
    };
    let node = Node::start(&parties.operator.token(), options);
    parties.upload(&node);
    let base = resolver_config(&parties.operator.token(), &node.accounts_url());
    let ca = authority.cert();
    let config = format!(
        "{base}resolver_tls {{ ca_file: \"{}\", cert_file: \"{}\", key_file: \"{}\" }}\n",
        ca.display(),
        client.cert.display(),
        client.key.display()
    );
    parties.check_every_version(&config, &[]);

    let without = format!("{base}resolver_tls {{ ca_file: \"{}\" }}\n", ca.display());
    let Err(log) = NatsServer::try_start(NEWEST, &without, &[]) else {
        panic!("a nats-server without a client certificate was served although one is required");
    };
    assert!(log.contains("could not fetch"), "{log}");
}

#[test]
fn a_client_certificate_is_optional_unless_it_is_required() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let client = authority.issue("client");
    let parties = Parties::new();
    let options = Options {
        tls: Some(NodeTls {
            client_required: false,
            ..NodeTls::of(&authority, Some(&client))
        }),
        ..Options::default()
    };
    let node = Node::start(&parties.operator.token(), options);
    for config in [authority.client(None, &[]), authority.client(Some(&client), &[])] {
        let (mut connection, _) = Connection::tls(node.address(), config).unwrap();
        assert_eq!(
            connection.request("GET", "/jwt/v1/accounts/", &[], b"").unwrap().status,
            200
        );
    }
}

/// Without `resolver_tls` nats-server trusts the system's authorities and speaks HTTP/2.
#[test]
fn every_nats_server_resolves_over_https_with_the_systems_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let parties = Parties::new();
    let node = Node::encrypted(&parties.operator.token(), &authority);
    parties.upload(&node);
    let config = resolver_config(&parties.operator.token(), &node.accounts_url());
    parties.check_every_version(&config, &[("SSL_CERT_FILE", &authority.cert())]);
}

#[test]
fn tls_chooses_h2_when_offered_http_1_1_when_only_that_and_needs_no_alpn() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let node = Node::encrypted(&Operator::new("O").token(), &authority);
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let client = authority.client(None, offered);
        let (_, protocol) = Connection::tls(node.address(), client).unwrap();
        assert_eq!(protocol.as_deref(), chosen, "offered {offered:?}");
    }
}

/// With one operator and no resolver in its configuration, nats-server asks at the operator's URL. It appends
/// `/accounts` as text, so that a trailing slash becomes a doubled one.
#[test]
fn every_nats_server_resolves_from_the_operators_url_with_and_without_a_trailing_slash() {
    let parties = Parties::new();
    let port = free_port();
    for url in [
        format!("http://127.0.0.1:{port}/jwt/v1"),
        format!("http://127.0.0.1:{port}/jwt/v1/"),
    ] {
        let operator = parties
            .operator
            .token_with(|claims| claims["nats"]["account_server_url"] = url.into());
        let options = Options {
            port,
            ..Options::default()
        };
        let node = Node::start(&operator, options);
        parties.upload(&node);
        parties.check_every_version(&format!("operator: {operator}\n"), &[]);
    }
}

#[test]
fn an_unknown_account_is_refused_at_once() {
    let parties = Parties::new();
    let node = Node::plain(&parties.operator.token());
    parties.upload(&node);
    let config = resolver_config(&parties.operator.token(), &node.accounts_url());
    for version in NATS_SERVER_VERSIONS {
        let server = NatsServer::start(version, &config);
        // The best of five, because a busy machine may stop any process for a while.
        let best = (0..5)
            .map(|_| {
                let user = parties.unknown.user();
                let began = Instant::now();
                let refused = NatsUser::connect(server.address(), &user);
                assert_eq!(
                    refused.err().as_deref(),
                    Some("Authorization Violation"),
                    "nats-server {version}"
                );
                began.elapsed()
            })
            .min()
            .unwrap();
        assert!(best < AT_ONCE, "nats-server {version}: refused only after {best:?}");
    }
    let answer = node.get_account(&parties.unknown.id());
    assert_eq!(answer.status, 404);
    assert_ne!(answer.text(), "", "a 404 says in a sentence what is missing");
}

#[test]
fn connected_clients_do_not_notice_a_restart_of_the_node() {
    let parties = Parties::new();
    let later = Account::new("later");
    let mut node = Node::plain(&parties.operator.token());
    parties.upload(&node);
    node.put(&later, &parties.operator.account(&later));
    let config = resolver_config(&parties.operator.token(), &node.accounts_url());
    let server = NatsServer::start(NEWEST, &config);
    let mut user = NatsUser::connect(server.address(), &parties.known.user()).unwrap();

    for gone in [Node::kill as fn(&mut Node), |node| {
        assert_eq!(node.terminate().code(), Some(0))
    }] {
        gone(&mut node);
        assert!(user.ping(), "the client is connected while the node is down");
        // nats-server has the account in memory, so its users can connect meanwhile.
        assert!(NatsUser::connect(server.address(), &parties.known.user()).is_ok());
        node.start_again();
        assert!(user.ping(), "the client is connected after the node is back");
    }
    assert_eq!(user.disconnected(Duration::from_millis(1)), None);
    // Fetched from the restarted node, for the first time.
    assert!(
        NatsUser::connect(server.address(), &later.user()).is_ok(),
        "{}",
        server.log()
    );
    parties.check(&server, NEWEST);
}

/// nats-server fetches once for each connection and waits at most 1.9 s, so after its restart there is a storm of
/// fetches.
#[test]
fn a_hundred_users_who_connect_at_once_all_get_in() {
    let parties = Parties::new();
    let node = Node::plain(&parties.operator.token());
    parties.upload(&node);
    let config = resolver_config(&parties.operator.token(), &node.accounts_url());
    for version in NATS_SERVER_VERSIONS {
        let server = NatsServer::start(version, &config);
        let users: Vec<_> = (0..100).map(|_| parties.known.user()).collect();
        std::thread::scope(|scope| {
            for user in &users {
                scope.spawn(|| {
                    let connected = NatsUser::connect(server.address(), user);
                    assert!(
                        connected.is_ok(),
                        "nats-server {version}: {:?}\n{}",
                        connected.err(),
                        server.log()
                    );
                });
            }
        });
    }
}

/// The server uses a system account of its own until it can fetch ours, for which it asks every second.
#[test]
fn a_nats_server_that_came_before_the_system_account_fetches_it_later() {
    let parties = Parties::new();
    for version in NATS_SERVER_VERSIONS {
        let node = Node::plain(&parties.operator.token());
        let config = resolver_config(&parties.operator.token(), &node.accounts_url());
        let server = NatsServer::start(version, &config);
        node.put(&parties.operator.system, &parties.operator.system_token());
        eventually("the system account is fetched", || {
            server
                .log()
                .contains("System account fetched and updated")
                .then_some(())
        });
    }
}

#[test]
fn users_signed_by_an_account_signing_key_get_in() {
    let parties = Parties::new();
    let node = Node::plain(&parties.operator.token());
    parties.upload(&node);
    let signer = Account::new("a signing key");
    let account = Account::new("signed for");
    let token = parties.operator.account_with(&account, |claims| {
        claims["nats"]["signing_keys"] = serde_json::json!([signer.id()]);
    });
    node.put(&account, &token);
    let config = resolver_config(&parties.operator.token(), &node.accounts_url());
    let server = NatsServer::start(NEWEST, &config);
    let user = signer.user_with(serde_json::json!({"pub": {}, "sub": {}, "issuer_account": account.id()}));
    assert!(NatsUser::connect(server.address(), &user).is_ok(), "{}", server.log());
}
