//! FROM A COMMAND TO AN AGREED ENTRY: one command an entry, or many submissions in one (`batch.rs`).
//!
//! A proposal returns when its entry is applied on this node, with the outcome that applying it gave. The leader proposes
//! its own; any other node has the leader do it (`route.rs`), once: a leader that is given a command proposes it or says
//! that it does not lead. After [`PROPOSE_TIMEOUT`] the outcome is unknown, and submitting the same again is safe.

mod batch;
mod route;
mod settle;

use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};

pub(super) use batch::{Agree, Batcher};
pub(super) use route::Route;
pub(super) use settle::Settle;

use super::error::ProposeError;
use super::machine::Core;
use super::peer::Handler;
use super::runtime::Payload;
use crate::state::AccountOutcome;
use crate::state::Outcomes;
use crate::state::Proposal;
use crate::state::PutAccounts;

/// The verdict on each of several accounts, in their order.
pub(super) type Verdicts = Vec<Result<AccountOutcome, ProposeError>>;

/// How long a proposal may take before its outcome counts as unknown. A leader that has lost its quorum waits for it
/// without limit, and so would the caller.
pub(super) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Hands commands to this node's openraft, one entry each.
#[derive(Debug, Clone)]
pub(super) struct Proposer {
    pub(super) handler: Handler,
}

impl Proposer {
    /// This node's openraft, once it is a member of a mesh.
    pub(super) fn core(&self) -> Result<&Core, ProposeError> {
        let member = self.handler.inner().member.get();
        let member = member.ok_or_else(|| ProposeError::Unavailable {
            reason: self.handler.inner().contacts.no_member(),
        })?;
        Ok(&member.core)
    }

    /// Proposes `command` and waits until it is applied here. [`ProposeError::NoLeader`] if this node does not lead.
    pub(super) async fn propose<P: Proposal>(&self, command: P) -> Result<P::Outcome, ProposeError> {
        let outcomes = self.propose_encoded(Payload(command.into().encode())).await?;
        let outcome = P::outcome(outcomes);
        Ok(outcome.expect("applying an entry answers the command that it carries"))
    }

    /// The same for many accounts, whose entry is agreed on or not as a whole.
    pub(super) async fn propose_all(&self, accounts: PutAccounts) -> Verdicts {
        let count = accounts.items.len();
        match self.propose(accounts).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); count],
        }
    }

    pub(super) async fn propose_encoded(&self, payload: Payload) -> Result<Outcomes, ProposeError> {
        match self.core()?.client_write(payload).await {
            Ok(response) => Ok(response.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::NoLeader),
            // It was appended here and then overwritten by another leader, which may have agreed on it all the same.
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Err(ProposeError::OutcomeUnknown),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(ProposeError::Unavailable {
                    reason: error.to_string(),
                })
            }
            // No proposal of ours names a precondition.
            Err(RaftError::APIError(ClientWriteError::PreconditionFailed(error))) => Err(ProposeError::Unavailable {
                reason: error.to_string(),
            }),
            // The core ended during the proposal: the entry may be on disk.
            Err(RaftError::Fatal(_)) => Err(ProposeError::OutcomeUnknown),
        }
    }
}
