//! Why a command was not agreed on.

/// Why a proposal gave no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too many submissions are waiting already.
    #[error("too many submissions are waiting; try again in a second")]
    Busy,
    /// Nothing was proposed, because there is no leader.
    #[error(
        "no leader is known, since a majority of the nodes cannot be reached or is electing one; nothing was stored, try again"
    )]
    NoLeader,
    /// Nothing was proposed, because this node cannot propose now.
    #[error("{reason}; nothing was stored")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// The leader, which verifies everything again, refuses it; the node that was asked did not.
    #[error(
        "the leader refuses it: {reason}; nothing was stored. Compare the clocks and the versions of the nodes (`jwtmesh status`)"
    )]
    Refused {
        /// The leader's sentence.
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
