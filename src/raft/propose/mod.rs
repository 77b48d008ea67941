//! FROM A COMMAND TO AN AGREED ENTRY: one command an entry, or many submissions in one (`batch.rs`).
//!
//! A proposal returns when its entry is applied on this node, with the outcome that applying it gave. It never proposes
//! again by itself: after [`PROPOSE_TIMEOUT`] the outcome is unknown, and only the caller knows whether to submit the
//! same again.

mod batch;

use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};

pub(super) use batch::Batcher;

use super::machine::Core;
use super::runtime::Payload;
use crate::state::Proposal;

/// How long a proposal may take before its outcome counts as unknown. A leader that has lost its quorum waits for it
/// without limit, and so would the caller.
pub(super) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a proposal gave no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too many submissions are waiting already.
    #[error("too many submissions are waiting; try again in a second")]
    Busy,
    /// Nothing was proposed, because this node cannot propose now.
    #[error("{reason}; nothing was stored, try again")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// It may or may not be agreed on later. Submitting the same again is safe.
    #[error("the outcome is not known yet; submitting the same token again is safe")]
    OutcomeUnknown,
}

impl ProposeError {
    /// The error of a node that is shutting down.
    pub fn ended() -> Self {
        Self::Unavailable {
            reason: "this node is shutting down".to_owned(),
        }
    }
}

/// Hands commands to openraft, one entry each.
#[derive(Clone)]
pub(super) struct Proposer {
    pub(super) core: Core,
}

impl std::fmt::Debug for Proposer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proposer")
    }
}

impl Proposer {
    /// Proposes `command` and waits until it is applied here.
    pub(super) async fn propose<P: Proposal>(&self, command: P) -> Result<P::Outcome, ProposeError> {
        let payload = Payload(command.into().encode());
        match self.core.client_write(payload).await {
            Ok(response) => {
                let outcome = P::outcome(response.data.0);
                Ok(outcome.expect("applying an entry answers the command that it carries"))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::Unavailable {
                reason: "no leader is known".to_owned(),
            }),
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
