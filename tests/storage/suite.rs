//! openraft's own tests of a log store and a state machine, on ours.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use jwtmesh::raft::log::{LogStore, Options as LogOptions, RealDisk, StoreId};
use jwtmesh::raft::stores::{Flusher, Space};
use jwtmesh::raft::{Machine, Types};
use jwtmesh::state::{Options, State};
use jwtmesh::tasks::FaultHandle;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fault = FaultHandle::default();
        let reported = fault.clone();
        // The suite purges anywhere. That a purge never passes the state's checkpoint is tested in `log.rs`.
        let checkpoint = Arc::new(AtomicU64::new(u64::MAX));
        let disk = Arc::new(RealDisk::open(&folder.path().join("log")).expect("a folder"));
        let (log, writer) = LogStore::open(
            disk.clone(),
            &LogOptions {
                segment_bytes: 1 << 20,
                ..LogOptions::new(StoreId([7; 16]))
            },
            checkpoint.clone(),
            Arc::new(move |log_fault| reported.report(log_fault)),
        )
        .expect("an empty log opens");
        std::thread::spawn(move || writer.run_blocking());
        let state = State::open_file(&folder.path().join("state.redb"), Options::new("suite")).expect("a new state");
        let revision = watch::Sender::new(0);
        let flushed = watch::Sender::new(0);
        let seen = flushed.subscribe();
        let flusher = Flusher::new(
            state.clone(),
            revision.subscribe(),
            flushed,
            Arc::default(),
            Space::of(disk),
            fault.clone(),
        );
        flusher.spawn_thread().expect("a thread");
        Ok((
            folder,
            log,
            Machine::new(state, seen, Arc::new(revision), checkpoint, fault, 0),
        ))
    }
}

#[test]
fn openrafts_own_suite_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(Suite::test_all(Builder)).expect("no storage error");
}
