//! A log driven step by step: one caller, one writer, one order of events; and what such a log holds.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::FutureExt;
use jwtmesh::raft::log::{Disk, LogFault, LogStore, LogWriter, OnFault, Options, Prepare, StoreId};
use jwtmesh::raft::{Entry, LogId, Member, Payload, Vote};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership, RaftLogReader};

use crate::disk::CrashDisk;

/// The store all of these logs belong to.
pub(crate) const STORE: StoreId = StoreId(*b"0123456789abcdef");

/// A log and its writer, driven from one place, so that everything happens in one order.
pub(crate) struct Log {
    pub(crate) store: LogStore,
    pub(crate) writer: LogWriter,
    pub(crate) faults: Arc<Mutex<Vec<LogFault>>>,
}

impl Log {
    pub(crate) fn open(disk: &CrashDisk, segment_bytes: u64) -> Result<Self, LogFault> {
        Self::open_with(disk, &options(segment_bytes))
    }

    pub(crate) fn open_with(disk: &CrashDisk, options: &Options) -> Result<Self, LogFault> {
        Self::open_on(Arc::new(disk.clone()), options)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, options: &Options) -> Result<Self, LogFault> {
        let faults: Arc<Mutex<Vec<LogFault>>> = Arc::default();
        let heard = Arc::clone(&faults);
        let on_fault: OnFault = Arc::new(move |fault| heard.lock().unwrap().push(fault));
        let checkpoint = Arc::new(AtomicU64::new(u64::MAX));
        let (store, writer) = LogStore::open(disk, options, checkpoint, on_fault)?;
        Ok(Self { store, writer, faults })
    }

    /// Runs `call` to its end, and the writer as far as the call needs it.
    pub(crate) fn run<T>(&mut self, call: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let writer = &mut self.writer;
        runtime.block_on(async {
            tokio::pin!(call);
            loop {
                tokio::select! {
                    biased;
                    done = &mut call => return done,
                    Some(commands) = writer.wait() => drop(writer.step(commands)),
                }
            }
        })
    }

    /// Lets the writer take what is queued.
    pub(crate) fn settle(&mut self) {
        while let Some(Some(commands)) = self.writer.wait().now_or_never() {
            drop(self.writer.step(commands));
        }
    }

    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> bool {
        let mut store = self.store.clone();
        self.run(async move { store.blocking_append(entries).await }).is_ok()
    }

    pub(crate) fn vote(&mut self, term: u64) -> bool {
        let mut store = self.store.clone();
        self.run(async move { store.save_vote(&Vote::new(term, 1)).await })
            .is_ok()
    }

    pub(crate) fn truncate_after(&mut self, last: LogId) {
        let mut store = self.store.clone();
        drop(self.run(async move { store.truncate_after(Some(last)).await }));
        self.settle();
    }

    pub(crate) fn purge(&mut self, upto: LogId) {
        let mut store = self.store.clone();
        drop(self.run(async move { store.purge(upto).await }));
        self.settle();
    }

    pub(crate) fn committed(&mut self, id: LogId) {
        let mut store = self.store.clone();
        self.run(async move { store.save_committed(Some(id)).await }).unwrap();
    }

    pub(crate) fn entries(&mut self) -> Vec<Entry> {
        let mut store = self.store.clone();
        self.run(async move { store.try_get_log_entries(..).await }).unwrap()
    }

    pub(crate) fn contents(&mut self) -> Contents {
        let mut store = self.store.clone();
        let state = self.run(store.get_log_state()).unwrap();
        let mut store = self.store.clone();
        let vote = self.run(store.read_vote()).unwrap();
        let entries = self.entries();
        let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
        assert!(
            indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "a hole in {indexes:?}"
        );
        let last = entries.last().map(|entry| entry.log_id).or(state.last_purged_log_id);
        assert_eq!(last, state.last_log_id, "the last log id is that of the last entry");
        Contents {
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
            purged: state.last_purged_log_id,
            vote,
        }
    }

    pub(crate) fn read_committed(&mut self) -> Option<LogId> {
        let mut store = self.store.clone();
        self.run(store.read_committed()).unwrap()
    }
}

/// Everything Raft needs after a restart, except `committed`, which may lag.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Contents {
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) purged: Option<LogId>,
    pub(crate) vote: Option<Vote>,
}

impl Contents {
    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries
            .values()
            .next_back()
            .map(|entry| entry.log_id)
            .or(self.purged)
    }

    pub(crate) fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    pub(crate) fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }
}

pub(crate) fn options(segment_bytes: u64) -> Options {
    // No tail: what is durable is read from the disk, as it is after a restart.
    Options {
        segment_bytes,
        tail_bytes: 0,
        prepare: Prepare::Inline,
        ..Options::new(STORE)
    }
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 1), index)
}

pub(crate) fn normal(term: u64, index: u64, length: usize) -> Entry {
    let text = format!("{index}.{term}.").into_bytes();
    let payload: Vec<u8> = text.iter().copied().cycle().take(length).collect();
    Entry {
        log_id: id(term, index),
        payload: EntryPayload::Normal(Payload(Bytes::from(payload))),
    }
}

pub(crate) fn membership(term: u64, index: u64) -> Entry {
    let member = |name: &str| Member {
        name: name.into(),
        peer: format!("{name}:9191"),
        store: name.repeat(3),
    };
    let nodes = BTreeMap::from([(1, member("fra-1")), (2, member("fra-2")), (7, member("nyc-1"))]);
    let membership = Membership::new(vec![[1, 2].into(), [1].into()], nodes).unwrap();
    Entry {
        log_id: id(term, index),
        payload: EntryPayload::Membership(membership),
    }
}

pub(crate) fn blank(term: u64, index: u64) -> Entry {
    Entry {
        log_id: id(term, index),
        payload: EntryPayload::Blank,
    }
}
