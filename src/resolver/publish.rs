//! What the publishers of NATS clusters need besides lookups: positions, and requests to send an account again.

use tokio::sync::broadcast;

use super::error::SubmitError;
use super::handle::Resolver;
use crate::jwt::AccountKey;
use crate::state::MarkPropagated;
use crate::state::Revision;

impl Resolver {
    /// Asks for the current token of `account` to be sent to every NATS cluster once more.
    pub fn republish(&self, account: AccountKey) {
        // Without a NATS cluster there is no receiver, and nothing to send.
        let _ = self.0.republish.send(account);
    }

    /// The accounts that [`Self::republish`] asks for.
    pub fn republished(&self) -> broadcast::Receiver<AccountKey> {
        self.0.republish.subscribe()
    }

    /// The agreed position of `nats_cluster`: how far it has been updated.
    pub fn position(&self, nats_cluster: &str) -> Revision {
        self.0.state.position(nats_cluster)
    }

    /// Has the mesh agree that `nats_cluster` has been updated up to `position`.
    pub async fn mark_propagated(&self, nats_cluster: &str, position: Revision) -> Result<(), SubmitError> {
        let mark = MarkPropagated {
            nats_cluster: nats_cluster.to_owned(),
            position,
        };
        Ok(self.0.raft.propose(mark).await?)
    }
}
