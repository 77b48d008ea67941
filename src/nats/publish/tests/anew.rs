//! Servers that were out of sight are looked at anew, and nothing that is urgent waits for that.

use super::read::two_servers;
use super::world::{World, account, server};
use crate::jwt::AccountKey;
use crate::nats::publish::step::News;

/// A key of which there are many.
fn key(n: u8) -> AccountKey {
    let mut bytes = [0xCC; 32];
    bytes[0] = n;
    AccountKey::from_bytes(bytes)
}

fn is_missing(world: &World, id: &str) -> bool {
    let is_it = |news: &News| matches!(news, News::Missing { server } if server.id == id);
    world.news.iter().any(is_it)
}

#[test]
fn g6_what_others_gave_a_server_while_it_was_out_of_sight_is_not_undone_by_an_older_upload() {
    type Event = fn(&mut World, u64);
    let events: [(&str, Event); 3] = [
        ("the server was cut off", |world, newer| {
            world.heard_by(&["n1"]);
            world.change(&[1]);
            world.idle(5);
            world.push_past_us("n2", account(2), newer);
            world.asks_slowly = true;
            world.heard_by(&["n1", "n2"]);
            world.pass(1);
        }),
        (
            "the server was silent, and nothing was sent meanwhile",
            |world, newer| {
                world.heard_by(&["n1"]);
                world.idle(30);
                world.push_past_us("n2", account(2), newer);
                world.asks_slowly = true;
                world.heard_by(&["n1", "n2"]);
                world.pass(1);
            },
        ),
        ("this node had no connection", |world, newer| {
            world.disconnect();
            world.push_past_us("n2", account(2), newer);
            world.asks_slowly = true;
            world.connect();
        }),
    ];
    for (name, event) in events {
        let mut world = two_servers();
        world.is_undone = true;
        let newer = world.token(&account(2)) + 9;
        // What is asked from then on is answered after the upload.
        event(&mut world, newer);
        world.upload(account(2), newer - 1);
        world.asks_slowly = false;
        world.answer_questions();
        world.idle(5);
        assert_eq!(world.token(&account(2)), newer, "{name}");
        assert_eq!(world.held["n2"][&account(2)], newer, "{name}");
        world.is_undone = false;
        world.settle();
    }
}

#[test]
fn g5_a_token_that_was_issued_since_all_servers_were_heard_is_sent_without_a_question() {
    // n2 is away since before this publisher began.
    let mut world = two_servers();
    world.heard_by(&["n1"]);
    world.change(&[1]);
    world.idle(5);
    world.restart();
    world.connect();
    world.idle(20);
    world.reads = 0;
    let revision = world.change(&[2]);
    assert_eq!(world.messages, [(account(2), revision)]);
    assert_eq!(world.reads, 0);
    // Of one that was issued earlier, a server may hold a newer one.
    world.idle(5);
    let older = world.token(&account(1)) + 1;
    world.upload(account(1), older);
    assert_eq!(world.reads, 1);
    // So it may of one whose time of issue has not come: a clock is wrong.
    world.idle(5);
    world.issued.insert(world.revision + 1, world.now + 60_000);
    world.store(std::iter::once(account(1)), older + 1);
    world.pump();
    assert_eq!(world.reads, 2);
    world.settle();
}

#[test]
fn g5_a_change_that_comes_while_servers_are_read_for_the_account_does_not_wait_for_them() {
    let mut world = two_servers();
    world.heard_by(&["n1"]);
    let revision = world.rows[&account(2)];
    assert!(world.propagation.ask(account(2), revision, world.now));
    world.pump();
    assert_eq!((world.reads, world.sends), (1, 0), "n2 is waited for");
    let revision = world.change(&[2]);
    assert_eq!(world.messages, [(account(2), revision)]);
    world.settle();
}

/// A hundred accounts are sent again two minutes after a connection was lost, and n2 does not answer.
#[test]
fn g5_servers_that_hang_hold_up_neither_the_reading_of_fresh_changes_nor_its_end() {
    // A third one was never looked at.
    let mut world = two_servers();
    world.heard_by(&["n1", "n2", "n3"]);
    world.change(&[1]);
    world.idle(5);
    world.heard_by(&["n1", "n2"]);
    world.change(&[1]);
    world.idle(5);
    world.restart();
    world.connect();
    world.change_keys((0..100).map(key));
    world.idle(5);
    world.change_keys((0..100).map(key));
    world.propagation.another_lost(world.now);
    world.idle(119);
    // One is sent on request, whose message is lost: it is to be read once more while all others are read.
    let revision = world.rows[&account(1)];
    assert!(world.propagation.ask(account(1), revision, world.now));
    world.pump();
    assert_eq!(world.messages.len(), 1);
    world.lose_message();
    world.heard_by(&["n1"]);
    world.reads = 0;
    world.pass(1_000);
    assert!(world.reads > 16, "{} are read", world.reads);
    world.reads = 0;
    world.pass(500);
    assert_eq!(world.reads, 0, "as many as may be");
    world.upload(account(2), world.token(&account(2)) + 1);
    assert_eq!(world.reads, 1, "a fresh change has a place of its own");
    (world.sends, world.news) = (0, Vec::new());
    world.pass(1_400);
    assert!(!is_missing(&world, "n2"));
    world.pass(200);
    assert!(is_missing(&world, "n2"));
    assert!(world.sends > 32, "{} were sent", world.sends);
    world.settle();
}

#[test]
fn a_server_is_not_missing_while_what_it_has_answered_is_judged() {
    let mut world = World::quiet();
    world.asks_slowly = true;
    world.pass(61_000);
    // It lists its accounts, and is asked about the only one.
    world.answer_questions_once();
    assert!(world.propagation.arrived(&server("n1"), account(1), world.now));
    (0..10).for_each(|_| world.pass(1_000));
    assert!(!is_missing(&world, "n1"));
    world.settle();
}

#[test]
fn g12_a_new_server_is_looked_at_twice_and_not_a_third_time() {
    let mut world = World::quiet();
    world.change_keys((0..50).map(key));
    world.settle();
    let unknown = world.token(&account(1));
    world.push_past_us("n2", account(9), unknown);
    for n in 0..50 {
        let token = world.token(&key(n));
        world.push_past_us("n2", key(n), token);
    }
    world.heard_by(&["n1", "n2"]);
    (0..6_000).for_each(|_| world.pass(1));
    world.idle(5);
    let asked = world.asked_of["n2"];
    assert!((102..110).contains(&asked), "{asked} questions");
    assert_eq!(world.adopted, [account(9)], "an account that was not known here");
    world.settle();
}

/// n2 is reached for questions before it is for what is sent.
#[test]
fn g5_a_server_that_was_not_reached_by_what_was_sent_does_not_refuse_it() {
    let mut world = two_servers();
    world.heard_by(&["n1"]);
    world.change(&[2]);
    world.idle(5);
    world.heard_by(&["n1", "n2"]);
    world.deaf = Some("n2");
    world.idle(6);
    world.deaf = None;
    world.idle(10);
    assert_eq!(world.held["n2"][&account(2)], world.token(&account(2)));
    assert!(world.roster["n2"].behind.is_none());
    world.settle();
}

#[test]
fn g5_a_server_that_is_missing_stays_so_whatever_cannot_be_sent_to_the_others() {
    let mut world = two_servers();
    world.heard_by(&["n1"]);
    world.change(&[2]);
    world.idle(5);
    let revision = world.change(&[1]);
    world.propagation.unsendable(account(1), world.now);
    assert!(revision > 0 && world.propagation.misses_any());
    // It is looked at as soon as it is back, however long the pauses of those that refuse something are.
    world.heard_by(&["n1", "n2"]);
    world.idle(5);
    assert_eq!(world.held["n2"][&account(2)], world.token(&account(2)));
    world.settle();
}

#[test]
fn g5_accounts_that_cannot_be_sent_while_they_are_looked_at_take_no_place_of_others() {
    let mut world = two_servers();
    world.change_keys((0..100).map(key));
    world.settle();
    world.heard_by(&["n1"]);
    world.change_keys((0..100).map(key));
    world.idle(5);
    world.asks_slowly = true;
    world.heard_by(&["n1", "n2"]);
    world.pass(1);
    world.answer_questions_once();
    // 64 are looked at; all change, and become too large.
    world.change_keys((0..100).map(key));
    world.open.clear();
    for n in 0..100 {
        world.propagation.unsendable(key(n), world.now);
    }
    world.asks_slowly = false;
    world.answer_questions();
    world.idle(60);
    assert_eq!(world.held["n2"][&key(50)], world.token(&key(50)));
    world.settle();
}

#[test]
fn g5_nothing_waits_for_the_server_that_was_left_because_it_hung() {
    let mut world = two_servers();
    world.hung = true;
    let revision = world.change(&[1]);
    world.pass(2_000);
    assert!(!world.connected && is_missing(&world, "n1"));
    // The next connection is to n2.
    world.heard_by(&["n2"]);
    world.connect();
    assert_eq!(world.messages.front(), Some(&(account(1), revision)));
    world.settle();
}
