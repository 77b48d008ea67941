//! An older copy of a member's data folder is put back: what it had acknowledged since is gone there.

use std::path::PathBuf;

use crate::support::mesh::{NAMES, Nodes, status};
use crate::support::mint::{Account, Operator, now};
use crate::support::node::Node;
use crate::support::nsc::copy_folder;
use crate::support::process::eventually;

/// A copy of a member's data folder, made while the node was stopped.
struct Copy {
    folder: PathBuf,
    copy: PathBuf,
}

impl Copy {
    /// Stops the node, and starts it again after the copy was made.
    fn of(mesh: &mut Nodes, node: usize) -> Self {
        let folder = mesh.folder.path().join(NAMES[node]);
        let made = Self {
            copy: folder.with_extension("older"),
            folder,
        };
        mesh.nodes[node].terminate();
        copy_folder(&made.folder, &made.copy);
        mesh.nodes[node].start_again();
        made
    }

    fn put_back(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        copy_folder(&self.copy, &self.folder);
    }
}

fn upload(node: &Node, operator: &Operator, account: &Account, at: i64) -> String {
    let token = operator.account_at(account, at);
    eventually("it is taken", || {
        (node.post_account(&account.id(), &token).status == 200).then_some(())
    });
    token
}

#[track_caller]
fn eventually_serves(node: &Node, account: &Account, token: &str) {
    eventually("it is served", || {
        (node.get_account(&account.id()).text() == token).then_some(())
    });
}

/// The leader knows what the member had acknowledged.
#[test]
fn g1_a_follower_that_is_put_back_in_time_is_brought_up_to_date_by_its_leader() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let account = Account::new("A");
    let leader = mesh.leader();
    let behind = (leader + 1) % 3;
    let before = upload(&mesh.nodes[leader], &operator, &account, now() - 90);
    eventually_serves(&mesh.nodes[behind], &account, &before);
    let copy = Copy::of(&mut mesh, behind);
    let after = upload(&mesh.nodes[leader], &operator, &account, now() - 60);
    eventually_serves(&mesh.nodes[behind], &account, &after);
    mesh.nodes[behind].terminate();
    copy.put_back();
    mesh.nodes[behind].start_again();
    eventually_serves(&mesh.nodes[behind], &account, &after);
    assert_eq!(mesh.leader(), leader);
    assert!(
        mesh.nodes[leader]
            .log()
            .contains("has lost entries that it had acknowledged")
    );
    let newest = upload(&mesh.nodes[behind], &operator, &account, now() - 30);
    mesh.wait_until_served(&account, &newest);
}

/// What it had when it gave its vote to the leader, the leader takes for granted.
#[test]
fn g1_a_follower_that_is_put_back_to_before_its_vote_is_brought_up_to_date_by_its_leader() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let (account, behind) = (Account::new("A"), 1);
    let copy = Copy::of(&mut mesh, behind);
    mesh.wait_until_writable();
    // More than a leader sends at once.
    let mut before = String::new();
    for n in 0..100 {
        before = upload(&mesh.nodes[0], &operator, &account, now() - 500 + n);
    }
    eventually_serves(&mesh.nodes[behind], &account, &before);
    // With one node away the others need each other's votes.
    let mut rounds = 0..20;
    let leader = loop {
        rounds.next().expect("two others lead one after the other");
        let leader = mesh.leader();
        mesh.nodes[leader].kill();
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        let next = eventually("another one leads", || {
            Some(mesh.leader_of(&others)).filter(|next| *next != leader)
        });
        mesh.nodes[leader].start_again();
        if leader != behind && next != behind && mesh.leader() == next {
            break next;
        }
    };
    let after = upload(&mesh.nodes[leader], &operator, &account, now() - 60);
    eventually_serves(&mesh.nodes[behind], &account, &after);
    mesh.nodes[behind].terminate();
    copy.put_back();
    mesh.nodes[behind].start_again();
    eventually_serves(&mesh.nodes[behind], &account, &after);
    assert_eq!(mesh.leader(), leader);
}

/// No node that knows it runs: a majority goes on without an upload that was acknowledged. The node that still has it says so, and does
/// not pass for current.
#[test]
fn g4_a_node_that_alone_has_what_was_acknowledged_says_so_and_looks_as_old_as_it_is() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let account = Account::new("A");
    let leader = mesh.leader();
    let [behind, away] = [1, 2].map(|on| (leader + on) % 3);
    let before = upload(&mesh.nodes[leader], &operator, &account, now() - 90);
    eventually_serves(&mesh.nodes[behind], &account, &before);
    let copy = Copy::of(&mut mesh, behind);
    eventually_serves(&mesh.nodes[behind], &account, &before);
    mesh.nodes[away].terminate();
    let lost = upload(&mesh.nodes[leader], &operator, &account, now() - 60);
    eventually_serves(&mesh.nodes[behind], &account, &lost);
    mesh.nodes[behind].terminate();
    mesh.nodes[leader].terminate();
    copy.put_back();
    mesh.nodes[behind].start_again();
    mesh.nodes[away].start_again();
    // More than were lost: those two can have another history then.
    let others = [0, 1, 2].map(|n| Account::new(&format!("B{n}")));
    for other in &others {
        upload(&mesh.nodes[away], &operator, other, now());
    }
    mesh.nodes[leader].start_again();
    let alone = &mesh.nodes[leader];
    let problem = eventually("it says so", || {
        let problems = status(alone)?["problems"].to_string();
        problems.contains("have lost uploads").then_some(problems)
    });
    assert!(problem.contains("older copy"), "{problem}");
    assert_eq!(alone.get_account(&account.id()).text(), lost);
    assert_eq!(alone.log().matches("have lost uploads").count(), 1, "{}", alone.log());
    eventually("it grows old", || {
        (status(alone)?["age_ms"].as_u64()? > 2_000).then_some(())
    });
    let (other, token) = (&others[0], operator.account_at(&others[0], now()));
    assert_eq!(alone.post_account(&other.id(), &token).status, 503);
    // The one that leads says who does not follow it.
    let leads = &mesh.nodes[mesh.leader_of(&[behind, away])];
    eventually("the others say so", || {
        let problems = status(leads)?["problems"].to_string();
        problems.contains("takes no entries from this node").then_some(())
    });
}
