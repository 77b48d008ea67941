//! An account whose streams would be out of reach is not deleted, where the configuration says so (G8): with real servers that
//! have JetStream.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::deletes::request;
use crate::support::asker::{Asker, DELETE};
use crate::support::mesh::{Nodes, nats_link_as};
use crate::support::mint::{Account, Operator, User, now};
use crate::support::nats_server::{NatsServer, cluster, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::process::{eventually, free_port};
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST};

const REFUSE: &str = "delete_with_streams = \"refuse\"\n";
/// Servers whose JetStream has no leader yet do not answer at all.
const ANSWERED: Duration = Duration::from_secs(5);

const JETSTREAM: &str = "jetstream { store_dir: \"js\" }\n";

/// A node that refuses to delete accounts with streams, connected as `user` to the server at `port`.
fn node_for(operator: &Operator, user: &User, port: u16) -> Node {
    let options = Options {
        nats: vec![NatsLink::plain(vec![format!("nats://127.0.0.1:{port}")], user.creds())],
        settings: REFUSE,
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node
}

/// The token of an account that may have streams.
fn with_jetstream(operator: &Operator, account: &Account) -> String {
    operator.account_with(account, |claims| {
        claims["iat"] = json!(now() - 60);
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            claims["nats"]["limits"][limit] = json!(-1);
        }
    })
}

/// Asks JetStream, which may not be ready yet.
#[track_caller]
fn jetstream(server: &NatsServer, account: &Account, subject: &str, payload: &Value) {
    let user = account.user();
    let subject = format!("$JS.API.STREAM.{subject}");
    eventually(&subject, || {
        let mut client = NatsUser::connect(server.address(), &user).ok()?;
        let answers = client.ask(&subject, payload.to_string().as_bytes(), 1, ANSWERED);
        answers.first()?.get("error").is_none().then_some(())
    });
}

/// `jwtmesh account delete`, of all `accounts` by one request.
fn delete(node: &Node, operator: &Operator, accounts: &[&Account], more: &[&str]) -> (Option<i32>, String) {
    let file = node.folder().join("delete.jwt");
    fs::write(&file, request(operator, accounts, Some(now() - 30))).expect("the test's own folder is writable");
    let file = file.display().to_string();
    let ids: Vec<String> = accounts.iter().map(|account| account.id()).collect();
    let ids = ids.iter().map(String::as_str);
    let args: Vec<&str> = ["account", "delete"].into_iter().chain(ids).collect();
    let done = node.cli(&[&args, ["--claim", &file, "--yes"].as_slice(), more].concat());
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.code(), said)
}

/// The server is known: only then is it asked.
#[track_caller]
fn wait_until_known(node: &Node, count: usize) {
    eventually("the servers are known", || {
        let servers = node.cli_json(&["nats", "servers"]);
        let servers = servers["items"].as_array()?;
        let are_reached = servers.iter().all(|server| server["state"] != "missing");
        (servers.len() == count && are_reached).then_some(())
    });
}

#[test]
fn g8_an_account_with_streams_is_not_deleted_until_they_are_gone() {
    for version in NATS_SERVER_VERSIONS {
        let (operator, port) = (Operator::new("O"), free_port());
        let [keeps, plain] = ["A", "B"].map(Account::new);
        let node = node_for(&operator, &operator.system.searching_user(), port);
        node.put(&keeps, &with_jetstream(&operator, &keeps));
        node.put(&plain, &operator.account_at(&plain, now() - 60));
        let config = JETSTREAM.to_owned() + &resolver_config(&operator.token(), &node.accounts_url());
        let server = NatsServer::start_on_port(version, port, &config);
        let mut system = Asker::new(&server, &operator);
        system.wait_until_answered(&plain);
        for name in ["x", "y"] {
            let stream = json!({"name": name, "subjects": [name]});
            jetstream(&server, &keeps, &format!("CREATE.{name}"), &stream);
        }
        wait_until_known(&node, 1);
        let sentence = format!(
            "account {} has 2 JetStream streams in NATS cluster \"test\"",
            keeps.id()
        );
        for more in [&["--dry-run"][..], &[]] {
            let (code, said) = delete(&node, &operator, &[&plain, &keeps], more);
            assert!(code == Some(4) && said.contains(&sentence), "{version}: {said}");
        }
        let signed = request(&operator, &[&keeps], Some(now() - 30));
        let said = system.refused(DELETE, signed.as_bytes());
        assert!(said.contains(&sentence), "{version}: {said}");
        for account in [&plain, &keeps] {
            assert_eq!(node.get_account(&account.id()).status, 200, "{version}");
        }
        // The other one never had JetStream.
        let (code, said) = delete(&node, &operator, &[&plain], &[]);
        assert_eq!(code, Some(0), "{version}: {said}");
        for name in ["x", "y"] {
            jetstream(&server, &keeps, &format!("DELETE.{name}"), &json!({}));
        }
        let answer = system.ask_json(DELETE, signed.as_bytes());
        assert_eq!(answer["data"]["message"], "deleted 1 accounts", "{version}: {answer}");
        assert_eq!(node.get_account(&keeps.id()).status, 404, "{version}");
    }
}

#[test]
fn g8_without_the_permission_to_ask_for_streams_no_account_is_deleted() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let node = node_for(&operator, &operator.system.answering_user(), port);
    node.put(&account, &operator.account_at(&account, now() - 60));
    let (code, said) = delete(&node, &operator, &[&account], &[]);
    let words = "no node that can be asked is connected to it";
    assert!(code == Some(4) && said.contains(words), "{said}");
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let _server = NatsServer::start_on_port(NEWEST, port, &config);
    wait_until_known(&node, 1);
    for more in [&["--dry-run"][..], &[]] {
        let (code, said) = delete(&node, &operator, &[&account], more);
        let words = "--allow-pub '$SYS.REQ.SERVER.PING.JSZ'";
        assert!(code == Some(4) && said.contains(words), "{said}");
    }
    assert_eq!(node.get_account(&account.id()).status, 200);
    // Which is no reason to leave the connection, or to say that others are missing.
    assert!(!node.log().contains("may not"), "{}", node.log());
}

#[test]
fn g8_a_server_that_does_not_answer_may_have_streams() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let names = ["n1", "n2", "n3"];
    let ports = names.map(|_| (free_port(), free_port()));
    let (_creds, link) = nats_link_as(&operator.system.searching_user(), ports[0].0);
    let mut mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    let file = mesh.folder.path().join("cluster.toml");
    let text = fs::read_to_string(&file).expect("written before");
    let text = text.replacen("[cluster]\n", &format!("[cluster]\n{REFUSE}"), 1);
    fs::write(&file, text).expect("the test's own folder is writable");
    for node in &mut mesh.nodes {
        node.terminate();
        node.start_again();
    }
    mesh.wait_until_writable();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    mesh.nodes[0].put(&account, &with_jetstream(&operator, &account));
    let config = JETSTREAM.to_owned() + &resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let servers = cluster(NEWEST, &names, &ports, &config);
    let stream = json!({"name": "x", "subjects": ["x"], "num_replicas": 3});
    jetstream(&servers[0], &account, "CREATE.x", &stream);
    for node in &mesh.nodes {
        wait_until_known(node, 3);
        // It is one, at three servers, and one of the nodes asks for all.
        let (code, said) = delete(node, &operator, &[&account], &[]);
        assert!(code == Some(4) && said.contains("has 1 JetStream stream in"), "{said}");
    }
    jetstream(&servers[0], &account, "DELETE.x", &json!({}));
    servers[2].signal(Signal::STOP);
    for node in &mesh.nodes {
        let (code, said) = delete(node, &operator, &[&account], &[]);
        assert!(code == Some(4) && said.contains("server n3 does not answer"), "{said}");
    }
    servers[2].signal(Signal::CONT);
    eventually("every server answers", || {
        let (code, said) = delete(&mesh.nodes[2], &operator, &[&account], &[]);
        assert!(code == Some(0) || said.contains("server n3 does not answer"), "{said}");
        (code == Some(0)).then_some(())
    });
    assert_eq!(mesh.nodes[2].get_account(&account.id()).status, 404);
    // Once more changes nothing, and no server is asked.
    drop(servers);
    let (code, said) = delete(&mesh.nodes[1], &operator, &[&account], &[]);
    assert_eq!(code, Some(0), "{said}");
}
