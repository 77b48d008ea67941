//! What servers hold is read before it is overwritten, looked at in turn, and adopted or overruled.

use super::world::{SKIPPED, World, account};
use crate::jwt::AccountKey;

/// A world whose servers n1 and n2 hold accounts 1 and 2.
pub(super) fn two_servers() -> World {
    let mut world = World::quiet();
    world.heard_by(&["n1", "n2"]);
    world.change(&[1, 2]);
    world.idle(5);
    (world.sends, world.reads, world.asked) = (0, 0, 0);
    world.concluded.clear();
    world
}

/// The same after an older copy was put back: servers hold a newer token of account 1, which is given, than the mesh knows.
fn older_copy() -> (World, u64) {
    let mut world = two_servers();
    let copy = world.copy();
    world.change(&[1]);
    world.idle(5);
    world.change(&[1]);
    world.idle(5);
    let newest = world.token(&account(1));
    world.put_back(copy);
    world.sends = 0;
    assert!(world.token(&account(1)) < newest - 1, "there is one between the two");
    (world, newest)
}

#[test]
fn g6_after_an_older_copy_was_put_back_what_servers_enforce_is_adopted_and_never_undone() {
    type Event = fn(&mut World, u64);
    let events: [(&str, Event); 4] = [
        ("nothing", |_, _| {}),
        ("a client asks for it to be sent", |world, _| {
            let revision = world.rows[&account(1)];
            assert!(world.propagation.ask(account(1), revision, world.now));
            world.pump();
        }),
        ("what servers may have missed is sent", |world, _| {
            world.propagation.taken_over(world.now);
            world.pass(120_000);
        }),
        ("an upload of what lies between the two", |world, newest| {
            world.upload(account(1), newest - 1);
        }),
    ];
    for (name, event) in events {
        for is_before in [true, false] {
            let (mut world, newest) = older_copy();
            if is_before {
                event(&mut world, newest);
            }
            world.connect();
            if !is_before {
                event(&mut world, newest);
            }
            world.idle(5);
            assert_eq!(world.token(&account(1)), newest, "{name}, before {is_before}");
            assert_eq!(world.adopted, [account(1)], "{name}, before {is_before}");
            // Delivering what is older than what a server holds fails the test.
            world.settle();
        }
    }
}

#[test]
fn g6_a_server_that_was_away_when_an_older_copy_was_put_back_is_read_before_it_is_sent_anything() {
    let (mut world, newest) = older_copy();
    let current = world.token(&account(1));
    world.push_past_us("n1", account(1), current);
    world.heard_by(&["n1"]);
    world.connect();
    world.idle(60);
    assert!(world.adopted.is_empty(), "nobody who answers holds it");
    world.heard_by(&["n1", "n2"]);
    // Nobody knows that it is back.
    world.upload(account(1), newest - 1);
    world.idle(5);
    assert_eq!(world.token(&account(1)), newest);
    world.settle();
}

#[test]
fn g6_of_a_new_nats_cluster_servers_report_before_anything_is_sent() {
    let mut world = World::new();
    world.change(&[1, 2]);
    let newer = world.token(&account(1)) + 5;
    world.push_past_us("n1", account(1), newer);
    world.connect();
    world.idle(5);
    assert_eq!(world.token(&account(1)), newer);
    assert_eq!(world.held["n1"][&account(1)], newer);
    world.settle();
}

#[test]
fn g5_once_every_server_was_looked_at_a_fresh_change_is_sent_without_a_question() {
    let mut world = two_servers();
    let revision = world.change(&[1]);
    assert_eq!(world.messages, [(account(1), revision)]);
    assert_eq!(world.reads, 0);
    // What is asked for is no change.
    let asked = world.rows[&account(2)];
    assert!(world.propagation.ask(account(2), asked, world.now));
    world.pump();
    assert_eq!(world.reads, 1);
    world.settle();
}

#[test]
fn g6_a_server_that_does_not_answer_what_it_holds_is_missing_after_two_seconds_and_holds_nothing_up() {
    let mut world = two_servers();
    world.heard_by(&["n1"]);
    let revision = world.rows[&account(2)];
    assert!(world.propagation.ask(account(2), revision, world.now));
    world.pump();
    world.pass(1_999);
    assert_eq!(world.sends, 0);
    world.pass(1);
    assert_eq!(world.messages, [(account(2), revision)]);
    world.idle(2);
    assert!(world.roster["n2"].behind.is_some());
    world.settle();
}

#[test]
fn g5_a_user_who_may_not_ask_sends_without_reading() {
    let mut world = two_servers();
    world.disconnect();
    world.may_ask = false;
    world.connect();
    let revision = world.change(&[1]);
    assert!(world.messages.contains(&(account(1), revision)));
    world.settle();
}

#[test]
fn g6_what_a_server_holds_that_cannot_be_stored_now_is_not_overwritten_until_it_is() {
    let (mut world, newest) = older_copy();
    world.is_undecided = true;
    world.connect();
    let revision = world.rows[&account(1)];
    world.propagation.ask(account(1), revision, world.now);
    world.idle(30);
    assert_eq!((world.held["n1"][&account(1)], world.sends), (newest, 0));
    world.is_undecided = false;
    world.idle(5);
    assert_eq!(world.token(&account(1)), newest);
    world.settle();
}

#[test]
fn g6_a_newer_token_of_a_server_that_was_away_is_adopted_and_an_older_one_replaced() {
    for is_newer in [true, false] {
        let mut world = two_servers();
        world.heard_by(&["n1"]);
        world.change(&[2]);
        world.idle(5);
        let current = world.token(&account(2));
        let held = if is_newer { current + 5 } else { 1 };
        world.push_past_us("n2", account(2), held);
        world.is_undone = true;
        world.heard_by(&["n1", "n2"]);
        world.idle(6);
        let wanted = current.max(held);
        for server in ["n1", "n2"] {
            assert_eq!(world.held[server][&account(2)], wanted, "{server}, newer {is_newer}");
        }
        world.is_undone = false;
        world.settle();
    }
}

#[test]
fn g6_what_servers_enforce_is_looked_at_in_turn_and_repaired_or_adopted_without_any_event() {
    let mut world = two_servers();
    world.is_undone = true;
    let newer = world.token(&account(2)) + 5;
    world.push_past_us("n1", account(1), 0);
    world.push_past_us("n2", account(2), newer);
    // A token of an account that nobody here has heard of.
    world.push_past_us("n2", account(9), newer);
    world.idle(70);
    for server in ["n1", "n2"] {
        assert_eq!(world.held[server][&account(1)], world.token(&account(1)), "{server}");
        assert_eq!(world.held[server][&account(2)], newer, "{server}");
    }
    assert_eq!(world.adopted.len(), 2);
    assert_eq!(world.token(&account(9)), newer);
    world.idle(5);
    assert!(world.roster.values().all(|server| server.behind.is_none()));
    world.is_undone = false;
    world.settle();
}

/// A directory resolver says "updated" of what it does not take; one with a URL shows by its words that it is none.
#[test]
fn g6_after_a_change_servers_are_looked_at_whose_word_is_no_proof() {
    for is_believed in [false, true] {
        let mut world = two_servers();
        if is_believed {
            world.verdict = SKIPPED;
            world.change(&[3]);
            world.idle(15);
            world.verdict = super::world::UPDATED;
        }
        world.ignores = Some("n2");
        world.is_undone = true;
        let revision = world.change(&[1]);
        world.idle(4);
        let behind = world.roster["n2"].behind;
        assert_eq!(behind.is_some(), !is_believed, "{behind:?}");
        if !is_believed {
            assert_eq!(behind, Some(revision - 1));
            // It takes it at the second attempt.
            world.ignores = None;
            let revision = world.change(&[1]);
            world.idle(5);
            assert_eq!(world.held["n2"][&account(1)], revision);
        }
    }
}

#[test]
fn g12_the_pace_of_looks_is_a_budget() {
    let mut world = two_servers();
    let key = |n: u32| {
        let mut bytes = [0xBB; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        AccountKey::from_bytes(bytes)
    };
    let revision = world.change_keys((0..30_000).map(key));
    world.settle();
    for n in 0..30_000 {
        world.push_past_us("n1", key(n), revision);
    }
    world.restart();
    world.connect();
    let mut looks = |seconds: u64| {
        let before = world.asked;
        (0..seconds * 1_000).for_each(|_| world.pass(1));
        world.asked - before
    };
    let first = looks(10);
    assert!((9_000..10_100).contains(&first), "{first} in the first ten seconds");
    looks(8);
    let later = looks(10);
    assert!((1_900..2_100).contains(&later), "{later} in ten seconds later");
}
