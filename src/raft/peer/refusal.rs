//! Why a peer's message is not taken.

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
