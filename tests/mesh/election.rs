//! What an election costs, in round trips.

use std::time::Duration;

use jwtmesh::raft::Payload;
use jwtmesh::state::Command;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::network::LONGEST_DELAY_US;
use crate::world::{World, simulated};

/// Entries in the logs. A search by halving for the last one that both logs have would ask ten times.
const ENTRIES: usize = 1_000;

/// How long a new leader takes from its election until its first entry is agreed on, while it leads a mesh with a long log.
fn first_agreed(seed: u64) -> Duration {
    simulated(seed, async move {
        let mut world = World::new(seed, 3, None);
        world.network.calm_down();
        world.form().await;
        let command = Payload(Command::from(world.keys.trust()).encode());
        let old = world.leader().expect("a leader");
        for _ in 0..ENTRIES {
            let agreed = world.nodes[&old].core.client_write(command.clone()).await;
            agreed.expect("nothing happens to the leader");
        }
        world.cut_power(old);
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut elected = None;
        loop {
            assert!(Instant::now() < deadline, "there is no leader");
            world.pass(Duration::from_millis(1)).await;
            let Some(leader) = world.leader() else { continue };
            let since = *elected.get_or_insert_with(Instant::now);
            let metrics = world.nodes[&leader].core.metrics();
            let metrics = metrics.borrow_watched();
            let applied = metrics.last_applied.map(|id| id.committed_leader_id().term);
            if applied == Some(metrics.current_term) {
                return since.elapsed();
            }
        }
    })
}

/// A message or two may be lost: what most elections cost counts.
#[test]
fn a_new_leader_of_a_long_log_does_not_search_it_for_what_a_voter_has() {
    let mut times: Vec<_> = (0..5).map(first_agreed).collect();
    times.sort_unstable();
    println!("{times:?}");
    // One round trip for its first entry, and a sync at each end.
    assert!(times[2] < Duration::from_micros(3 * LONGEST_DELAY_US), "{times:?}");
}
