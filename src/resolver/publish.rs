//! What the publishers of NATS clusters need besides lookups: positions, the servers that are known, requests to send
//! an account again, and a place for what they hear about the time.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::broadcast;

use super::error::{ReadError, SubmitError};
use super::handle::Resolver;
use super::nats::Resend;
use crate::jwt::AccountKey;
use crate::raft::ProposeError;
use crate::state::ForgetServer;
use crate::state::Lease;
use crate::state::Revision;
use crate::state::Server;
use crate::state::TakeLease;
use crate::state::UpdateRosterIf;

impl Resolver {
    /// Asks for the current token of `account` to be sent to every NATS cluster once more. Nothing is sent if it was
    /// within the last second, or if too many accounts are asked for: any client may ask, and each time every server
    /// works.
    pub fn republish(&self, account: AccountKey) {
        match self.0.resends.ask(account) {
            Resend::Now => {}
            Resend::JustSent | Resend::TooMany { log: false } => return,
            Resend::TooMany { log: true } => {
                tracing::warn!(
                    %account,
                    "too many requests to send accounts again (?notify=true, or uploads of what is stored already); some are \
                     answered and nothing is sent. Each account was sent when it changed"
                );
                return;
            }
        }
        // Without a NATS cluster there is no receiver, and nothing to send.
        let _ = self.0.republish.send(account);
        self.0.raft.resend(*account.as_bytes());
    }

    /// The same because NATS servers may have taken a token of `account` that is refused here. Each account is sent once a
    /// second, out of an allowance of its own, so that requests of the public port cannot use it up. `false` if the account
    /// was not sent: ask again later.
    #[must_use]
    pub fn overrule(&self, account: AccountKey) -> bool {
        let is_sent = self.0.overrules.ask(account) == Resend::Now;
        if is_sent {
            let _ = self.0.republish.send(account);
            self.0.raft.resend(*account.as_bytes());
        }
        is_sent
    }

    /// The accounts that [`Self::republish`] and [`Self::overrule`] ask for.
    pub fn republished(&self) -> broadcast::Receiver<AccountKey> {
        self.0.republish.subscribe()
    }

    /// A publisher heard that the NATS servers' clocks are `offset_seconds` ahead of ours (behind, if negative).
    pub fn heard_time(&self, offset_seconds: i64) {
        // The least value stands for "not heard".
        let heard = offset_seconds.max(i64::MIN + 1);
        self.0.heard_offset.store(heard, Ordering::Relaxed);
    }

    /// The NATS servers' clocks minus ours, in seconds, as a publisher heard last: the median of one NATS cluster's
    /// servers. `None` while no server has replied since this node's start.
    pub fn heard_offset(&self) -> Option<i64> {
        let heard = self.0.heard_offset.load(Ordering::Relaxed);
        (heard != i64::MIN).then_some(heard)
    }

    /// What the NATS servers are to enforce of `account`, and since which revision: its current token, or the closing one if it
    /// was deleted. `None` if nothing can be sent: servers would refuse a closing one that is not valid any more.
    pub async fn to_enforce(&self, account: AccountKey) -> Result<Option<(Revision, Bytes)>, ReadError> {
        let Some(row) = self.current(account).await? else {
            return Ok(None);
        };
        if !row.is_deleted() {
            return Ok(Some((row.revision, row.token.clone())));
        }
        let closing = self.valid_closing(account).await?;
        Ok(closing.map(|closing| (row.revision, closing.token.clone())))
    }

    /// The agreed position of `nats_cluster`: how far it has been updated.
    pub fn position(&self, nats_cluster: &str) -> Revision {
        self.0.state.position(nats_cluster)
    }

    /// The servers of `nats_cluster` that the mesh knows, in the order of their ids.
    pub fn servers(&self, nats_cluster: &str) -> Vec<Server> {
        self.0.state.servers(nats_cluster)
    }

    /// The revision at which an administrator last had a server of `nats_cluster` forgotten; 0 if never.
    pub fn forgotten(&self, nats_cluster: &str) -> Revision {
        self.0.state.forgotten(nats_cluster)
    }

    /// Who may publish to `nats_cluster`; `None` if no node ever could.
    pub fn lease(&self, nats_cluster: &str) -> Option<Lease> {
        self.0.state.lease(nats_cluster)
    }

    /// Has the mesh agree that this node may publish to `nats_cluster`, or, if not `held`, that it no longer does. The
    /// revision of that; `None` where the lease granted at `before` is no longer the newest.
    pub async fn take_lease(
        &self,
        nats_cluster: &str,
        before: Revision,
        held: bool,
    ) -> Result<Option<Revision>, SubmitError> {
        let holder = match self.member_id() {
            Some(own) if held => own,
            None if held => return Err(ProposeError::NoLeader.into()),
            _ => 0,
        };
        let take = TakeLease {
            nats_cluster: nats_cluster.to_owned(),
            holder,
            before,
        };
        Ok(self.0.raft.propose(take).await?)
    }

    /// Whether this node is the only member of its mesh.
    pub fn is_alone(&self) -> bool {
        self.0.raft.is_alone()
    }

    /// This node's id in the mesh; `None` while it is not a member of one.
    pub fn member_id(&self) -> Option<u64> {
        self.0.raft.member_id()
    }

    /// The revision of the last update of the servers of `nats_cluster`, which the next one names; 0 if there was none.
    pub fn roster_revision(&self, nats_cluster: &str) -> Revision {
        self.0.state.roster_revision(nats_cluster)
    }

    /// Has the mesh agree on what this node found out about a NATS cluster. `false`: nothing changed, because its term
    /// is not the current one, or another update was applied since.
    pub async fn update_roster(&self, update: UpdateRosterIf) -> Result<bool, SubmitError> {
        Ok(self.0.raft.propose(update).await?)
    }

    /// Has the mesh agree that the server `id` of `nats_cluster` is gone. Whether it was known.
    pub async fn forget_server(&self, nats_cluster: &str, id: &str) -> Result<bool, SubmitError> {
        let forget = ForgetServer {
            nats_cluster: nats_cluster.to_owned(),
            id: id.to_owned(),
        };
        Ok(self.0.raft.propose(forget).await?)
    }
}
