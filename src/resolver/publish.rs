//! What the publishers of NATS clusters need beside lookups: positions, and what is to be sent once more.

use tokio::sync::broadcast;

use super::error::SubmitError;
use super::handle::Resolver;
use crate::jwt::AccountKey;
use crate::state::MarkPropagated;
use crate::state::Revision;

impl Resolver {
    /// Asks for the current token of `account` to be sent to every NATS cluster once more.
    pub fn republish(&self, account: AccountKey) {
        // Without a NATS cluster there is nobody to tell.
        let _ = self.0.republish.send(account);
    }

    /// The accounts that [`Self::republish`] asks for.
    pub fn republished(&self) -> broadcast::Receiver<AccountKey> {
        self.0.republish.subscribe()
    }

    /// How far `nats_cluster` has been told, as agreed.
    pub fn position(&self, nats_cluster: &str) -> Revision {
        self.0.state.position(nats_cluster)
    }

    /// Agrees that `nats_cluster` has been told everything up to `position`.
    pub async fn mark_propagated(&self, nats_cluster: &str, position: Revision) -> Result<(), SubmitError> {
        let mark = MarkPropagated {
            nats_cluster: nats_cluster.to_owned(),
            position,
        };
        Ok(self.0.raft.propose(mark).await?)
    }
}
