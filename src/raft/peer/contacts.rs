//! When this node last heard from whom, on a monotonic clock of its own.
//!
//! openraft computes such ages only when its core has time, and a core that waits for a disk would look fresh all the while.
//! Here a leader's age is that of the last acknowledgement by a quorum: a leader that is alone looks as old as it is. It
//! travels to the followers with each append.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::raft::machine::Core;
use crate::raft::runtime::Vote;
use crate::state::Revision;

/// How long a leader may take to hear from a quorum: the longest round trip, and a sync of the others.
pub(in crate::raft) const QUORUM_PATIENCE: Duration = Duration::from_millis(500);

/// A peer that has not answered for this long is called unreachable in the log: less may be a lost packet.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(2);

/// How long a peer that needs the log may be silent before the log goes without it.
const HELD_FOR: Duration = Duration::from_secs(60);

/// How long a node that has lost its data knows it from the last message to what it was: a leader sends some each second.
const MISSED_FOR: Duration = Duration::from_secs(10);

/// What an administrator can do where two histories of a mesh meet.
const CONTRADICTED: &str = "an older copy of a member's data folder was put back. This node follows nobody while it runs. Copy \
                            its data folder before you restart it, look at what it alone has (`jwtmesh account list`, `account pull`), and push that to the \
                            node that leads";

/// What is said of a member that came back without its store, behind its name.
pub(in crate::raft) const LOST: &str = "has lost its data: it cannot be taken back as the same member. If its own data folder is still \
                                        somewhere, or a copy that was made after it last ran, put that back; never an older copy. \
                                        Otherwise make a new mesh of the same accounts, as the README says under \"Several \
                                        nodes\"";

/// What is said of a node that is a member of another mesh, behind its name.
pub(in crate::raft) const FOREIGN: &str = "holds the store of another mesh. If that is not needed, stop it and move its data folder away; \
                                           if this node's is the one that is not needed, do that here";

/// What a node remembers of its peers. Clones are the same memory.
#[derive(Debug, Clone)]
pub(in crate::raft) struct Contacts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    start: Instant,
    /// Milliseconds after the start when the view of the mesh was current, and one more; 0 if it never was. Every lookup
    /// reads this, so it takes no lock.
    current_at: AtomicU64,
    /// The same of what lookups here are answered from: a node that applies nothing hears its leader all the same.
    applied_at: AtomicU64,
    /// The same of when the leader was last heard, whether or not it hears its quorum.
    heard_at: AtomicU64,
    has_caught_up: AtomicBool,
    /// The same of the last message to a member that this node was, and is no more, since its store is new.
    missed_at: AtomicU64,
    is_missed_told: AtomicBool,
    /// The mesh's time minus this node's clock, in seconds.
    time_offset: AtomicI64,
    acknowledged: Notify,
}

impl Default for Contacts {
    fn default() -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::default(),
            start: Instant::now(),
            current_at: AtomicU64::new(0),
            applied_at: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            has_caught_up: AtomicBool::new(false),
            missed_at: AtomicU64::new(0),
            is_missed_told: AtomicBool::new(false),
            time_offset: AtomicI64::new(0),
            acknowledged: Notify::new(),
        }))
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// The leader whose appends the peers below acknowledged.
    leading: Option<Vote>,
    peers: BTreeMap<u64, Peer>,
    /// The leader that sends what contradicts this node's history.
    contradicted_by: Option<String>,
    /// An entry that was committed when the view of the mesh was as old as the second says, after the start.
    promised: Option<(u64, Duration)>,
}

/// What is known of one peer.
#[derive(Debug, Clone, Default)]
pub(in crate::raft) struct Peer {
    /// When the newest append was sent that it acknowledged to the present leader.
    acknowledged: Option<Instant>,
    /// The last entry that it has acknowledged to the present leader.
    matched: Option<u64>,
    /// Since when it takes no entries, when it last refused some, and why.
    refusing: Option<(Instant, Instant, String)>,
    is_refusal_told: bool,
    /// When it last answered anything.
    pub(in crate::raft) answered: Option<Instant>,
    /// The newest revision that could be read there then.
    pub(in crate::raft) applied: u64,
    /// Its clock minus ours, in seconds.
    offset_seconds: i64,
    /// Whether its disk is nearly full or hangs.
    pub(in crate::raft) is_disk_bad: bool,
    /// When calls to it began to fail.
    failing: Option<Instant>,
    /// The entry that a snapshot ends with which it was last sent, and when that began: it needs what follows.
    snapshot: Option<(u64, Instant)>,
    is_down: bool,
    /// When it last sent a message.
    pub(in crate::raft) heard: Option<Instant>,
}

impl Contacts {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view of the mesh is `age` old: what a leader knows of its own quorum, and a follower hears from its leader.
    pub(in crate::raft) fn set_age(&self, age: Duration) {
        self.note(&self.0.current_at, age);
    }

    /// The quorum of this node, which leads with `vote`, is `age` old. Lookups here are as new once everything is applied
    /// that was committed before. A new leader knows how much that is when the first entry of its own is committed.
    pub(in crate::raft) fn set_leading_view(&self, core: &Core, vote: Vote, age: Duration) {
        let (committed, applied) = {
            let metrics = core.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.local_committed, metrics.last_applied)
        };
        match committed.filter(|id| id.leader_id == vote.leader_id) {
            Some(committed) => self.set_view(age, committed.index, applied.map_or(0, |id| id.index)),
            None => self.set_age(age),
        }
    }

    /// The view of the mesh is `age` old, and `committed` is part of it, of which `applied` can be read here.
    pub(in crate::raft) fn set_view(&self, age: Duration, committed: u64, applied: u64) {
        self.set_age(age);
        if applied >= committed {
            self.inner().promised = None;
            return self.note(&self.0.applied_at, age);
        }
        let now = self.0.start.elapsed();
        let mut inner = self.inner();
        let reached = inner.promised.take_if(|(wanted, _)| applied >= *wanted);
        inner.promised.get_or_insert((committed, now.saturating_sub(age)));
        drop(inner);
        if let Some((_, then)) = reached {
            self.note(&self.0.applied_at, now.saturating_sub(then));
        }
    }

    /// How old the view is that lookups here are answered from; `None` if no leader was ever heard.
    pub(in crate::raft) fn applied_age(&self) -> Option<Duration> {
        self.since(&self.0.applied_at)
    }

    /// The leader was heard.
    pub(in crate::raft) fn set_heard(&self) {
        self.note(&self.0.heard_at, Duration::ZERO);
    }

    /// How long ago a leader was last heard; `None` if none ever was.
    pub(in crate::raft) fn silence(&self) -> Option<Duration> {
        self.since(&self.0.heard_at)
    }

    fn note(&self, cell: &AtomicU64, age: Duration) {
        let now = self.0.start.elapsed();
        let at = u64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(u64::MAX - 1) + 1;
        cell.fetch_max(at, Ordering::Relaxed);
    }

    fn since(&self, cell: &AtomicU64) -> Option<Duration> {
        let at = cell.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.0.start.elapsed().saturating_sub(Duration::from_millis(at)))
    }

    /// How old the view of the mesh is now; `None` if no leader was ever heard.
    pub(in crate::raft) fn age(&self) -> Option<Duration> {
        self.since(&self.0.current_at)
    }

    /// The mesh's time minus this node's clock, in seconds.
    pub(in crate::raft) fn set_time_offset(&self, seconds: i64) {
        self.0.time_offset.store(seconds, Ordering::Relaxed);
    }

    /// What was last set: 0 where this node has heard no other clock.
    pub(in crate::raft) fn time_offset(&self) -> i64 {
        self.0.time_offset.load(Ordering::Relaxed)
    }

    /// The median of this node's clock and those of the peers that have answered lately, minus this node's, in seconds.
    /// Of an even number the lower one in the middle: it then rather is this node's than that of a peer that is ahead.
    pub(in crate::raft) fn median_offset(&self) -> i64 {
        let inner = self.inner();
        let reachable = inner.peers.values().filter(|peer| peer.is_reachable());
        let mut offsets: Vec<i64> = reachable.map(|peer| peer.offset_seconds).collect();
        offsets.push(0);
        offsets.sort_unstable();
        offsets[(offsets.len() - 1) / 2]
    }

    /// This node has applied everything that its leader had committed, in this life or in an earlier one.
    pub(in crate::raft) fn set_caught_up(&self) {
        self.0.has_caught_up.store(true, Ordering::Relaxed);
    }

    /// Whether that was ever so.
    pub(in crate::raft) fn has_caught_up(&self) -> bool {
        self.0.has_caught_up.load(Ordering::Relaxed)
    }

    /// A member has written to this node, which is none, as to one with another store. Logs it once.
    pub(in crate::raft) fn set_missed(&self) {
        self.note(&self.0.missed_at, Duration::ZERO);
        if !self.0.is_missed_told.swap(true, Ordering::Relaxed) {
            tracing::error!("{}", self.no_member());
        }
    }

    /// Whether that was so lately. If all nodes were emptied to begin anew, it was only until the last one was.
    pub(in crate::raft) fn is_missed(&self) -> bool {
        self.since(&self.0.missed_at).is_some_and(|age| age < MISSED_FOR)
    }

    /// What there is to say of this node while it is no member.
    pub(in crate::raft) fn no_member(&self) -> String {
        if self.is_missed() {
            format!("this node was a member of the mesh and {LOST}")
        } else {
            "this node is not a member of a mesh yet: run `jwtmesh member bootstrap` when all nodes of cluster.toml run"
                .to_owned()
        }
    }

    /// `peer` acknowledged what was sent to it at `sent` by the leader that holds `vote`.
    pub(in crate::raft) fn acknowledged(&self, vote: Vote, peer: u64, sent: Instant) {
        let mut inner = self.inner();
        if Some(vote) < inner.leading {
            // The answer to what this node sent in an earlier term.
            return;
        }
        if inner.leading != Some(vote) {
            inner.leading = Some(vote);
            for peer in inner.peers.values_mut() {
                (peer.acknowledged, peer.matched) = (None, None);
            }
        }
        let known = inner.peers.entry(peer).or_default();
        known.acknowledged = known.acknowledged.max(Some(sent));
        drop(inner);
        self.0.acknowledged.notify_waiters();
    }

    /// `peer` has taken the entries up to `last`, which this node sent it as the leader.
    pub(in crate::raft) fn has_entries(&self, peer: u64, last: u64) {
        let mut inner = self.inner();
        let known = inner.peers.entry(peer).or_default();
        known.matched = known.matched.max(Some(last));
        known.refusing = None;
        known.is_refusal_told = false;
    }

    /// `peer` does not have the entry `at`. Logs it if the peer had acknowledged that to this leader.
    pub(in crate::raft) fn lacks(&self, peer: u64, name: &str, at: u64) {
        let mut inner = self.inner();
        let known = inner.peers.entry(peer).or_default();
        if known.matched.take_if(|matched| *matched >= at).is_some() {
            known.applied = 0;
            tracing::warn!(
                peer = name,
                "a member has lost entries that it had acknowledged, as when an older copy of its data folder is put back: this node, \
                 which leads, brings it up to date. Had this node not been there, uploads that were acknowledged could be lost"
            );
        }
    }

    /// `peer` did not take the entries that this node, which leads, sent it, for `reason`. Logs once that this lasts.
    pub(in crate::raft) fn refused(&self, peer: u64, name: &str, reason: &str) {
        let mut inner = self.inner();
        let known = inner.peers.entry(peer).or_default();
        let now = Instant::now();
        let before = known.refusing.take();
        let since = match before.filter(|(_, last, _)| last.elapsed() < UNREACHABLE_AFTER) {
            Some((since, ..)) => since,
            None => {
                known.is_refusal_told = false;
                now
            }
        };
        known.refusing = Some((since, now, reason.to_owned()));
        if !known.is_refusal_told && since.elapsed() >= UNREACHABLE_AFTER {
            known.is_refusal_told = true;
            tracing::warn!(peer = name, reason, "a peer takes no entries; trying again and again");
        }
    }

    /// The leader `name` sends entries that contradict what was agreed on here. Logs it once.
    pub(in crate::raft) fn contradicted(&self, name: &str) {
        if self.inner().contradicted_by.replace(name.to_owned()).is_none() {
            tracing::error!(
                leader = name,
                "the other members have lost uploads that were acknowledged and that this node has: {CONTRADICTED}"
            );
        }
    }

    /// What is to be done about it, if that is so.
    pub(in crate::raft) fn contradiction(&self) -> Option<String> {
        let leader = self.inner().contradicted_by.clone()?;
        Some(format!(
            "{leader:?}, which leads, and those that follow it have lost uploads that were acknowledged and that this node has: {CONTRADICTED}"
        ))
    }

    /// The leader sent entries that continue what is here.
    pub(in crate::raft) fn agrees(&self) {
        self.inner().contradicted_by = None;
    }

    /// Resolves when a peer acknowledges this node as the leader, from this call on.
    pub(in crate::raft) fn next_acknowledgement(&self) -> Notified<'_> {
        self.0.acknowledged.notified()
    }

    /// A snapshot is sent to `peer` that ends with the entry `last`.
    pub(in crate::raft) fn sends_snapshot(&self, peer: u64, last: u64) {
        self.inner().peers.entry(peer).or_default().snapshot = Some((last, Instant::now()));
    }

    /// The last entry that no peer needs which is being sent a snapshot, or was and catches up. `None` if there is no such
    /// peer, it is silent for too long, or it has caught up with `spare`, up to where the log is not needed by others.
    pub(in crate::raft) fn held(&self, spare: u64) -> Option<u64> {
        let mut inner = self.inner();
        let needed = inner.peers.values_mut().filter_map(|peer| {
            let (last, begun) = peer.snapshot?;
            let heard = peer.answered.max(Some(begun));
            let is_silent = heard.is_some_and(|heard| heard.elapsed() > HELD_FOR);
            if is_silent || peer.applied >= last.max(spare) {
                peer.snapshot = None;
                return None;
            }
            Some(last.max(peer.applied))
        });
        needed.min()
    }

    /// `peer` sent a message.
    pub(in crate::raft) fn heard(&self, peer: u64) {
        self.inner().peers.entry(peer).or_default().heard = Some(Instant::now());
    }

    /// `peer` answered. Logs its return.
    pub(in crate::raft) fn answered(
        &self,
        peer: u64,
        name: &str,
        applied: u64,
        offset_seconds: i64,
        is_disk_bad: bool,
    ) {
        let mut inner = self.inner();
        let known = inner.peers.entry(peer).or_default();
        known.answered = Some(Instant::now());
        known.applied = known.applied.max(applied);
        known.offset_seconds = offset_seconds;
        known.is_disk_bad = is_disk_bad;
        known.failing = None;
        if std::mem::take(&mut known.is_down) {
            tracing::info!(peer = name, "a peer answers again");
        }
    }

    /// A call to `peer` failed for `reason`. Logs once that it is away.
    pub(in crate::raft) fn failed(&self, peer: u64, name: &str, reason: &str) {
        let mut inner = self.inner();
        let known = inner.peers.entry(peer).or_default();
        let since = *known.failing.get_or_insert_with(Instant::now);
        if !known.is_down && since.elapsed() >= UNREACHABLE_AFTER {
            known.is_down = true;
            tracing::warn!(peer = name, reason, "a peer does not answer; trying again and again");
        }
    }

    /// How long ago a quorum of every set in `voters` last acknowledged this node, `own`, as the leader that holds
    /// `vote`; `None` if none has yet.
    pub(in crate::raft) fn quorum_age(&self, vote: Vote, own: u64, voters: &[BTreeSet<u64>]) -> Option<Duration> {
        self.age_by(vote, own, voters, |_| true)
    }

    /// The same of a quorum that takes its entries too: a voter may acknowledge that it leads, and refuse them all.
    pub(in crate::raft) fn following_age(&self, vote: Vote, own: u64, voters: &[BTreeSet<u64>]) -> Option<Duration> {
        self.age_by(vote, own, voters, |peer| peer.refusal().is_none())
    }

    fn age_by(
        &self,
        vote: Vote,
        own: u64,
        voters: &[BTreeSet<u64>],
        counts: impl Fn(&Peer) -> bool,
    ) -> Option<Duration> {
        if matches!(voters, [set] if set.len() == 1 && set.contains(&own)) {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let inner = self.inner();
        let acknowledged = |voter: &u64| {
            if *voter == own {
                return Some(now);
            }
            if inner.leading != Some(vote) {
                return None;
            }
            inner.peers.get(voter).filter(|peer| counts(peer))?.acknowledged
        };
        let oldest = voters.iter().map(|set| {
            let mut times: Vec<Option<Instant>> = set.iter().map(acknowledged).collect();
            // None counts as the oldest. The last of the newest majority is the quorum's time.
            times.sort_unstable_by(|one, other| other.cmp(one));
            times.get(set.len() / 2).copied().flatten()
        });
        // A set without voters has no quorum.
        let mut at = Some(now);
        for time in oldest {
            at = at.min(time);
        }
        at.map(|at| now.saturating_duration_since(at))
    }

    /// Waits until a quorum has acknowledged this node, whose openraft is `core`, as the leader that holds `vote`, by answering
    /// what was sent after `begun`. Whether that is so after a while.
    pub(in crate::raft) async fn confirm(&self, core: &Core, vote: Vote, begun: Instant) -> bool {
        let until = Instant::now() + QUORUM_PATIENCE;
        loop {
            let acknowledged = self.next_acknowledgement();
            // Measured first: nothing from before may seem younger.
            let since = begun.elapsed();
            let age = {
                let metrics = core.server_metrics();
                let metrics = metrics.borrow_watched();
                if metrics.vote != vote {
                    return false;
                }
                let voters = metrics.membership_config.membership().get_joint_config();
                self.quorum_age(vote, metrics.id, voters)
            };
            if age.is_some_and(|age| age <= since) {
                return true;
            }
            if tokio::time::timeout_at(until, acknowledged).await.is_err() {
                return false;
            }
        }
    }

    /// The revision that has everything that was acknowledged anywhere before this was called. A quorum confirms meanwhile
    /// that the node of `core` leads: no lease, whose length would hang on clocks. `None` if it does not lead.
    pub(in crate::raft) async fn newest(&self, core: &Core) -> Option<Revision> {
        let (begun, vote) = (Instant::now(), core.server_metrics().borrow_watched().vote);
        let asked = core.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
        // openraft takes an append that was answered without the peer for an acknowledgement.
        let is_confirmed = self.confirm(core, vote, begun).await;
        is_confirmed.then(|| asked.read_log_id().index())
    }

    /// What is known of `peer`.
    pub(in crate::raft) fn of(&self, peer: u64) -> Peer {
        self.inner().peers.get(&peer).cloned().unwrap_or_default()
    }
}

impl Peer {
    /// Why it takes no entries, if that has lasted and still does.
    pub(in crate::raft) fn refusal(&self) -> Option<&str> {
        let (since, last, reason) = self.refusing.as_ref()?;
        let lasts = since.elapsed() >= UNREACHABLE_AFTER && last.elapsed() < UNREACHABLE_AFTER;
        lasts.then_some(reason)
    }

    /// Whether it has not answered for a while.
    pub(in crate::raft) fn is_away(&self) -> bool {
        self.is_down
    }

    /// Whether it has answered lately.
    pub(in crate::raft) fn is_reachable(&self) -> bool {
        self.answered.is_some_and(|at| at.elapsed() < UNREACHABLE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use openraft::impls::leader_id_adv::LeaderId;
    use openraft::vote::RaftLeaderId;

    use super::*;

    fn leader(term: u64) -> Vote {
        Vote {
            leader_id: LeaderId::new(term, 1),
            committed: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_as_old_as_the_newest_acknowledgement_by_a_majority() {
        let contacts = Contacts::default();
        let voters = [BTreeSet::from([1, 2, 3, 4, 5])];
        let age = |contacts: &Contacts| contacts.quorum_age(leader(1), 1, &voters);
        assert_eq!(age(&contacts), None);
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        contacts.acknowledged(leader(1), 2, Instant::now());
        assert_eq!(age(&contacts), None, "two of five");
        pass(100).await;
        contacts.acknowledged(leader(1), 3, Instant::now());
        assert_eq!(age(&contacts), Some(Duration::from_millis(100)));
        pass(50).await;
        contacts.acknowledged(leader(1), 4, Instant::now());
        assert_eq!(age(&contacts), Some(Duration::from_millis(50)));
        assert_eq!(contacts.quorum_age(leader(2), 1, &voters), None, "of another leader");
        assert_eq!(
            contacts.quorum_age(leader(1), 1, &[BTreeSet::from([1])]),
            Some(Duration::ZERO)
        );
        // While the members change, a quorum of both sets counts.
        let both = [BTreeSet::from([1, 3, 4]), BTreeSet::from([1, 2, 6])];
        assert_eq!(
            contacts.quorum_age(leader(1), 1, &both),
            Some(Duration::from_millis(150))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_is_as_old_as_its_leaders_quorum_and_the_time_since() {
        let contacts = Contacts::default();
        assert_eq!(contacts.age(), None);
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        pass(5_000).await;
        contacts.set_age(Duration::from_millis(700));
        pass(300).await;
        assert_eq!(contacts.age(), Some(Duration::from_secs(1)));
        contacts.set_age(Duration::from_secs(3));
        assert_eq!(
            contacts.age(),
            Some(Duration::from_secs(1)),
            "an older leader is no news"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_sent_a_snapshot_holds_what_it_needs_until_it_is_silent() {
        let contacts = Contacts::default();
        contacts.answered(2, "n2", 10, 0, false);
        assert_eq!(contacts.held(1_000), None);
        contacts.sends_snapshot(2, 100);
        contacts.sends_snapshot(3, 200);
        assert_eq!(contacts.held(1_000), Some(100), "the one that needs the most");
        contacts.answered(2, "n2", 300, 0, false);
        assert_eq!(contacts.held(1_000), Some(200));
        tokio::time::advance(HELD_FOR / 2).await;
        contacts.answered(2, "n2", 400, 0, false);
        tokio::time::advance(HELD_FOR / 2 + Duration::from_secs(1)).await;
        assert_eq!(contacts.held(1_000), Some(400), "the third never answered");
        tokio::time::advance(HELD_FOR).await;
        assert_eq!(contacts.held(1_000), None);
        contacts.sends_snapshot(2, 500);
        contacts.answered(2, "n2", 600, 0, false);
        assert_eq!(contacts.held(600), None, "it needs no more than others");
        assert_eq!(contacts.held(1_000), None, "and is not held for again");
    }
}
