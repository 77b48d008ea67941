//! Nodes that cannot hear each other: who leads, who serves, and what is kept.

use std::time::{Duration, Instant};

use crate::support::mesh::{Nodes, status};
use crate::support::mint::{Account, Operator, now};
use crate::support::node::Node;
use crate::support::process::eventually;

/// Uploads a token of `account` at `node` until it is taken; gives the token.
#[track_caller]
fn upload(operator: &Operator, node: &Node, account: &Account, at: i64) -> String {
    let token = operator.account_at(account, at);
    eventually("the upload is taken", || {
        (node.post_account(&account.id(), &token).status == 200).then_some(())
    });
    token
}

fn age(node: &Node) -> u64 {
    status(node)
        .and_then(|status| status["leader_age_ms"].as_u64())
        .unwrap_or(u64::MAX)
}

#[test]
fn g1_a_leader_alone_refuses_uploads_in_time_serves_lookups_and_looks_as_old_as_it_is() {
    let operator = Operator::new("O");
    let mesh = Nodes::linked(3, &operator.token());
    let account = Account::new("A");
    let before = upload(&operator, &mesh.nodes[0], &account, now() - 90);
    mesh.wait_until_served(&account, &before);
    let leader = mesh.leader();
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    mesh.isolate(leader);
    let after = upload(&operator, &mesh.nodes[others[0]], &account, now() - 60);
    assert_ne!(mesh.leader_of(&others), leader);
    let alone = &mesh.nodes[leader];
    // It serves what it has, and says how old that is.
    assert_eq!(alone.get_account(&account.id()).text(), before);
    eventually("its view grows old", || (age(alone) > 1_500).then_some(()));
    let begun = Instant::now();
    let refused = alone.post_account(&account.id(), &operator.account_at(&account, now() - 30));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    mesh.heal();
    mesh.wait_until_served(&account, &after);
    mesh.wait_until_writable();
}

#[test]
fn g1_a_leader_that_is_deaf_or_mute_loses_the_lead_and_nothing_that_was_acknowledged() {
    let operator = Operator::new("O");
    let mesh = Nodes::linked(3, &operator.token());
    let account = Account::new("A");
    let mut issued = now() - 1_000;
    for is_deaf in [true, false] {
        let leader = mesh.leader();
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        for other in &others {
            if is_deaf {
                mesh.cut(*other, leader);
            } else {
                mesh.cut(leader, *other);
            }
        }
        issued += 10;
        let token = upload(&operator, &mesh.nodes[others[0]], &account, issued);
        assert_ne!(mesh.leader_of(&others), leader, "deaf {is_deaf}");
        mesh.heal();
        mesh.wait_until_served(&account, &token);
        mesh.wait_until_writable();
    }
}

/// Each of them hears the other one, and neither can have anything agreed on.
#[test]
fn g1_a_leader_and_a_follower_without_the_others_refuse_uploads_in_time() {
    let operator = Operator::new("O");
    let mesh = Nodes::linked(5, &operator.token());
    let account = Account::new("A");
    upload(&operator, &mesh.nodes[0], &account, now() - 90);
    let leader = mesh.leader();
    let few = [leader, (leader + 1) % 5];
    let many: Vec<usize> = (0..5).filter(|node| !few.contains(node)).collect();
    for (one, other) in few.iter().flat_map(|one| many.iter().map(move |other| (*one, *other))) {
        mesh.cut(one, other);
        mesh.cut(other, one);
    }
    let after = upload(&operator, &mesh.nodes[many[0]], &account, now() - 60);
    for node in few.map(|node| &mesh.nodes[node]) {
        eventually("its view grows old", || (age(node) > 1_500).then_some(()));
        let begun = Instant::now();
        let refused = node.post_account(&account.id(), &operator.account_at(&account, now() - 30));
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    mesh.heal();
    for node in &mesh.nodes {
        eventually("it serves what the others agreed on", || {
            (node.get_account(&account.id()).text() == after).then_some(())
        });
    }
    mesh.wait_until_writable();
}

/// It was proposed while the leader was one, and no node can say whether the next leader has it.
#[test]
fn g1_an_upload_that_its_leader_cannot_finish_is_answered_504_and_the_next_one_works() {
    let operator = Operator::new("O");
    let mesh = Nodes::linked(3, &operator.token());
    let (account, other) = (Account::new("A"), Account::new("B"));
    upload(&operator, &mesh.nodes[0], &account, now() - 60);
    let token = operator.account_at(&account, now() - 30);
    let (leader, doubtful) = eventually("an upload comes before the leader knows that it is alone", || {
        let leader = mesh.leader();
        mesh.isolate(leader);
        let answer = mesh.nodes[leader].post_account(&account.id(), &token);
        if answer.status == 503 {
            mesh.heal();
            mesh.wait_until_writable();
            return None;
        }
        Some((leader, answer))
    });
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    assert_eq!(doubtful.status, 504, "{}", doubtful.text());
    assert!(doubtful.text().contains("safe"), "{}", doubtful.text());
    mesh.leader_of(&others);
    upload(&operator, &mesh.nodes[others[0]], &other, now() - 20);
    mesh.heal();
    // Through the same node, by the leader that there is now.
    eventually("the same upload is taken", || {
        (mesh.nodes[leader].post_account(&account.id(), &token).status == 200).then_some(())
    });
    mesh.wait_until_served(&account, &token);
}

/// A follower that was cut off asks before it raises its term, and is not asked to lead.
#[test]
fn a_follower_that_was_cut_off_and_returns_deposes_nobody() {
    let operator = Operator::new("O");
    let mesh = Nodes::linked(3, &operator.token());
    let account = Account::new("A");
    let leader = mesh.leader();
    let away = (leader + 1) % 3;
    mesh.isolate(away);
    eventually("it has missed its leader for long", || {
        (age(&mesh.nodes[away]) > 5_000).then_some(())
    });
    let token = upload(&operator, &mesh.nodes[leader], &account, now());
    // One that is deposed and elected again leads in another term.
    let led = || {
        mesh.nodes
            .iter()
            .map(|node| node.log().matches("this node leads now").count())
            .sum::<usize>()
    };
    let before = led();
    mesh.heal();
    mesh.wait_until_served(&account, &token);
    assert_eq!((mesh.leader(), led()), (leader, before));
    // One line when it went and one when it came back, whatever was tried in between.
    let said = |words: &str| mesh.nodes[leader].log().matches(words).count();
    eventually("the leader says that it is back", || {
        (said("a peer answers again") == 1).then_some(())
    });
    assert_eq!(said("a peer does not answer"), 1, "{}", mesh.nodes[leader].log());
    assert!(mesh.nodes[leader].get("/jwt/v1/accounts").status == 200);
    // No upload was refused for an election since.
    assert_eq!(mesh.nodes[away].post_account(&account.id(), &token).status, 200);
}

/// As with a peer address that does not resolve at one node: it hears the leader, and cannot speak to it.
#[test]
fn a_follower_that_cannot_reach_the_leader_which_it_hears_says_so_in_time() {
    let operator = Operator::new("O");
    let mesh = Nodes::linked(3, &operator.token());
    let account = Account::new("A");
    let before = upload(&operator, &mesh.nodes[0], &account, now() - 60);
    mesh.wait_until_served(&account, &before);
    let leader = mesh.leader();
    let follower = (leader + 1) % 3;
    mesh.cut_requests(follower, leader);
    eventually("it says so", || {
        let status = status(&mesh.nodes[follower])?;
        let problems = status["problems"].to_string();
        (status["writable"] == false && problems.contains("cannot reach it")).then_some(())
    });
    let begun = Instant::now();
    let refused = mesh.nodes[follower].post_account(&account.id(), &operator.account_at(&account, now() - 30));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("cannot reach it"), "{}", refused.text());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let after = upload(&operator, &mesh.nodes[leader], &account, now() - 10);
    mesh.wait_until_served(&account, &after);
    assert_eq!(mesh.leader(), leader);
    mesh.heal();
    mesh.wait_until_writable();
}

/// A candidate, and a follower with an upload for a new leader, do not begin with TLS.
#[test]
fn every_member_is_connected_to_every_other_one_before_it_has_something_to_say() {
    let mesh = Nodes::linked(3, &Operator::new("O").token());
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            eventually("both connections are open", || {
                (mesh.connections(from, to) >= 2).then_some(())
            });
        }
    }
}

/// openraft #2080: the old leader still reaches one of the majority that cannot hear it otherwise.
#[test]
fn five_voters_of_whom_three_hear_each_other_elect_although_the_old_leader_reaches_one_of_them() {
    let operator = Operator::new("O");
    let mesh = Nodes::linked(5, &operator.token());
    let account = Account::new("A");
    let leader = mesh.leader();
    let others: Vec<usize> = (0..5).filter(|node| *node != leader).collect();
    let [near, second, third, alone] = others[..] else {
        panic!("four others")
    };
    mesh.isolate(alone);
    for far in [second, third] {
        mesh.cut(leader, far);
        mesh.cut(far, leader);
    }
    let token = upload(&operator, &mesh.nodes[second], &account, now() - 60);
    assert!([near, second, third].contains(&mesh.leader_of(&[near, second, third])));
    mesh.heal();
    mesh.wait_until_served(&account, &token);
}
