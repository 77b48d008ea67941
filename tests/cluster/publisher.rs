//! Which node of a mesh publishes to a NATS cluster: one at a time, whatever happens to one.

use rustix::process::Signal;

use crate::support::mesh::{Nodes, nats_link, status};
use crate::support::mint::{Account, Operator, now};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::Node;
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tools::NEWEST;

const PUBLISHES: &str = "this node publishes to this NATS cluster now";
const NO_LONGER: &str = "another node may publish";

/// How often a node began to publish.
fn begun(node: &Node) -> usize {
    node.log().matches(PUBLISHES).count()
}

/// Whether a node publishes, as it last said.
fn publishes(node: &Node) -> bool {
    begun(node) > node.log().matches(NO_LONGER).count()
}

/// Waits until one of these nodes publishes.
#[track_caller]
fn publisher(mesh: &Nodes, among: &[usize]) -> usize {
    eventually("one node publishes", || {
        let all: Vec<usize> = among.iter().copied().filter(|at| publishes(&mesh.nodes[*at])).collect();
        assert!(all.len() < 2, "{all:?} publish");
        all.first().copied()
    })
}

/// A user who is connected is revoked through `node`, at the time `at`.
#[track_caller]
fn revoke(operator: &Operator, account: &Account, server: &NatsServer, node: &Node, at: i64) {
    let alice = account.user();
    let mut connection = NatsUser::connect(server.address(), &alice).expect("alice gets in");
    let token = operator.revoking(account, &[&alice], at);
    node.put(account, &token);
    assert_eq!(
        connection.disconnected(PATIENCE).as_deref(),
        Some("User Authentication Revoked"),
        "{}",
        node.log()
    );
}

/// The main job with three nodes: the publisher is killed, and the next revocation still cuts its user off.
#[test]
fn g5_one_node_publishes_to_a_nats_cluster_and_another_one_goes_on() {
    let operator = Operator::new("O");
    let (account, nats_port) = (Account::new("A"), free_port());
    let (_creds, link) = nats_link(&operator, nats_port);
    let mut mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    mesh.nodes[1].put(&account, &operator.account_at(&account, now() - 60));
    let config = resolver_config(&operator.token(), &mesh.nodes[2].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, nats_port, &config);
    let first = publisher(&mesh, &[0, 1, 2]);
    // The first member was alone, and published then; the others never were.
    let taken: usize = mesh.nodes[1..].iter().map(begun).sum();
    assert!(taken <= 1, "{}{}", mesh.nodes[1].log(), mesh.nodes[2].log());
    let (next, other) = ((first + 1) % 3, (first + 2) % 3);
    revoke(&operator, &account, &server, &mesh.nodes[next], now() - 30);
    // Any node that is asked asks the publisher.
    for node in &mesh.nodes {
        let watched = node.cli(&["account", "watch", &account.id()]);
        let shown = String::from_utf8_lossy(&watched.stdout).into_owned();
        assert!(
            watched.status.success() && shown.contains("1 of 1 servers"),
            "{watched:?}"
        );
    }
    mesh.nodes[first].kill();
    eventually("a node that is left takes uploads", || {
        (status(&mesh.nodes[other])?["writable"] == true).then_some(())
    });
    revoke(&operator, &account, &server, &mesh.nodes[other], now() - 10);
    let second = publisher(&mesh, &[next, other]);
    // A node that is stopped on purpose gives the lease back.
    mesh.nodes[first].start_again();
    assert!(mesh.nodes[second].terminate().success());
    publisher(&mesh, &[first, if second == next { other } else { next }]);
}

/// It would have a third node publish beside the second, which still may: then the two would take turns without end.
#[test]
fn g5_a_node_that_has_lost_the_lease_does_not_give_it_away_when_it_stops() {
    let operator = Operator::new("O");
    let nats_port = free_port();
    let (_creds, link) = nats_link(&operator, nats_port);
    let mut mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let _server = NatsServer::start_on_port(NEWEST, nats_port, &config);
    let first = publisher(&mesh, &[0, 1, 2]);
    let others = [(first + 1) % 3, (first + 2) % 3];
    mesh.nodes[first].program().signal(Signal::STOP);
    let second = publisher(&mesh, &others);
    let third = others[usize::from(second == others[0])];
    mesh.nodes[first].program().signal(Signal::CONT);
    let revision = |node: usize| status(&mesh.nodes[node]).and_then(|status| status["revision"].as_u64());
    let now = revision(third).expect("it answers");
    eventually(
        "the first knows that it may not publish any more, and that the second may",
        || (!publishes(&mesh.nodes[first]) && revision(first)? > now).then_some(()),
    );
    let before = [second, third].map(|node| begun(&mesh.nodes[node]));
    assert!(mesh.nodes[first].terminate().success());
    // The second renews it, which moves the revision; the third would have taken it by then.
    let revision = |node: usize| status(&mesh.nodes[node]).and_then(|status| status["revision"].as_u64());
    let now = revision(third).expect("it answers");
    eventually("the lease was renewed again and again", || {
        (revision(third)? >= now + 4).then_some(())
    });
    assert!(publishes(&mesh.nodes[second]), "{}", mesh.nodes[second].log());
    let after = [second, third].map(|node| begun(&mesh.nodes[node]));
    assert_eq!(after, before, "{}{}", mesh.nodes[second].log(), mesh.nodes[third].log());
}
