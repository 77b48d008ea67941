//! Why a peer's message is not taken, or has no answer.

use openraft::errors::{NetworkError, RPCError, Unreachable};

use crate::raft::runtime::Types;

/// Why a message was not taken. The sender logs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefusal {
    /// The sender is not who it says, or not a member.
    #[error("{0}")]
    Stranger(String),
    /// The message is for another node, or cannot be read.
    #[error("{0}")]
    Wrong(String),
    /// This node cannot take it now.
    #[error("{0}")]
    NotNow(&'static str),
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("{0}")]
    NoAnswer(String),
    /// The peer did not take it.
    #[error("refused: {0}")]
    Refused(String),
}

impl From<CallError> for RPCError<Types> {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoAnswer(_) => NetworkError::new(&error).into(),
            CallError::NotSent(_) | CallError::Refused(_) => Unreachable::new(&error).into(),
        }
    }
}
