//! JSON shapes of `/v1`, used by the server and by its client. Plain data.
//!
//! Times are Unix seconds in UTC; an `expires_at` of 0 means never. Keys and tokens are in their text form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Header of a request: the name of the node that is to answer it. Any other refuses it with 421.
pub const NODE_HEADER: &str = "jwtmesh-node";

/// `GET /v1/status`: what this node is and what it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The mesh's name.
    pub cluster: String,
    /// Which mesh it is, 32 hexadecimal digits; null while this node is not a member of one.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// This node's name.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// Whether lookups are answered from a usable state.
    pub ready: bool,
    /// Whether uploads are taken.
    pub writable: bool,
    /// What is not as it should be, one sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The newest applied log index.
    pub revision: u64,
    /// The name of the member that leads, as far as this node knows; null if it knows none.
    #[serde(default)]
    pub leader: Option<String>,
    /// Milliseconds since a quorum last acknowledged the leader that this node hears; null if it never heard one.
    #[serde(default)]
    pub leader_age_ms: Option<u64>,
    /// How old the view is that lookups are answered from here, in milliseconds: more than the leader's age where this node
    /// applies nothing. Null if it never heard a leader.
    #[serde(default)]
    pub age_ms: Option<u64>,
    /// The members of the mesh.
    #[serde(default)]
    pub members: Vec<Member>,
    /// The address of the public port as a URL.
    pub public: String,
    /// Whether the public port refuses clients without a certificate.
    #[serde(default)]
    pub client_required: bool,
}

/// A member of the mesh, as the node knows it that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in `cluster.toml`.
    pub name: String,
    /// Its id, never reused.
    pub id: u64,
    /// `voter` or `learner`.
    pub role: String,
    /// Where other nodes reach it.
    pub peer: String,
    /// Its store, 32 hexadecimal digits.
    pub store: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answers that node now.
    pub reachable: bool,
    /// Whether a node of its name answers there that has another store: it has lost its data.
    pub lost_store: bool,
    /// The newest revision that can be read there; null if it does not answer.
    pub applied: Option<u64>,
    /// How many revisions that is behind the newest that is known; null if it does not answer.
    pub lag: Option<u64>,
    /// Milliseconds since that node last heard from it; null if never.
    pub last_contact_ms: Option<u64>,
    /// The version of its program; empty if it does not answer.
    pub version: String,
}

/// `GET /v1/members`: the agreed members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// In the order of their ids.
    pub items: Vec<Member>,
}

/// The body of `POST /v1/mesh`: the nodes that the caller wants to be members. Without a body they are those that the
/// node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The peer address of each, HOST:PORT, by its name.
    pub nodes: BTreeMap<String, String>,
}

/// `POST /v1/mesh`: what forming the mesh came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrapped {
    /// `formed`, or `already formed`.
    pub outcome: String,
    /// The members.
    pub items: Vec<Member>,
}

/// An account as listings show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The account's public key.
    pub account: String,
    /// Its name in the token.
    pub name: String,
    /// The operator to whom it belongs: the one whose key signed the token, or the one that has taken its place since.
    pub operator: String,
    /// When it was issued. Of a token without `iat`, the time of the one before it; 0 if it was the first.
    pub issued_at: i64,
    /// When it expires; 0 means never.
    pub expires_at: i64,
    /// The revision that stored it.
    pub revision: u64,
    /// Names the token's bytes, for `If-Match`; empty if it cannot be read.
    #[serde(default)]
    pub etag: String,
    /// The token, where it was asked for (`?token=true`, or a single account).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Of an account that is shut: only a JWT that was issued after this time opens it again, Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_after: Option<i64>,
    /// `closing`: the account is shut, and its token is its closing JWT. `deleted`: it was deleted, and has no token; only shown
    /// where it is asked for (`?deleted=true`, a single account). Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why the stored row cannot be read; then name, operator and times are unknown (empty, 0), and there is no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// `GET /v1/accounts?after=A...&limit=N&token=true&name=NAME`: one page, ordered by the key's bytes; with `name` only
/// the accounts of that name, and perhaps none of them on a page that is not the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// The accounts of this page.
    pub items: Vec<Account>,
    /// What to give as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `PUT` or `POST /v1/accounts/{account}`, `PUT /v1/operators/{operator}` and `.../successor`: the outcome of a
/// submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// `stored`, or `unchanged` when the same bytes were current already.
    pub outcome: String,
    /// The revision at which these bytes are stored.
    pub revision: u64,
}

/// `DELETE /v1/accounts` and `/v1/accounts/{account}`, with a signed request as the body: what became of it. With
/// `?dry_run=true` what would, and nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The operator whose key signed the request.
    pub operator: String,
    /// The revision at which it was carried out; null for a dry run.
    pub revision: Option<u64>,
    /// The accounts, in the order of the request.
    pub accounts: Vec<DeletedAccount>,
    /// What is left to do, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An account of a request to delete some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedAccount {
    /// The account's public key.
    pub account: String,
    /// Its name; empty if the mesh never had it.
    pub name: String,
    /// `deleted`, or `absent` if it was not there.
    pub outcome: String,
    /// Whether a closing JWT is kept for it that is valid now, which is sent to the NATS clusters.
    pub closing: bool,
}

/// `GET /v1/closings?after=A...`: one page of the JWTs with which accounts can be shut, ordered by the accounts' keys. Those of
/// deleted accounts are among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closings {
    /// Those of this page.
    pub items: Vec<Closing>,
    /// What to give as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `GET /v1/accounts/{account}/closing`: the JWT with which the account can be shut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The account's public key.
    pub account: String,
    /// Its name in the token.
    pub name: String,
    /// The operator whose key signed it.
    pub operator: String,
    /// When it was issued; 0 if it does not say.
    pub issued_at: i64,
    /// When it expires; 0 means never.
    pub expires_at: i64,
    /// The revision that stored it.
    pub revision: u64,
    /// The token.
    pub token: String,
    /// Why it cannot be read; then nothing but the account is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// An operator the mesh trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// The identity key.
    pub operator: String,
    /// Its name.
    pub name: String,
    /// When its token was issued.
    pub issued_at: i64,
    /// The signing keys it lists.
    pub signing_keys: Vec<String>,
    /// Whether accounts must be signed with one of those, never with the identity key.
    pub strict_signing_key_usage: bool,
    /// The account whose users may use `$SYS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_account: Option<String>,
    /// Where its servers and nsc look for accounts; empty if it names none.
    pub account_server_url: String,
    /// The token.
    pub token: String,
}

/// `GET /v1/operators`: the agreed trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operators {
    /// Grows with every change of trust.
    pub trust_epoch: u64,
    /// The operators.
    pub items: Vec<Operator>,
    /// Operators that this node's configuration names and that the mesh does not trust.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Operator>,
}

/// `GET /v1/nats`: the NATS clusters that this node's configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatsClusters {
    /// In the order of their names.
    pub items: Vec<NatsCluster>,
}

/// A NATS cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatsCluster {
    /// Its name in `cluster.toml`.
    pub name: String,
    /// The member that publishes to it; null if none does.
    pub publisher: Option<String>,
    /// The URL of the server that the node that answers is connected to; null if it is not connected.
    pub connected: Option<String>,
    /// Every change up to this revision was sent, and is in force at each server that is not behind.
    pub position: u64,
    /// How many servers it has.
    pub servers: usize,
    /// How many of them may enforce something older.
    pub behind: usize,
    /// What is not as it should be, one sentence each.
    pub problems: Vec<String>,
}

/// `GET /v1/nats/{name}/servers`: the servers of a NATS cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatsServers {
    /// In the order of their names.
    pub items: Vec<NatsServer>,
}

/// A nats-server, for as long as its process lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatsServer {
    /// The NATS cluster, as `cluster.toml` calls it.
    pub nats: String,
    /// Its key, which is new at each start.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The name of its own cluster; empty if it has none.
    pub cluster: String,
    /// Its version.
    pub version: String,
    /// `up-to-date`; `behind`: being brought up to date, or only the publisher knows why not; `missing`: it does not
    /// answer; `refuses` a JWT.
    pub state: String,
    /// The last revision of which is known that it is in force there; null if all are.
    pub behind: Option<u64>,
    /// How many JWTs that it enforced were newer than the stored ones and adopted, since the node that answers began to
    /// publish; 0 from a node that does not.
    #[serde(default)]
    pub adopted: u64,
    /// The same of those that were older or refused, and overruled.
    #[serde(default)]
    pub overruled: u64,
}

/// `GET /v1/accounts/{account}/propagation?wait=SECONDS`, and `POST /jwt/v1/accounts/{account}?wait=all`: where the
/// account's token is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// The account.
    pub account: String,
    /// The revision of its token.
    pub revision: u64,
    /// Whether it is in force at every server of every NATS cluster.
    pub confirmed: bool,
    /// How many servers there are.
    pub servers: usize,
    /// At how many of them it is in force.
    pub in_force: usize,
    /// How many connections were closed because their users were revoked, where that was asked for and each NATS cluster
    /// has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<u64>,
    /// From the node's receipt of the token until it was in force at every server, or until the answer; where `closed` was
    /// asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
    /// The NATS clusters.
    pub nats: Vec<Propagated>,
}

/// Where a token is in force in one NATS cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagated {
    /// The name of the NATS cluster.
    pub name: String,
    /// Its servers.
    pub servers: Vec<Enforced>,
}

/// Whether a token is in force at one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The server's name.
    pub name: String,
    /// Its key.
    pub id: String,
    /// Its version.
    pub version: String,
    /// `in-force`, also where the account is not loaded for certain; `not-loaded` as it says itself, and it is asked once
    /// more; `waiting` for its answer; `missing`; `refused`.
    pub state: String,
}

/// RFC 9457 problem details, the body of every error under `/v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable code of the defect, kebab-case; `about:blank` is never used.
    #[serde(rename = "type")]
    pub code: String,
    /// The HTTP status, repeated.
    pub status: u16,
    /// The name of the status.
    pub title: String,
    /// One sentence: the defect and what to do.
    pub detail: String,
}
