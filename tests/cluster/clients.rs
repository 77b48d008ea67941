//! What stands in front of a mesh: nsc that pushes to one node and pulls from another, nats-servers at one node, and at a
//! balancer over all.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::support::mesh::Nodes;
use crate::support::mint::{Account, Operator, now};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::Node;
use crate::support::nsc::Nsc;
use crate::support::process::eventually;
use crate::support::tools::NEWEST;

/// Gives each connection to the next of these servers that takes it. Ends with the test's process.
fn balancer(servers: Vec<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for (turn, client) in listener.incoming().enumerate() {
            let mut in_turn = servers.iter().cycle().skip(turn % servers.len()).take(servers.len());
            let (Ok(client), Some(server)) = (client, in_turn.find_map(|server| TcpStream::connect(server).ok()))
            else {
                continue;
            };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                std::thread::spawn(move || {
                    // Either side may be gone first.
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    address
}

#[test]
fn g1_what_nsc_pushes_to_one_node_it_pulls_from_another() {
    let nsc = Nsc::with_operator();
    let mesh = Nodes::formed(3, &nsc.operator_token());
    for (at, name) in ["A", "B", "C"].iter().enumerate() {
        nsc.run(&["add", "account", "--name", name]);
        nsc.account_server(&mesh.nodes[(at + 1) % 3].base());
        let colleague = nsc.copy();
        nsc.run(&["edit", "account", "--name", name, "--description", "changed"]);
        let screen = nsc.run(&[
            "push",
            "--account",
            name,
            "--account-jwt-server-url",
            &mesh.nodes[at].base(),
        ]);
        assert!(screen.contains("[ OK ]"), "{screen}");
        let screen = colleague.run(&["pull", "--account", name]);
        assert!(!screen.contains("[ERR"), "{screen}");
        assert_eq!(colleague.account_token(name), nsc.account_token(name));
    }
}

#[test]
fn g1_a_nats_server_behind_a_balancer_resolves_what_any_node_acknowledged_and_goes_on_without_one() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    let address = balancer(mesh.nodes.iter().map(Node::address).collect());
    let config = resolver_config(&operator.token(), &format!("http://{address}/jwt/v1/accounts/"));
    let server = NatsServer::start(NEWEST, &config);
    let resolves_new_accounts = |nodes: &[&Node]| {
        for node in nodes.iter().cycle().take(12) {
            let account = Account::new("A");
            node.put(&account, &operator.account_at(&account, now() - 60));
            let mut user = NatsUser::connect(server.address(), &account.user()).expect("the account is served");
            assert!(user.ping());
        }
    };
    resolves_new_accounts(&mesh.nodes.iter().collect::<Vec<_>>());
    let gone = mesh.leader();
    mesh.nodes[gone].kill();
    let left: Vec<&Node> = (0..3).filter(|at| *at != gone).map(|at| &mesh.nodes[at]).collect();
    // Until the next leader is there an upload may be refused, and is repeated.
    let account = Account::new("first");
    let token = operator.account(&account);
    eventually("an upload is acknowledged", || {
        (left[0].post_account(&account.id(), &token).status == 200).then_some(())
    });
    resolves_new_accounts(&left);
}

#[test]
fn g4_a_nats_server_starts_and_serves_from_a_node_that_has_no_peers() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mut mesh = Nodes::formed(3, &operator.token());
    mesh.nodes[1].put(&account, &operator.account(&account));
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    // A node knows on its disk that an entry was agreed on when the next one comes, or a moment later.
    let later = Account::new("later");
    mesh.nodes[0].put(&later, &operator.account(&later));
    mesh.nodes.iter_mut().for_each(Node::kill);
    let alone = &mut mesh.nodes[2];
    alone.start_again();
    let config = resolver_config(&operator.token(), &alone.accounts_url());
    let server = NatsServer::start(NEWEST, &config);
    let mut user = NatsUser::connect(server.address(), &account.user()).expect("the account is served");
    assert!(user.ping());
    let refused = alone.post_account(&account.id(), &operator.account_at(&account, now() + 1));
    assert_eq!(refused.status, 503, "{}", refused.text());
}
