//! The real nsc against a real node: the commands that people type, and what nsc then shows them.

use std::fs;

use crate::support::mint::{claims, now};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::nsc::Nsc;
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tls::Authority;
use crate::support::tools::NEWEST;

/// An nsc with an operator, and a node that trusts this operator and is where nsc pushes to.
fn nsc_and_node() -> (Nsc, Node) {
    let nsc = Nsc::with_operator();
    let port = free_port();
    nsc.account_server(&format!("http://127.0.0.1:{port}/jwt/v1"));
    let options = Options {
        port,
        ..Options::default()
    };
    let node = Node::start(&nsc.operator_token(), options);
    (nsc, node)
}

#[test]
fn push_stores_exactly_the_bytes_that_nsc_has() {
    let (nsc, node) = nsc_and_node();
    let id = nsc.add_account("A");
    let screen = nsc.run(&["push", "--account", "A"]);
    assert!(screen.contains("[ OK ]"), "{screen}");
    assert!(!screen.contains("> "), "an empty 200 leaves nothing to read: {screen}");
    assert_eq!(node.get_account(&id).text(), nsc.account_token("A"));
}

#[test]
fn push_all_of_two_hundred_accounts_and_pull_all_of_them() {
    let (nsc, node) = nsc_and_node();
    let names: Vec<String> = (0..200).map(|number| format!("account-{number:03}")).collect();
    for name in &names {
        nsc.run(&["add", "account", "--name", name]);
    }
    nsc.run(&["push", "--all"]);
    let colleague = nsc.copy();
    for name in &names {
        let token = nsc.account_token(name);
        let id = claims(&token)["sub"].as_str().unwrap().to_owned();
        assert_eq!(node.get_account(&id).text(), token, "{name}");
    }

    for name in names.iter().step_by(20) {
        nsc.run(&["edit", "account", "--name", name, "--description", "changed"]);
    }
    nsc.run(&["push", "--all"]);
    let screen = colleague.run(&["pull", "--all"]);
    assert!(!screen.contains("[ERR"), "{screen}");
    for name in &names {
        assert_eq!(colleague.account_token(name), nsc.account_token(name), "{name}");
    }
}

#[test]
fn push_with_an_explicit_url_needs_none_in_the_operator() {
    let nsc = Nsc::with_operator();
    let id = nsc.add_account("A");
    let node = Node::plain(&nsc.operator_token());
    for url in [node.base(), format!("{}/", node.base())] {
        nsc.run(&["edit", "account", "--name", "A", "--description", &url]);
        nsc.run(&["push", "--account", "A", "--account-jwt-server-url", &url]);
        assert_eq!(node.get_account(&id).text(), nsc.account_token("A"), "{url}");
    }
}

#[test]
fn an_operator_is_added_from_the_nodes_url_and_its_accounts_pulled() {
    let (nsc, node) = nsc_and_node();
    nsc.add_account("A");
    nsc.run(&["push", "--all"]);
    let colleague = Nsc::new();
    colleague.run(&["add", "operator", "--url", &format!("{}/operator", node.base())]);
    assert_eq!(colleague.operator_token(), nsc.operator_token());
}

#[test]
fn an_account_that_a_colleague_changed_is_pulled() {
    let (nsc, _node) = nsc_and_node();
    nsc.add_account("A");
    nsc.run(&["push", "--all"]);
    let colleague = nsc.copy();
    nsc.run(&["edit", "account", "--name", "A", "--description", "changed"]);
    nsc.run(&["push", "--account", "A"]);
    colleague.run(&["pull", "--account", "A"]);
    assert_eq!(colleague.account_token("A"), nsc.account_token("A"));
}

#[test]
fn a_revocation_pushed_by_nsc_disconnects_the_user() {
    let nsc = Nsc::with_operator();
    let system = nsc.add_user("SYS", "jwtmesh");
    nsc.add_account("A");
    let user = nsc.add_user("A", "alice");
    let nats_port = free_port();
    let options = Options {
        nats: vec![NatsLink::plain(
            vec![format!("nats://127.0.0.1:{nats_port}")],
            system.creds(),
        )],
        ..Options::default()
    };
    let node = Node::start(&nsc.operator_token(), options);
    nsc.account_server(&node.base());
    nsc.run(&["push", "--all"]);
    let config = resolver_config(&nsc.operator_token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, nats_port, &config);
    let mut connection = NatsUser::connect(server.address(), &user).unwrap();

    nsc.run(&["revocations", "add-user", "--account", "A", "--name", "alice"]);
    nsc.run(&["push", "--account", "A"]);
    let reason = connection.disconnected(PATIENCE);
    assert_eq!(
        reason.as_deref(),
        Some("User Authentication Revoked"),
        "{}",
        server.log()
    );
    assert!(NatsUser::connect(server.address(), &user).is_err());
}

#[test]
fn a_renamed_account_keeps_its_key_and_shows_its_new_name() {
    let (nsc, node) = nsc_and_node();
    let id = nsc.add_account("before");
    nsc.run(&["push", "--all"]);
    nsc.run(&["rename", "account", "before", "after", "--OK"]);
    nsc.run(&["push", "--all"]);
    let stored = node.get_account(&id).text();
    assert_eq!(claims(&stored)["name"], "after");
    assert_eq!(stored, nsc.account_token("after"));
}

#[test]
fn messages_flow_through_an_export_and_import_that_nsc_made() {
    let (nsc, node) = nsc_and_node();
    nsc.add_account("EXPORTER");
    nsc.add_account("IMPORTER");
    nsc.run(&[
        "add",
        "export",
        "--account",
        "EXPORTER",
        "--name",
        "news",
        "--subject",
        "news.>",
    ]);
    nsc.run(&[
        "add",
        "import",
        "--account",
        "IMPORTER",
        "--src-account",
        "EXPORTER",
        "--remote-subject",
        "news.>",
    ]);
    let (from, to) = (nsc.add_user("EXPORTER", "from"), nsc.add_user("IMPORTER", "to"));
    nsc.run(&["push", "--all"]);
    let server = NatsServer::start(NEWEST, &resolver_config(&nsc.operator_token(), &node.accounts_url()));
    let mut to = NatsUser::connect(server.address(), &to).unwrap();
    to.subscribe("news.>");
    let mut from = NatsUser::connect(server.address(), &from).unwrap();
    from.publish("news.today", b"hello");
    let message = to.next(PATIENCE).unwrap();
    assert_eq!(
        (message.subject.as_str(), message.payload.as_slice()),
        ("news.today", &b"hello"[..])
    );
}

#[test]
fn g3_a_strict_operators_identity_key_signs_no_account_and_nsc_shows_why() {
    let nsc = Nsc::new();
    nsc.run(&["add", "operator", "--name", "O"]);
    // A colleague whose copy of the operator is older, and who therefore still signs with the identity key.
    let signed_by_identity = nsc.copy();
    let loose = signed_by_identity.add_account("LOOSE");
    nsc.run(&["edit", "operator", "--sk", "generate", "--require-signing-keys"]);
    let node = Node::plain(&nsc.operator_token());
    let identity = claims(&nsc.operator_token())["sub"].as_str().unwrap().to_owned();

    let push = ["push", "--account", "LOOSE", "--account-jwt-server-url", &node.base()];
    let screen = signed_by_identity.try_run(&push);
    assert!(!screen.ok, "{}", screen.text);
    // nsc shows our body behind `> `; it must name the key that signed and the rule that forbids it.
    let sentence: String = screen.text.lines().filter(|line| line.contains("> ")).collect();
    assert!(sentence.contains(&identity), "{}", screen.text);
    assert!(sentence.contains("signing key"), "{}", screen.text);
    assert_eq!(node.get_account(&loose).status, 404);

    let strict = nsc.add_account("STRICT");
    nsc.run(&["push", "--account", "STRICT", "--account-jwt-server-url", &node.base()]);
    assert_eq!(node.get_account(&strict).text(), nsc.account_token("STRICT"));
}

#[test]
fn accounts_signed_by_an_operator_signing_key_are_taken() {
    let nsc = Nsc::with_operator();
    nsc.run(&["edit", "operator", "--sk", "generate"]);
    let operator = claims(&nsc.operator_token());
    let signing_key = operator["nats"]["signing_keys"][0].as_str().unwrap().to_owned();
    let node = Node::plain(&nsc.operator_token());
    nsc.run(&["add", "account", "--name", "A", "--private-key", &signing_key]);
    let id = nsc.account_id("A");
    nsc.run(&["push", "--account", "A", "--account-jwt-server-url", &node.base()]);
    let stored = node.get_account(&id).text();
    assert_eq!(claims(&stored)["iss"], signing_key.as_str());
}

#[test]
fn an_operator_without_any_signing_key_signs_with_its_identity() {
    let (nsc, node) = nsc_and_node();
    let operator = claims(&nsc.operator_token());
    assert!(operator["nats"].get("signing_keys").is_none(), "{operator}");
    let id = nsc.add_account("A");
    nsc.run(&["push", "--account", "A"]);
    assert_eq!(claims(&node.get_account(&id).text())["iss"], operator["sub"]);
}

/// nsc sends it as Basic credentials, which a node ignores.
#[test]
fn a_password_in_the_url_does_no_harm() {
    let (nsc, node) = nsc_and_node();
    let id = nsc.add_account("A");
    let url = node.base().replace("http://", "http://alice:secret@");
    nsc.run(&["push", "--account", "A", "--account-jwt-server-url", &url]);
    assert_eq!(node.get_account(&id).text(), nsc.account_token("A"));
    nsc.account_server(&url);
    nsc.run(&["pull", "--account", "A"]);
}

#[test]
fn g2_of_two_changes_within_one_second_the_later_one_stands() {
    let (nsc, node) = nsc_and_node();
    let id = nsc.add_account("A");
    let (first, second) = eventually("two changes fell into one second", || {
        nsc.run(&[
            "edit",
            "account",
            "--name",
            "A",
            "--description",
            &format!("first at {}", now()),
        ]);
        nsc.run(&["push", "--account", "A"]);
        let first = nsc.account_token("A");
        nsc.run(&["edit", "account", "--name", "A", "--description", "second"]);
        nsc.run(&["push", "--account", "A"]);
        let second = nsc.account_token("A");
        (claims(&first)["iat"] == claims(&second)["iat"]).then_some((first, second))
    });
    assert_ne!(first, second);
    assert_eq!(node.get_account(&id).text(), second);
}

#[test]
fn nsc_shows_that_an_account_is_unknown() {
    let (nsc, node) = nsc_and_node();
    nsc.add_account("A");
    let screen = nsc.try_run(&["pull", "--account", "A"]);
    assert!(!screen.ok && screen.text.contains("404"), "{}", screen.text);
    drop(node);
}

#[test]
fn g3_nsc_shows_why_a_foreign_operators_account_is_refused() {
    let (_, node) = nsc_and_node();
    let stranger = Nsc::with_operator();
    let id = stranger.add_account("A");
    let screen = stranger.try_run(&["push", "--account", "A", "--account-jwt-server-url", &node.base()]);
    assert!(!screen.ok, "{}", screen.text);
    let issuer = claims(&stranger.operator_token())["sub"].as_str().unwrap().to_owned();
    assert!(screen.text.contains(&issuer), "{}", screen.text);
    assert_eq!(node.get_account(&id).status, 404);
}

/// A colleague without the operator's keys can only sign an account with its own key; signing services are for later.
#[test]
fn a_managed_operators_self_signed_account_is_refused_with_a_sentence() {
    let (_, node) = nsc_and_node();
    let colleague = Nsc::new();
    colleague.run(&["add", "operator", "--url", &format!("{}/operator", node.base())]);
    let screen = colleague.try_run(&["add", "account", "--name", "A"]);
    assert!(screen.text.contains("failed to push account"), "{}", screen.text);
    let id = colleague.account_id("A");
    let sentence: String = screen.text.lines().filter(|line| line.contains("> ")).collect();
    assert!(sentence.contains(&id), "{}", screen.text);
    assert_eq!(node.get_account(&id).status, 404);
}

#[test]
fn nsc_speaks_https_with_a_private_authority() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let nsc = Nsc::with_operator().trusting(&authority.cert());
    let node = Node::encrypted(&nsc.operator_token(), &authority);
    nsc.account_server(&node.base());
    let id = nsc.add_account("A");
    nsc.run(&["push", "--all"]);
    nsc.run(&["pull", "--all"]);
    assert_eq!(node.get_account(&id).text(), nsc.account_token("A"));
}

/// nsc writes a token to a file between lines of dashes; such a file is read like one with a bare token.
#[test]
fn a_decorated_operator_file_is_trusted() {
    let nsc = Nsc::with_operator();
    let file = tempfile::NamedTempFile::new().unwrap();
    nsc.run(&[
        "describe",
        "operator",
        "--raw",
        "--output-file",
        &file.path().display().to_string(),
    ]);
    let decorated = fs::read_to_string(file.path()).unwrap();
    let node = Node::plain(&decorated);
    assert_eq!(node.get("/jwt/v1/operator").text().trim(), nsc.operator_token());
}

/// nsc replaces its own operator with the one that it pulls, even another one, and can sign nothing from then on.
#[test]
fn where_several_operators_are_trusted_nsc_pulls_its_accounts_and_keeps_its_operator() {
    let (one, other) = (Nsc::with_operator(), Nsc::with_operator());
    let port = free_port();
    for nsc in [&one, &other] {
        nsc.account_server(&format!("http://127.0.0.1:{port}/jwt/v1"));
        nsc.add_account("A");
    }
    let options = Options {
        port,
        also_trusted: Some(other.operator_token()),
        ..Options::default()
    };
    let node = Node::start(&one.operator_token(), options);
    for nsc in [&one, &other] {
        let before = nsc.operator_token();
        nsc.run(&["push", "--all"]);
        let screen = nsc.try_run(&["pull", "--all"]);
        assert!(screen.text.contains("/jwt/v1/operator\": 409"), "{}", screen.text);
        assert_eq!(nsc.operator_token(), before);
        nsc.run(&["pull", "--account", "A"]);
        assert_eq!(node.get_account(&nsc.account_id("A")).text(), nsc.account_token("A"));
    }
    assert_eq!(node.get("/jwt/v1/operator").status, 409);
    assert_eq!(node.get("/jwt/v2/operator").status, 409);
}
