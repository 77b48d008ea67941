//! A node of a mesh whose store is damaged, or another one's: it does no harm, and the others go on.

use std::fs;
use std::path::PathBuf;

use crate::support::mesh::{NAMES, Nodes};
use crate::support::mint::{Account, Operator, now};
use crate::support::process::eventually;

/// The data folder of a node.
fn data(mesh: &Nodes, node: usize) -> PathBuf {
    mesh.folder.path().join(NAMES[node])
}

/// The node that is tried; it must not be the one that forms the mesh.
const ODD: usize = 2;

#[test]
fn g1_a_node_of_a_mesh_whose_log_is_damaged_does_not_start_and_the_others_go_on() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let accounts: Vec<Account> = (0..20).map(|n| Account::new(&format!("A{n}"))).collect();
    for account in &accounts {
        mesh.nodes[0].put(account, &operator.account_at(account, now() - 100));
    }
    mesh.nodes[ODD].kill();
    let log = data(&mesh, ODD).join("log");
    let first = fs::read_dir(&log).expect("its log").flatten().map(|entry| entry.path());
    let first = first.min().expect("a segment");
    let sound = fs::read(&first).expect("a segment");
    let end = sound.iter().rposition(|byte| *byte != 0).expect("entries");
    let mut damaged = sound.clone();
    damaged[end / 2] ^= 0x10;
    fs::write(&first, &damaged).expect("the test's own folder is writable");

    let refused = mesh.nodes[ODD].cli(&["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    let name = first.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(said.contains(&name) && said.contains("damaged"), "{said}");
    assert_eq!(fs::read(&first).expect("a segment"), damaged, "nothing is changed");

    let last = operator.account_at(&accounts[0], now());
    eventually("the others take uploads", || {
        (mesh.nodes[0].post_account(&accounts[0].id(), &last).status == 200).then_some(())
    });
    fs::write(&first, &sound).expect("the test's own folder is writable");
    mesh.nodes[ODD].start_again();
    eventually("it has caught up", || {
        (mesh.nodes[ODD].get_account(&accounts[0].id()).text() == last).then_some(())
    });
    for account in &accounts {
        let stored = mesh.nodes[0].get_account(&account.id()).text();
        assert_eq!(mesh.nodes[ODD].get_account(&account.id()).text(), stored);
    }
}

#[test]
fn g1_a_node_with_the_store_of_another_mesh_takes_part_in_neither() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let mut other = Nodes::formed(3, &operator.token());
    let account = Account::new("A");
    let before = operator.account_at(&account, now() - 100);
    mesh.nodes[0].put(&account, &before);
    mesh.nodes[ODD].terminate();
    other.nodes[ODD].terminate();
    let (own, kept) = (data(&mesh, ODD), mesh.folder.path().join("kept"));
    fs::rename(&own, &kept).expect("the test's own folder is writable");
    fs::rename(data(&other, ODD), &own).expect("both folders are on one disk");

    mesh.nodes[ODD].start_again();
    eventually("it says whose it is", || {
        mesh.nodes[ODD].log().contains("belongs to another mesh").then_some(())
    });
    let stray = Account::new("STRAY");
    let refused = mesh.nodes[ODD].post_account(&stray.id(), &operator.account(&stray));
    assert_eq!(refused.status, 503, "{}", refused.text());
    let last = operator.account_at(&account, now());
    mesh.nodes[0].put(&account, &last);
    assert_eq!(mesh.nodes[1].get_account(&account.id()).text(), last);
    for node in &mesh.nodes[..ODD] {
        assert_eq!(node.get_account(&stray.id()).status, 404);
    }

    mesh.nodes[ODD].terminate();
    fs::remove_dir_all(&own).expect("the test's own folder is writable");
    fs::rename(&kept, &own).expect("the test's own folder is writable");
    mesh.nodes[ODD].start_again();
    eventually("it has caught up", || {
        (mesh.nodes[ODD].get_account(&account.id()).text() == last).then_some(())
    });
}
