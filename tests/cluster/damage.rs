//! A node whose stored rows are damaged: it says which, serves the others, and takes a newer token in their place.

use std::fs;
use std::os::unix::fs::FileExt;

use data_encoding::BASE64URL_NOPAD;

use crate::support::mint::{Account, Operator, now};
use crate::support::node::Node;

/// Flips a bit of the signature of `token` wherever the state file of the node, which is not running, has it.
fn damage(node: &Node, token: &str) {
    let signature = token.rsplit('.').next().expect("a token has parts");
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).expect("base64");
    let path = node.folder().join("data/state.redb");
    let bytes = fs::read(&path).expect("the state file");
    let file = fs::OpenOptions::new().write(true).open(&path).expect("the state file");
    let mut damaged = 0;
    for (at, _) in bytes
        .windows(signature.len())
        .enumerate()
        .filter(|(_, found)| *found == signature)
    {
        file.write_at(&[signature[0] ^ 1], at as u64).expect("it is writable");
        damaged += 1;
    }
    assert!(damaged > 0, "the row is in the file");
}

struct World {
    operator: Operator,
    node: Node,
    damaged: Account,
    sound: Account,
    token: String,
}

/// A node that was stopped, and the row of one account then damaged.
fn world() -> World {
    let operator = Operator::new("O");
    let mut node = Node::of(&operator);
    let (damaged, sound) = (Account::new("DAMAGED"), Account::new("SOUND"));
    let token = operator.account_at(&damaged, now() - 100);
    node.put(&damaged, &token);
    node.put(&sound, &operator.account_at(&sound, now() - 100));
    assert_eq!(node.terminate().code(), Some(0));
    damage(&node, &token);
    World {
        operator,
        node,
        damaged,
        sound,
        token,
    }
}

#[test]
fn a_damaged_row_is_one_accounts_500_and_is_told_once_and_a_push_mends_it() {
    let World {
        operator,
        mut node,
        damaged,
        sound,
        token,
    } = world();
    node.start_again();
    for _ in 0..3 {
        let answer = node.get_account(&damaged.id());
        assert_eq!(answer.status, 500, "{}", answer.text());
        assert!(!answer.text().contains("redb"), "{}", answer.text());
        assert_eq!(node.get_account(&sound.id()).status, 200);
    }
    let log = node.log();
    let told = log.lines().filter(|line| line.contains("is damaged"));
    assert_eq!(told.filter(|line| line.contains(&damaged.id())).count(), 1, "{log}");

    // An older token never takes its place; the stored one, or a newer one, does.
    let older = node.post_account(&damaged.id(), &operator.account_at(&damaged, now() - 200));
    assert_eq!(older.status, 500, "{}", older.text());
    node.put(&damaged, &token);
    let mended = node.get_account(&damaged.id());
    assert_eq!((mended.status, mended.text()), (200, token));
    assert_eq!(node.cli(&["verify"]).status.code(), Some(0));
}

#[test]
fn every_listing_names_the_account_whose_row_is_damaged_and_goes_on_with_the_others() {
    let World {
        mut node,
        damaged,
        sound,
        ..
    } = world();
    node.start_again();
    let copies = node.folder().join("copies");
    for (args, others) in [
        (vec!["account", "list"], true),
        (vec!["account", "list", "--json"], true),
        (vec!["verify"], false),
        (vec!["verify", "--json"], false),
        (
            vec!["account", "pull", "--all", "--dir", copies.to_str().expect("text")],
            true,
        ),
    ] {
        let done = node.cli(&args);
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        let text = out.clone() + &String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{args:?}: {text}");
        let line = text.lines().find(|line| line.contains(&damaged.id()));
        assert!(line.is_some_and(|line| line.contains("damaged")), "{args:?}: {text}");
        assert!(!others || out.contains(&sound.id()), "{args:?}: {text}");
        if args[0] == "verify" {
            let counted = ["2 good, 0 expired, 1 failed", "\"good\":2"];
            assert!(counted.iter().any(|counted| out.contains(counted)), "{args:?}: {text}");
        }
    }
    let shown = node.cli(&["account", "show", &damaged.id()]);
    let said = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert_eq!(shown.status.code(), Some(1), "{said}");
    assert!(said.contains("its log says which"), "{said}");
}

#[test]
fn g1_a_damaged_row_under_an_upload_that_was_acknowledged_does_not_keep_the_node_from_starting() {
    let operator = Operator::new("O");
    let mut node = Node::of(&operator);
    let account = Account::new("A");
    let first = operator.account_at(&account, now() - 100);
    node.put(&account, &first);
    assert_eq!(node.terminate().code(), Some(0));
    node.start_again();
    let newer = operator.account_at(&account, now() - 50);
    node.put(&account, &newer);
    // Acknowledged, and durable in the log alone.
    node.kill();
    damage(&node, &first);
    node.start_again();
    let answer = node.get_account(&account.id());
    assert_eq!((answer.status, answer.text()), (200, newer));
    assert!(
        node.log().contains("an agreed upload now replaces it"),
        "{}",
        node.log()
    );
}

#[test]
fn a_state_file_that_was_overwritten_at_its_start_is_named_with_what_to_do_next() {
    let World { node, .. } = world();
    let path = node.folder().join("data/state.redb");
    let sound = fs::read(&path).expect("the state file");
    for (what, from, length) in [
        ("its first page", 0, 4096),
        ("behind the magic number", 9, 23),
        ("both commits", 64, 256),
        ("the layout", 9, 55),
        ("all but the header", 320, sound.len() - 320),
    ] {
        for byte in [0, 0x5a, 0xff] {
            let mut bytes = sound.clone();
            bytes[from..from + length].fill(byte);
            fs::write(&path, bytes).expect("it is writable");
            let done = node.cli(&["serve"]);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(1), "{what}, {byte:#x}: {said}");
            assert!(!said.contains("panicked"), "{what}, {byte:#x}: {said}");
            assert!(
                said.contains("state.redb") && said.contains("from a backup"),
                "{what}, {byte:#x}: {said}"
            );
        }
    }
}
