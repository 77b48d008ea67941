//! Many submissions, one entry: openraft 0.9 writes and syncs each entry on its own, so entries must be large.
//!
//! No lingering: whoever comes first goes at once; what arrives while entries are on their way goes together in
//! the next. Each item has its own verdict; one that is refused does not touch its neighbours.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::{ProposeError, Proposer};
use crate::state::AccountOutcome;
use crate::state::PutAccount;
use crate::state::PutAccounts;
use crate::state::State;
use crate::tasks::Scope;

/// Items of one entry. At 2 KB each that is half of [`MAX_BATCH_BYTES`]; more would only delay the first of them.
const MAX_BATCH_ITEMS: usize = 256;

/// Bytes of one entry. A follower 150 ms away on a slow line still takes it within its heartbeat time-out.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Entries under way at once: one that is being synced and one that waits behind it. More would only make each
/// of them smaller, since openraft 0.9 syncs them one after the other.
const IN_FLIGHT: usize = 2;

/// Submissions that may wait. At 10,000 a second that is less than half a second; beyond it the caller is told
/// to come back (429), so that a slow disk shows at the door and not in memory.
const QUEUE: usize = 4096;

/// And how much of it, in KiB: sixty-four of the largest tokens. Those whose senders gave up count until they are
/// dropped, so a disk that hangs never makes a heap of them.
const QUEUE_KIB: usize = 64 * 1024;

/// One account on its way to the log, verified under `trust_epoch`.
struct Waiting {
    trust_epoch: u64,
    item: PutAccount,
    verdict: oneshot::Sender<Result<AccountOutcome, ProposeError>>,
    /// Its part of the queue's memory, until it is part of an entry: of those there are [`IN_FLIGHT`].
    _place: OwnedSemaphorePermit,
}

/// The door to the batches.
#[derive(Debug, Clone)]
pub(in crate::raft) struct Batcher {
    queue: mpsc::Sender<Waiting>,
    places: Arc<Semaphore>,
}

impl Batcher {
    /// Starts the loop that forms entries and hands them to `proposer`; it ends when the last handle is dropped.
    pub(in crate::raft) fn start(
        proposer: Proposer,
        state: State,
        flushed: watch::Receiver<u64>,
        scope: &Scope,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let batches = Batches {
            queue: Queue { waiting, next: None },
            proposer,
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
        // The caller stops waiting, the entry does not: it stays in flight, so that a disk that hangs fills the queue
        // and not the memory.
        match tokio::time::timeout(super::PROPOSE_TIMEOUT, decided).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }
}

struct Batches {
    queue: Queue,
    proposer: Proposer,
    state: State,
    /// Told by the flush after each step.
    flushed: watch::Receiver<u64>,
}

impl Batches {
    /// Ends when the last handle is dropped and everything in flight is decided.
    async fn run(mut self) {
        // Driven here and not on tasks of their own: each hop from task to task is a part of every upload's latency.
        let mut in_flight = FuturesUnordered::new();
        let mut open = true;
        while open || !in_flight.is_empty() {
            // Seen before the state is looked at, so that no step of the flush is missed in between.
            self.flushed.mark_unchanged();
            let crowded = open && self.state.is_crowded();
            tokio::select! {
                first = self.queue.first(), if open && !crowded && in_flight.len() < IN_FLIGHT => match first {
                    Some(first) => in_flight.push(propose(self.proposer.clone(), self.queue.collect(first))),
                    None => open = false,
                },
                Some(()) = in_flight.next() => {}
                // Without the flush the node is ending, and nothing more is proposed.
                stepped = self.flushed.changed(), if crowded => open = stepped.is_ok(),
            }
        }
    }
}

/// What waits to be proposed.
struct Queue {
    waiting: mpsc::Receiver<Waiting>,
    /// Taken from the queue, but belongs into the next entry.
    next: Option<Waiting>,
}

impl Queue {
    /// What the next entry begins with. Nothing is proposed whose sender has given up already: he was told that it is
    /// not known what became of it, and behind a slow disk there would be no end of such.
    async fn first(&mut self) -> Option<Waiting> {
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

    /// `first` and whatever else waits now and fits.
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

async fn propose(proposer: Proposer, batch: Vec<Waiting>) {
    let trust_epoch = batch[0].trust_epoch;
    let mut items = Vec::with_capacity(batch.len());
    let mut verdicts = Vec::with_capacity(batch.len());
    for waiting in batch {
        items.push(waiting.item);
        verdicts.push(waiting.verdict);
    }
    let proposed = proposer.propose(PutAccounts { trust_epoch, items }).await;
    match proposed {
        Ok(outcomes) => {
            assert_eq!(outcomes.len(), verdicts.len(), "an item without a verdict");
            for (verdict, outcome) in verdicts.into_iter().zip(outcomes) {
                // Whoever gave up waiting does not want to know.
                let _ = verdict.send(Ok(outcome));
            }
        }
        Err(error) => {
            for verdict in verdicts {
                let _ = verdict.send(Err(error.clone()));
            }
        }
    }
}
