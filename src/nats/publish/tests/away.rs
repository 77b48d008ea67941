//! Servers that are away, new, or refuse what they are sent.

use super::world::{World, account, refused, server};
use crate::nats::publish::step::News;

/// A world whose servers n1 and n2 hold accounts 1 and 2, and where n2 has just missed a change of account 2.
fn n2_misses_a_change() -> (World, u64) {
    let mut world = World::quiet();
    world.heard_by(&["n1", "n2"]);
    world.change(&[1, 2]);
    world.idle(5);
    world.concluded.clear();
    world.news.clear();
    (world.sends, world.asked) = (0, 0);
    world.heard_by(&["n1"]);
    let revision = world.change(&[2]);
    world.answer_all();
    (world, revision)
}

fn behind(world: &World, id: &str) -> Option<u64> {
    world.roster[id].behind
}

#[test]
fn g5_a_server_that_missed_a_change_is_named_at_once_and_brought_up_to_date_when_it_is_back_after_any_time() {
    // A second, eleven minutes, 25 hours.
    for away in [1, 660, 90_000] {
        let (mut world, revision) = n2_misses_a_change();
        world.idle(2);
        let named = |news: &News| matches!(news, News::Missing { server } if server.id == "n2");
        assert!(world.news.iter().any(named), "{:?}", world.news);
        assert_eq!(behind(&world, "n2"), Some(revision - 1));
        assert!(world.agreed >= revision, "the others do not wait for it");
        world.idle(away);
        assert_eq!(world.sends, 1, "only n2 is asked, nothing is sent to all");
        assert!(world.held["n2"][&account(2)] < revision);
        world.heard_by(&["n1", "n2"]);
        world.idle(4);
        assert_eq!(world.held["n2"][&account(2)], revision, "away for {away} s");
        world.idle(3);
        assert_eq!(behind(&world, "n2"), None);
        assert!(
            world
                .news
                .iter()
                .any(|news| matches!(news, News::UpToDate { was_missing: true, .. }))
        );
        world.settle();
    }
}

#[test]
fn g5_a_nats_cluster_that_was_away_for_an_hour_enforces_every_change_within_seconds_of_its_return() {
    for is_restarted in [false, true] {
        let mut world = World::quiet();
        world.heard_by(&["n1", "n2"]);
        world.change(&[1, 2, 3]);
        world.idle(5);
        world.disconnect();
        let first = world.change(&[1]);
        for minute in 1..60 {
            world.pass(60_000);
            world.change(&[1 + minute % 3]);
        }
        assert!(world.agreed < first, "nothing has happened there");
        if is_restarted {
            world.restart();
        }
        // The second is heard a while later.
        world.heard_by(&["n1"]);
        world.connect();
        world.idle(5);
        assert_eq!(world.held["n1"], world.rows, "restarted: {is_restarted}");
        let missed = *world.rows.values().min().expect("three accounts");
        assert!(behind(&world, "n2").is_some_and(|behind| behind < missed));
        world.heard_by(&["n1", "n2"]);
        world.idle(5);
        assert_eq!(world.held["n2"], world.rows, "restarted: {is_restarted}");
        assert_eq!((behind(&world, "n1"), behind(&world, "n2")), (None, None));
        world.settle();
    }
}

#[test]
fn g5_a_restart_and_another_connection_forget_no_server_that_is_behind() {
    let (mut world, revision) = n2_misses_a_change();
    world.idle(10);
    world.restart();
    world.connect();
    world.idle(300);
    assert_eq!(behind(&world, "n2"), Some(revision - 1));
    world.disconnect();
    world.connect();
    world.heard_by(&["n1", "n2"]);
    world.idle(5);
    assert_eq!(world.held["n2"][&account(2)], revision);
    world.settle();
}

#[test]
fn g5_a_server_that_is_cut_off_when_its_node_restarts_is_missed_by_the_next_change() {
    let mut world = World::quiet();
    world.heard_by(&["n1", "n2"]);
    world.change(&[1]);
    world.idle(5);
    world.restart();
    world.heard_by(&["n1"]);
    world.connect();
    let revision = world.change(&[1]);
    world.idle(3);
    assert_eq!(behind(&world, "n2"), Some(revision - 1));
    world.heard_by(&["n1", "n2"]);
    world.idle(5);
    assert_eq!(world.held["n2"][&account(1)], revision);
}

#[test]
fn g5_a_user_who_may_not_ask_sends_everything_again_to_a_server_that_was_away() {
    let mut world = World::quiet();
    world.may_ask = false;
    world.disconnect();
    world.connect();
    world.heard_by(&["n1", "n2"]);
    world.change(&[1, 2, 3]);
    world.idle(5);
    world.heard_by(&["n1"]);
    let first = world.change(&[2]);
    world.change(&[3]);
    world.idle(90_000);
    assert!(behind(&world, "n2").is_some_and(|behind| behind < first));
    world.heard_by(&["n1", "n2"]);
    world.idle(8);
    assert_eq!(world.held["n2"], world.held["n1"]);
    assert_eq!(behind(&world, "n2"), None);
    world.settle();
}

#[test]
fn g6_what_a_new_server_has_loaded_is_looked_at_before_it_counts_and_repaired() {
    let mut world = World::quiet();
    world.change(&[1, 2]);
    world.idle(5);
    let stale = world.rows[&account(1)];
    world.change(&[1]);
    world.idle(5);
    let current = world.rows.clone();
    // It was started long ago, elsewhere, and is connected now.
    world.held.insert(
        "n2".to_owned(),
        [(account(1), stale), (account(2), current[&account(2)])].into(),
    );
    world.heard_by(&["n1", "n2"]);
    world.sends = 0;
    world.idle(5);
    assert_eq!(world.held["n2"][&account(1)], current[&account(1)]);
    assert_eq!(world.sends, 1, "what it holds already is not sent");
    assert_eq!(behind(&world, "n2"), None);
    world.settle();
}

#[test]
fn a_server_that_refuses_a_token_is_behind_and_asked_again_at_growing_pauses() {
    let mut world = World::quiet();
    world.verdict = refused();
    let revision = world.change(&[1]);
    world.idle(60);
    assert_eq!(behind(&world, "n1"), Some(revision - 1));
    let asked = world.asked;
    world.idle(3_600);
    // Once a minute it is looked at in its turn, which takes two.
    let asked = world.asked - asked;
    assert!(asked < 40 + 2 * 60 + 2, "{asked} questions in an hour");
    world.settle();
}

#[test]
fn g5_a_server_is_gone_by_its_own_word_or_when_its_name_runs_again_and_not_because_it_is_silent() {
    let (mut world, _) = n2_misses_a_change();
    world.idle(5);
    world.propagation.ended("n2", 0);
    world.idle(2);
    assert!(!world.roster.contains_key("n2"), "by its own word");

    let named = |id: &str, name: &str| {
        let mut info = server(id);
        info.name = name.to_owned();
        info
    };
    let mut world = World::quiet();
    world.propagation.heard(&named("NA", "east"), world.now);
    world.propagation.heard(&named("NB", "west"), world.now);
    world.idle(5);
    world.change(&[1]);
    world.idle(5);
    assert!(world.roster.contains_key("NA") && world.roster.contains_key("NB"));
    world.propagation.heard(&named("NC", "east"), world.now);
    world.idle(2);
    assert!(!world.roster.contains_key("NA"), "its name runs as NC");
    assert!(world.roster.contains_key("NB"), "nothing has replaced it");
    world
        .propagation
        .forgotten(&["n1".to_owned(), "NC".to_owned()].into(), 0);
    assert!(!world.propagation.known().contains(&"NB".to_owned()));
}

#[test]
fn g12_thousands_of_servers_are_known_and_more_than_ten_thousand_are_not() {
    let mut world = World::quiet();
    for n in 0..10_100 {
        world.propagation.heard(&server(&format!("N{n}")), world.now);
    }
    assert_eq!(world.propagation.known().len(), 10_000);
    world.pump();
    for _ in 0..10 {
        world.idle(1);
    }
    assert_eq!(world.roster.len(), 10_000, "a thousand a second are agreed");
}

#[test]
fn g12_questions_to_servers_that_do_not_answer_are_bounded() {
    let mut world = World::quiet();
    for n in 0..1_000 {
        world.propagation.heard(&server(&format!("N{n}")), world.now);
    }
    world.idle(60);
    let asked = world.asked;
    world.idle(60);
    assert!(world.asked - asked < 64 * 70, "{}", world.asked - asked);
}

#[test]
fn g5_an_account_that_changes_all_the_time_hides_no_server_that_is_away() {
    let (mut world, _) = n2_misses_a_change();
    world.heard_by(&["n1", "n2"]);
    world.idle(10);
    world.heard_by(&["n1"]);
    for _ in 0..20 {
        world.change(&[2]);
        world.answer_all();
        world.pass(300);
        world.mark(true);
    }
    assert!(behind(&world, "n2").is_some());
}

#[test]
fn g5_a_revision_is_in_force_nowhere_on_the_word_of_an_older_or_newer_one() {
    let (mut world, missed) = n2_misses_a_change();
    // Before the answers to it are summed up, the account changes again.
    let newer = world.change(&[2]);
    world.idle(5);
    for revision in [missed, newer] {
        assert!(
            !world.propagation.is_everywhere(account(2), revision, world.now),
            "{revision}"
        );
    }
    world.heard_by(&["n1", "n2"]);
    world.idle(8);
    for revision in [missed, newer] {
        assert!(
            world.propagation.is_everywhere(account(2), revision, world.now),
            "{revision}"
        );
    }
}

/// A directory resolver answers "updated" to what it does not take.
#[test]
fn g6_a_server_that_says_updated_and_holds_another_token_is_no_longer_believed() {
    let mut world = World::quiet();
    world.change(&[1]);
    world.idle(5);
    world.ignores = Some("n2");
    world.held.insert("n2".to_owned(), [(account(1), 0)].into());
    world.heard_by(&["n1", "n2"]);
    world.is_undone = true;
    world.idle(60);
    assert_eq!(behind(&world, "n2"), Some(0));
    assert!(world.sends < 10, "{} sends", world.sends);
    world.ignores = None;
    world.settle();
}
