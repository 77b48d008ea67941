//! Deleted accounts stay deleted on every node and server (G8), and an account can be shut without a key (G9): with real
//! servers, three nodes, and real nsc.

use std::fs;
use std::time::Duration;

use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::support::asker::{Answering, Asker, DELETE, LIST, UPDATE, node_for};
use crate::support::mesh::{NAMES, Nodes, nats_link_as};
use crate::support::mint::{Account, Operator, claims, now, sign};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::nsc::Nsc;
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST};

/// What is said to a client of an account that allows no connections.
const SHUT_OUT: [&str; 2] = [
    "maximum account active connections exceeded",
    "User Authentication Revoked",
];

/// A request of `operator` to delete `accounts`.
pub(crate) fn request(operator: &Operator, accounts: &[&Account], issued_at: Option<i64>) -> String {
    let key = operator.key.public_key();
    let accounts: Vec<String> = accounts.iter().map(|account| account.id()).collect();
    let mut claims = json!({"iss": key, "sub": key, "nats": {"accounts": accounts, "version": 2}});
    if let Some(issued_at) = issued_at {
        claims["iat"] = json!(issued_at);
        claims["jti"] = json!(KeyPair::new_module().public_key());
    }
    sign(&operator.key, &claims)
}

/// A JWT that shuts `account`.
pub(crate) fn closing(operator: &Operator, account: &Account) -> String {
    closing_at(operator, account, now() - 50)
}

/// The same, issued at `issued_at`.
pub(crate) fn closing_at(operator: &Operator, account: &Account, issued_at: i64) -> String {
    operator.account_with(account, |claims| {
        claims["iat"] = json!(issued_at);
        claims["nats"]["limits"]["conn"] = json!(0);
        claims["nats"]["limits"]["leaf"] = json!(0);
    })
}

/// A mesh of three nodes, one of which publishes to one server.
struct Mesh {
    operator: Operator,
    account: Account,
    mesh: Nodes,
    server: NatsServer,
    _creds: tempfile::NamedTempFile,
}

impl Mesh {
    fn start(version: &str) -> Self {
        let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
        let (creds, link) = nats_link_as(&operator.system.answering_user(), port);
        let mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
        mesh.nodes[0].put(&operator.system, &operator.system_token());
        let token = operator.account_at(&account, now() - 60);
        mesh.nodes[0].put(&account, &token);
        mesh.wait_until_served(&account, &token);
        let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
        let server = NatsServer::start_on_port(version, port, &config);
        Self {
            operator,
            account,
            mesh,
            server,
            _creds: creds,
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.mesh.folder.path().join(name);
        fs::write(&path, text).expect("the test's own folder is writable");
        path.display().to_string()
    }

    /// Runs `jwtmesh ARGS...` at the first node; gives what it printed if it succeeds.
    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let done = self.mesh.nodes[0].cli(args);
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        assert!(done.status.success(), "{args:?}: {out}{err}");
        format!("{out}{err}")
    }

    /// Runs one that is refused with exit code 4, or another; gives what it said.
    #[track_caller]
    fn refused(&self, args: &[&str], code: i32) -> String {
        let done = self.mesh.nodes[0].cli(args);
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(code), "{args:?}: {err}");
        err
    }

    /// A client of the account.
    #[track_caller]
    fn client(&self) -> NatsUser {
        let user = self.account.user();
        eventually("a client gets in", || {
            NatsUser::connect(self.server.address(), &user).ok()
        })
    }

    #[track_caller]
    fn is_shut_out(&self, mut client: NatsUser) {
        let reason = client
            .disconnected(PATIENCE)
            .unwrap_or_else(|| panic!("still connected:\n{}", self.server.log()));
        assert!(SHUT_OUT.contains(&reason.as_str()), "{reason}");
        self.no_client_gets_in();
    }

    #[track_caller]
    fn no_client_gets_in(&self) {
        let again = NatsUser::connect(self.server.address(), &self.account.user());
        assert!(again.is_err(), "a client got in");
    }

    /// Every node answers with this status.
    #[track_caller]
    fn everywhere(&self, status: u16) {
        for (name, node) in NAMES.iter().zip(&self.mesh.nodes) {
            eventually(&format!("{name}: {status}"), || {
                (node.get_account(&self.account.id()).status == status).then_some(())
            });
        }
    }
}

#[test]
fn g8_g9_a_deleted_account_is_gone_everywhere_and_comes_back_only_with_a_newer_jwt() {
    for version in [NATS_SERVER_VERSIONS[0], NEWEST] {
        let mesh = Mesh::start(version);
        let (operator, account, nodes) = (&mesh.operator, &mesh.account, &mesh.mesh.nodes);
        let id = account.id();
        let before = nodes[0].get_account(&id).text();
        let client = mesh.client();
        let kept = mesh.file("closing.jwt", &closing(operator, account));
        mesh.run(&["account", "closing", "set", &id, &kept]);

        let signed = request(operator, &[account], Some(now() - 30));
        let claim = mesh.file("delete.jwt", &signed);
        let planned = mesh.run(&["account", "delete", "A", "--claim", &claim, "--dry-run"]);
        assert!(
            planned.contains("will be deleted, and its closing JWT sent"),
            "{planned}"
        );
        assert!(planned.contains(&operator.key.public_key()), "{planned}");
        mesh.everywhere(200);
        let not_asked = mesh.refused(&["account", "delete", "A", "--claim", &claim], 1);
        assert!(not_asked.contains("nothing was changed"), "{not_asked}");
        mesh.everywhere(200);

        let said = mesh.run(&["account", "delete", "A", "--claim", &claim, "--yes"]);
        assert!(said.contains("deleted; its closing JWT is sent"), "{said}");
        mesh.everywhere(404);
        mesh.is_shut_out(client);
        let proof = nodes[0].cli_json(&["account", "watch", &id]);
        assert_eq!(proof["confirmed"], true, "{proof}");
        let shown = mesh.mesh.nodes[1].cli(&["account", "show", &id]);
        assert_eq!(shown.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&shown.stdout).contains("deleted"));

        // The request again, and the JWT from before it.
        let again = nodes[1].cli_json(&["account", "delete", &id, "--claim", &claim, "--yes"]);
        assert_eq!(again["accounts"][0]["outcome"], "absent", "{again}");
        for node in nodes {
            let answer = node.post_account(&id, &before);
            assert_eq!(
                (answer.status, answer.text().contains("was deleted")),
                (409, true),
                "{}",
                answer.text()
            );
        }

        let newer = operator.account_at(account, now() - 20);
        nodes[2].put(account, &newer);
        mesh.mesh.wait_until_served(account, &newer);
        let client = mesh.client();
        for node in nodes {
            let replay = node.cli(&["account", "delete", &id, "--claim", &claim, "--yes"]);
            assert_eq!(replay.status.code(), Some(4), "a replay");
        }
        mesh.mesh.wait_until_served(account, &newer);

        // With a key, on the administrator's machine; for an account that never was, too.
        let seed = mesh.file("operator.nk", &operator.key.seed().expect("a private key"));
        let never = Account::new("never").id();
        let said = mesh.run(&["account", "delete", &id, &never, "--key", &seed, "--yes"]);
        assert!(said.contains(&format!("{never}    is not there")), "{said}");
        mesh.everywhere(404);
        mesh.is_shut_out(client);
    }
}

#[test]
fn g9_an_account_is_shut_without_a_key_and_opened_by_a_newer_jwt_only() {
    for version in NATS_SERVER_VERSIONS.iter().copied() {
        let mesh = Mesh::start(version);
        let (operator, account, nodes) = (&mesh.operator, &mesh.account, &mesh.mesh.nodes);
        let id = account.id();
        let before = nodes[0].get_account(&id).text();
        let client = mesh.client();
        let none = mesh.refused(&["account", "kill", &id, "--yes"], 3);
        assert!(none.contains("no closing JWT is kept"), "{none}");
        let open = mesh.file("open.jwt", &before);
        let open = mesh.refused(&["account", "closing", "set", &id, &open], 4);
        assert!(
            open.contains("does not shut account") && open.contains("limits.conn"),
            "{open}"
        );

        let seed = mesh.file("operator.nk", &operator.key.seed().expect("a private key"));
        mesh.run(&["account", "closing", "set", &id, "--key", &seed]);
        let kept = nodes[1].cli_json(&["account", "closing", "show", &id]);
        let kept = kept["token"].as_str().expect("a token").to_owned();
        assert_eq!(claims(&kept)["nats"]["limits"]["conn"], 0);
        assert_eq!(nodes[0].get_account(&id).text(), before, "kept is not served");
        let planned = mesh.run(&["account", "kill", &id, "--dry-run"]);
        assert!(planned.contains("every client is disconnected"), "{planned}");
        assert_eq!(nodes[0].get_account(&id).text(), before);

        mesh.run(&["account", "kill", &id, "--yes"]);
        mesh.mesh.wait_until_served(account, &kept);
        mesh.is_shut_out(client);
        let proof = nodes[2].cli_json(&["account", "watch", &id]);
        assert_eq!(proof["confirmed"], true, "{proof}");
        for node in nodes {
            let refused = node.post_account(&id, &before);
            assert_eq!(refused.status, 409, "the JWT from before");
            let sentence = refused.text();
            assert!(
                sentence.contains("is shut: at revision ") && sentence.contains("without a pull"),
                "{sentence}"
            );
        }
        let listing = nodes[0].cli_json(&["account", "list"]);
        let listed = listing
            .as_array()
            .and_then(|items| items.iter().find(|item| item["account"] == *id));
        let (listed, shown) = (
            listed.expect("it is listed"),
            nodes[0].cli_json(&["account", "show", &id]),
        );
        for field in ["state", "issued_at", "opens_after"] {
            assert_eq!(listed[field], shown[field], "{field}");
        }
        assert_eq!(
            (&listed["state"], &listed["issued_at"]),
            (&json!("closing"), &claims(&kept)["iat"])
        );
        let table = mesh.run(&["account", "list"]);
        assert!(
            table.lines().any(|line| line.contains(&id) && line.ends_with("  shut")),
            "{table}"
        );
        // A server that starts now is shut as well.
        let config = resolver_config(&operator.token(), &nodes[1].accounts_url());
        let other = NatsServer::start(version, &config);
        assert!(NatsUser::connect(other.address(), &account.user()).is_err());

        mesh.run(&["account", "closing", "remove", &id]);
        let newer = operator.account_at(account, claims(&kept)["iat"].as_i64().expect("a time") + 1);
        nodes[1].put(account, &newer);
        mesh.mesh.wait_until_served(account, &newer);
        drop(mesh.client());
    }
}

#[test]
fn g8_g9_without_a_closing_jwt_a_delete_says_what_it_cannot_do_until_there_is_one() {
    let mesh = Mesh::start(NEWEST);
    let (operator, account, nodes) = (&mesh.operator, &mesh.account, &mesh.mesh.nodes);
    let id = account.id();
    let mut client = mesh.client();
    let claim = mesh.file("delete.jwt", &request(operator, &[account], Some(now() - 30)));
    let said = mesh.run(&["account", "delete", &id, "--claim", &claim, "--yes"]);
    assert!(said.contains("had no valid closing JWT"), "{said}");
    assert!(
        nodes
            .iter()
            .any(|node| node.log().contains("no valid closing JWT is kept for some of them"))
    );
    mesh.everywhere(404);
    let unproven = mesh.refused(&["account", "watch", &id], 4);
    assert!(unproven.contains("nothing was sent to the NATS clusters"), "{unproven}");
    assert!(client.ping(), "nothing else evicts a loaded account");

    let seed = mesh.file("operator.nk", &operator.key.seed().expect("a private key"));
    let nothing = mesh.refused(&["account", "closing", "set", &id, "--key", &seed], 3);
    assert!(nothing.contains("FILE in place of --key"), "{nothing}");
    let kept = mesh.file("closing.jwt", &closing(operator, account));
    mesh.run(&["account", "closing", "set", &id, &kept]);
    mesh.is_shut_out(client);
    let proof = nodes[0].cli_json(&["account", "watch", &id]);
    assert_eq!(proof["confirmed"], true, "{proof}");
}

#[test]
fn g8_a_node_that_was_away_during_a_delete_learns_of_it_and_takes_nothing_older() {
    let mut mesh = Mesh::start(NEWEST);
    let id = mesh.account.id();
    let before = mesh.mesh.nodes[2].get_account(&id).text();
    mesh.mesh.nodes[2].kill();
    let claim = mesh.file(
        "delete.jwt",
        &request(&mesh.operator, &[&mesh.account], Some(now() - 30)),
    );
    mesh.run(&["account", "delete", &id, "--claim", &claim, "--yes"]);
    mesh.mesh.nodes[2].start_again();
    mesh.everywhere(404);
    let answer = mesh.mesh.nodes[2].post_account(&id, &before);
    assert_eq!(
        (answer.status, answer.text().contains("was deleted")),
        (409, true),
        "{}",
        answer.text()
    );
    // Every node after a restart, with the tombstone on its disk.
    for node in &mut mesh.mesh.nodes {
        node.kill();
        node.start_again();
    }
    mesh.mesh.wait_until_writable();
    mesh.everywhere(404);
    assert_eq!(mesh.mesh.nodes[0].post_account(&id, &before).status, 409);
}

#[test]
fn g8_a_request_for_accounts_of_two_operators_or_for_a_system_account_deletes_none() {
    let (operator, other, port) = (Operator::new("O"), Operator::new("P"), free_port());
    let options = Options {
        also_trusted: Some(other.token()),
        nats: vec![NatsLink::plain(
            vec![format!("nats://127.0.0.1:{port}")],
            operator.system.answering_user().creds(),
        )],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    let (mine, theirs) = (Account::new("A"), Account::new("B"));
    node.put(&operator.system, &operator.system_token());
    node.put(&mine, &operator.account_at(&mine, now() - 60));
    node.put(&theirs, &other.account_at(&theirs, now() - 60));
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let mut system = Asker::new(&server, &operator);
    system.wait_until_answered(&mine);
    let at = Some(now() - 30);
    let stranger = Operator::new("Q");
    for (signed, words) in [
        (request(&operator, &[&mine, &theirs], at), "belongs to operator"),
        (request(&other, &[&theirs, &mine], None), "belongs to operator"),
        (
            request(&operator, &[&mine, &operator.system], at),
            "not allowed to delete",
        ),
        (request(&operator, &[&mine, &other.system], at), "not allowed to delete"),
        (request(&stranger, &[&mine], at), "no key of a trusted operator"),
        (
            request(&operator, &[&mine], Some(now() - 90)),
            "after the request to delete it",
        ),
        (
            request(&operator, &[&mine], Some(now() + 400)),
            "more than five minutes after now",
        ),
    ] {
        let description = system.refused(DELETE, signed.as_bytes());
        let begin = format!(
            "delete accounts request by {} failed - ",
            claims(&signed)["sub"].as_str().unwrap()
        );
        assert!(
            description.starts_with(&begin) && description.contains(words),
            "{description}"
        );
        for account in [&mine, &theirs] {
            assert_eq!(node.get_account(&account.id()).status, 200, "{words}");
        }
    }
    let none = system.ask_json(DELETE, request(&operator, &[], at).as_bytes());
    assert_eq!(none["data"]["message"], "deleted 0 accounts");
    let unknown = request(&operator, &[&Account::new("C"), &mine], at);
    let answer = system.ask_json(DELETE, unknown.as_bytes());
    assert_eq!(
        answer["data"],
        json!({"code": 200, "message": "deleted 2 accounts"}),
        "{answer}"
    );
    assert_eq!(node.get_account(&mine.id()).status, 404);
    assert_eq!(system.ask_json(LIST, b"")["data"].as_array().map(Vec::len), Some(2));
}

/// Tools for infrastructure as code sign without times: the same bytes each time.
#[test]
fn g8_over_the_system_account_the_order_of_arrival_counts_where_nothing_says_when() {
    let mesh = Answering::start(NEWEST);
    let mut system = mesh.system();
    let account = Account::new("terraform");
    let undated = |mut claims: Value| {
        let fields = claims.as_object_mut().expect("claims");
        fields.remove("iat");
        fields.remove("jti");
        sign(&mesh.operator.key, &claims)
    };
    let token = undated(mesh.operator.account_claims(&account, |_| {}));
    let delete = request(&mesh.operator, &[&account], None);
    for round in 0..3 {
        assert_eq!(
            system.ask_json(UPDATE, token.as_bytes())["data"]["code"],
            200,
            "{round}"
        );
        assert_eq!(mesh.node.get_account(&account.id()).text(), token);
        let answer = system.ask_json(DELETE, delete.as_bytes());
        assert_eq!(answer["data"]["message"], "deleted 1 accounts", "{answer}");
        assert_eq!(mesh.node.get_account(&account.id()).status, 404);
    }
    // Without a reply it is carried out too, and a refusal is logged.
    system.ask_json(UPDATE, token.as_bytes());
    system.0.publish(DELETE, delete.as_bytes());
    eventually("it is deleted", || {
        (mesh.node.get_account(&account.id()).status == 404).then_some(())
    });
    system
        .0
        .publish(DELETE, request(&Operator::new("Q"), &[&mesh.account], None).as_bytes());
    eventually("the refusal is logged", || {
        let log = mesh.node.log();
        let words = "a request over NATS to delete accounts was refused, and its sender did not ask";
        log.contains(words).then_some(())
    });
    assert_eq!(mesh.node.get_account(&mesh.account.id()).status, 200);
}

#[test]
fn g7_g8_nsc_prunes_and_removes_accounts() {
    let nsc = Nsc::with_operator();
    let creds = nsc.add_user("SYS", "jwtmesh").creds();
    let port = free_port();
    nsc.account_server(&format!("nats://127.0.0.1:{port}"));
    let options = Options {
        nats: vec![NatsLink::plain(vec![format!("nats://127.0.0.1:{port}")], creds)],
        ..Options::default()
    };
    let node = Node::start(&nsc.operator_token(), options);
    let system = nsc.account_id("SYS");
    assert_eq!(node.post_account(&system, &nsc.account_token("SYS")).status, 200);
    let config = resolver_config(&nsc.operator_token(), &node.accounts_url());
    let _server = NatsServer::start_on_port(NEWEST, port, &config);
    let [a, b] = ["A", "B"].map(|name| nsc.add_account(name));
    eventually("nsc is answered", || nsc.try_run(&["push", "--all"]).ok.then_some(()));
    // A colleague does not have what was added since.
    let colleague = nsc.copy();
    let c = nsc.add_account("C");
    nsc.run(&["push", "--account", "C"]);
    let screen = colleague.run(&["push", "--all", "--prune"]);
    assert!(screen.contains("deleted 1 accounts"), "{screen}");
    assert_eq!(node.get_account(&c).status, 404);
    for kept in [&a, &b, &system] {
        assert_eq!(node.get_account(kept).status, 200);
    }
    let screen = nsc.run(&["push", "-R", &b]);
    assert!(screen.contains("deleted 1 accounts"), "{screen}");
    assert_eq!(node.get_account(&b).status, 404);
    // What nsc has is older than that.
    let screen = nsc.try_run(&["push", "--account", "B"]);
    assert!(!screen.ok && screen.text.contains("was deleted"), "{}", screen.text);
    let screen = nsc.try_run(&["push", "-R", &system]);
    assert!(
        !screen.ok && screen.text.contains("not allowed to delete"),
        "{}",
        screen.text
    );
    eventually("a newer one is taken", || {
        nsc.run(&["edit", "account", "--name", "B", "--description", &now().to_string()]);
        nsc.try_run(&["push", "--account", "B"]).ok.then_some(())
    });
    assert_eq!(node.get_account(&b).text(), nsc.account_token("B"));
}

/// As the README says it: an edit and a push, without a pull.
#[test]
fn g7_g9_nsc_opens_an_account_again_that_was_killed() {
    let nsc = Nsc::with_operator();
    let node = Node::plain(&nsc.operator_token());
    nsc.account_server(&node.base());
    let a = nsc.add_account("A");
    nsc.run(&["push", "--account", "A"]);
    let colleague = nsc.copy();
    colleague.run(&["edit", "account", "--name", "A", "--conns", "0", "--leaf-conns", "0"]);
    let file = node.folder().join("closing.jwt");
    fs::write(&file, colleague.account_token("A")).expect("the test's own folder");
    let file = file.display().to_string();
    for args in [
        &["account", "closing", "set", &a, &file][..],
        &["account", "kill", &a, "--yes"],
    ] {
        let done = node.cli(args);
        assert!(
            done.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    let screen = nsc.try_run(&["push", "--account", "A"]);
    assert!(
        !screen.ok && screen.text.contains("is shut: at revision "),
        "{}",
        screen.text
    );
    eventually("a newer one is taken", || {
        nsc.run(&["edit", "account", "--name", "A", "--description", &now().to_string()]);
        nsc.try_run(&["push", "--account", "A"]).ok.then_some(())
    });
    assert_eq!(node.get_account(&a).text(), nsc.account_token("A"));
}

/// No quorum: an error in time, never silence.
#[test]
fn g7_g8_without_a_majority_a_request_is_answered_with_an_error() {
    let mut mesh = Mesh::start(NEWEST);
    let mut system = Asker::new(&mesh.server, &mesh.operator);
    system.wait_until_answered(&mesh.account);
    mesh.mesh.nodes[1].kill();
    mesh.mesh.nodes[2].kill();
    let signed = request(&mesh.operator, &[&mesh.account], Some(now() - 30));
    let description = eventually("the node that is left answers", || {
        let (answer, _) = system.try_ask(DELETE, None, signed.as_bytes(), Duration::from_secs(1))?;
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        Some(answer["error"]["description"].as_str()?.to_owned())
    });
    assert!(description.starts_with("delete accounts request by O"), "{description}");
    assert_eq!(mesh.mesh.nodes[0].get_account(&mesh.account.id()).status, 200);
}

/// A server of any version that starts later gets nothing of a deleted account.
#[test]
fn g8_a_server_that_starts_after_a_delete_does_not_know_the_account() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let node = node_for(&operator, &operator.system.answering_user(), port);
    node.put(&account, &operator.account_at(&account, now() - 60));
    let file = node.folder().join("delete.jwt");
    fs::write(&file, request(&operator, &[&account], None)).expect("writable");
    let file = file.display().to_string();
    let deleted = node.cli_json(&["account", "delete", "A", "--claim", &file, "--yes"]);
    assert_eq!(deleted["accounts"][0]["outcome"], "deleted", "{deleted}");
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let refused = NatsUser::connect(server.address(), &account.user());
    assert_eq!(refused.err().as_deref(), Some("Authorization Violation"));
    assert!(
        node.cli_json(&["account", "list"])["items"]
            .as_array()
            .is_none_or(|items| items.len() == 1)
    );
}
