//! Defects that a simulation puts in on purpose: a simulation that does not find them would not find a real one.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::stream::Stream;
use futures::{FutureExt, TryStreamExt};
use jwtmesh::raft::log::LogStore;
use jwtmesh::raft::{Entry, LogId, Types, Vote};
use jwtmesh::tasks::Scope;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;

/// What is wrong with every node of a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Votes are given before they are durable.
    VoteNotSynced,
    /// Entries are acknowledged before they are durable.
    AppendAcknowledgedEarly,
    /// Entries are sent to the peers, and applied once those have them, before they are durable here.
    SentEarly,
    /// The same, and a leader that restarts leads again without an election: it gives the log ids of what it lost to
    /// other entries. The first start check that would notice is off.
    LeaderRestored,
    /// The log is purged up to what the state has in its file, durable or not.
    PurgeAheadOfCheckpoint,
    /// An installed snapshot does not say that it is one.
    InstallWithoutMark,
    /// Where an entry is applied, its command is sometimes left out: the applied index goes ahead of the rows.
    AppliedApart,
    /// A start takes damage in the middle of the log for its end.
    DamageTakenForEnd,
    /// A start takes a group that was not written to its end for a whole one.
    TornTakenForWhole,
    /// Applying never waits for the disk.
    MemoryUnbounded,
    /// The order of arrival decides which token of an account is the newer one.
    OlderStored,
    /// A client repeats what it does not know, and believes the second answer alone.
    ForwardedTwice,
    /// A follower answers from its own state that a token is current.
    FollowerSaysUnchanged,
    /// A strong read asks no other node.
    ReadWithoutAsking,
    /// Every node publishes, without the lease too.
    LeaseIgnored,
    /// A node gives back the lease that it sees, another node's too.
    LeaseOfAnotherGiven,
    /// A publisher has what it found agreed under whichever lease it has by then.
    RosterUnfenced,
}

/// Asks for the deaths of one node in one of its lives.
#[derive(Clone)]
pub(crate) struct Doom {
    pub(crate) node: u64,
    pub(crate) life: u64,
    /// No node dies before the mesh is formed and after the last step.
    pub(crate) armed: Arc<AtomicBool>,
    pub(crate) deaths: mpsc::UnboundedSender<(u64, u64)>,
    pub(crate) random: Arc<Mutex<SmallRng>>,
}

impl Doom {
    /// The node's power fails now.
    pub(crate) fn strike(&self) {
        // Fails if the simulation is over.
        let _ = self.deaths.send((self.node, self.life));
    }

    /// Whether the log is damaged at this start.
    pub(crate) fn may_damage(&self) -> bool {
        self.armed.load(Ordering::Relaxed) && self.random.lock().unwrap().gen_bool(0.3)
    }

    /// The node's power may fail now.
    fn may_strike(&self, probability: f64) {
        if self.armed.load(Ordering::Relaxed) && self.random.lock().unwrap().gen_bool(probability) {
            self.strike();
        }
    }
}

/// A log whose node dies right after some of its durable steps, and with some defect.
#[derive(Clone)]
pub(crate) struct DoomedLog {
    pub(crate) log: LogStore,
    pub(crate) defect: Option<Defect>,
    pub(crate) doom: Doom,
    pub(crate) scope: Scope,
}

impl RaftLogReader<Types> for DoomedLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.log.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.log.limited_get_log_entries(start, end).await
    }

    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend {
        let (defect, random) = (self.defect, self.doom.random.clone());
        self.log.entries_stream(range).await.map_ok(move |mut entry| {
            if defect == Some(Defect::AppliedApart) && random.lock().unwrap().gen_bool(0.002) {
                entry.payload = EntryPayload::Blank;
            }
            entry
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log.read_vote().await
    }
}

impl RaftLogStorage<Types> for DoomedLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let saved = if self.defect == Some(Defect::VoteNotSynced) {
            // Polled once: it is queued, and nothing waits for it.
            self.log.save_vote(vote).now_or_never().unwrap_or(Ok(()))
        } else {
            self.log.save_vote(vote).await
        };
        self.doom.may_strike(0.2);
        saved
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let appended = match self.defect {
            Some(Defect::AppendAcknowledgedEarly) => {
                let queued = self.log.append(entries, IOFlushed::noop()).now_or_never();
                callback.io_completed(Ok(()));
                queued.unwrap_or(Ok(()))
            }
            Some(Defect::SentEarly | Defect::LeaderRestored) => {
                let mut log = self.log.clone();
                let mut appending = Box::pin(async move { log.append(entries, callback).await });
                match futures::poll!(&mut appending) {
                    std::task::Poll::Ready(appended) => appended,
                    std::task::Poll::Pending => {
                        self.scope.spawn_for_client(appending);
                        Ok(())
                    }
                }
            }
            _ => self.log.append(entries, callback).await,
        };
        self.doom.may_strike(0.003);
        appended
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let truncated = self.log.truncate_after(last).await;
        self.doom.may_strike(0.1);
        truncated
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let purged = self.log.purge(upto).await;
        self.doom.may_strike(0.1);
        purged
    }
}
