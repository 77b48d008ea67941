//! Many submissions, one entry: each append is synced before the next one, so entries must be large. A node that does not
//! lead gathers them likewise, for one message to the leader.
//!
//! A batch never waits to fill: the first submission goes at once, and those that arrive while entries are in flight
//! share the next entry. Each item has its own verdict; a refused item does not affect the others.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Verdicts;
use crate::config::Timing;
use crate::raft::error::ProposeError;
use crate::state::AccountOutcome;
use crate::state::PutAccount;
use crate::state::PutAccounts;
use crate::state::State;
use crate::tasks::Scope;

/// Items of one entry. At 2 KB each that is half of [`MAX_BATCH_BYTES`]; more would only delay the first of them.
const MAX_BATCH_ITEMS: usize = 256;

/// Bytes of one entry. A follower 150 ms away on a slow line still takes it within its heartbeat time-out.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Entries in flight at once: one that is being synced and one that waits behind it. More would only make each of them
/// smaller, since they are synced one after the other.
const IN_FLIGHT: usize = 2;

/// Entries in flight at once where the nodes are far from each other: what arrives does not wait for a round trip.
const IN_FLIGHT_FAR: usize = 16;

/// How far apart they are begun, so that they are large.
const PACE_FAR: Duration = Duration::from_millis(5);

/// Submissions that may wait. At 10,000 a second that is less than half a second; beyond it the caller gets a 429, so
/// that behind a slow disk clients are refused and memory does not grow.
const QUEUE: usize = 4096;

/// Tokens that may wait, in KiB: sixty-four of the largest. Those whose callers have given up count until they are
/// dropped, so that they cannot pile up behind a disk that hangs.
const QUEUE_KIB: usize = 64 * 1024;

/// One account on its way to the log, verified under `trust_epoch`.
struct Waiting {
    trust_epoch: u64,
    item: PutAccount,
    verdict: oneshot::Sender<Result<AccountOutcome, ProposeError>>,
    /// Its share of [`QUEUE_KIB`], held until it becomes part of an entry; of those there are few.
    _place: OwnedSemaphorePermit,
}

/// The handle that takes submissions into batches. Clones share one queue.
#[derive(Debug, Clone)]
pub(in crate::raft) struct Batcher {
    queue: mpsc::Sender<Waiting>,
    places: Arc<Semaphore>,
}

impl Batcher {
    /// Starts the loop that forms entries and has each of them agreed on by `agree`; it ends when the last handle is
    /// dropped.
    pub(in crate::raft) fn start(
        agree: Agree,
        state: State,
        flushed: watch::Receiver<u64>,
        timing: Timing,
        scope: &Scope,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let batches = Batches {
            queue: Queue { waiting, next: None },
            in_flight: match timing {
                Timing::Lan => IN_FLIGHT,
                Timing::Wan => IN_FLIGHT_FAR,
            },
            agree,
            state,
            flushed,
        };
        scope.spawn("the batcher", batches.run());
        Self {
            queue,
            places: Arc::new(Semaphore::new(QUEUE_KIB)),
        }
    }

    /// Proposes one account and waits for its verdict.
    pub(in crate::raft) async fn submit(
        &self,
        trust_epoch: u64,
        item: PutAccount,
    ) -> Result<AccountOutcome, ProposeError> {
        let (verdict, decided) = oneshot::channel();
        let size = u32::try_from(item.token.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let place = self.places.clone().try_acquire_many_owned(size);
        let waiting = Waiting {
            trust_epoch,
            item,
            verdict,
            _place: place.map_err(|_| ProposeError::Busy)?,
        };
        self.queue.try_send(waiting).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
            mpsc::error::TrySendError::Closed(_) => ProposeError::ended(),
        })?;
        // Only the caller stops waiting. Its entry stays in flight, so that behind a disk that hangs the queue fills up
        // and memory does not grow.
        match tokio::time::timeout(super::PROPOSE_TIMEOUT, decided).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }
}

/// Has the items of an entry agreed on.
pub(in crate::raft) type Agree = Box<dyn Fn(PutAccounts) -> BoxFuture<'static, Verdicts> + Send + Sync>;

struct Batches {
    queue: Queue,
    /// The most entries in flight.
    in_flight: usize,
    agree: Agree,
    state: State,
    /// Updated by the flusher after each step.
    flushed: watch::Receiver<u64>,
}

impl Batches {
    /// Ends when the last handle is dropped and everything in flight is decided.
    async fn run(mut self) {
        // Driven here and not on tasks of their own: each hop between tasks would add to every upload's latency.
        let mut in_flight = FuturesUnordered::new();
        let mut begun = Instant::now();
        let mut open = true;
        while open || !in_flight.is_empty() {
            // Marked before the state is read, so that a step of the flusher in between is not missed.
            self.flushed.mark_unchanged();
            let crowded = open && self.state.is_crowded();
            let paced = (in_flight.len() >= IN_FLIGHT).then_some(begun + PACE_FAR);
            tokio::select! {
                first = self.queue.first(paced), if open && !crowded && in_flight.len() < self.in_flight => match first {
                    Some(first) => {
                        begun = Instant::now();
                        in_flight.push(propose(&self.agree, self.queue.collect(first)));
                    }
                    None => open = false,
                },
                Some(()) = in_flight.next() => {}
                // When the flusher has ended, the node is ending, and nothing more is proposed.
                stepped = self.flushed.changed(), if crowded => open = stepped.is_ok(),
            }
        }
    }
}

/// The submissions that wait to be proposed.
struct Queue {
    waiting: mpsc::Receiver<Waiting>,
    /// Taken from the queue, but did not fit: the first item of the next entry.
    next: Option<Waiting>,
}

impl Queue {
    /// The first item of the next entry. Skips submissions whose caller has given up: that caller already has the
    /// answer that the outcome is unknown, and behind a slow disk there could be any number of them. Not before `paced`.
    async fn first(&mut self, paced: Option<Instant>) -> Option<Waiting> {
        if let Some(paced) = paced {
            tokio::time::sleep_until(paced).await;
        }
        loop {
            let first = match self.next.take() {
                Some(first) => first,
                None => self.waiting.recv().await?,
            };
            if !first.verdict.is_closed() {
                return Some(first);
            }
        }
    }

    /// `first` and the other waiting submissions that fit into its entry.
    fn collect(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut bytes = first.item.token.len();
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH_ITEMS {
            let Ok(waiting) = self.waiting.try_recv() else { break };
            if waiting.verdict.is_closed() {
                continue;
            }
            bytes += waiting.item.token.len();
            if bytes > MAX_BATCH_BYTES || waiting.trust_epoch != batch[0].trust_epoch {
                self.next = Some(waiting);
                break;
            }
            batch.push(waiting);
        }
        batch
    }
}

async fn propose(agree: &Agree, batch: Vec<Waiting>) {
    let trust_epoch = batch[0].trust_epoch;
    let mut items = Vec::with_capacity(batch.len());
    let mut verdicts = Vec::with_capacity(batch.len());
    for waiting in batch {
        items.push(waiting.item);
        verdicts.push(waiting.verdict);
    }
    let decided = agree(PutAccounts { trust_epoch, items }).await;
    assert_eq!(decided.len(), verdicts.len(), "an item without a verdict");
    for (verdict, decided) in verdicts.into_iter().zip(decided) {
        // Fails if the caller has given up waiting.
        let _ = verdict.send(decided);
    }
}
