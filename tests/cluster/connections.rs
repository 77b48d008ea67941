//! Connections to nats-servers that hang, hang up or deny a permission: a revocation reaches the servers all the same.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nkeys::KeyPair;
use rustix::process::Signal;
use serde_json::json;

use crate::propagation::Mesh;
use crate::support::gate::Gate;
use crate::support::mint::{Account, Operator, User, now, sign};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::process::{PATIENCE, eventually, free_port, within};
use crate::support::tools::NEWEST;

/// Of three servers the one that the node is connected to hangs, as in a machine that is out of memory: its
/// connections stay open and nothing answers. Two rounds, so that it is not always the first server that hangs.
#[test]
fn g5_a_revocation_reaches_the_other_servers_within_seconds_when_the_one_we_are_connected_to_hangs() {
    let mesh = Mesh::start(NEWEST, 3);
    for round in 0..2 {
        let alice = mesh.account.user();
        let connections = mesh.connect_everywhere(&alice);
        let hung = connected_to(&mesh);
        mesh.servers[hung].signal(Signal::STOP);
        let revoked = Instant::now();
        mesh.node
            .put(&mesh.account, &mesh.revoking(&[&alice], now() - 30 + round));
        for (at, mut connection) in connections.into_iter().enumerate() {
            if at != hung {
                // Two seconds of silence and a new connection; the rest of the ten is for a busy machine.
                let left = Duration::from_secs(10).saturating_sub(revoked.elapsed());
                let reason = connection.disconnected(left);
                assert_eq!(
                    reason.as_deref(),
                    Some("User Authentication Revoked"),
                    "round {round}, n{}: {}",
                    at + 1,
                    mesh.node.log()
                );
            }
        }
        let port = mesh.servers[hung].address().port();
        let words = format!("no answer from nats://127.0.0.1:{port} for 2 s");
        let logged = mesh.node.log().matches(&words).count();
        assert!(logged <= 1, "logged {logged} times: {words}");
        mesh.servers[hung].signal(Signal::CONT);
        mesh.wait_for_routes();
    }
}

/// The index of the server that the node is connected to, by its last log line about that.
fn connected_to(mesh: &Mesh) -> usize {
    eventually("the node is connected", || {
        let log = mesh.node.log();
        let line = log
            .lines()
            .rfind(|line| line.contains("connected to NATS cluster"))?
            .to_owned();
        let of = |server: &NatsServer| line.contains(&format!("127.0.0.1:{}\"", server.address().port()));
        mesh.servers.iter().position(of)
    })
}

/// A node that publishes changes to one NATS cluster.
#[track_caller]
fn node_publishing_to(operator: &Operator, address: SocketAddr, creds: String) -> Node {
    node_trusting(operator, &operator.token(), address, creds)
}

/// The same with another token of the operator.
#[track_caller]
fn node_trusting(operator: &Operator, token: &str, address: SocketAddr, creds: String) -> Node {
    let link = NatsLink {
        // The connection of the publisher is looked at, and no other.
        respond: false,
        ..NatsLink::plain(vec![format!("nats://{address}")], creds)
    };
    let options = Options {
        nats: vec![link],
        ..Options::default()
    };
    let node = Node::start(token, options);
    node.put(&operator.system, &operator.system_token());
    node
}

#[test]
fn g12_a_server_that_hangs_up_after_every_login_is_tried_with_growing_pauses_and_its_error_is_logged_once() {
    let operator = Operator::new("O");
    let server = Complainer::start("User Authentication Expired", Then::HangUp);
    let node = node_publishing_to(&operator, server.address, operator.system.propagating_user().creds());
    eventually("the first login", || (server.logins() >= 1).then_some(()));
    let first = Instant::now();
    eventually("the eighth login", || (server.logins() >= 8).then_some(()));
    // 50 ms, and twice as much each time up to 1.5 s, make 4.5 s.
    let took = first.elapsed();
    assert!(took >= Duration::from_secs(4), "eight logins within {took:?}");
    let log = node.log();
    let words: Vec<_> = log.lines().filter(|line| line.contains("last error")).collect();
    assert_eq!(words.len(), 1, "{log}");
    assert!(words[0].contains("User Authentication Expired"), "{}", words[0]);
}

/// The other server answers, so only the missing answer shows that one of them has lost its connection to its cluster.
#[test]
fn g5_a_server_that_lost_its_cluster_is_updated_when_it_is_back() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let node = node_publishing_to(&operator, address, operator.system.propagating_user().creds());
    node.put(&account, &operator.account_at(&account, now() - 60));
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let route = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let gate = Gate::open(route);
    let near = format!("{config}cluster {{ name: test, listen: \"{route}\" }}\n");
    let far = format!(
        "{config}cluster {{ name: test, listen: \"127.0.0.1:{}\", routes: [\"nats://{}\"] }}\n",
        free_port(),
        gate.address
    );
    let n1 = NatsServer::start_named(NEWEST, "n1", address.port(), &near);
    let n2 = NatsServer::start_named(NEWEST, "n2", free_port(), &far);
    let (alice, bob) = (account.user(), account.user());
    let mut connections = [&alice, &bob].map(|user| NatsUser::connect(n2.address(), user).unwrap());
    let _loads_the_account = NatsUser::connect(n1.address(), &account.user()).unwrap();
    let revoking = |users: &[&User], issued_at: i64| operator.revoking(&account, users, issued_at);
    // Until both have answered a change, so that the node knows both.
    let mut changes = 0;
    eventually("both servers answer a change", || {
        changes += 1;
        node.put(&account, &revoking(&[&alice], now() - 50 + changes));
        let both = || node.log().contains("updated=2").then_some(());
        within(Duration::from_secs(3), both)
    });
    assert!(connections[0].disconnected(PATIENCE).is_some());

    gate.shut();
    node.put(&account, &revoking(&[&alice, &bob], now()));
    eventually("the missing server is named", || {
        let log = node.log();
        log.lines()
            .any(|line| line.contains("WARN") && line.contains("server=n2 "))
            .then_some(())
    });
    assert!(connections[1].ping(), "it cannot have been updated yet");
    gate.reopen();
    let reason = connections[1].disconnected(PATIENCE);
    assert_eq!(reason.as_deref(), Some("User Authentication Revoked"), "{}", node.log());
    eventually("the log shows that it was updated", || {
        let log = node.log();
        log.lines()
            .any(|line| line.contains("answers again") && line.contains("server=n2 "))
            .then_some(())
    });
}

/// Without an account server a nats-server does not start; one that runs goes on, with what it has loaded from another one
/// that was at the same place before.
#[test]
fn g5_nats_servers_that_were_there_before_us_enforce_what_is_uploaded_here() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let options = |nats| Options {
        port,
        nats,
        ..Options::default()
    };
    let config = resolver_config(&operator.token(), &format!("http://127.0.0.1:{port}/jwt/v1/accounts/"));
    let refused = NatsServer::try_start(NEWEST, &config, &[])
        .err()
        .expect("nothing is there");
    assert!(refused.contains("could not fetch"), "{refused}");

    let mut before = Node::start(&operator.token(), options(Vec::new()));
    before.put(&operator.system, &operator.system_token());
    before.put(&account, &operator.account_at(&account, now() - 60));
    let server = NatsServer::start(NEWEST, &config);
    let (alice, bob) = (account.user(), account.user());
    let mut connection = NatsUser::connect(server.address(), &alice).expect("alice gets in");
    before.kill();
    drop(before);
    assert!(connection.ping(), "the server goes on");

    let url = format!("nats://{}", server.address());
    let link = NatsLink::plain(vec![url], operator.system.propagating_user().creds());
    let node = Node::start(&operator.token(), options(vec![link]));
    // The server has the system account loaded, so the node gets in before it has an account itself.
    eventually("the node connects", || {
        node.log().contains("connected to NATS cluster").then_some(())
    });
    node.put(&account, &operator.revoking(&account, &[&alice], now() - 30));
    assert_eq!(
        connection.disconnected(PATIENCE).as_deref(),
        Some("User Authentication Revoked"),
        "{}",
        node.log()
    );
    NatsUser::connect(server.address(), &bob).expect("bob gets in");
}

/// The creds are replaced as the log advises; nothing is restarted.
#[test]
fn g5_new_creds_grant_a_missing_permission_without_a_restart() {
    for (lacking, permissions, advice) in [
        (
            "to publish",
            json!({"pub": {"allow": ["nothing"]}, "sub": {"allow": ["_INBOX.>"]}}),
            "--allow-pub",
        ),
        (
            "to subscribe",
            json!({"pub": {"allow": ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE"]}, "sub": {"allow": ["nothing"]}}),
            "--allow-sub",
        ),
    ] {
        let (operator, account) = (Operator::new("O"), Account::new("A"));
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let node = node_publishing_to(&operator, address, operator.system.user_with(permissions).creds());
        node.put(&account, &operator.account_at(&account, now() - 60));
        let config = resolver_config(&operator.token(), &node.accounts_url());
        let server = NatsServer::start_on_port(NEWEST, address.port(), &config);
        let (alice, bob) = (account.user(), account.user());
        let mut connections = [&alice, &bob].map(|user| NatsUser::connect(server.address(), user).unwrap());
        let revoking = |users: &[&User]| operator.revoking(&account, users, now());
        node.put(&account, &revoking(&[&alice]));
        let advised = |log: &str| log.lines().filter(|line| line.contains(advice)).count();
        eventually("the log says what to do", || (advised(&node.log()) > 0).then_some(()));
        let creds = operator.system.propagating_user().creds();
        std::fs::write(node.folder().join("test.creds"), creds).unwrap();
        node.put(&account, &revoking(&[&alice, &bob]));
        for connection in &mut connections {
            assert_eq!(
                connection.disconnected(PATIENCE).as_deref(),
                Some("User Authentication Revoked"),
                "without the permission {lacking}: {}",
                node.log()
            );
        }
        eventually("the server's answer is received", || {
            let log = node.log();
            let propagated = |line: &str| line.contains("account propagated") && line.contains(&account.id());
            log.lines().any(propagated).then_some(())
        });
    }
}

/// The limit is announced in an INFO that the client library ignores. The server ends the connection over a larger message,
/// which used to be sent again endlessly, and others' revocations waited for the next connection each time.
#[test]
fn g5_an_account_above_our_users_payload_limit_is_named_once_and_holds_up_no_other() {
    for in_account in [false, true] {
        let (operator, account, large) = (Operator::new("O"), Account::new("A"), Account::new("large"));
        let port = free_port();
        let user = operator.system.user_with(json!({
            "pub": {"allow": ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE"]}, "sub": {"allow": ["_INBOX.jwtmesh.>"]},
            "payload": if in_account { -1 } else { 4_096 },
        }));
        let url = format!("nats://127.0.0.1:{port}");
        let options = Options {
            nats: vec![NatsLink::plain(vec![url], user.creds())],
            ..Options::default()
        };
        let node = Node::start(&operator.token(), options);
        let system = operator.account_with(&operator.system, |claims| {
            if in_account {
                claims["nats"]["limits"]["payload"] = json!(4_096);
            }
        });
        node.put(&operator.system, &system);
        let large_token = operator.account_with(&large, |claims| {
            claims["nats"]["description"] = json!("x".repeat(7_000));
        });
        let config = resolver_config(&operator.token(), &node.accounts_url());
        let server = NatsServer::start_on_port(NEWEST, port, &config);
        let revoke = |node: &Node, issued_at: i64| {
            let alice = account.user();
            let mut connection = NatsUser::connect(server.address(), &alice).unwrap();
            let token = operator.revoking(&account, &[&alice], issued_at);
            node.put(&account, &token);
            let reason = connection.disconnected(PATIENCE);
            assert_eq!(reason.as_deref(), Some("User Authentication Revoked"), "{}", node.log());
        };
        node.put(&account, &operator.account_at(&account, now() - 60));
        revoke(&node, now() - 50);
        node.put(&large, &large_token);
        let line = eventually("the account is named", || {
            let log = node.log();
            let line = log
                .lines()
                .find(|line| line.contains("has ") && line.contains(&large.id()))?;
            Some(line.to_owned())
        });
        let sizes = format!("has {} bytes", large_token.len());
        assert!(line.contains(" ERROR ") && line.contains(&sizes), "{line}");
        assert!(line.contains("messages of at most 4096 from the user"), "{line}");
        revoke(&node, now() - 40);
        // It is not sent again, not even when a caller asks for it.
        assert_eq!(node.get_account(&format!("{}?notify=true", large.id())).status, 200);
        revoke(&node, now() - 30);
        let violations = server.log().matches("maximum payload exceeded").count();
        assert_eq!(violations, 1, "{}", server.log());
        // A raised limit counts at once where it is the account's.
        if in_account {
            node.put(&operator.system, &operator.system_token());
            let mut member = NatsUser::connect(server.address(), &large.user()).unwrap();
            assert!(member.ping());
            let closing = operator.account_with(&large, |claims| {
                claims["nats"]["description"] = json!("x".repeat(7_000));
                claims["nats"]["limits"]["conn"] = json!(0);
            });
            node.put(&large, &closing);
            assert!(member.disconnected(PATIENCE).is_some(), "{}", node.log());
        }
    }
}

/// What raises the limit and what needs it are sent at once, in any order, when the connection is back. The limit that is in
/// force until then was believed for ten minutes.
#[test]
fn g5_a_limit_that_is_raised_while_the_connection_is_down_keeps_no_account_back() {
    for round in 0..4 {
        let (operator, large) = (Operator::new("O"), Account::new("large"));
        let port = free_port();
        let gate = Gate::open(SocketAddr::from(([127, 0, 0, 1], port)));
        let user = operator.system.sending_user();
        let node = Node::start(
            &operator.token(),
            Options {
                nats: vec![NatsLink::plain(vec![format!("nats://{}", gate.address)], user.creds())],
                ..Options::default()
            },
        );
        let limited = operator.account_with(&operator.system, |claims| {
            claims["iat"] = json!(now() - 60);
            claims["nats"]["limits"]["payload"] = json!(4_096);
        });
        node.put(&operator.system, &limited);
        node.put(&large, &operator.account_at(&large, now() - 60));
        let server = NatsServer::start_on_port(NEWEST, port, &resolver_config(&operator.token(), &node.accounts_url()));
        let mut member = NatsUser::connect(server.address(), &large.user()).expect("the account is served");
        eventually("the node is connected", || {
            node.log().contains("connected to NATS cluster").then_some(())
        });
        gate.shut();
        node.put(&operator.system, &operator.system_token());
        let closing = operator.account_with(&large, |claims| {
            claims["nats"]["description"] = json!("x".repeat(7_000));
            claims["nats"]["limits"]["conn"] = json!(0);
        });
        node.put(&large, &closing);
        gate.reopen();
        assert!(member.disconnected(PATIENCE).is_some(), "round {round}: {}", node.log());
    }
}

/// nats-server reads its operator JWT only when it starts: it does not accept a signing key that was added since.
#[test]
fn g5_a_server_that_keeps_refusing_is_named_with_its_words_and_the_remedy() {
    let (operator, account, signer) = (Operator::new("O"), Account::new("A"), KeyPair::new_operator());
    let old_token = operator.token();
    let new_token = operator.token_with(|claims| claims["nats"]["signing_keys"] = json!([signer.public_key()]));
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let creds = operator.system.propagating_user().creds();
    let node = node_trusting(&operator, &new_token, address, creds);
    node.put(&account, &operator.account_at(&account, now() - 60));
    let config = resolver_config(&old_token, &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, address.port(), &config);
    let _loads_the_account = NatsUser::connect(server.address(), &account.user()).unwrap();
    let claims = operator.account_claims(&account, |claims| claims["iss"] = json!(signer.public_key()));
    node.put(&account, &sign(&signer, &claims));
    // After its repetitions, which take up to 23 s.
    let line = within(2 * PATIENCE, || {
        let log = node.log();
        log.lines().find(|line| line.contains("ERROR")).map(str::to_owned)
    });
    let line = line.unwrap_or_else(|| panic!("the refusal is not logged: {}", node.log()));
    for words in [
        "server=\"alone\"",
        &format!("nats-server alone, version {NEWEST}"),
        "Or its rules are older",
        "account validation failed",
        "restart it",
        &account.id(),
    ] {
        assert!(line.contains(words), "{words}: {line}");
    }
}

#[test]
fn g12_with_a_missing_permission_logins_are_repeated_and_the_remedy_is_logged_once() {
    let operator = Operator::new("O");
    let server = Complainer::start(
        r#"Permissions Violation for Subscription to "_INBOX.jwtmesh.one.x.*""#,
        Then::Stay,
    );
    let node = node_publishing_to(&operator, server.address, operator.system.propagating_user().creds());
    eventually("the fourth login", || (server.logins() >= 4).then_some(()));
    let log = node.log();
    assert_eq!(log.matches("--allow-sub").count(), 1, "{log}");
}

/// What a [`Complainer`] does after its complaint.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    HangUp,
    Stay,
}

/// A NATS server that takes every login, and complains as soon as the client subscribes.
struct Complainer {
    address: SocketAddr,
    logins: Arc<AtomicUsize>,
}

impl Complainer {
    fn start(words: &'static str, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let logins = Arc::new(AtomicUsize::new(0));
        let count = logins.clone();
        // Ends with the test's process; the listener is its own.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = count.clone();
                std::thread::spawn(move || complain(&stream, words, then, &count));
            }
        });
        Self { address, logins }
    }

    fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }
}

/// Serves one client until it goes.
fn complain(mut stream: &TcpStream, words: &str, then: Then, logins: &AtomicUsize) -> std::io::Result<()> {
    let info = r#"{"server_id":"N","server_name":"complainer","version":"2.15.1","headers":true,"max_payload":1048576,"nonce":"x"}"#;
    write!(stream, "INFO {info}\r\n")?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line == "PING" {
            stream.write_all(b"PONG\r\n")?;
        } else if line.starts_with("CONNECT ") {
            logins.fetch_add(1, Ordering::SeqCst);
        } else if line.starts_with("SUB ") {
            write!(stream, "-ERR '{words}'\r\n")?;
            if then == Then::HangUp {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// At level trace, the client library prints the login (the system user's JWT and the signed nonce) and each message.
#[test]
fn no_level_of_the_log_shows_a_token_or_a_signature() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let user = operator.system.propagating_user();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let node = Node::start(
        &operator.token(),
        Options {
            nats: vec![NatsLink::plain(vec![format!("nats://{address}")], user.creds())],
            log: Some("trace"),
            ..Options::default()
        },
    );
    let system = operator.system_token();
    node.put(&operator.system, &system);
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let server = NatsServer::start_named(NEWEST, "n1", address.port(), &config);
    let token = operator.account(&account);
    node.put(&account, &token);
    NatsUser::connect(server.address(), &account.user()).expect("the account is served");
    node.put(
        &account,
        &operator.account_with(&account, |claims| claims["nats"]["description"] = json!("more")),
    );
    eventually("the change is propagated", || {
        node.log().contains("account propagated").then_some(())
    });
    let log = node.log();
    assert!(log.contains("DEBUG async_nats"), "libraries are logged: {log}");
    for (what, secret) in [
        ("the login", user.token.as_str()),
        ("an account's token", &token),
        ("the system account's token", &system),
        ("the signed nonce", "signature: Some"),
    ] {
        assert!(!log.contains(secret), "{what} is in the log");
    }
}

/// Such a user may connect and publish, and no server listens: revocations were lost without a word.
#[test]
fn g5_creds_of_another_account_than_the_system_account_are_named_and_read_again() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let node = node_publishing_to(&operator, address, account.user().creds());
    let config = resolver_config(&operator.token(), &node.accounts_url());
    node.put(&account, &operator.account_at(&account, now() - 60));
    let server = NatsServer::start_named(NEWEST, "n1", address.port(), &config);
    let log = eventually("the log says why", || {
        Some(node.log()).filter(|log| log.contains("not the system account of a trusted operator"))
    });
    for words in [account.id(), "test.creds".to_owned(), "ERROR".to_owned()] {
        assert!(log.contains(&words), "{words}: {log}");
    }
    // The right file is read within seconds.
    std::fs::write(
        node.folder().join("test.creds"),
        operator.system.propagating_user().creds(),
    )
    .unwrap();
    let alice = account.user();
    let mut connection = NatsUser::connect(server.address(), &alice).expect("the account is served");
    let revoked = operator.revoking(&account, &[&alice], now());
    node.put(&account, &revoked);
    assert_eq!(
        connection.disconnected(PATIENCE).as_deref(),
        Some("User Authentication Revoked"),
        "{}",
        node.log()
    );
}
