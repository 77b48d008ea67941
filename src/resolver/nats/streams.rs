//! Questions about the JetStream streams of accounts, as plain data.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::seen::Inquiry;
use crate::jwt::AccountKey;
use crate::state::MAX_SERVERS;

/// What a publisher is asked.
#[derive(Debug)]
pub enum Asking {
    /// At which servers a token is in force.
    InForce(Inquiry),
    /// Which accounts have streams.
    Streams(StreamsInquiry),
}

/// A question to a publisher: which of these accounts have JetStream streams in its NATS cluster? It is answered when every
/// server has answered, at the latest at `until`; a publisher that does not publish drops it.
#[derive(Debug)]
pub struct StreamsInquiry {
    /// The accounts.
    pub accounts: Vec<AccountKey>,
    /// When to answer at the latest.
    pub until: Instant,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<StreamsFound, StreamsUnknown>>,
}

/// The accounts that have streams, and how many each: in the order of the question, and none of the others.
pub type StreamsFound = Vec<(AccountKey, u64)>;

/// Why it is not known which accounts have streams in a NATS cluster. No stream was found where servers did answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamsUnknown {
    /// No node that can be asked is connected to it.
    NotConnected,
    /// As many questions are being answered as are at once.
    Busy,
    /// The user that the node connects as may not ask for streams.
    NotPermitted,
    /// That user may not ask which servers there are, so that some may not be known.
    ServersUnknown,
    /// There are more servers than are known.
    TooManyServers,
    /// No server is known yet.
    NoServer,
    /// Servers have not answered.
    Silent {
        /// The name of one of them.
        server: String,
        /// How many others.
        others: u64,
    },
    /// The node that publishes to it does not understand the question, or this one not its answer.
    OtherVersion,
    /// There was not the time to ask so many servers about all of the accounts. A node that does not know this form yet takes
    /// it for [`Self::OtherVersion`].
    TooManyAccounts {
        /// About how many they were asked.
        asked: u64,
    },
}

impl StreamsUnknown {
    /// Why, and what to do.
    pub(in crate::resolver) fn sentence(&self) -> String {
        match self {
            Self::NotConnected => "no node that can be asked is connected to it (`jwtmesh nats list`), so send the request again when \
                                   one is"
                .to_owned(),
            Self::Busy => "too many requests to delete accounts are being checked, so send it again".to_owned(),
            Self::NotPermitted => "the user of the creds may not ask its servers for streams. Grant it with `nsc edit user --account \
                                   SYS --name jwtmesh --allow-pub '$SYS.REQ.SERVER.PING.JSZ'`, and generate the creds again"
                .to_owned(),
            Self::ServersUnknown => "the user of the creds may not ask which servers there are, so that some may not be known. Grant \
                                     it the permissions in deploy/nats/README.md, and generate the creds again"
                .to_owned(),
            Self::TooManyServers => format!(
                "it has more than {MAX_SERVERS} servers, and others are not known: forget those that were shut down for good with \
                 `jwtmesh nats forget`"
            ),
            Self::OtherVersion => "the node that publishes to it runs another version of jwtmesh than this one, so send the request again \
                                   when both run the same"
                .to_owned(),
            Self::TooManyAccounts { asked } => format!(
                "its servers were asked about {asked} of the accounts in the time that there is: delete fewer at once, by several \
                 requests"
            ),
            Self::NoServer => "none of its servers is known yet, so send the request again in some seconds".to_owned(),
            Self::Silent { server, others } => {
                let (nor, are) = match others {
                    0 => (String::new(), "it was"),
                    others => (format!(", nor do {others} others"), "they were"),
                };
                format!(
                    "server {server} does not answer{nor}. Send the request again when all servers can be reached; if {are} shut down \
                     for good: `jwtmesh nats forget {server}`"
                )
            }
        }
    }
}
