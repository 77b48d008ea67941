//! `jwtmesh revoke`, as an administrator runs it on a machine that has the operator's key.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::mesh::{Nodes, nats_link_as};
use crate::support::mint::{Account, Operator, User, claims, now};
use crate::support::nats_server::{cluster, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{Node, jwtmesh};
use crate::support::process::{PATIENCE, free_port};
use crate::support::tls::Authority;
use crate::support::tools::NEWEST;

/// The machine of an administrator: a folder with the operator's key, and no node.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn of(operator: &Operator) -> Self {
        let desk = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        desk.key("operator.nk", &operator.key.seed().expect("a pair"));
        desk
    }

    fn key(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        fs::write(&file, text).expect("the test's own folder");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("the test's own file");
        file
    }

    fn revoke(&self, args: &[&str]) -> Output {
        let mut command = jwtmesh();
        command.arg("revoke").args(args).current_dir(self.folder.path());
        if !args.contains(&"--key") {
            command.args(["--key", "operator.nk"]);
        }
        command.output().expect("the program can be started")
    }
}

fn text(done: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    )
}

/// The users that the stored JWT of `account` revokes.
fn revoked(node: &Node, account: &Account) -> Vec<String> {
    let token = node.get_account(&account.id()).text();
    let found = &claims(&token)["nats"]["revocations"];
    let mut users: Vec<String> = found
        .as_object()
        .into_iter()
        .flatten()
        .map(|(user, _)| user.clone())
        .collect();
    users.sort();
    users
}

#[test]
fn g5_revoke_signs_here_and_shows_that_every_server_enforces_it() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let ports = [(free_port(), free_port()), (free_port(), free_port())];
    let (_creds, link) = nats_link_as(&operator.system.counting_user(), ports[0].0);
    let mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    mesh.nodes[0].put(&account, &operator.account_at(&account, now() - 60));
    let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let servers = cluster(NEWEST, &["n1", "n2"], &ports, &config);
    let connect = |at: usize, user: &User| {
        NatsUser::connect(servers[at].address(), user).unwrap_or_else(|error| panic!("{error}: {}", servers[at].log()))
    };
    let [alice, bob, carol] = [account.user(), account.user(), account.user()];
    let (mut of_alice, mut of_bob, mut of_carol) = (connect(0, &alice), connect(1, &bob), connect(1, &carol));
    let known = mesh.nodes[0].cli(&["account", "watch", &account.id()]);
    assert!(text(&known).contains("2 of 2 servers"), "{known:?}");

    let desk = Desk::of(&operator);
    // The first node is down: the second one is asked.
    let down = format!("http://127.0.0.1:{}", free_port());
    let urls = [&down, &mesh.nodes[1].base(), &mesh.nodes[2].base()];
    let urls: Vec<&str> = urls.iter().flat_map(|url| ["--url", url]).collect();
    let done = desk.revoke(&[&[account.id().as_str(), &alice.id(), &bob.id()], urls.as_slice()].concat());
    let shown = text(&done);
    assert!(
        done.status.success() && shown.contains("on 2 of 2 servers in 1 NATS cluster, 2 connections closed"),
        "{shown}"
    );
    assert!(shown.contains(&alice.id()) && shown.contains("of A ("), "{shown}");
    for connection in [&mut of_alice, &mut of_bob] {
        let reason = connection.disconnected(PATIENCE);
        assert_eq!(reason.as_deref(), Some("User Authentication Revoked"));
    }
    assert!(of_carol.ping(), "carol is not revoked");

    servers[1].signal(Signal::STOP);
    let again = [
        account.id(),
        carol.id(),
        "--timeout".to_owned(),
        "3".to_owned(),
        "--json".to_owned(),
    ];
    let again: Vec<&str> = again.iter().map(String::as_str).chain(urls).collect();
    let done = desk.revoke(&again);
    servers[1].signal(Signal::CONT);
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    let shown: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(
        (&shown["in_force"], &shown["servers"]),
        (&1.into(), &2.into()),
        "{shown}"
    );
    let open = shown["nats"][0]["servers"].as_array().expect("servers");
    let open: Vec<_> = open.iter().filter(|server| server["state"] != "in-force").collect();
    assert_eq!((open.len(), &open[0]["name"]), (1, &"n2".into()), "{shown}");
    assert_eq!(
        of_carol.disconnected(PATIENCE).as_deref(),
        Some("User Authentication Revoked")
    );
    let mut wanted = [alice.id(), bob.id(), carol.id()];
    wanted.sort();
    assert_eq!(revoked(&mesh.nodes[0], &account), wanted);
}

/// Each of them reads the present JWT and changes it: none may undo what another has revoked meanwhile.
#[test]
fn g2_administrators_who_revoke_at_once_undo_nothing_of_each_other() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mesh = Nodes::formed(3, &operator.token());
    mesh.nodes[0].put(&account, &operator.account_at(&account, now() - 60));
    let desk = Desk::of(&operator);
    let users: Vec<String> = (0..6).map(|_| account.user().id()).collect();
    let running = users.iter().zip(mesh.nodes.iter().cycle()).map(|(user, node)| {
        let mut command = jwtmesh();
        command
            .current_dir(desk.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.args([
            "revoke",
            &account.id(),
            user,
            "--key",
            "operator.nk",
            "--url",
            &node.base(),
        ]);
        command.spawn().expect("the program can be started")
    });
    let running: Vec<_> = running.collect();
    for child in running {
        let done = child.wait_with_output().expect("it was started");
        // No NATS cluster could confirm it.
        assert_eq!(done.status.code(), Some(1), "{}", text(&done));
        assert!(text(&done).contains("no [[nats]]"), "{}", text(&done));
    }
    let mut wanted = users;
    wanted.sort();
    assert_eq!(revoked(&mesh.nodes[0], &account), wanted);
}

#[test]
fn g2_an_upload_with_if_match_takes_the_place_of_that_jwt_only() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let node = Node::of(&operator);
    let at = now();
    node.put(&account, &operator.account_at(&account, at - 60));
    let tag = |node: &Node| {
        node.get_account(&account.id())
            .header("etag")
            .expect("an ETag")
            .to_owned()
    };
    let first = tag(&node);
    let post = |token: &str, tag: &str| {
        let path = format!("/jwt/v1/accounts/{}", account.id());
        let mut connection = node.connect();
        let sent = connection.request("POST", &path, &[("if-match", tag)], token.as_bytes());
        sent.expect("an answer")
    };
    let second = operator.account_at(&account, at - 50);
    assert_eq!(post(&second, &first).status, 200);
    assert_eq!(post(&second, &first).status, 200, "repeated, it finds itself");
    let stale = post(&operator.account_at(&account, at - 40), &first);
    assert_eq!(stale.status, 412, "{}", stale.text());
    assert!(stale.text().contains("was changed meanwhile"), "{}", stale.text());
    assert_eq!(post(&operator.account_at(&account, at - 30), "*").status, 400);
    assert_eq!(node.get_account(&account.id()).text(), second);
    let older = post(&operator.account_at(&account, at - 55), &tag(&node));
    assert_eq!(older.status, 409, "the right place, but older: {}", older.text());
    let other = Account::new("B");
    let path = format!("/jwt/v1/accounts/{}", other.id());
    let token = operator.account_at(&other, at);
    let mut connection = node.connect();
    let sent = connection.request("POST", &path, &[("if-match", first.as_str())], token.as_bytes());
    assert_eq!(
        sent.expect("an answer").status,
        412,
        "there is none to take the place of"
    );
}

#[test]
fn revoke_says_what_is_wrong_with_a_key_a_user_or_an_account() {
    let operator = Operator::new("O");
    let account = Account::new("payments");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new(folder.path(), "ca");
    let node = Node::encrypted(&operator.token(), &authority);
    node.put(&account, &operator.account_at(&account, now() - 60));
    let desk = Desk::of(&operator);
    let stranger = Operator::new("X");
    desk.key("stranger.nk", &stranger.key.seed().expect("a pair"));
    desk.key("account.nk", &account.key.seed().expect("a pair"));
    desk.key("public.nk", &operator.key.public_key());
    let (url, ca) = (node.base(), authority.cert());
    let ca = ca.to_str().expect("text");
    let (id, user) = (account.id(), account.user().id());
    let other = Account::new("other").id();
    let way = ["--url", &url, "--ca", ca];
    for (args, code, words) in [
        (vec![id.as_str(), &user, "--key", "stranger.nk"], 4, "trust"),
        (vec![&id, &user, "--key", "account.nk"], 2, "private key of an account"),
        (vec![&id, &user, "--key", "public.nk"], 2, "public key only"),
        (vec![&id, &user, "--key", "missing.nk"], 1, "missing.nk"),
        (vec![&id, &id], 2, "a user's begins with U"),
        (vec![&other, &user], 3, &other),
        (vec!["payments", &user], 2, "does not list accounts"),
    ] {
        let done = desk.revoke(&[args.as_slice(), &way].concat());
        assert_eq!(done.status.code(), Some(code), "{args:?}: {}", text(&done));
        assert!(text(&done).contains(words), "{args:?}: {}", text(&done));
    }
    let done = desk.revoke(&[id.as_str(), &user, "--url", &url]);
    assert_eq!(
        done.status.code(),
        Some(2),
        "https without an authority: {}",
        text(&done)
    );
    assert!(text(&done).contains("--ca FILE"), "{}", text(&done));
    assert!(revoked(&node, &account).is_empty());

    // Every user, over the admin socket, where the account may be named; and others can read the key.
    fs::set_permissions(desk.folder.path().join("operator.nk"), Permissions::from_mode(0o644)).expect("own file");
    let key = desk.folder.path().join("operator.nk");
    let done = node.cli(&["revoke", "payments", "--all", "--key", key.to_str().expect("text")]);
    assert!(text(&done).contains("every user of payments"), "{}", text(&done));
    assert!(text(&done).contains("chmod 600"), "{}", text(&done));
    assert_eq!(revoked(&node, &account), ["*"]);
}
