//! Changes are propagated to the nats-servers that hold the account already: a revoked user is disconnected.

use std::time::Duration;

use serde_json::json;

use crate::support::gate::Gate;
use crate::support::mint::{Account, Operator, User, now};
use crate::support::nats_server::{NatsServer, cluster, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tls::{Authority, Identity};
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST};

/// An operator, a node that publishes changes to a NATS cluster, and the cluster's servers.
pub(crate) struct Mesh {
    pub(crate) operator: Operator,
    pub(crate) account: Account,
    pub(crate) node: Node,
    pub(crate) servers: Vec<NatsServer>,
}

impl Mesh {
    /// Starts a node, then a NATS cluster of `size` servers that the node must connect to by itself.
    #[track_caller]
    pub(crate) fn start(version: &str, size: usize) -> Self {
        let operator = Operator::new("O");
        let account = Account::new("A");
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let options = Options {
            nats: vec![NatsLink::plain(
                ports
                    .iter()
                    .map(|(client, _)| format!("nats://127.0.0.1:{client}"))
                    .collect(),
                operator.system.propagating_user().creds(),
            )],
            ..Options::default()
        };
        let node = Node::start(&operator.token(), options);
        node.put(&operator.system, &operator.system_token());
        node.put(&account, &operator.account_at(&account, now() - 60));
        let config = resolver_config(&operator.token(), &node.accounts_url());
        let names = &["n1", "n2", "n3"][..size];
        let servers = cluster(version, names, &ports, &config);
        let mesh = Self {
            operator,
            account,
            node,
            servers,
        };
        mesh.wait_for_routes();
        mesh
    }

    /// Every server answers for itself, so a formed cluster of N gives N answers.
    pub(crate) fn wait_for_routes(&self) {
        let count = self.servers.len();
        eventually("the servers found each other", || {
            let mut system = self.system_user();
            let answers = system.ask("$SYS.REQ.SERVER.PING.IDZ", b"", count, Duration::from_millis(300));
            (answers.len() == count).then_some(())
        });
    }

    #[track_caller]
    fn system_user(&self) -> NatsUser {
        NatsUser::connect(self.servers[0].address(), &self.operator.system.user()).expect("a system user gets in")
    }

    /// The account's token with these users revoked.
    pub(crate) fn revoking(&self, users: &[&User], issued_at: i64) -> String {
        self.operator.revoking(&self.account, users, issued_at)
    }

    /// One connection of `user` to each server.
    #[track_caller]
    pub(crate) fn connect_everywhere(&self, user: &User) -> Vec<NatsUser> {
        let connect = |server: &NatsServer| {
            NatsUser::connect(server.address(), user)
                .unwrap_or_else(|error| panic!("{} refuses: {error}\n{}", server.name(), server.log()))
        };
        self.servers.iter().map(connect).collect()
    }

    #[track_caller]
    fn refused_everywhere(&self, user: &User) {
        for server in &self.servers {
            let refused = NatsUser::connect(server.address(), user);
            assert_eq!(
                refused.err().as_deref(),
                Some("Authorization Violation"),
                "{}",
                server.name()
            );
        }
    }
}

#[test]
fn g5_a_revoked_users_connections_are_closed_on_all_three_servers_and_stay_refused_after_they_restart() {
    for version in [NEWEST, NATS_SERVER_VERSIONS[0]] {
        let mut mesh = Mesh::start(version, 3);
        let (alice, bob) = (mesh.account.user(), mesh.account.user());
        let of_alice = mesh.connect_everywhere(&alice);
        let mut of_bob = mesh.connect_everywhere(&bob);

        mesh.node.put(&mesh.account, &mesh.revoking(&[&alice], now()));
        for (mut connection, server) in of_alice.into_iter().zip(&mesh.servers) {
            let reason = connection.disconnected(PATIENCE);
            assert_eq!(
                reason.as_deref(),
                Some("User Authentication Revoked"),
                "{version} {}",
                server.name()
            );
        }
        mesh.refused_everywhere(&alice);
        assert!(
            of_bob.iter_mut().all(NatsUser::ping),
            "{version}: another user was disconnected too"
        );

        for at in 0..mesh.servers.len() {
            mesh.servers[at].restart();
        }
        mesh.refused_everywhere(&alice);
        mesh.connect_everywhere(&bob);
    }
}

/// A server that the node cannot reach keeps the account as it was, and is updated as soon as the node can reach it.
#[test]
fn g5_a_revocation_uploaded_while_the_nats_cluster_was_out_of_reach_is_propagated_after_it_is_back() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let port = free_port();
    let gate = Gate::open(([127, 0, 0, 1], port).into());
    let options = Options {
        nats: vec![NatsLink::plain(
            vec![format!("nats://{}", gate.address)],
            operator.system.propagating_user().creds(),
        )],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node.put(&account, &operator.account_at(&account, now() - 60));
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    eventually("the node connects through the gate", || gate.passing().then_some(()));

    for round in 0..3 {
        let alice = account.user();
        let mut connection = NatsUser::connect(server.address(), &alice).unwrap();
        gate.shut();
        let token = operator.revoking(&account, &[&alice], now() - 30 + round);
        node.put(&account, &token);
        assert!(connection.ping(), "the server cannot have been updated yet");
        gate.reopen();
        let reason = connection.disconnected(PATIENCE);
        assert_eq!(reason.as_deref(), Some("User Authentication Revoked"), "round {round}");
    }
}

/// Someone who looks for the cause of a refused JWT has to know which of the two clocks is right.
#[test]
fn where_the_servers_clocks_differ_from_this_machines_the_log_gives_both_times() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let port = free_port();
    let century_ago = (&br#""time":"20"#[..], &br#""time":"19"#[..]);
    let gate = Gate::altering(([127, 0, 0, 1], port).into(), century_ago);
    let link = NatsLink::plain(
        vec![format!("nats://{}", gate.address)],
        operator.system.propagating_user().creds(),
    );
    let options = Options {
        nats: vec![link],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let _server = NatsServer::start_on_port(NEWEST, port, &config);
    let token = operator.account(&account);
    let warning = eventually("the log says that the clocks differ", || {
        node.put(&account, &token);
        let log = node.log();
        let line = log.lines().find(|line| line.contains("either may be wrong"))?;
        Some(line.to_owned())
    });
    assert!(warning.contains(" WARN "), "{warning}");
    assert!(warning.contains("this machine's clock says 20"), "{warning}");
    assert!(warning.contains("those of the NATS servers say 19"), "{warning}");
    let ahead = operator.account_at(&account, now() + 86_400);
    let expired = operator.account_with(&account, |claims| claims["exp"] = json!(now() - 60));
    for untimely in [&ahead, &expired] {
        let refused = node.post_account(&account.id(), untimely).text();
        for words in [
            "say that it is 19",
            "the node's clock says 20",
            "set the clock of the node",
        ] {
            assert!(refused.contains(words), "no {words} in {refused}");
        }
    }
    gate.alter(false);
    eventually("the log says that they agree again", || {
        node.put(&account, &token);
        node.log().contains("agree again").then_some(())
    });
    let refused = node.post_account(&account.id(), &ahead).text();
    assert!(refused.contains("it is the other clock that is wrong"), "{refused}");
    let refused = node.post_account(&account.id(), &expired).text();
    assert!(
        !refused.contains("clock"),
        "an expired JWT is mostly no matter of clocks: {refused}"
    );
    assert_eq!(node.log().matches("either may be wrong").count(), 1);
}

/// An import makes a hundred thousand of them, which no server has loaded: three lines each were in the log.
#[test]
fn new_accounts_that_no_server_has_loaded_are_counted_in_one_line() {
    let mesh = Mesh::start(NEWEST, 2);
    let accounts: Vec<Account> = (0..20).map(|n| Account::new(&n.to_string())).collect();
    eventually("the node is connected and has caught up", || {
        let caught_up = "everything that this NATS cluster may have missed was sent";
        mesh.node.log().contains(caught_up).then_some(())
    });
    for account in &accounts {
        mesh.node.put(account, &mesh.operator.account(account));
    }
    eventually("they are counted", || {
        let log = mesh.node.log();
        let lines = log.lines().filter(|line| line.contains("new accounts propagated"));
        let counts = lines.filter_map(|line| {
            line.split_once(" accounts=")?
                .1
                .split(' ')
                .next()?
                .parse::<usize>()
                .ok()
        });
        (counts.sum::<usize>() >= accounts.len()).then_some(())
    });
    for account in &accounts {
        let log = mesh.node.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&account.id())).collect();
        assert!(
            lines.iter().all(|line| line.contains("new accounts propagated")),
            "{lines:?}"
        );
    }
}

/// Any client may ask for accounts to be sent again, and each time every server verifies one more.
#[test]
fn g12_requests_to_send_accounts_again_are_limited_and_answered_all_the_same() {
    let mesh = Mesh::start(NEWEST, 1);
    let accounts: Vec<Account> = (0..520).map(|n| Account::new(&n.to_string())).collect();
    for account in &accounts {
        mesh.node.put(account, &mesh.operator.account(account));
    }
    let mut connection = mesh.node.connect();
    let mut asked = 0;
    eventually("the limit is reached", || {
        for account in &accounts {
            let path = format!("/jwt/v1/accounts/{}?notify=true", account.id());
            assert_eq!(connection.request("GET", &path, &[], b"").unwrap().status, 200);
            asked += 1;
        }
        let words = "too many requests to send accounts again";
        mesh.node.log().contains(words).then_some(())
    });
    assert!(asked >= 500, "a script may send that many at once");
}

/// The answer to the upload may be lost together with the node; the revocation is not.
#[test]
fn g5_a_revocation_acknowledged_before_a_kill_is_propagated_after_the_restart() {
    let mut mesh = Mesh::start(NEWEST, 1);
    for _ in 0..5 {
        let alice = mesh.account.user();
        let mut connection = mesh.connect_everywhere(&alice).remove(0);
        mesh.node.put(&mesh.account, &mesh.revoking(&[&alice], now()));
        mesh.node.kill();
        mesh.node.start_again();
        let reason = connection.disconnected(PATIENCE);
        assert_eq!(reason.as_deref(), Some("User Authentication Revoked"));
    }
}

#[test]
fn a_node_starts_and_serves_without_any_nats_server() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let options = Options {
        nats: vec![NatsLink::plain(
            vec![format!("nats://127.0.0.1:{}", free_port())],
            operator.system.propagating_user().creds(),
        )],
        ..Options::default()
    };
    let mut node = Node::start(&operator.token(), options);
    let token = operator.account(&account);
    node.put(&account, &token);
    assert_eq!(node.get_account(&account.id()).text(), token);
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn an_upload_is_published_once_as_its_exact_bytes_and_once_more_on_request() {
    let mesh = Mesh::start(NEWEST, 1);
    // To a server that does not have an account in memory it is sent again later; these two are in use.
    let other = Account::new("other");
    mesh.node.put(&other, &mesh.operator.account_at(&other, now() - 60));
    let _users = [&mesh.account, &other].map(|account| NatsUser::connect(mesh.servers[0].address(), &account.user()));
    // After connecting to a NATS cluster the node first reads its servers, and sends what they may have missed.
    for account in [&mesh.operator.system, &mesh.account, &other] {
        eventually("the node has caught up", || {
            let watched = mesh.node.cli(&["account", "watch", &account.id()]);
            watched.status.success().then_some(())
        });
    }
    let mut system = mesh.system_user();
    system.subscribe("$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE");
    let first = mesh.operator.account_at(&mesh.account, now() - 30);
    mesh.node.put(&mesh.account, &first);
    eventually("the first upload is published", || {
        (system.next(PATIENCE)?.payload == first.as_bytes()).then_some(())
    });

    let second = mesh.operator.account(&mesh.account);
    let third = mesh.operator.account(&other);
    let stored = mesh.node.put(&mesh.account, &second).revision();
    assert_eq!(mesh.node.put(&mesh.account, &second).revision(), stored);
    mesh.node.put(&other, &third);
    // Accounts are independent of each other, so either may be published first.
    let mut published: Vec<(String, String)> = (0..2)
        .map(|_| {
            let message = system.next(PATIENCE).unwrap();
            (message.subject, String::from_utf8_lossy(&message.payload).into_owned())
        })
        .collect();
    let mut wanted = [(&mesh.account, &second), (&other, &third)].map(|(account, token)| {
        (
            format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", account.id()),
            token.clone(),
        )
    });
    published.sort();
    wanted.sort();
    assert_eq!(published, wanted);

    // `?notify` publishes the account again, whatever the servers hold, unless it was published just now.
    eventually("the account is published once more", || {
        let answer = mesh.node.get_account(&format!("{}?notify=true", mesh.account.id()));
        assert_eq!((answer.status, answer.text()), (200, second.clone()));
        (system.next(Duration::from_millis(300))?.payload == second.as_bytes()).then_some(())
    });
    // So does uploading the same bytes again: people do that for a server that missed a message.
    eventually("the account is published once more", || {
        assert_eq!(mesh.node.put(&mesh.account, &second).revision(), stored);
        (system.next(Duration::from_millis(300))?.payload == second.as_bytes()).then_some(())
    });
}

/// A server that starts before the system account is uploaded uses one of its own. It cannot accept the node's creds
/// yet, since a signing key of the system account signed them, and the node must try again until it does.
#[test]
fn a_node_gets_in_as_soon_as_the_system_account_that_it_serves_itself_is_uploaded() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let signer = Account::new("a signing key");
    let port = free_port();
    let permissions = json!({
        "pub": {"allow": ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE"]}, "sub": {"allow": ["_INBOX.>"]},
        "issuer_account": operator.system.id(),
    });
    let user = signer.user_with(permissions);
    let options = Options {
        nats: vec![NatsLink::plain(vec![format!("nats://127.0.0.1:{port}")], user.creds())],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&account, &operator.account_at(&account, now() - 60));
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    assert!(NatsUser::connect(server.address(), &user).is_err(), "{}", server.log());

    let system = operator.account_with(&operator.system, |claims| {
        claims["nats"]["signing_keys"] = json!([signer.id()]);
    });
    node.put(&operator.system, &system);
    let alice = account.user();
    let mut connection = NatsUser::connect(server.address(), &alice).unwrap();
    let token = operator.revoking(&account, &[&alice], now());
    node.put(&account, &token);
    assert_eq!(
        connection.disconnected(PATIENCE).as_deref(),
        Some("User Authentication Revoked"),
        "{}",
        node.log()
    );
}

#[test]
fn changes_are_propagated_over_tls_with_a_private_authority() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let identity = authority.issue("nats");
    let operator = Operator::new("O");
    let account = Account::new("A");
    let port = free_port();
    let servers = vec![format!("tls://127.0.0.1:{port}")];
    let options = Options {
        nats: vec![NatsLink {
            ca: Some(authority.cert()),
            ..NatsLink::plain(servers, operator.system.propagating_user().creds())
        }],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node.put(&account, &operator.account_at(&account, now() - 60));
    // The test's own user connects without TLS.
    let config = format!(
        "{}tls {{ cert_file: \"{}\", key_file: \"{}\" }}\nallow_non_tls: true\n",
        resolver_config(&operator.token(), &node.accounts_url()),
        identity.cert.display(),
        identity.key.display()
    );
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let alice = account.user();
    let mut connection = NatsUser::connect(server.address(), &alice).unwrap();
    let token = operator.revoking(&account, &[&alice], now());
    node.put(&account, &token);
    assert_eq!(
        connection.disconnected(PATIENCE).as_deref(),
        Some("User Authentication Revoked"),
        "{}",
        node.log()
    );
}

#[test]
fn a_lowered_limit_is_in_force_without_a_restart_of_anything() {
    let mesh = Mesh::start(NEWEST, 1);
    let user = mesh.account.user();
    let mut connection = mesh.connect_everywhere(&user).remove(0);
    let token = mesh
        .operator
        .account_with(&mesh.account, |claims| claims["nats"]["limits"]["conn"] = json!(1));
    mesh.node.put(&mesh.account, &token);
    let refused = eventually("the new limit is in force", || {
        NatsUser::connect(mesh.servers[0].address(), &user).err()
    });
    assert!(
        refused.contains("maximum account active connections exceeded"),
        "{refused}"
    );
    assert!(connection.ping(), "the older connection stays");
}

/// A NATS cluster of two servers: one with `tls`, for the node, and one without, for the tests' users.
pub(crate) struct TwoServers {
    operator: Operator,
    account: Account,
    pub(crate) node: Node,
    _encrypted: NatsServer,
    plain: NatsServer,
}

impl TwoServers {
    /// The node connects to the first server with `link`, whose URL begins with `scheme`.
    pub(crate) fn start(scheme: &str, tls: &str, link: NatsLink) -> Self {
        let (operator, account) = (Operator::new("O"), Account::new("A"));
        let (port, route) = (free_port(), free_port());
        let options = Options {
            nats: vec![NatsLink {
                servers: vec![format!("{scheme}://127.0.0.1:{port}")],
                creds: operator.system.propagating_user().creds(),
                ..link
            }],
            ..Options::default()
        };
        let node = Node::start(&operator.token(), options);
        node.put(&operator.system, &operator.system_token());
        node.put(&account, &operator.account_at(&account, now() - 60));
        let config = resolver_config(&operator.token(), &node.accounts_url());
        let of_cluster = |port: u16, routes: &str| {
            format!("cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n")
        };
        let first = format!("{config}{tls}\n{}", of_cluster(route, ""));
        let second = format!(
            "{config}{}",
            of_cluster(free_port(), &format!("\"nats://127.0.0.1:{route}\""))
        );
        Self {
            operator,
            account,
            node,
            _encrypted: NatsServer::start_named(NEWEST, "n1", port, &first),
            plain: NatsServer::start_named(NEWEST, "n2", free_port(), &second),
        }
    }

    /// A revocation disconnects its user.
    #[track_caller]
    pub(crate) fn revoke(&self) {
        let alice = self.account.user();
        let mut connection = NatsUser::connect(self.plain.address(), &alice).unwrap();
        let token = self.operator.revoking(&self.account, &[&alice], now());
        self.node.put(&self.account, &token);
        assert_eq!(
            connection.disconnected(PATIENCE).as_deref(),
            Some("User Authentication Revoked"),
            "{}",
            self.node.log()
        );
    }

    #[track_caller]
    pub(crate) fn says(&self, words: &str) {
        eventually("the log says why", || self.node.log().contains(words).then_some(()));
    }
}

/// nats-server in operator mode may verify clients and begin with TLS; such NATS clusters never heard of a revocation.
#[test]
fn g5_a_revocation_reaches_servers_that_verify_clients_or_begin_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let (server, client) = (authority.issue("nats"), authority.issue("client"));
    let tls = |more: &str| {
        format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", {more} }}",
            server.cert.display(),
            server.key.display(),
            authority.cert().display()
        )
    };
    let link = |client: Option<&Identity>, tls_first| NatsLink {
        ca: Some(authority.cert()),
        client: client.cloned(),
        tls_first,
        ..NatsLink::plain(Vec::new(), String::new())
    };
    // `ca` demands TLS, whatever the URL says.
    for scheme in ["tls", "nats"] {
        TwoServers::start(scheme, &tls("verify: true"), link(Some(&client), false)).revoke();
        TwoServers::start(scheme, &tls("handshake_first: true"), link(None, true)).revoke();
        TwoServers::start(
            scheme,
            &tls("verify: true, handshake_first: true"),
            link(Some(&client), true),
        )
        .revoke();
    }
    // What is missing is named.
    TwoServers::start("tls", &tls("verify: true"), link(None, false)).says("set cert and key under [[nats]]");
    TwoServers::start("tls", &tls("handshake_first: true"), link(None, false)).says("set tls_first = true");
}

/// Somebody on the way could hold revocations back; the connection was plaintext, and nothing said so.
#[test]
fn a_ca_a_client_certificate_or_tls_first_never_connects_in_plaintext() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let client = authority.issue("client");
    let plain = || NatsLink::plain(Vec::new(), String::new());
    let with_ca = NatsLink {
        ca: Some(authority.cert()),
        ..plain()
    };
    let with_client = NatsLink {
        client: Some(client),
        ..plain()
    };
    let tls_first = NatsLink {
        tls_first: true,
        ..plain()
    };
    for (link, words) in [
        (with_ca, "which ca and cert under [[nats]] demand"),
        (with_client, "which ca and cert under [[nats]] demand"),
        (tls_first, "remove tls_first under [[nats]]"),
    ] {
        let servers = TwoServers::start("nats", "", link);
        servers.says(words);
        assert!(!servers.node.log().contains("connected to NATS cluster"));
    }
    TwoServers::start("tls", "", plain()).says("does not speak TLS: enable it there; a URL with nats://");
}
