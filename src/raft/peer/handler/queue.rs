//! What openraft was given and has not answered. Its core takes one append after the other, each until it is on disk; a leader
//! gives up much earlier and sends again. Behind a disk that hangs all of that would gather in the core's queue.

use std::sync::Arc;
use std::task::Poll;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::sync::{OwnedRwLockReadGuard, Semaphore, oneshot};

use crate::raft::machine::Core;
use crate::raft::peer::pipeline::kib;
use crate::raft::peer::refusal::PeerRefusal;
use crate::raft::runtime::Types;
use crate::tasks::Scope;

/// KiB of appends that openraft may be given before it has answered them: more than a leader has on its way at once.
const QUEUED_KIB: usize = 4 * 1024;

/// What a peer is told while this node shuts down.
pub(super) const ENDING: PeerRefusal = PeerRefusal::NotNow("this node is ending");

/// The way to openraft for appends.
pub(super) struct Queue {
    room: Arc<Semaphore>,
    scope: Scope,
}

impl Queue {
    /// A queue whose tasks run in `scope`.
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            room: Arc::new(Semaphore::new(QUEUED_KIB)),
            scope,
        }
    }

    /// Gives `request` to the openraft `core`, calls `given` as soon as it has it, and brings the answer; keeps `order` until
    /// then. Refused when openraft has too much that it did not answer yet.
    pub(super) async fn append(
        &self,
        core: &Core,
        request: AppendEntriesRequest<Types>,
        order: Option<OwnedRwLockReadGuard<()>>,
        given: impl FnOnce(),
    ) -> Result<AppendEntriesResponse<Types>, PeerRefusal> {
        // One without entries takes room too.
        let room = self.room.clone().try_acquire_many_owned(1 + kib(&request.entries));
        let room =
            room.map_err(|_| PeerRefusal::NotNow("the disk of this node has not taken yet what it was sent before"))?;
        let core = core.clone();
        // openraft has it after the first poll, and takes what it is given in that order. Without a budget of tokio's: one that
        // is used up would have the message not sent yet, and the one behind it overtake it.
        let response = tokio::task::unconstrained(async move { core.append_entries(request).await });
        let mut response = Box::pin(response);
        let polled = futures::poll!(response.as_mut());
        given();
        let response = match polled {
            Poll::Ready(response) => response,
            Poll::Pending => {
                let answering = async move {
                    let response = response.await;
                    drop((room, order));
                    response
                };
                self.finish("an append", answering).await?
            }
        };
        response.map_err(|_| ENDING)
    }

    /// Does `work`, whose name is `name`, to its end, even if its caller no longer waits for it: a leader that gives up a call
    /// does not take back what openraft was given.
    pub(super) async fn finish<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, PeerRefusal> {
        let (done, outcome) = oneshot::channel();
        self.scope.spawn(name, async move {
            // Fails if the caller no longer waits.
            let _ = done.send(work.await);
        });
        outcome.await.map_err(|_| ENDING)
    }
}
