//! What runs beside openraft's core for as long as this node is a member: it watches over the core and the disk, and keeps
//! what the core relies on ready.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use openraft::async_runtime::WatchReceiver;

use super::machine::{Core, members};
use super::peer::{Contacts, Lane, Speak, Uuid};
use super::stores::{Trimmer, write_committed};
use super::{Inner, Raft};
use crate::tasks::{Scope, off_the_workers};

impl Raft {
    /// Takes `core`, which is member `node_id` of `mesh` and was made on this handle's stores, and starts what watches over
    /// it. [`Self::begin`] does so; a simulation makes a core of its own, on a disk that it lets fail.
    pub fn attend(&self, mesh: Uuid, node_id: u64, core: Core) {
        let Inner {
            handler,
            revision,
            checkpoint,
            space,
            scope,
            ..
        } = &*self.0;
        let (log, contacts) = (&handler.inner().log, handler.inner().contacts.clone());
        scope.spawn(
            "the Raft watcher",
            watch_core(core.clone(), contacts.clone(), scope.clone()),
        );
        let quiet = write_committed(core.clone(), log.clone(), revision.clone(), scope.clone());
        scope.spawn("the writer of what is committed", quiet);
        let trimmer = Trimmer {
            core: core.clone(),
            log: log.clone(),
            checkpoint: checkpoint.clone(),
        };
        scope.spawn(
            "the log trimmer",
            trimmer.run(move |spare| contacts.held(spare), space.clone(), scope.clone()),
        );
        for lane in [Lane::Messages, Lane::Bulk] {
            let greeting = keep_in_touch(core.clone(), self.0.peers.clone(), lane, scope.clone());
            scope.spawn("the greeting of the other members", greeting);
        }
        handler.begin(mesh, node_id, core);
        let raft = Arc::downgrade(&self.0);
        scope.spawn("the watch over the leader's disk", give_way(raft, scope.clone()));
    }
}

/// Reports a fault if openraft's core ends by itself: a node without its core must not look alive.
async fn watch_core(core: Core, contacts: Contacts, scope: Scope) {
    let mut metrics = core.metrics();
    let mut known = None;
    loop {
        let ended = {
            let metrics = metrics.borrow_and_update();
            let leader = metrics.current_leader.filter(|_| !super::machine::is_alone(&core));
            // After a start the leader is one of an earlier life until it is heard, and on admission it has no name yet.
            let is_heard = |leader| leader == metrics.id || known.is_some() || contacts.silence().is_some();
            if let Some(leader) = leader.filter(|leader| is_heard(*leader))
                && known != Some((leader, metrics.current_term))
                && let Some(node) = metrics.membership_config.membership().get_node(&leader)
            {
                known = Some((leader, metrics.current_term));
                let term = metrics.current_term;
                if leader == metrics.id {
                    tracing::info!(term, "this node leads now");
                } else {
                    tracing::info!(term, leader = node.name, "another node leads now");
                }
            }
            metrics.running_state.clone().err()
        };
        if let Some(ended) = ended {
            if !scope.is_stopping() {
                scope.fault().report(format!("Raft has ended: {ended}"));
            }
            return;
        }
        // Also without a change: the leader that the metrics name already may have been heard.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK_EVERY, metrics.changed()).await {
            // A core that returns has published why; one that closes the channel without a reason has panicked.
            if !scope.is_stopping() {
                scope
                    .fault()
                    .report("Raft has panicked; this is a defect of the program");
            }
            return;
        }
    }
}

/// After this long without a leader the log says so: an election is over by then.
pub(super) const NO_LEADER_AFTER: Duration = Duration::from_secs(3);

/// How often a node looks at its disk.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Measures how full the disk is, drops what is left of a snapshot, and hands the lead to a node whose disk works, whenever
/// this one's does not.
async fn give_way(raft: Weak<Inner>, scope: Scope) {
    let mut is_current = true;
    while scope.until_stop(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let Some(inner) = raft.upgrade() else { return };
        let space = inner.space.clone();
        off_the_workers(move || space.look()).await;
        inner.handler.tidy().await;
        let raft = Raft(inner);
        let age = raft.leader_age();
        let was_current = std::mem::replace(&mut is_current, age.is_some_and(|age| age < NO_LEADER_AFTER));
        match age {
            Some(age) if was_current && !is_current => tracing::warn!(
                seconds = age.as_secs(),
                "no leader that a majority acknowledges: uploads wait or are refused, lookups go on"
            ),
            _ if is_current && !was_current => tracing::info!("a leader that a majority acknowledges is there again"),
            _ => {}
        }
        if raft.handler().inner().health.is_bad() {
            raft.hand_over().await;
        }
    }
}

/// How often the other members are greeted.
const GREET_EVERY: Duration = Duration::from_secs(1);

/// How long a greeting may take. It travels behind entries and pieces of snapshots, and a connection on which a call gets no
/// answer for too long is closed, with all that is on it.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// Keeps the connection for `lane` to every other member open, not only to the leader: a candidate, and a follower with a command for
/// a new leader, would otherwise wait a round trip or two for TLS, at the moment when there is no leader.
async fn keep_in_touch(core: Core, peers: Arc<dyn Speak>, lane: Lane, scope: Scope) {
    let own = core.server_metrics().borrow_watched().id;
    let (mut greetings, mut greeted) = (FuturesUnordered::new(), BTreeSet::new());
    let mut time = tokio::time::interval(GREET_EVERY);
    let greeting = async {
        loop {
            tokio::select! {
                _ = time.tick() => {
                    // Each at its own pace: a silent one does not delay the others.
                    let known = members(&core);
                    let others = known.membership().nodes().filter(|(id, _)| **id != own);
                    for (id, peer) in others.filter(|(id, _)| greeted.insert(**id)) {
                        let (id, answer) = (*id, peers.greet(*id, peer.clone(), lane, GREETING_PATIENCE));
                        // One that does not answer is greeted again.
                        greetings.push(answer.map(move |_| id));
                    }
                }
                Some(id) = greetings.next() => {
                    greeted.remove(&id);
                }
            }
        }
    };
    // It ends with the scope alone.
    let _: Option<()> = scope.until_stop(greeting).await;
}
