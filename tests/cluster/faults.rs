//! Faults of real nodes under load: whatever happens to one of them, or to all, nothing that was acknowledged is lost, and
//! no lookup on a living node is refused or goes backwards. What clients of all nodes saw of the same accounts is
//! linearizable.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::disks::Hang;
use crate::support::load::Load;
use crate::support::mesh::{Nodes, nats_link, status};
use crate::support::mint::{Account, Operator, Revoked, now};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::node::Node;
use crate::support::process::{eventually, free_port};
use crate::support::tools::NEWEST;

const NODES: usize = 3;

/// How long a node is stopped: far longer than it takes the others to give it up.
const STOPPED: Duration = Duration::from_secs(30);

/// The nodes but this one.
fn but(node: usize) -> Vec<usize> {
    (0..NODES).filter(|other| *other != node).collect()
}

#[test]
fn g1_g2_nothing_acknowledged_is_lost_and_no_lookup_goes_backwards_whatever_happens() {
    let operator = Operator::new("O");
    let nats_port = free_port();
    let (_creds, link) = nats_link(&operator, nats_port);
    let mut mesh = Nodes::linked_with(NODES, &operator.token(), &link);
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, nats_port, &config);
    let addresses: Vec<SocketAddr> = mesh.nodes.iter().map(Node::address).collect();
    let mut load = Load::start(operator, &addresses);
    load.revoke(server.address());
    let everybody: Vec<usize> = (0..NODES).collect();
    load.wait_for_uploads(&everybody);
    let again = |mesh: &mut Nodes, node: usize| load.start_again(&mut mesh.nodes, node);

    // Killed: the leader, a follower, all at once.
    let leader = mesh.leader();
    load.kill(&mut mesh.nodes, leader);
    load.wait_for_uploads(&but(leader));
    again(&mut mesh, leader);
    load.wait_for_uploads(&everybody);
    let follower = (mesh.leader() + 1) % NODES;
    load.kill(&mut mesh.nodes, follower);
    load.wait_for_uploads(&but(follower));
    again(&mut mesh, follower);
    load.wait_for_uploads(&everybody);
    everybody.iter().for_each(|node| load.kill(&mut mesh.nodes, *node));
    everybody.iter().for_each(|node| again(&mut mesh, *node));
    load.wait_for_uploads(&everybody);

    // Stopped, and going on as if nothing had happened: the leader, a follower.
    for is_leader in [true, false] {
        let leader = mesh.leader();
        let stopped = if is_leader { leader } else { (leader + 1) % NODES };
        load.takes_down(stopped);
        mesh.nodes[stopped].program().signal(Signal::STOP);
        let since = Instant::now();
        while since.elapsed() < STOPPED {
            load.wait_for_uploads(&but(stopped));
        }
        mesh.nodes[stopped].program().signal(Signal::CONT);
        load.brings_back(stopped);
        load.wait_for_uploads(&everybody);
    }

    // Cut off: the leader, a follower, one pair from each other.
    let leader = mesh.leader();
    mesh.isolate(leader);
    load.wait_for_uploads(&but(leader));
    mesh.heal();
    load.wait_for_uploads(&everybody);
    let leader = mesh.leader();
    let follower = (leader + 1) % NODES;
    mesh.isolate(follower);
    load.wait_for_uploads(&but(follower));
    mesh.heal();
    load.wait_for_uploads(&everybody);
    let leader = mesh.leader();
    let follower = (leader + 1) % NODES;
    mesh.cut(leader, follower);
    mesh.cut(follower, leader);
    load.wait_for_uploads(&but(follower));
    mesh.heal();
    load.wait_for_uploads(&everybody);

    // Stopped on purpose: the leader hands over.
    let leader = mesh.leader();
    load.takes_down(leader);
    assert!(mesh.nodes[leader].terminate().success());
    load.wait_for_uploads(&but(leader));
    again(&mut mesh, leader);
    load.wait_for_uploads(&everybody);
    println!("{} users were revoked and cut off", load.revoked());
    assert!(load.revoked() > 10);
    load.end(&mesh.nodes, 100);
}

#[test]
fn g1_far_apart_and_with_losses_nothing_acknowledged_is_lost() {
    for one_way in [25, 75].map(Duration::from_millis) {
        let operator = Operator::new("O");
        let mut mesh = Nodes::apart(NODES, &operator.token(), "wan", one_way).form();
        let addresses: Vec<SocketAddr> = mesh.nodes.iter().map(Node::address).collect();
        let load = Load::start(operator, &addresses);
        let everybody: Vec<usize> = (0..NODES).collect();
        mesh.lose(10);
        load.wait_for_uploads(&everybody);
        let leader = mesh.leader();
        load.kill(&mut mesh.nodes, leader);
        load.wait_for_uploads(&but(leader));
        load.start_again(&mut mesh.nodes, leader);
        load.wait_for_uploads(&everybody);
        load.end(&mesh.nodes, 20);
    }
}

/// The thread that writes the log.
const LOG_WRITER: &str = "log-writer";

#[test]
fn g1_g12_a_disk_that_hangs_costs_the_lead_and_nothing_that_was_acknowledged() {
    let operator = Operator::new("O");
    let nats_port = free_port();
    let (_creds, link) = nats_link(&operator, nats_port);
    let mut mesh = Nodes::unformed_with(NODES, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, nats_port, &config);
    let addresses: Vec<SocketAddr> = mesh.nodes.iter().map(Node::address).collect();
    let mut load = Load::start(operator, &addresses);
    load.revoke(server.address());
    let everybody: Vec<usize> = (0..NODES).collect();
    load.wait_for_uploads(&everybody);
    for is_leader in [true, false] {
        let leader = mesh.leader();
        let hanging = if is_leader { leader } else { (leader + 1) % NODES };
        let others = but(hanging);
        let hang = Hang::of(mesh.nodes[hanging].program().pid(), LOG_WRITER);
        eventually("a node whose disk works leads", || {
            (mesh.leader_of(&others) != hanging).then_some(())
        });
        load.wait_for_uploads(&others);
        drop(hang);
        load.wait_for_uploads(&everybody);
        let log = mesh.nodes[hanging].log();
        assert!(!log.contains("ERROR"), "{log}");
    }
    println!("{} users were revoked and cut off", load.revoked());
    assert!(load.revoked() > 3);
    load.end(&mesh.nodes, 20);
}

/// The threads that answer the public port and the administrator. What agrees has others.
const PUBLIC_WORKERS: &str = "tokio-rt-worker";

/// As in a flood of handshakes, or when every read hangs.
#[test]
fn g12_a_leader_whose_public_side_hangs_leads_on() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(NODES, &operator.token());
    let leader = mesh.leader();
    let others = but(leader);
    let led = |mesh: &Nodes| -> usize {
        let logs = mesh.nodes.iter().map(Node::log);
        logs.map(|log| log.matches("this node leads now").count()).sum()
    };
    let before = led(&mesh);
    let hanging = Hang::of_all(mesh.nodes[leader].program().pid(), PUBLIC_WORKERS);
    let (since, mut stored) = (Instant::now(), Vec::new());
    // Far longer than an election takes.
    while since.elapsed() < Duration::from_secs(5) {
        let account = Account::new("A");
        let token = operator.account(&account);
        mesh.nodes[others[stored.len() % others.len()]].put(&account, &token);
        stored.push((account, token));
    }
    assert_eq!((mesh.leader_of(&others), led(&mesh)), (leader, before));
    drop(hanging);
    for (account, token) in &stored {
        assert_eq!(mesh.nodes[leader].get_account(&account.id()).text(), *token);
    }
}

/// How large the disk of a node is, in MiB: a part of it is kept free.
const SMALL_MIB: u32 = 400;

#[test]
fn g1_g12_a_full_disk_costs_the_lead_and_nothing_that_was_acknowledged() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::with_small_disk(NODES, &operator.token(), SMALL_MIB);
    let addresses: Vec<SocketAddr> = mesh.nodes.iter().map(Node::address).collect();
    let account = Account::new("A");
    let token = operator.account(&account);
    let grown = Account::new("B");
    let revoked = Revoked::new();
    let large: Vec<String> = (1..250)
        .map(|n| revoked.token(&operator, &grown, now() - 1_000 + n))
        .collect();
    while mesh.leader() != 0 {
        let leader = mesh.leader();
        mesh.nodes[leader].terminate();
        mesh.nodes[leader].start_again();
    }
    let load = Load::start(operator, &addresses);
    let everybody: Vec<usize> = (0..NODES).collect();
    load.wait_for_uploads(&everybody);

    // The leader's disk is nearly full: another node leads. It takes no uploads, and follows.
    let disk = mesh.small_disk();
    disk.fill(30);
    eventually("a node whose disk has room leads", || {
        (mesh.leader_of(&but(0)) != 0).then_some(())
    });
    load.wait_for_uploads(&but(0));
    eventually("its clients are told why", || {
        let refused = mesh.nodes[0].post_account(&account.id(), &token);
        (refused.status == 503 && refused.text().contains("nearly full")).then_some(())
    });
    disk.free();
    load.wait_for_uploads(&everybody);

    // A follower's disk is full: it goes on while its log has room that was set apart before, and waits then. The others do
    // not wait for it.
    disk.fill(0);
    load.wait_for_uploads(&but(0));
    for token in &large {
        eventually("the others take uploads", || {
            let answer = mesh.nodes[1].post_account(&grown.id(), token);
            assert!([200, 503, 504].contains(&answer.status), "{}", answer.text());
            (answer.status == 200).then_some(())
        });
    }
    let log = mesh.nodes[0].log();
    assert!(log.contains("no room for the log's next segment"), "{log}");
    // What it serves is old by now, and says so.
    let problems = |node: usize| Some(status(&mesh.nodes[node])?["problems"].to_string());
    eventually("lookups there are as old as they are", || {
        (status(&mesh.nodes[0])?["age_ms"].as_u64()? > 3_000).then_some(())
    });
    eventually("it says so", || problems(0)?.contains("has not applied").then_some(()));
    let leader = mesh.leader_of(&but(0));
    eventually("the leader names it", || {
        problems(leader)?
            .contains("the disk of member \\\"n1\\\"")
            .then_some(())
    });
    load.wait_for_uploads(&but(0));
    disk.free();
    load.wait_for_uploads(&everybody);
    assert!(mesh.nodes[0].program().ended().is_none());
    load.end(&mesh.nodes, 20);
}
