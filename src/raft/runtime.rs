//! What openraft is instantiated with: our types, and the runtime it runs on.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use crate::state::Outcomes;
use crate::state::SnapshotView;

openraft::declare_raft_types!(
    /// The types with which openraft is instantiated.
    pub Types:
        D = Payload,
        R = Reply,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// A log index and the leader that wrote it.
pub type LogId = LogIdOf<Types>;
/// A vote, as it must be on disk before it is given.
pub type Vote = VoteOf<Types>;
/// One entry of the log.
pub type Entry = EntryOf<Types>;
/// How a failed disk is reported to openraft: it ends the core, and the process with it.
pub type StorageError = std::io::Error;
/// The members of the mesh, and which of them vote.
pub type Membership = openraft::Membership<u64, Member>;
/// The membership as of some log index.
pub type StoredMembership = StoredMembershipOf<Types>;
/// What a snapshot covers.
pub(super) type SnapshotMeta = SnapshotMetaOf<Types>;
/// A snapshot and what it covers.
pub type Snapshot = SnapshotOf<Types, SnapshotView>;

/// An encoded [`crate::state::Command`]: the log carries it as bytes and never looks inside.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Tokens never reach a log line.
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl std::fmt::Display for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// The outcomes of one applied entry, one for each item of its command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply(pub Outcomes);

/// A member as the agreed membership describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The node's name in `cluster.toml`.
    pub name: String,
    /// The address of its peer port; empty while the mesh has one node.
    pub peer: String,
    /// The uuid of its store, so that a wiped folder cannot come back under its old id.
    pub store: String,
}

/// tokio, but with a random source that a simulation can seed: openraft draws its election time-out from it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runtime;

thread_local! {
    static RANDOM: RefCell<SmallRng> = RefCell::new(SmallRng::from_entropy());
}

/// The random source of this thread, see [`Runtime`].
#[derive(Debug)]
pub struct ThreadRandom;

impl rand_core::TryRng for ThreadRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(RANDOM.with_borrow_mut(RngCore::next_u32))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(RANDOM.with_borrow_mut(RngCore::next_u64))
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        RANDOM.with_borrow_mut(|random| random.fill_bytes(into));
        Ok(())
    }
}

impl Runtime {
    /// Makes every random choice of this thread follow from `seed`. For simulations.
    pub fn seed(seed: u64) {
        RANDOM.with_borrow_mut(|random| *random = SmallRng::seed_from_u64(seed));
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ThreadRandom;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        ThreadRandom
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        TokioRuntime::new(1).block_on(future)
    }
}
