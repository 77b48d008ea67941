//! What others give to the servers: other meshes, and programs with creds of the system account.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::deletes::{closing_at, request};
use crate::support::asker::{Answering, UPDATE, update_of};
use crate::support::mesh::{Nodes, nats_link_as, node_for, wait_until_up_to_date};
use crate::support::mint::{Account, Operator, now};
use crate::support::nats_server::{NatsServer, cluster, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::Node;
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST};

fn lines_about(node: &Node, words: &str, account: &Account) -> Vec<String> {
    let log = node.log();
    let lines = log
        .lines()
        .filter(|line| line.contains(words) && line.contains(&account.id()));
    lines.map(ToOwned::to_owned).collect()
}

const HEARD: &str = "another sender published a JWT";

/// Its publisher repeats what it has. An administrator's program sends each token once.
#[test]
fn g6_an_undated_jwt_is_adopted_from_a_program_and_never_from_another_mesh() {
    let mesh = Answering::start(NEWEST);
    let (account, mut system) = (&mesh.account, mesh.system());
    let undated = |name: &str| {
        mesh.operator.account_with(account, |claims| {
            claims["name"] = json!(name);
            claims.as_object_mut().expect("claims").remove("iat");
        })
    };
    let (older, newer) = (undated("older"), undated("newer"));
    for token in [&older, &newer] {
        system.0.publish(&update_of(account), token.as_bytes());
        eventually("it is adopted", || {
            (mesh.node.get_account(&account.id()).text() == *token).then_some(())
        });
    }
    let theirs = format!("{}0", mesh.node.publishers_inbox(account));
    system
        .0
        .request_to(&update_of(account), &theirs, None, older.as_bytes());
    eventually("it was looked at", || {
        let is_adopted = mesh.node.get_account(&account.id()).text() == older;
        assert!(!is_adopted, "the older one is back: {}", mesh.node.log());
        (!lines_about(&mesh.node, HEARD, account).is_empty()).then_some(())
    });
    assert_eq!(mesh.node.get_account(&account.id()).text(), newer);
}

/// An account is shut in one mesh and not in the other. Each refuses what the other sends.
#[test]
fn g6_two_meshes_that_disagree_say_so_and_overrule_each_other_ever_more_rarely() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let user = operator.system.answering_user();
    let token = operator.account_at(&account, now() - 600);
    let start = || {
        let node = node_for(&operator, &user, &[port], true);
        node.put(&account, &token);
        node
    };
    let ours = start();
    let server = NatsServer::start_on_port(NEWEST, port, &resolver_config(&operator.token(), &ours.accounts_url()));
    let _member = eventually("a user gets in", || {
        NatsUser::connect(server.address(), &account.user()).ok()
    });
    wait_until_up_to_date(&ours, 1);
    let theirs = start();
    wait_until_up_to_date(&theirs, 1);
    let closing = closing_at(&operator, &account, now() - 900);
    let file = theirs.folder().join("closing.jwt");
    std::fs::write(&file, &closing).expect("the test's own folder");
    let (id, file) = (account.id(), file.display().to_string());
    let kept = theirs.cli(&["account", "closing", "set", &id, &file]);
    assert!(kept.status.success(), "{kept:?}");
    let mut hears = NatsUser::connect(server.address(), &operator.system.user()).expect("it gets in");
    hears.subscribe(&update_of(&account));
    let killed = theirs.cli(&["account", "kill", &id, "--yes"]);
    assert!(killed.status.success(), "{killed:?}");
    let mut sent = Vec::new();
    eventually("it becomes rarer", || {
        let next = hears.next(Duration::from_secs(3));
        let is_rare = next.is_none() && !sent.is_empty();
        sent.extend(next.map(|message| message.payload == closing.as_bytes()));
        is_rare.then_some(())
    });
    assert!(sent[0] && sent.contains(&false), "it was overruled at once: {sent:?}");
    let said = |node: &Node| lines_about(node, "two meshes disagree about this account", &account);
    eventually("it is said", || {
        (said(&ours).len() + said(&theirs).len() > 0).then_some(())
    });
    for (node, other) in [(&ours, &theirs), (&theirs, &ours)] {
        let lines = said(node);
        assert!(lines.len() <= 1, "{lines:?}");
        let mesh = other.cli_json(&["status"])["cluster_id"]
            .as_str()
            .expect("a mesh")
            .to_owned();
        for line in lines {
            let names = format!("node one of mesh {mesh} sends");
            assert!(line.contains(" ERROR ") && line.contains(&names), "{line}");
        }
    }
}

/// It sends fresh changes without a question, because it has heard what others gave to the servers. Of several nodes any one
/// may answer requests.
#[test]
fn g6_the_node_that_publishes_hears_itself_what_others_give_to_the_servers() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let (_creds, link) = nats_link_as(&operator.system.answering_user(), port);
    let mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    mesh.nodes[0].put(&account, &operator.account_at(&account, now() - 600));
    let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    wait_until_up_to_date(&mesh.nodes[0], 1);
    let mut system = NatsUser::connect(server.address(), &operator.system.user()).expect("it gets in");
    for round in 0..8 {
        let newer = operator.account_at(&account, now() - 500 + 10 * round);
        system.publish(&update_of(&account), newer.as_bytes());
        mesh.wait_until_served(&account, &newer);
    }
    let has_adopted = |node: &&Node| node.log().contains("which another sender published");
    let adopters: Vec<_> = mesh.nodes.iter().filter(has_adopted).collect();
    assert_eq!(adopters.len(), 1, "a node that does not publish has heard it");
    let log = adopters[0].log();
    assert!(log.contains("this node publishes to this NATS cluster now"), "{log}");
}

/// While a server is missing there are several connections, over which the same is heard.
#[test]
fn g6_what_is_heard_over_two_connections_is_overruled_once() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let ports: Vec<_> = (0..3).map(|_| (free_port(), free_port())).collect();
    let user = operator.system.propagating_user();
    let node = node_for(&operator, &user, &[ports[0].0, ports[1].0], false);
    let old = operator.account_at(&account, now() - 600);
    node.put(&account, &old);
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let servers = cluster(NEWEST, &["n1", "n2", "n3"], &ports, &config);
    wait_until_up_to_date(&node, 3);
    servers[2].signal(Signal::KILL);
    node.put(&account, &operator.account_at(&account, now() - 300));
    eventually("both servers are connected to", || {
        node.log().contains("also connected to this server").then_some(())
    });
    let mut system = NatsUser::connect(servers[0].address(), &operator.system.user()).expect("it gets in");
    system.publish(&update_of(&account), old.as_bytes());
    let last = Account::new("last");
    system.publish(&update_of(&last), b"garbage");
    eventually("what came later was looked at", || {
        (!lines_about(&node, HEARD, &last).is_empty()).then_some(())
    });
    let lines = lines_about(&node, HEARD, &account);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines_about(&node, HEARD, &last).len(), 1, "{}", node.log());
}

/// Its closing JWT is read from the disk each time.
#[test]
fn g6_an_older_jwt_that_a_server_was_given_of_a_deleted_account_counts_as_overruled() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    // It does not hear what others send.
    let user = operator.system.user_with(json!({
        "pub": {"allow": [
            "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.*.ACCOUNTZ", "_INBOX.>",
        ]},
        "sub": {"allow": [
            "_INBOX.jwtmesh.>", "$SYS.SERVER.*.STATSZ", "$SYS.SERVER.*.SHUTDOWN", "$SYS.REQ.CLAIMS.UPDATE",
        ]},
    }));
    let node = node_for(&operator, &user, &[port], true);
    let old = operator.account_at(&account, now() - 600);
    node.put(&account, &old);
    let server = NatsServer::start_on_port(NEWEST, port, &resolver_config(&operator.token(), &node.accounts_url()));
    let mut member = eventually("a user gets in", || {
        NatsUser::connect(server.address(), &account.user()).ok()
    });
    wait_until_up_to_date(&node, 1);
    let write = |name: &str, text: &str| {
        let file = node.folder().join(name);
        std::fs::write(&file, text).expect("the test's own folder");
        file.display().to_string()
    };
    let closing = closing_at(&operator, &account, now() - 50);
    let (id, closing) = (account.id(), write("closing.jwt", &closing));
    let claim = write("delete.jwt", &request(&operator, &[&account], Some(now() - 30)));
    for args in [
        ["account", "closing", "set", &id, &closing].as_slice(),
        &["account", "delete", &id, "--claim", &claim, "--yes"],
    ] {
        let done = node.cli(args);
        assert!(done.status.success(), "{done:?}");
    }
    assert!(member.disconnected(PATIENCE).is_some(), "{}", node.log());
    let proof = node.cli_json(&["account", "watch", &id]);
    assert_eq!(proof["confirmed"], true, "{proof}");
    let mut system = NatsUser::connect(server.address(), &operator.system.user()).expect("it gets in");
    let answers = system.ask(&update_of(&account), old.as_bytes(), 1, PATIENCE);
    assert_eq!(answers[0]["data"]["message"], "jwt updated", "the server takes it");
    // What is refused is sent again, before which the server is read.
    system.publish(UPDATE, old.as_bytes());
    eventually("it is counted", || {
        let servers = node.cli_json(&["nats", "servers"]);
        (servers["items"][0]["overruled"].as_u64()? > 0).then_some(())
    });
    assert!(!lines_about(&node, "this server enforces another JWT", &account).is_empty());
    eventually("it is shut again", || {
        NatsUser::connect(server.address(), &account.user())
            .is_err()
            .then_some(())
    });
}

/// Without a majority attempts are repeated, and nothing is stored.
#[test]
fn g5_what_an_older_server_would_refuse_is_warned_of_once_it_is_stored() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let (_creds, link) = nats_link_as(&operator.system.answering_user(), port);
    let mut mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let _server = NatsServer::start_on_port(NATS_SERVER_VERSIONS[0], port, &config);
    wait_until_up_to_date(&mesh.nodes[0], 1);
    let exporters = [Account::new("X").id(), Account::new("Y").id()];
    let token = operator.account_with(&account, |claims| {
        let import = |exporter| json!({"subject": "a", "account": exporter, "type": "service"});
        claims["nats"]["imports"] = exporters.map(import).into();
    });
    let file = mesh.folder.path().join("overlap.jwt");
    std::fs::write(&file, &token).expect("the test's own folder");
    let file = file.display().to_string();
    let push = |node: &Node| node.cli(&["account", "push", "--replace", &file]).status.success();
    let warned = |node: &Node| lines_about(node, "would refuse this JWT of account", &account).len();
    mesh.nodes[1].kill();
    mesh.nodes[2].kill();
    assert!(!push(&mesh.nodes[0]), "there is no majority");
    assert_eq!(warned(&mesh.nodes[0]), 0, "{}", mesh.nodes[0].log());
    mesh.nodes[1].start_again();
    eventually("it is stored", || push(&mesh.nodes[0]).then_some(()));
    assert_eq!(warned(&mesh.nodes[0]), 1, "{}", mesh.nodes[0].log());
}
