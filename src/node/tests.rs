//! What a start and a shutdown do on a disk that fails or hangs.

use std::path::Path;
use std::time::Duration;

use super::assemble::start_on;
use super::faulty_disk::FaultyDisk;
use crate::clock::Clock;
use crate::config::Config;
use crate::state::MarkPropagated;

/// Longer than anything here takes. What takes longer counts as hanging.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

fn config(folder: &Path) -> Config {
    let token = include_str!("../../tests/vectors/accept/operator-plain.jwt");
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
