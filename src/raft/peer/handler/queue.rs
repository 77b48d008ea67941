//! What openraft was given and has not answered. Its core takes one append after the other, each until it is on disk; a leader
//! gives up much earlier and sends again. Behind a disk that hangs all of that would gather in the core's queue.

use std::sync::Arc;
use std::task::Poll;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::sync::{Semaphore, oneshot};

use crate::raft::machine::Core;
use crate::raft::peer::pipeline::kib;
use crate::raft::peer::refusal::PeerRefusal;
use crate::raft::runtime::Types;
use crate::tasks::Scope;

/// KiB of appends that openraft may be given before it has answered them: what a leader has on its way, four times.
const QUEUED_KIB: usize = 8 * 1024;

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

    /// Gives `request` to the openraft `core`, calls `given` as soon as it has it, and brings the answer. Refused when it has
    /// too much that it did not answer yet.
    pub(super) async fn append(
        &self,
        core: &Core,
        request: AppendEntriesRequest<Types>,
        given: impl FnOnce(),
    ) -> Result<AppendEntriesResponse<Types>, PeerRefusal> {
        const ENDING: PeerRefusal = PeerRefusal::NotNow("this node is ending");
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
                let (answered, answer) = oneshot::channel();
                // The room is taken until openraft has answered, also when nobody waits for that any more.
                self.scope.spawn("an append", async move {
                    let response = response.await;
                    drop(room);
                    // Fails if the leader has given up.
                    let _ = answered.send(response);
                });
                answer.await.map_err(|_| ENDING)?
            }
        };
        response.map_err(|_| ENDING)
    }
}
