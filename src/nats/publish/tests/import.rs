//! Propagation during and after an import of accounts: what else changes never waits for it.

use super::world::{SKIPPED, World, account};
use crate::jwt::AccountKey;

/// The key of the account with this number in an import.
fn imported(n: u32) -> AccountKey {
    let mut bytes = [0xAA; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    AccountKey::from_bytes(bytes)
}

/// Imports 40,000 accounts, 64 an entry, of which every server says that it does not have them loaded.
fn import(world: &mut World) {
    world.verdict = SKIPPED;
    for n in 0..625 {
        world.change_keys((n * 64..n * 64 + 64).map(imported));
    }
}

/// Changes account 1; gives how many messages the servers take before it. Each takes a server about 0.1 ms.
fn messages_before_a_revocation(world: &mut World) -> usize {
    let revision = world.change(&[1]);
    let at = world
        .messages
        .iter()
        .position(|message| *message == (account(1), revision));
    at.expect("it is sent at once")
}

#[test]
fn g5_a_revocation_never_waits_behind_an_import() {
    type Before = fn(&mut World);
    let befores: [(&str, Before); 5] = [
        ("right after it", |_| {}),
        ("after a reconnection", |world| {
            world.disconnect();
            world.connect();
        }),
        ("while it is read from a slow disk", |world| {
            world.reads_slowly = true;
            world.disconnect();
            world.connect();
        }),
        ("when a lost connection is caught up on again", |world| {
            world.disconnect();
            world.connect();
            world.pass(121_000);
        }),
        ("after a restart", |world| {
            world.restart();
            world.connect();
        }),
    ];
    for (name, before) in befores {
        let mut world = World::quiet();
        world.heard_by(&["n1", "n2"]);
        import(&mut world);
        before(&mut world);
        let mut most = 0;
        // Ten seconds, in which all that is on its way is answered within 10 ms.
        for _ in 0..1_000 {
            most = most.max(messages_before_a_revocation(&mut world));
            world.answer_all();
            world.finish_read();
            world.mark(true);
            world.pass(10);
        }
        assert!(most <= 64, "{name}: {most} messages before it");
        assert!(
            world.sends > 4_000,
            "{name}: the import goes on meanwhile, {}",
            world.sends
        );
        world.settle();
    }
}

#[test]
fn g5_a_revocation_uploaded_during_an_import_is_among_the_first_after_a_lost_connection() {
    for restart in [false, true] {
        let mut world = World::quiet();
        world.disconnect();
        import(&mut world);
        let revision = world.change(&[1]);
        if restart {
            world.restart();
        }
        world.connect();
        let mut passed = 0;
        while world.held.get("n1").and_then(|held| held.get(&account(1))) != Some(&revision) {
            world.answer_all();
            world.pass(10);
            passed += 10;
            assert!(passed <= 100, "restart {restart}: no server has it after {passed} ms");
        }
        world.settle();
    }
}

#[test]
fn g12_an_import_that_no_server_answers_is_remembered_within_bounds_and_loses_nothing() {
    let mut world = World::quiet();
    import(&mut world);
    assert!(world.messages.len() <= 64, "{} under way", world.messages.len());
    world.messages.clear();
    for _ in 0..600 {
        world.pass(100);
    }
    assert!(world.messages.len() <= 8_192, "{} in a minute", world.messages.len());
    assert_eq!(messages_before_a_revocation(&mut world), world.messages.len() - 1);
    world.settle();
}

#[test]
fn a_first_start_is_paced_and_a_fresh_change_overtakes_it() {
    let mut world = World::new();
    for n in 0..=250 {
        world.change(&[n]);
    }
    world.connect();
    let first = world.messages.len();
    assert!((1..=128).contains(&first), "{first} at once");
    let revision = world.change(&[250]);
    assert_eq!(
        world.messages.back(),
        Some(&(account(250), revision)),
        "sent before the rest"
    );
    assert_eq!(world.propagation.updated_to(), 0);
    world.settle();
}
