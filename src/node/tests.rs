//! What a start and a shutdown do on a disk that fails or hangs, and what a leader does with another node's commands.

use std::path::Path;
use std::time::Duration;

use nkeys::KeyPair;

use super::assemble::start_on;
use super::faulty_disk::FaultyDisk;
use crate::clock::Clock;
use crate::config::Config;
use crate::raft::peer::{Leading, NotLed};
use crate::sign::{self, Claims};
use crate::state::{
    Command, MarkPropagated, Outcomes, OverrideAccount, PutAccount, PutAccounts, PutOperator, PutOperators,
};

/// Longer than anything here takes. What takes longer counts as hanging.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

fn config(folder: &Path) -> Config {
    config_of(folder, include_str!("../../tests/vectors/accept/operator-plain.jwt"))
}

fn config_of(folder: &Path, token: &str) -> Config {
    std::fs::write(folder.join("operator.jwt"), token).unwrap();
    let text = "[cluster]\nname = \"m\"\noperators = [\"operator.jwt\"]\n\n[[node]]\nname = \"n1\"\ndata = \"data\"\npublic = \"127.0.0.1:0\"\n";
    Config::parse(&folder.join("cluster.toml"), text, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_on_a_faulty_disk_names_the_disk_and_not_a_consequence() {
    for good in 0.. {
        let temp = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        disk.change(|health| health.good = Some(good));
        let started = start_on(config(temp.path()), Clock::system(), disk.open()).await;
        match started {
            Err(error) => assert!(
                error.to_string().contains("the disk is gone"),
                "after {good} syncs: {error}"
            ),
            Ok(_) => {
                assert!(good > 2, "a start without a sync kept nothing");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_forever_for_a_disk_that_hangs() {
    let temp = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let node = start_on(config(temp.path()), Clock::system(), disk.open())
        .await
        .unwrap();
    disk.change(|health| health.hangs = true);
    let raft = node.raft.clone();
    let mut proposed = tokio::task::JoinSet::new();
    proposed.spawn(async move {
        let mark = MarkPropagated {
            nats_cluster: "x".to_owned(),
            position: 1,
        };
        raft.propose(mark).await
    });
    let hanging = disk.clone();
    tokio::task::spawn_blocking(move || hanging.wait_until_it_hangs())
        .await
        .unwrap();
    let limit = Duration::from_millis(100);
    let ended = tokio::time::timeout(PATIENCE, node.shutdown_within(limit, limit)).await;
    // The threads that wait for the disk would keep the test from ending.
    disk.change(|health| health.hangs = false);
    proposed.abort_all();
    let error = ended
        .expect("it is bounded")
        .expect_err("nothing was closed")
        .to_string();
    assert!(error.contains("did not close"), "{error}");
}

/// One node that was broken into must not be able to write what no operator signed (G3).
#[tokio::test(flavor = "multi_thread")]
async fn g3_a_leader_verifies_again_what_another_node_sends_it_to_store() {
    const ISSUED: i64 = 1_700_000_000;
    let [operator, stranger] = [(); 2].map(|()| KeyPair::new_operator());
    let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
    let temp = tempfile::tempdir().unwrap();
    let token = Claims::operator(&operator, "O", &system)
        .sign(&operator, ISSUED)
        .unwrap();
    let disk = FaultyDisk::default();
    let node = start_on(config_of(temp.path(), &token), Clock::system(), disk.open())
        .await
        .unwrap();
    let epoch = node.resolver.trust().epoch;
    let item = |signer: &KeyPair, name: &str| {
        let claims = Claims::account(&account.public_key(), name)
            .into_value(signer, ISSUED)
            .unwrap();
        PutAccount {
            account: account.public_key().parse().unwrap(),
            operator: operator.public_key().parse().unwrap(),
            issued_at: ISSUED,
            expires_at: 0,
            name: "A".to_owned(),
            token: sign::encode(signer, &claims).unwrap().into(),
        }
    };
    let put = |item: PutAccount| {
        Command::from(PutAccounts {
            trust_epoch: epoch,
            items: vec![item],
        })
    };
    let over = |item: PutAccount| {
        Command::from(OverrideAccount {
            trust_epoch: epoch,
            item,
            barred: Vec::new(),
        })
    };
    let good = item(&operator, "A");
    let newer = PutAccount {
        issued_at: ISSUED + 1,
        ..good.clone()
    };
    let forged = PutOperator {
        operator: operator.public_key().parse().unwrap(),
        issued_at: ISSUED + 1,
        token: Claims::operator(&stranger, "O", &system)
            .sign(&stranger, ISSUED + 1)
            .unwrap()
            .into(),
    };
    for (command, what) in [
        (put(item(&stranger, "A")), "signed by a stranger"),
        (put(item(&account, "A")), "signed by itself"),
        (put(item(&operator, "B")), "another name than its token's"),
        (put(newer.clone()), "a later time than its token's"),
        (over(item(&stranger, "A")), "an override signed by a stranger"),
        (over(newer), "an override with a later time than its token's"),
        (
            PutOperators { items: vec![forged] }.into(),
            "an operator that another one signed",
        ),
    ] {
        let led = node.resolver.lead(2, command).await;
        assert!(matches!(led, Err(NotLed::Refused(_))), "{what}: {led:?}");
    }
    let led = node.resolver.lead(2, put(good)).await.expect("it is the operator's");
    assert!(matches!(&led.outcomes, Outcomes::Accounts(each) if each.len() == 1));
    node.shutdown(PATIENCE).await.unwrap();
}
