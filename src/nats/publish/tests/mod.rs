//! Propagation under faults. Each fault is tried both before and after the server took the token.

#[cfg(test)]
mod anew;
#[cfg(test)]
mod away;
#[cfg(test)]
mod import;
#[cfg(test)]
mod older;
#[cfg(test)]
mod questions;
#[cfg(test)]
mod read;
#[cfg(test)]
mod world;

use proptest::prelude::*;

use world::{SKIPPED, UPDATED, World, account, refused, server};

use super::propagation::Propagation;
use super::step::{Lane, Step};
use crate::jwt::AccountKey;
use crate::nats::subjects::Verdict;

#[test]
fn a_change_is_sent_at_once_and_counts_when_it_is_answered() {
    let mut world = World::quiet();
    let revision = world.change(&[1]);
    assert_eq!(world.messages, [(account(1), revision)]);
    assert!(world.propagation.updated_to() < revision, "no server has answered yet");
    world.answer_all();
    assert!(world.propagation.updated_to() >= revision);
    world.settle();
    assert_eq!(world.sends, 1);
}

#[test]
fn g5_after_each_fault_every_server_is_updated_whether_it_came_before_or_after_the_server_took_the_token() {
    type Fault = fn(&mut World);
    let faults: [(&str, Fault); 13] = [
        ("the message is lost", |w| {
            w.messages.pop_front();
        }),
        ("the reply is lost", |w| {
            w.deliver();
            w.replies.pop_front();
        }),
        ("the server hangs before the message", |w| {
            w.hung = true;
            w.pass(2_000);
        }),
        ("the server hangs after the message", |w| {
            w.deliver();
            w.hung = true;
            w.pass(2_000);
        }),
        ("the connection breaks before the message", World::disconnect),
        ("the connection breaks after the message", |w| {
            w.deliver();
            w.disconnect();
        }),
        ("the process ends before the message", World::restart),
        ("the process ends after the message", |w| {
            w.deliver();
            w.restart();
        }),
        ("the process ends after the reply, before it was agreed", |w| {
            w.deliver();
            w.reply();
            w.restart();
        }),
        ("a newer one comes before the message", |w| {
            w.change(&[1]);
        }),
        ("a newer one comes before the reply", |w| {
            w.deliver();
            w.change(&[1]);
            w.reply();
        }),
        ("agreeing fails", |w| {
            w.answer_all();
            w.pass(5_000);
            w.mark(false);
        }),
        ("agreeing succeeds and the process ends before it knows", |w| {
            w.answer_all();
            w.pass(5_000);
            w.agree_unheard();
            w.restart();
        }),
    ];
    for (name, fault) in faults {
        for verdict in [UPDATED, SKIPPED, refused()] {
            println!("{name}, answered {verdict:?}");
            let mut world = World::quiet();
            world.verdict = verdict;
            world.change(&[1]);
            fault(&mut world);
            world.check();
            world.settle();
        }
    }
}

#[test]
fn pauses_grow_while_no_server_answers_and_the_first_answer_ends_them_all() {
    let mut world = World::quiet();
    world.change(&[1, 2]);
    let mut sent_at = Vec::new();
    for _ in 0..1_200 {
        if !world.messages.is_empty() {
            assert_eq!(world.messages.len(), 2);
            sent_at.push(world.now);
            world.messages.clear();
        }
        world.pass(100);
    }
    let pauses: Vec<_> = sent_at.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000).collect();
    assert_eq!(pauses, [2, 4, 8, 16, 30, 30]);
    world.pass(30_000);
    let (first, second) = (world.messages.pop_front(), world.messages.pop_front());
    world.messages.extend(first);
    world.answer_all();
    assert_eq!(
        world.messages.len() + world.held["n1"].len(),
        2,
        "{second:?} is sent again without waiting for its pause"
    );
    world.settle();
}

#[test]
fn g5_a_server_that_hangs_is_left_two_seconds_after_a_change_and_one_that_is_only_slow_is_not() {
    let mut world = World::quiet();
    world.hung = true;
    world.change(&[1]);
    world.pass(1_999);
    assert!(world.connected);
    world.pass(1);
    assert!(!world.connected, "nothing was received");
    world.connect();
    world.answer_all();
    assert_eq!(world.held["n1"], world.rows, "the next server is updated at once");

    world.change(&[2]);
    for _ in 0..600 {
        world.pass(100);
    }
    assert!(world.connected, "it answers pings");
    world.settle();
    assert_eq!(world.left, 1);
}

#[test]
fn a_skipped_change_is_repeated_twice_three_seconds_apart_and_agreed_only_then() {
    let mut world = World::quiet();
    world.verdict = SKIPPED;
    let revision = world.change(&[1]);
    world.answer_all();
    assert!(world.propagation.updated_to() >= revision, "an answer is an answer");
    for repetition in 2..=3 {
        world.pass(2_999);
        assert_eq!(world.sends, repetition - 1);
        assert!(world.agreed < revision && world.marks.iter().all(|mark| mark.position < revision));
        world.pass(1);
        assert_eq!(world.sends, repetition);
        world.answer_all();
    }
    world.pass(3_000);
    world.mark(true);
    world.pass(60_000);
    assert_eq!(world.sends, 3, "twice at most");
    assert!(world.agreed >= revision);
    assert_eq!(
        world.concluded.iter().map(|s| (s.skipped, s.again)).collect::<Vec<_>>(),
        [(1, true), (1, true), (1, false)]
    );
}

#[test]
fn the_position_is_not_agreed_past_an_account_that_is_still_to_be_repeated() {
    let mut world = World::quiet();
    world.verdict = SKIPPED;
    let skipped = world.change(&[1]);
    world.answer_all();
    world.verdict = UPDATED;
    let updated = world.change(&[2]);
    world.answer_all();
    world.pass(2_000);
    assert!(world.propagation.updated_to() >= updated, "both were answered");
    assert_eq!(
        world.marks.back().map(|mark| mark.position),
        Some(skipped - 1),
        "the second is finished, the first is not"
    );
    world.mark(true);
    world.restart();
    world.connect();
    assert!(
        world.messages.contains(&(account(1), skipped)),
        "the next process repeats it"
    );
    world.settle();
}

#[test]
fn a_refusal_counts_as_an_answer_and_the_change_is_sent_three_times_more() {
    let mut world = World::quiet();
    world.verdict = refused();
    let revision = world.change(&[1]);
    world.answer_all();
    assert!(
        world.propagation.updated_to() >= revision,
        "an account that every server refuses must not hold up the others"
    );
    let mut last_tries = Vec::new();
    for _ in 0..400 {
        world.pass(100);
        if !world.messages.is_empty() {
            last_tries.push(world.propagation.is_last_try(account(1)));
        }
        world.answer_all();
        world.mark(true);
    }
    assert_eq!(last_tries, [false, false, true], "only the last refusal is final");
    assert_eq!(world.sends, 4);
    assert!(world.agreed >= revision);
}

#[test]
fn one_answer_of_several_is_enough_and_all_are_counted() {
    let mut world = World::quiet();
    let revision = world.change(&[1]);
    for (name, verdict) in [("n1", UPDATED), ("n2", SKIPPED), ("n3", refused()), ("n2", UPDATED)] {
        world
            .propagation
            .answered(account(1), revision, &server(name), &verdict, world.now);
    }
    world.answered.insert(account(1), revision);
    world.pass(3_000);
    let summary = world.concluded.first().expect("it was answered");
    assert_eq!((summary.updated, summary.skipped, summary.refused), (2, 0, 1));
    assert!(summary.again && !summary.routine);
    world.settle();
}

#[test]
fn an_answer_to_an_older_token_does_not_count_for_the_newer_one() {
    let mut world = World::quiet();
    let older = world.change(&[1]);
    world.deliver();
    let newer = world.change(&[1]);
    assert_eq!(
        world.messages,
        [(account(1), newer)],
        "it does not wait for the older one's answer"
    );
    world.reply();
    assert!((older..newer).contains(&world.propagation.updated_to()));
    world.settle();
}

#[test]
fn after_a_reconnection_what_was_sent_in_the_last_two_minutes_is_sent_again() {
    let mut world = World::new();
    world.connect();
    world.change(&[1]);
    world.settle();
    world.change(&[2]);
    world.answer_all();
    for _ in 0..119 {
        world.pass(1_000);
        world.mark(true);
    }
    world.change(&[3]);
    world.answer_all();
    world.sends = 0;
    world.disconnect();
    world.change(&[4]);
    world.pass(600_000);
    assert_eq!(world.sends, 0);
    world.connect();
    let sent: Vec<_> = world.messages.iter().map(|(account, _)| *account).collect();
    assert_eq!(world.sends, 3, "{sent:?}");
    assert!(!sent.contains(&account(1)), "it was sent an hour ago");
    world.settle();
}

#[test]
fn an_account_that_was_asked_for_is_sent_though_nothing_changed() {
    let mut world = World::quiet();
    let revision = world.rows[&account(1)];
    assert!(world.propagation.ask(account(1), revision, world.now));
    world.pump();
    assert_eq!(world.messages, [(account(1), revision)]);
    assert!(world.propagation.ask(account(1), revision, world.now));
    world.pump();
    assert_eq!(world.sends, 1, "it is under way");
    world.settle();
}

#[test]
fn g5_changes_sent_around_a_lost_connection_are_sent_again_when_its_messages_can_no_longer_arrive() {
    let mut world = World::quiet();
    world.change(&[1]);
    world.idle(5);
    world.disconnect();
    world.connect();
    let settled = world.idle(60);
    assert_eq!(world.idle(30), settled, "quiet meanwhile");
    assert!(world.idle(60) > settled, "the current token replaces what came late");
    world.settle();
}

#[test]
fn g5_what_the_node_that_published_before_has_left_in_its_buffers_is_sent_over() {
    let mut world = World::new();
    world.propagation.taken_over(world.now);
    world.connect();
    world.change(&[1]);
    let settled = world.idle(60);
    // A message of the other node arrives now.
    world.is_undone = true;
    world.held.entry("n1".to_owned()).or_default().insert(account(1), 0);
    assert!(world.idle(90) > settled, "the current token replaces what came late");
    world.settle();
}

#[test]
fn the_number_of_accounts_sent_on_request_is_bounded() {
    let mut world = World::quiet();
    let taken = (0..40_000_u32).filter(|n| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        world.propagation.ask(AccountKey::from_bytes(bytes), 1, 0)
    });
    assert_eq!(taken.count(), 512);
}

#[test]
fn an_account_that_cannot_be_sent_does_not_hold_up_the_others() {
    let mut world = World::quiet();
    let revision = world.change(&[1]);
    world.messages.clear();
    world.propagation.unsendable(account(1), world.now);
    world.answered.insert(account(1), revision);
    world
        .held
        .entry("n1".to_owned())
        .or_default()
        .insert(account(1), revision);
    world.delivered.insert(account(1), revision);
    world.settle();
}

#[test]
fn draining_takes_nothing_new_and_waits_for_what_is_in_flight() {
    let mut world = World::quiet();
    world.change(&[1]);
    world.propagation.drain();
    world.change(&[2]);
    assert_eq!(world.sends, 1);
    assert!(!world.propagation.is_drained());
    world.answer_all();
    assert!(world.propagation.is_drained());
}

#[test]
fn a_read_that_finds_nothing_is_repeated_only_after_a_pause() {
    let mut propagation = Propagation::new(0, Vec::new());
    propagation.connected(0);
    propagation.newest(7);
    propagation.cannot_ask(0);
    assert!(matches!(
        propagation.next(0),
        Step::Read {
            lane: Lane::Fresh,
            after: 0,
            ..
        }
    ));
    propagation.listed(Lane::Fresh, &[], 0, 0);
    let Step::Wait(Some(until)) = propagation.next(0) else {
        panic!("it waits")
    };
    assert!(matches!(propagation.next(until), Step::Read { .. }));
}

#[derive(Debug, Clone)]
enum Event {
    Change(Vec<u8>),
    Deliver,
    LoseMessage,
    Reply,
    LoseReply,
    Answer(usize),
    Pass(u64),
    Connect,
    Disconnect,
    Hang,
    Restart,
    Mark(bool),
    Ask(u8),
    Verdict(Verdict),
    HeardBy(&'static [&'static str]),
    ReadSlowly(bool),
    FinishRead,
    MayAsk(bool),
    AskSlowly(bool),
    AnswerQuestions,
    Copy,
    PutBack,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => proptest::collection::vec(0u8..6, 1..3).prop_map(Event::Change),
        1 => proptest::collection::vec(0u8..200, 100..200).prop_map(Event::Change),
        4 => Just(Event::Deliver),
        1 => Just(Event::LoseMessage),
        4 => Just(Event::Reply),
        1 => Just(Event::LoseReply),
        2 => (1usize..300).prop_map(Event::Answer),
        3 => (1u64..4_000).prop_map(Event::Pass),
        1 => (1u64..200_000).prop_map(Event::Pass),
        3 => Just(Event::Connect),
        1 => Just(Event::Disconnect),
        1 => Just(Event::Hang),
        1 => Just(Event::Restart),
        3 => any::<bool>().prop_map(Event::Mark),
        1 => (0u8..6).prop_map(Event::Ask),
        1 => prop_oneof![Just(&["n1"][..]), Just(&["n1", "n2"][..]), Just(&["n2", "n3"][..])].prop_map(Event::HeardBy),
        1 => any::<bool>().prop_map(Event::ReadSlowly),
        2 => Just(Event::FinishRead),
        1 => any::<bool>().prop_map(Event::MayAsk),
        1 => any::<bool>().prop_map(Event::AskSlowly),
        2 => Just(Event::AnswerQuestions),
        1 => Just(Event::Copy),
        1 => Just(Event::PutBack),
        1 => prop_oneof![Just(UPDATED), Just(SKIPPED), Just(refused())].prop_map(Event::Verdict),
    ];
    proptest::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g5_whatever_happens_no_change_is_lost_and_the_position_passes_no_unanswered_one(events in events()) {
        let mut world = World::new();
        let mut copy = None;
        for event in events {
            match event {
                Event::Change(accounts) => {
                    world.change(&accounts);
                }
                Event::Deliver => world.deliver(),
                Event::LoseMessage => world.lose_message(),
                Event::Reply => world.reply(),
                Event::LoseReply => drop(world.replies.pop_front()),
                Event::Answer(times) => (0..times).for_each(|_| {
                    world.deliver();
                    world.reply();
                }),
                Event::Pass(ms) => world.pass(ms),
                Event::Connect => world.connect(),
                Event::Disconnect => world.disconnect(),
                Event::Hang => world.hung = world.connected,
                Event::Restart => world.restart(),
                Event::Mark(agreed) => world.mark(agreed),
                Event::Ask(n) => {
                    if let Some(revision) = world.rows.get(&account(n)).copied() {
                        world.propagation.ask(account(n), revision, world.now);
                        world.pump();
                    }
                }
                Event::HeardBy(servers) => world.heard_by(servers),
                Event::ReadSlowly(slowly) => world.reads_slowly = slowly,
                Event::FinishRead => world.finish_read(),
                // Without it an older copy undoes what servers hold.
                Event::MayAsk(_) if world.is_older => {}
                Event::MayAsk(may) => {
                    // Permissions are read with the next connection.
                    world.disconnect();
                    world.may_ask = may;
                }
                Event::Copy => copy = Some(world.copy()),
                Event::PutBack => {
                    if let Some(copy) = copy.take_if(|_| world.may_ask) {
                        world.put_back(copy);
                    }
                }
                Event::AskSlowly(slowly) => world.asks_slowly = slowly,
                Event::AnswerQuestions => world.answer_questions(),
                Event::Verdict(verdict) => world.verdict = verdict,
            }
            world.check();
        }
        world.settle();
    }
}
