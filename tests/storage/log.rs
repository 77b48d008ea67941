//! The log, through its public interface: what openraft asks of it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures::future::FutureExt;
use futures::stream::TryStreamExt;
use jwtmesh::raft::log::{LogFault, LogStore, OnFault, Options, RealDisk};
use jwtmesh::raft::{Entry, Vote};
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

use crate::disk::CrashDisk;
use crate::driven::{Contents, Log, STORE, blank, id, normal, options};

#[test]
fn a_purge_removes_segments_whose_every_entry_is_purged_and_no_other() {
    let disk = CrashDisk::new(1);
    let mut log = Log::open(&disk, 4 * 1024).unwrap();
    assert!(log.vote(7));
    // One entry fills a segment, so entry n lies in segment n + 1.
    for index in 0..10 {
        assert!(log.append(vec![normal(7, index, 3000)]));
    }
    let first = |disk: &CrashDisk| disk.names()[0].clone();
    assert_eq!(first(&disk), "0000000001.log");
    for purged in 0..9 {
        let oldest = disk.bytes(&first(&disk));
        log.purge(id(7, purged));
        let crashed = disk.killed();
        crashed.open_again(&format!("{:010}.log", purged + 1), oldest);
        assert_eq!(Log::open(&crashed, 4 * 1024).unwrap().contents(), log.contents());
        assert_eq!(
            first(&crashed),
            first(&disk),
            "after a crash before the removal, the next start removes the segment"
        );
        assert_eq!(first(&disk), format!("{:010}.log", purged + 2));
        assert_eq!(log.contents().first(), purged + 1);
        let mut again = Log::open(&disk.power_cut(), 4 * 1024).unwrap();
        assert_eq!(again.contents(), log.contents());
        assert_eq!(again.contents().vote, Some(Vote::new(7, 1)), "its own segment is gone");
    }
    // A snapshot from the leader, far ahead of this log.
    log.purge(id(8, 100));
    assert_eq!(
        log.contents(),
        Contents {
            purged: Some(id(8, 100)),
            vote: Some(Vote::new(7, 1)),
            ..Contents::default()
        }
    );
    assert!(log.append(vec![normal(8, 101, 3000)]));
    assert!(log.append(vec![normal(8, 102, 3000)]));
    let mut again = Log::open(&disk.power_cut(), 4 * 1024).unwrap();
    assert_eq!(again.contents(), log.contents());
    assert_eq!(again.contents().first(), 101);
}

#[test]
#[should_panic(expected = "purged <= checkpoint")]
fn a_purge_never_passes_the_durable_state() {
    let disk = CrashDisk::new(1);
    let checkpoint = Arc::new(AtomicU64::new(4));
    let (store, writer) = LogStore::open(
        Arc::new(disk.clone()),
        &options(4096),
        Arc::clone(&checkpoint),
        Arc::new(|_| {}),
    )
    .unwrap();
    let mut log = Log {
        store,
        writer,
        faults: Arc::default(),
    };
    assert!(log.append((0..10).map(|index| blank(1, index)).collect()));
    log.purge(id(1, 4));
    log.purge(id(1, 5));
}

#[test]
fn an_append_larger_than_a_segment_gets_a_segment_of_its_size() {
    let disk = CrashDisk::new(1);
    let mut log = Log::open(&disk, 4 * 1024).unwrap();
    assert!(log.append(vec![blank(1, 0)]));
    assert!(log.append((1..20).map(|index| normal(1, index, 1000)).collect()));
    assert!(log.append(vec![normal(1, 20, 2000)]));
    let contents = log.contents();
    assert_eq!(contents.entries.len(), 21);
    assert_eq!(Log::open(&disk.power_cut(), 4 * 1024).unwrap().contents(), contents);
}

#[test]
fn commands_queued_during_a_sync_share_the_next_one_and_committed_never_has_its_own() {
    let disk = CrashDisk::new(1);
    let mut log = Log::open(&disk, 64 * 1024).unwrap();
    assert!(log.append(vec![blank(1, 0)]));
    let syncs = disk.syncs();
    let (mut first, mut second, mut third) = (log.store.clone(), log.store.clone(), log.store.clone());
    log.run(async {
        let vote = Vote::new(2, 1);
        let (a, b, c) = futures::join!(
            first.blocking_append([normal(2, 1, 100), normal(2, 2, 100)]),
            second.save_vote(&vote),
            third.blocking_append([normal(2, 3, 100)]),
        );
        a.unwrap();
        b.unwrap();
        c.unwrap();
    });
    assert_eq!(disk.syncs(), syncs + 1);
    log.committed(id(2, 2));
    log.settle();
    assert_eq!(disk.syncs(), syncs + 1, "committed waits for the next group");
    assert_eq!(log.read_committed(), Some(id(2, 2)));
    assert_eq!(Log::open(&disk.killed(), 64 * 1024).unwrap().read_committed(), None);
    assert!(log.append(vec![normal(2, 4, 100)]));
    assert_eq!(disk.syncs(), syncs + 2);
    assert_eq!(
        Log::open(&disk.power_cut(), 64 * 1024).unwrap().read_committed(),
        Some(id(2, 2))
    );
}

#[test]
fn an_entry_is_read_as_soon_as_it_is_appended_and_acknowledged_only_when_it_is_durable() {
    let disk = CrashDisk::new(1);
    let mut log = Log::open_with(
        &disk,
        &Options {
            group_bytes: 1,
            ..options(64 * 1024)
        },
    )
    .unwrap();
    let (mut first, mut second, mut reader) = (log.store.clone(), log.store.clone(), log.store.clone());
    let mut first = Box::pin(first.blocking_append([normal(1, 0, 100)]));
    let mut second = Box::pin(second.blocking_append([normal(1, 1, 100)]));
    let mut seen = || reader.try_get_log_entries(..).now_or_never().unwrap().unwrap().len();
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    assert_eq!(seen(), 2);
    for (durable, append) in [(1, first), (2, second)] {
        let commands = log.writer.wait().now_or_never().unwrap().unwrap();
        log.writer.step(commands).unwrap();
        append.now_or_never().unwrap().unwrap();
        assert_eq!(seen(), 2);
        assert_eq!(
            Log::open(&disk.power_cut(), 64 * 1024).unwrap().entries().len(),
            durable
        );
    }
}

#[test]
fn a_message_to_a_peer_has_bounded_entries_and_at_least_one() {
    let disk = CrashDisk::new(1);
    for tail_bytes in [0, 16 << 20] {
        let mut log = Log::open_with(
            &disk,
            &Options {
                tail_bytes,
                ..options(8 << 20)
            },
        )
        .unwrap();
        let start = log.contents().next();
        let entries: Vec<Entry> = (0..8)
            .map(|n| normal(1, start + n, if n == 2 { 2 << 20 } else { 400 << 10 }))
            .collect();
        assert!(log.append(entries));
        let mut lengths = Vec::new();
        let mut next = start;
        while next < start + 8 {
            let mut store = log.store.clone();
            let some = log
                .run(async move { store.limited_get_log_entries(next, start + 8).await })
                .unwrap();
            assert_eq!(some[0].log_id.index, next);
            lengths.push(some.len());
            next += some.len() as u64;
        }
        assert_eq!(
            lengths,
            [2, 1, 2, 2, 1],
            "of 400 KiB two fit into 1 MiB; one of 2 MiB goes alone"
        );
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_nothing_more_is_written() {
    for failing in 1..=3 {
        let disk = CrashDisk::new(failing);
        let mut log = Log::open(&disk, 4 * 1024).unwrap();
        assert!(log.append(vec![blank(1, 0)]));
        assert!(log.vote(1));
        disk.fail_sync_at(failing);
        // The third append needs a new segment. Its header takes a sync too, and so does preparing the segment after
        // it.
        let done = (1..=4)
            .take_while(|index| log.append(vec![normal(1, *index, 1500)]))
            .count();
        assert!(done < 4);
        let calls = disk.calls();
        assert!(!log.vote(2));
        assert!(!log.append(vec![normal(1, done as u64 + 2, 10)]));
        assert_eq!(disk.calls(), calls, "the disk is left alone");
        assert_eq!(log.faults.lock().unwrap().len(), 1, "reported once");
        assert!(matches!(
            log.faults.lock().unwrap()[0],
            LogFault::Io {
                operation: "synced",
                ..
            }
        ));
    }
}

#[test]
fn what_a_start_finds_is_durable_from_then_on_even_if_it_was_never_synced() {
    // After a failed sync Linux still shows the pages to programs, but does not write them again. The next process must
    // not rely on them, or it acts on a vote that the next power cut takes back.
    let mut seen = [0; 2];
    for seed in 0..400 {
        let disk = CrashDisk::new(seed);
        let mut log = Log::open(&disk, 4 * 1024).unwrap();
        assert!(log.append(vec![blank(1, 0), normal(1, 1, 700)]));
        disk.fail_sync_at(1 + seed % 4);
        let mut index = 2;
        while log.append(vec![normal(1, index, 1100)]) && log.vote(index) {
            index += 1;
        }
        let restarted = disk.killed();
        let found = Log::open(&restarted, 4 * 1024).unwrap().contents();
        seen[usize::from(found.next() > index)] += 1;
        let after = Log::open(&restarted.power_cut(), 4 * 1024).unwrap().contents();
        assert_eq!(after, found, "seed {seed}");
    }
    assert!(seen.iter().all(|count| *count > 50), "both endings occur: {seen:?}");
}

#[test]
fn the_real_disk_and_its_threads_keep_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let options = Options {
        segment_bytes: 64 * 1024,
        ..Options::new(STORE)
    };
    let mut contents = Vec::new();
    for life in 0..3_u64 {
        let disk = Arc::new(RealDisk::open(&folder.path().join("log")).unwrap());
        let fault: OnFault = Arc::new(|fault| panic!("{fault}"));
        let checkpoint = Arc::new(AtomicU64::new(u64::MAX));
        let (mut store, writer) = LogStore::open(disk, &options, checkpoint, fault).unwrap();
        let writer = std::thread::spawn(|| writer.run_blocking());
        runtime.block_on(async {
            assert_eq!(store.try_get_log_entries(..).await.unwrap(), contents);
            for index in life * 50..life * 50 + 50 {
                store.blocking_append([normal(life, index, 5000)]).await.unwrap();
            }
            store.save_vote(&Vote::new(life, 1)).await.unwrap();
            store.purge(id(life, life * 50 + 40)).await.unwrap();
            store.save_vote(&Vote::new(life, 2)).await.unwrap();
            contents = store.try_get_log_entries(..).await.unwrap();
            assert_eq!(contents.len(), 9);
        });
        drop(store);
        writer.join().unwrap();
        let files = std::fs::read_dir(folder.path().join("log")).unwrap().count();
        assert!(
            files <= 3,
            "{files} segments are left: 9 entries of 5 kB, the one being written, the next one"
        );
    }
}

#[test]
fn entries_to_be_applied_are_read_piece_by_piece() {
    let disk = CrashDisk::new(4);
    let options = Options {
        tail_bytes: 0,
        ..options(16 << 20)
    };
    let mut log = Log::open_with(&disk, &options).unwrap();
    for index in 0..20 {
        assert!(log.append(vec![normal(1, index, 300_000)]));
    }
    let before = disk.calls();
    let mut store = log.store.clone();
    log.run(async move {
        let mut entries = std::pin::pin!(store.entries_stream(2..18).await);
        let first = entries.try_next().await.unwrap().expect("the first entry");
        assert_eq!(first.log_id, id(1, 2));
        let read = disk.calls() - before;
        let rest: Vec<_> = entries.map_ok(|entry| entry.log_id.index).try_collect().await.unwrap();
        assert_eq!(rest, (3..18).collect::<Vec<_>>());
        let all = disk.calls() - before;
        assert!(all >= 5 * read, "{read} reads of {all} gave the first of 16 entries");
    });
}
