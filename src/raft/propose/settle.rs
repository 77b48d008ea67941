//! Waits until every voter that can be reached has applied what was agreed on, so that a client which is answered by one
//! node can read at any other.
//!
//! It never holds up an answer for long: a voter that misses it once is not waited for until it has caught up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::watch;

use crate::raft::machine::members;
use crate::raft::peer::{Handler, SETTLE_WITHIN, Speak};
use crate::raft::runtime::Member;
use crate::state::Revision;
use crate::tasks::Scope;

/// How long a voter may take to answer that it has not applied it.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// What is known of each voter. Clones are the same.
#[derive(Clone)]
pub(in crate::raft) struct Settle(Arc<Inner>);

struct Inner {
    handler: Handler,
    peers: Arc<dyn Speak>,
    voters: Mutex<BTreeMap<u64, Arc<Voter>>>,
    scope: Scope,
}

struct Voter {
    applied: watch::Sender<Revision>,
    /// The newest revision that somebody waits for.
    wanted: AtomicU64,
    is_asked: AtomicBool,
    has_missed: AtomicBool,
}

impl Default for Voter {
    fn default() -> Self {
        Self {
            applied: watch::Sender::new(0),
            wanted: AtomicU64::new(0),
            is_asked: AtomicBool::new(false),
            has_missed: AtomicBool::new(false),
        }
    }
}

impl Settle {
    pub(in crate::raft) fn new(handler: Handler, peers: Arc<dyn Speak>, scope: Scope) -> Self {
        Self(Arc::new(Inner {
            handler,
            peers,
            voters: Mutex::default(),
            scope,
        }))
    }

    /// Returns when every voter that can be reached has applied `revision`, or when it has taken too long.
    pub(in crate::raft) async fn settled(&self, revision: Revision) {
        let waits = self.reachable().into_iter().filter_map(|(id, peer)| {
            let voter = self.voter(id);
            let known = self.0.handler.inner().contacts.of(id).applied;
            let before = voter.wanted.fetch_max(revision, Ordering::SeqCst);
            if known >= before {
                voter.has_missed.store(false, Ordering::SeqCst);
            }
            if known >= revision || voter.has_missed.load(Ordering::SeqCst) {
                return None;
            }
            self.ask(id, peer, &voter);
            Some(async move {
                let mut applied = voter.applied.subscribe();
                let missed = || voter.has_missed.load(Ordering::SeqCst);
                let reached = applied.wait_for(|applied| *applied >= revision || missed());
                if tokio::time::timeout(SETTLE_WITHIN, reached).await.is_err() {
                    voter.has_missed.store(true, Ordering::SeqCst);
                }
            })
        });
        join_all(waits).await;
    }

    /// Tells every other voter that `account` is to be sent again.
    pub(in crate::raft) fn resend(&self, account: [u8; 32]) {
        // Also those of whom nothing is known: a follower hears from its leader alone.
        for (id, peer) in self.others() {
            let told = self.0.peers.resend(id, peer, account);
            self.0.scope.spawn("telling a peer to send again", async move {
                // The caller may ask again.
                drop(told.await);
            });
        }
    }

    /// Asks the publishers of the member `to` something. `None` if it does not publish, or does not answer.
    pub(in crate::raft) async fn ask_publisher(&self, to: u64, question: Bytes, patience: Duration) -> Option<Bytes> {
        let own = self.0.handler.inner();
        let peer = members(&own.member.get()?.core).membership().get_node(&to)?.clone();
        self.0.peers.question(to, peer, question, patience).await.ok()?
    }

    /// The other voters that have answered lately.
    fn reachable(&self) -> Vec<(u64, Member)> {
        let mut voters = self.others();
        voters.retain(|(id, _)| self.0.handler.inner().contacts.of(*id).is_reachable());
        voters
    }

    /// The other voters.
    fn others(&self) -> Vec<(u64, Member)> {
        let own = self.0.handler.inner();
        let Some(member) = own.member.get() else {
            return Vec::new();
        };
        let members = members(&member.core);
        let members = members.membership();
        let voters = members.voter_ids().filter(|id| *id != member.node_id);
        voters
            .filter_map(|id| Some((id, members.get_node(&id)?.clone())))
            .collect()
    }

    /// Of the voters that can be reached and whose disks work the one that has applied the most.
    pub(in crate::raft) fn most_advanced(&self) -> Option<u64> {
        let own = self.0.handler.inner();
        let reachable = self.reachable().into_iter().map(|(id, _)| id);
        let reachable = reachable.filter(|id| !own.contacts.of(*id).is_disk_bad);
        reachable.max_by_key(|id| own.contacts.of(*id).applied)
    }

    fn voter(&self, id: u64) -> Arc<Voter> {
        let mut voters = self.0.voters.lock().unwrap_or_else(PoisonError::into_inner);
        voters.entry(id).or_default().clone()
    }

    /// Asks the voter until it has applied what is wanted; one question at a time, however many wait.
    fn ask(&self, id: u64, peer: Member, voter: &Arc<Voter>) {
        if voter.is_asked.swap(true, Ordering::SeqCst) {
            return;
        }
        let (settle, voter) = (self.clone(), voter.clone());
        self.0.scope.spawn("asking a voter how far it is", async move {
            loop {
                while !voter.is_done() {
                    settle.ask_once(id, &peer, &voter).await;
                }
                voter.is_asked.store(false, Ordering::SeqCst);
                // Somebody may have begun to wait since the last look, and found it asked.
                if voter.is_done() || voter.is_asked.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
        });
    }

    async fn ask_once(&self, id: u64, peer: &Member, voter: &Voter) {
        let wanted = voter.wanted.load(Ordering::SeqCst);
        match self.0.peers.applied(id, peer.clone(), wanted, ASK_PATIENCE).await {
            Ok(applied) => {
                voter.applied.send_if_modified(|known| {
                    let is_news = *known < applied;
                    *known = applied.max(*known);
                    is_news
                });
            }
            Err(_) => {
                // A voter that is gone is not waited for: an upload right after a leader's end would be late for nothing.
                voter.has_missed.store(true, Ordering::SeqCst);
                voter.applied.send_modify(|_| ());
            }
        }
    }
}

impl Voter {
    /// Whether nothing waits for it.
    fn is_done(&self) -> bool {
        self.has_missed.load(Ordering::SeqCst) || *self.applied.borrow() >= self.wanted.load(Ordering::SeqCst)
    }
}
