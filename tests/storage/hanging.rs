//! A disk that hangs: lookups that memory can answer do not wait for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use jwtmesh::clock::Clock;
use jwtmesh::jwt::AccountKey;
use jwtmesh::resolver::Resolver;
use jwtmesh::state::PutAccount;
use jwtmesh::tasks::FaultHandle;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::simulation::{World, operator};

/// More than the caches of [`World`] hold.
const ACCOUNTS: u16 = 1_000;

/// More than there are threads to answer them.
const LOOKUPS: u16 = 200;

const DEADLINE: Duration = Duration::from_secs(20);

fn key(account: u16) -> AccountKey {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&account.to_le_bytes());
    AccountKey::from_bytes(bytes)
}

fn token(account: u16) -> Bytes {
    account.to_le_bytes().repeat(1_500).into()
}

async fn is_right(resolver: &Resolver, account: u16) -> bool {
    let row = resolver.lookup(key(account)).await.expect("a sound disk");
    row.is_some_and(|row| row.token == token(account))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g12_lookups_from_memory_go_on_while_the_disk_hangs_and_the_others_are_answered_when_it_recovers() {
    let mut world = World::new(1);
    let life = world.boot().await.expect("a start");
    for account in 0..ACCOUNTS {
        let item = PutAccount {
            account: key(account),
            operator: operator(),
            issued_at: 1,
            expires_at: 0,
            name: String::new(),
            token: token(account),
        };
        let epoch = life.state.trust().epoch;
        life.raft.submit(epoch, item).await.expect("a sound disk");
    }
    let flushed = async {
        while life.state.unflushed_bytes() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, flushed).await.expect("all of it reaches redb");
    let resolver = Resolver::new(life.raft.clone(), life.state, Clock::system(), FaultHandle::default());
    let cached = ACCOUNTS - 1;
    assert!(is_right(&resolver, cached).await);

    let tasks = TaskTracker::new();
    let hanging = world.state.hang();
    let begun = Arc::new(AtomicUsize::new(0));
    let ask = |account| {
        let (resolver, begun) = (resolver.clone(), begun.clone());
        tasks.spawn(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            is_right(&resolver, account).await
        })
    };
    let waiting: Vec<_> = (0..LOOKUPS).map(ask).collect();
    let (done, served) = mpsc::channel();
    let (reader, readers) = (resolver.clone(), tasks.clone());
    tasks.spawn(async move {
        while begun.load(Ordering::Relaxed) < usize::from(LOOKUPS) {
            sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..100 {
            let lookup = reader.clone();
            let answer = readers.spawn(async move { is_right(&lookup, cached).await });
            assert!(answer.await.expect("no panic"));
        }
        done.send(()).expect("the test waits");
    });
    // Waited for on the test's own thread: if all threads of the runtime hung, so would its timers.
    served.recv_timeout(DEADLINE).expect("what is in memory is answered");
    assert!(
        waiting.iter().any(|lookup| !lookup.is_finished()),
        "no lookup waits: the disk was not read"
    );

    drop(hanging);
    for lookup in waiting {
        assert!(timeout(DEADLINE, lookup).await.expect("answered").expect("no panic"));
    }
    life.raft.shutdown().await;
}
