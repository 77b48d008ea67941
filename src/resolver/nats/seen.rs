//! What a publisher sees of its NATS cluster, as plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::jwt::AccountKey;
use crate::state::{Revision, Server};

/// How a nats-server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Reached,
    /// It has not answered, or was not heard for long.
    Missing,
    /// It refuses the token of an account.
    Refuses,
}

/// What a server was found to hold instead of the current tokens, since its node began to publish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Newer tokens, which were adopted.
    pub adopted: u64,
    /// Older or refused ones, in whose place the current ones were sent.
    pub overruled: u64,
}

/// What the publisher of a NATS cluster on this node sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The URL of the server that this node is connected to.
    pub connected: Option<String>,
    /// Whether this node publishes.
    pub publishes: bool,
    /// What this node's user may not do, one sentence each.
    pub lacks: Vec<&'static str>,
    /// Servers that are missing or refuse, by their ids.
    pub troubled: BTreeMap<String, Standing>,
    /// What servers were found to hold, by their ids.
    pub found: BTreeMap<String, Found>,
}

/// Whether the newest token of an account is in force at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforcement {
    /// It is, or the account is not loaded there, as the server has said again after any fetch that was under way was over.
    InForce,
    /// The server says that it does not have the account loaded. A fetch of an older token may be under way, so it is asked
    /// once more.
    NotLoaded,
    /// It is not known yet.
    Waiting,
    /// The server does not answer.
    Missing,
    /// The server refuses it.
    Refused,
}

/// What is known of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The server.
    pub server: Server,
    /// Whether the token is in force there.
    pub enforcement: Enforcement,
}

/// What a publisher answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// What is known of each server.
    pub told: Vec<Told>,
    /// How many connections were closed; `None` if no server was asked, or none answered.
    pub closed: Option<u64>,
    /// How long it took until it was in force everywhere, or until the answer was due; `None` if it is not timed.
    pub elapsed_ms: Option<u64>,
}

/// A question to a publisher: at which servers is `revision` of `account`, or a newer one, in force? It is answered when it
/// is everywhere, at the latest at `until`; a publisher that does not publish drops it.
#[derive(Debug)]
pub struct Inquiry {
    /// The account.
    pub account: AccountKey,
    /// Its revision.
    pub revision: Revision,
    /// When to answer at the latest.
    pub until: Instant,
    /// Since when it is timed, and connections are counted that are closed because their users are revoked; `None` if neither
    /// is.
    pub since: Option<Instant>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answered>,
}
