//! Who asks over the system account: the real nsc and nats, nats-servers with a cache or full resolver, and with which creds
//! a node may answer them.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::asker::{Answering, Asker, LIST, UPDATE, node_for, update_of};
use crate::support::mesh::{Nodes, nats_link};
use crate::support::mint::{Account, Operator, claims, now, sign};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::nsc::{Nsc, copy_folder};
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST, tool};

/// The part of a configuration for a resolver that keeps accounts in a folder.
fn folder_resolver(operator: &Operator, node: &Node, kind: &str) -> String {
    format!(
        "operator: {}\nresolver: {{ type: {kind}, dir: \"jwt\" }}\nresolver_preload: {{ {}: {} }}\n",
        operator.token(),
        operator.system.id(),
        node.get_account(&operator.system.id()).text(),
    )
}

#[test]
fn a_nats_server_with_a_cache_resolver_gets_its_accounts_and_their_changes() {
    for version in [NEWEST, NATS_SERVER_VERSIONS[0]] {
        let mesh = Answering::start_with(version, |operator, node| {
            folder_resolver(operator, node, "cache, ttl: \"1h\"")
        });
        let alice = mesh.account.user();
        let mut connection = NatsUser::connect(mesh.server.address(), &alice)
            .unwrap_or_else(|error| panic!("{version}: {error}\n{}", mesh.server.log()));
        assert_eq!(stored(&mesh.server, &mesh.account), mesh.token);
        let revoking = mesh.operator.revoking(&mesh.account, &[&alice], now() - 5);
        mesh.node.put(&mesh.account, &revoking);
        assert_eq!(
            connection.disconnected(PATIENCE).as_deref(),
            Some("User Authentication Revoked"),
            "{version}"
        );
    }
}

/// The token in the folder of a server.
fn stored(server: &NatsServer, account: &Account) -> String {
    let file = server.folder().join("jwt").join(format!("{}.jwt", account.id()));
    fs::read_to_string(file).unwrap_or_default()
}

/// A full resolver asks for what it lacks, and is itself asked for nothing.
#[test]
fn a_nats_server_with_a_full_resolver_gets_every_account_and_is_not_believed() {
    let mesh = Answering::start_with(NEWEST, |operator, node| {
        folder_resolver(operator, node, "full, allow_delete: false, interval: \"1s\"")
    });
    let (operator, account) = (&mesh.operator, &mesh.account);
    let needless = || {
        let log = mesh.node.log();
        let lines = log.lines().filter(|line| line.contains("sent all accounts"));
        lines.filter(|line| line.contains(" accounts=0 ")).count()
    };
    eventually("the server has the same accounts", || (needless() > 0).then_some(()));
    assert_eq!(stored(&mesh.server, account), mesh.token);
    let newer = operator.account_at(account, now() - 20);
    mesh.node.put(account, &newer);
    eventually("the server has the newer one", || {
        (stored(&mesh.server, account) == newer).then_some(())
    });

    // It takes what no operator of ours has signed, an older JWT, and one of an account that no node has.
    let (foreign, other) = (Operator::new("P"), Account::new("B"));
    let mut system = mesh.system();
    system.0.publish(&update_of(&other), foreign.account(&other).as_bytes());
    system.0.publish(&update_of(account), mesh.token.as_bytes());
    eventually("the server has what it should not believe", || {
        (!stored(&mesh.server, &other).is_empty()).then_some(())
    });
    eventually("the older JWT is overruled", || {
        let overruled = mesh.node.log().contains("another sender published");
        (overruled && stored(&mesh.server, account) == newer).then_some(())
    });
    assert_eq!(mesh.node.get_account(&account.id()).text(), newer);
    assert_eq!(mesh.node.get_account(&other.id()).status, 404);
    // It never has the same accounts from now on, and still is not sent them again and again.
    let before = needless();
    eventually("the server is sent nothing that it has", || {
        (needless() > before + 1).then_some(())
    });
}

/// Creds of the user that deploy/nats/README.md describes.
#[track_caller]
fn documented_creds(nsc: &Nsc) -> String {
    let readme = include_str!("../../deploy/nats/README.md");
    let command = readme.split("nsc add user ").nth(1).expect("it has the command");
    let command = command.replace("\\\n", " ");
    let words = command.lines().next().unwrap_or_default().split_whitespace();
    let words: Vec<&str> = words.map(|word| word.trim_matches('\'')).collect();
    nsc.run(&[&["add", "user"], &words[..]].concat());
    nsc.run(&["generate", "creds", "--account", "SYS", "--name", "jwtmesh"])
}

#[test]
fn nsc_pushes_and_pulls_over_nats_with_the_documented_permissions() {
    let nsc = Nsc::with_operator();
    let creds = documented_creds(&nsc);
    let port = free_port();
    nsc.account_server(&format!("nats://127.0.0.1:{port}"));
    let link = NatsLink::plain(vec![format!("nats://127.0.0.1:{port}")], creds);
    let options = Options {
        nats: vec![link],
        ..Options::default()
    };
    let node = Node::start(&nsc.operator_token(), options);
    let system = nsc.account_id("SYS");
    assert_eq!(node.post_account(&system, &nsc.account_token("SYS")).status, 200);
    let config = resolver_config(&nsc.operator_token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let id = nsc.add_account("A");
    let screen = eventually("nsc is answered", || {
        let screen = nsc.try_run(&["push", "--all"]);
        screen.ok.then_some(screen.text)
    });
    assert!(screen.contains("jwtmesh-one"), "{screen}");
    assert_eq!(node.get_account(&id).text(), nsc.account_token("A"));

    let colleague = nsc.copy();
    nsc.run(&["edit", "account", "--name", "A", "--description", "changed"]);
    nsc.run(&["push", "--account", "A"]);
    let screen = colleague.run(&["pull", "--all"]);
    assert!(!screen.contains("[ERR"), "{screen}");
    assert_eq!(colleague.account_token("A"), nsc.account_token("A"));

    // nsc knows nothing of this one.
    let stranger = nsc.copy();
    let other = stranger.add_account("B");
    stranger.run(&["push", "--account", "B"]);
    let screen = nsc.run(&["push", "--diff"]);
    assert!(
        screen.contains(&format!("account {other} only exists in server")),
        "{screen}"
    );
    nsc.run(&["push", "--prune"]);
    assert_eq!(node.get_account(&other).status, 404);

    // What is older is refused, and nsc says why.
    let before = nsc.account_token("A");
    let (older, key) = (nsc.copy(), format!("{}", now()));
    nsc.run(&["edit", "account", "--name", "A", "--description", &key]);
    eventually("a second has passed", || {
        nsc.run(&[
            "edit",
            "account",
            "--name",
            "A",
            "--description",
            &format!("{key} again"),
        ]);
        (claims(&nsc.account_token("A"))["iat"] != claims(&before)["iat"]).then_some(())
    });
    nsc.run(&["push", "--account", "A"]);
    let screen = older.try_run(&["push", "--account", "A"]);
    assert!(!screen.ok && screen.text.contains("has a newer JWT"), "{}", screen.text);
    let log = node.log();
    assert!(
        !log.contains("Permissions Violation") && !log.contains("may not"),
        "{log}\n{}",
        server.log()
    );
}

/// A colleague without the operator's keys can only sign an account with its own key.
#[test]
fn a_managed_operators_self_signed_account_is_refused_over_nats_too() {
    let mesh = Answering::start(NEWEST);
    let own = Account::new("own");
    let token = sign(
        &own.key,
        &mesh
            .operator
            .account_claims(&own, |claims| claims["iss"] = json!(own.id())),
    );
    let description = mesh.system().refused(UPDATE, token.as_bytes());
    assert!(description.contains(&own.id()), "{description}");
    assert_eq!(mesh.node.get_account(&own.id()).status, 404);
}

#[test]
fn nats_pushes_and_queries_accounts() {
    let nsc = Nsc::with_operator();
    let port = free_port();
    let user = nsc.add_user("SYS", "jwtmesh");
    let link = NatsLink::plain(vec![format!("nats://127.0.0.1:{port}")], user.creds());
    let options = Options {
        nats: vec![link],
        ..Options::default()
    };
    let node = Node::start(&nsc.operator_token(), options);
    node.post_account(&nsc.account_id("SYS"), &nsc.account_token("SYS"));
    let config = resolver_config(&nsc.operator_token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let id = nsc.add_account("A");
    let token = nsc.account_token("A");
    assert_eq!(node.post_account(&id, &token).status, 200);

    // nats reads nsc's stores, in a folder that has nothing else.
    let home = tempfile::tempdir().unwrap();
    let nats_store = home.path().join("data/nats/nsc");
    let take_over = || copy_folder(&nsc.stores().join("O"), &nats_store.join("stores/O"));
    take_over();
    symlink(nsc.stores().join("keys"), nats_store.join("keys")).unwrap();
    let creds = home.path().join("sys.creds");
    fs::write(&creds, nsc.add_user("SYS", "admin").creds()).unwrap();
    let nats = |args: &[&str]| {
        let done = Command::new(tool("nats"))
            .args(["auth", "account"])
            .args(args)
            .args(["--operator", "O", "--server", &format!("nats://127.0.0.1:{port}")])
            .arg("--creds")
            .arg(&creds)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home.path())
            .env("XDG_DATA_HOME", home.path().join("data"))
            .env("XDG_CONFIG_HOME", home.path().join("config"))
            .output()
            .expect("nats can be started");
        let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        (done.status.success(), text)
    };
    let file = home.path().join("A.jwt");
    eventually("nats is answered", || {
        let (ok, text) = nats(&["query", "A", &file.display().to_string()]);
        assert!(ok || !text.contains("nsc"), "{text}");
        ok.then_some(())
    });
    assert_eq!(fs::read_to_string(&file).unwrap(), token);

    // It counts the servers, and fails with an answer too few or too many.
    let mut alice = NatsUser::connect(server.address(), &nsc.add_user("A", "alice")).expect("the account is loaded");
    nsc.run(&["edit", "account", "--name", "A", "--description", "changed"]);
    take_over();
    let (ok, text) = nats(&["push", "A"]);
    assert!(ok && text.contains("Success 1 Failed 0 Expected 1"), "{text}");
    eventually("the node adopts it", || {
        (node.get_account(&id).text() == nsc.account_token("A")).then_some(())
    });
    assert!(alice.ping());
}

#[test]
fn creds_from_before_there_were_answers_propagate_as_they_did() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let user = operator.system.propagating_user();
    let node = node_for(&operator, &user, port);
    node.put(&account, &operator.account_at(&account, now() - 60));
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let line = eventually("what is missing is logged", || {
        let log = node.log();
        let line = log.lines().find(|line| line.contains("may not subscribe to"))?;
        Some(line.to_owned())
    });
    assert!(
        line.contains(" WARN ") && line.contains("--allow-pub '_INBOX.>,$SYS._INBOX.>' --allow-sub"),
        "{line}"
    );
    let alice = account.user();
    let mut connection = NatsUser::connect(server.address(), &alice).expect("alice gets in");
    node.put(&account, &operator.revoking(&account, &[&alice], now()));
    assert_eq!(
        connection.disconnected(PATIENCE).as_deref(),
        Some("User Authentication Revoked")
    );
    let mut system = Asker::new(&server, &operator);
    assert!(system.try_ask(LIST, None, b"", Duration::from_millis(300)).is_none());
    assert_eq!(node.log().matches("may not subscribe to").count(), 1);

    // Creds that may do more are noticed: first such as may ask and not answer, then the documented ones.
    let silent = json!({"pub": {"allow": ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE"]}, "sub": {}});
    fs::write(
        node.folder().join("test.creds"),
        operator.system.user_with(silent).creds(),
    )
    .unwrap();
    eventually("the missing permission to answer is logged", || {
        system.try_ask(LIST, None, b"", Duration::from_millis(20));
        node.log().contains("may not publish answers").then_some(())
    });
    fs::write(
        node.folder().join("test.creds"),
        operator.system.answering_user().creds(),
    )
    .unwrap();
    system.wait_until_answered(&account);
}

#[test]
fn a_node_that_is_not_to_respond_does_not() {
    let (operator, port) = (Operator::new("O"), free_port());
    let (_creds, link) = nats_link(&operator, port);
    let nodes = Nodes::unformed_with(1, &operator.token(), &format!("{link}respond = false\n")).form();
    nodes.nodes[0].put(&operator.system, &operator.system_token());
    let config = resolver_config(&operator.token(), &nodes.nodes[0].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    eventually("it publishes", || {
        nodes.nodes[0].log().contains("connected to NATS cluster").then_some(())
    });
    let mut system = Asker::new(&server, &operator);
    assert!(system.try_ask(LIST, None, b"", Duration::from_millis(300)).is_none());
    assert!(!nodes.nodes[0].log().contains("may not subscribe to"));
}

/// A gateway puts three tokens before the subject of an answer, also before that of a publisher's.
#[test]
fn requests_from_another_cluster_are_answered_over_a_gateway_and_our_own_updates_are_known_there() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let ports = [(free_port(), free_port()), (free_port(), free_port())];
    let user = operator.system.answering_user();
    // The first publishes, the second answers; what is published goes from one to the other.
    let link = |at: usize, name: &str| NatsLink {
        name: name.to_owned(),
        respond: at == 1,
        ..NatsLink::plain(vec![format!("nats://127.0.0.1:{}", ports[at].0)], user.creds())
    };
    let options = Options {
        nats: vec![link(0, "east"), link(1, "west")],
        log: Some("off,jwtmesh=debug"),
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node.put(&account, &operator.account_at(&account, now() - 60));
    let servers = ["east", "west"].map(|name| {
        let at = usize::from(name == "west");
        let config = format!(
            "{}gateway {{ name: {name}, listen: \"127.0.0.1:{}\", gateways: [\n\
             {{ name: east, url: \"nats://127.0.0.1:{}\" }}\n{{ name: west, url: \"nats://127.0.0.1:{}\" }}\n] }}\n",
            resolver_config(&operator.token(), &node.accounts_url()),
            ports[at].1,
            ports[0].1,
            ports[1].1
        );
        NatsServer::start_named(NEWEST, name, ports[at].0, &config)
    });
    for server in &servers {
        let mut system = Asker::new(server, &operator);
        system.wait_until_answered(&account);
        for second in 0..10 {
            let token = operator.account_at(&account, now() - 40 + second);
            let answer = system.ask_json(UPDATE, token.as_bytes());
            assert!(
                answer["data"]["code"] == 200 || answer["error"]["description"].to_string().contains("newer JWT"),
                "{answer}"
            );
        }
    }
    let token = operator.account_at(&account, now() - 10);
    node.put(&account, &token);
    // As a publisher in the east would send it late, and then what is really somebody else's.
    let mut system = Asker::new(&servers[0], &operator);
    let (older, other) = (operator.account_at(&account, now() - 60), Account::new("B"));
    let inbox = node.publishers_inbox(&account);
    system
        .0
        .request_to(&update_of(&account), &inbox, None, older.as_bytes());
    system.0.request_to(&update_of(&other), "_INBOX.x", None, b"garbage");
    // Each of the two notices it, the one that publishes and the one that answers.
    let log = eventually("what came later was looked at", || {
        let log = node.log();
        let overruled = |line: &&str| line.contains("another sender published") && line.contains(&other.id());
        (log.lines().filter(overruled).count() == 2).then_some(log)
    });
    assert_eq!(log.matches("another sender").count(), 2, "{log}");
    assert!(!log.contains("adopted"), "{log}");
}
