//! Command and outcome: everything that can happen to the state, in one place, and its form in the log.
//!
//! A command carries what was extracted from a token when it was verified, so that applying it never parses,
//! verifies or looks at a clock. The encoded form is `version, kind, body`; variants are only ever added.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::jwt::AccountKey;
use crate::jwt::OperatorKey;

/// The log index of the entry that wrote a row. Grows with every entry; several rows of one entry share it.
pub type Revision = u64;

/// Something the nodes agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Newer tokens of accounts, each judged on its own.
    PutAccounts {
        /// The trust under which the proposer verified them; under another one every item is [`Outcome::StaleTrust`].
        trust_epoch: u64,
        /// The accounts, in the order in which they were submitted.
        items: Vec<PutAccount>,
    },
    /// Operators to trust. Each is stored if none is agreed yet (the mesh's first trust) or if it is a newer
    /// token of an operator already trusted; every stored one raises the trust epoch.
    PutOperators {
        /// The operators, each self-signed and verified by the proposer.
        items: Vec<PutOperator>,
    },
    /// How far a NATS cluster has been told.
    MarkPropagated {
        /// The NATS cluster's name in `cluster.toml`.
        nats_cluster: String,
        /// Every change up to this revision was answered by a server of that cluster.
        position: Revision,
    },
}

/// One account's token, verified, with the fields that applying it needs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAccount {
    /// The token's subject.
    pub account: AccountKey,
    /// The operator whose key signed it.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `exp`, Unix seconds; 0 means never.
    pub expires_at: i64,
    /// The account's name, for listings.
    pub name: String,
    /// The token, canonical bytes.
    pub token: Bytes,
}

impl std::fmt::Debug for PutAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PutAccount({}, iat {}, {} bytes)",
            self.account,
            self.issued_at,
            self.token.len()
        )
    }
}

/// One operator's token, verified.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOperator {
    /// The operator's identity key.
    pub operator: OperatorKey,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// The token, canonical bytes.
    pub token: Bytes,
}

impl std::fmt::Debug for PutOperator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PutOperator({}, iat {})", self.operator, self.issued_at)
    }
}

/// What became of one item of a command. Deterministic: the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is the current row now.
    Stored {
        /// The revision it was given.
        revision: Revision,
    },
    /// The same bytes are current already.
    Unchanged {
        /// The revision that stored them.
        revision: Revision,
    },
    /// A strictly newer token is there (G2).
    Superseded {
        /// `iat` of the one that is there, Unix seconds.
        stored_issued_at: i64,
        /// Its revision.
        revision: Revision,
    },
    /// The trust changed between verifying and applying: verify again and propose again.
    StaleTrust {
        /// The epoch that holds now.
        trust_epoch: u64,
    },
    /// An operator that is not trusted by this mesh cannot be added this way.
    NotTrusted,
    /// A position was noted.
    Marked,
}

/// The number of the encoding below.
const VERSION: u8 = 1;

/// Why bytes from the log are no command that this version can apply. Never skipped: another node may know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Written by a newer version, or damaged.
    #[error("the log holds a command of version {0}, this program applies {VERSION}: run a version that knows it")]
    Version(u8),
    /// Not the bytes that were proposed.
    #[error("the log holds a command that cannot be read: {0}")]
    Damaged(String),
}

impl Command {
    /// The bytes for the log.
    pub fn encode(&self) -> Bytes {
        let bytes = vec![VERSION];
        // Plain data in memory: postcard fails only where a type refuses to be serialized, and these do not.
        postcard::to_extend(self, bytes)
            .map(Bytes::from)
            .expect("plain data encodes")
    }

    /// The command back from the log.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => {
                postcard::from_bytes(body).map_err(|error| CommandError::Damaged(error.to_string()))
            }
            Some((version, _)) => Err(CommandError::Version(*version)),
            None => Err(CommandError::Damaged("it is empty".to_owned())),
        }
    }
}
