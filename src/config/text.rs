//! `cluster.toml` as it is written: every key that may stand in it. A key that is not here is refused.

use serde::Deserialize;
use toml::Spanned;

use super::meaning::{Acknowledge, DeleteWithStreams, OlderServers, Timing};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigText {
    pub(super) cluster: ClusterText,
    #[serde(default)]
    pub(super) public: PublicText,
    pub(super) peer: Option<Spanned<PeerText>>,
    #[serde(default)]
    pub(super) node: Vec<Spanned<NodeText>>,
    #[serde(default)]
    pub(super) nats: Vec<Spanned<NatsText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterText {
    pub(super) name: Spanned<String>,
    pub(super) operators: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) timing: Timing,
    #[serde(default)]
    pub(super) acknowledge: Acknowledge,
    #[serde(default)]
    pub(super) older_servers: OlderServers,
    #[serde(default)]
    pub(super) delete_with_streams: DeleteWithStreams,
    #[serde(default)]
    pub(super) protected_accounts: Vec<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct PublicText {
    pub(super) tls: Option<PublicTlsText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublicTlsText {
    pub(super) cert: Spanned<String>,
    pub(super) key: Spanned<String>,
    pub(super) client_ca: Option<Spanned<String>>,
    pub(super) client_required: Option<Spanned<bool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerText {
    pub(super) tls: PeerTlsText,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerTlsText {
    pub(super) ca: Spanned<String>,
    pub(super) cert: Spanned<String>,
    pub(super) key: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeText {
    pub(super) name: Spanned<String>,
    pub(super) data: Spanned<String>,
    pub(super) public: Spanned<String>,
    pub(super) peer: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NatsText {
    pub(super) name: Spanned<String>,
    pub(super) servers: Spanned<Vec<Spanned<String>>>,
    pub(super) creds: Spanned<String>,
    pub(super) ca: Option<Spanned<String>>,
    pub(super) cert: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) tls_first: bool,
    #[serde(default = "on")]
    pub(super) respond: bool,
    pub(super) nodes: Option<Spanned<Vec<Spanned<String>>>>,
}

/// The default of a setting that is on unless it is set to false.
fn on() -> bool {
    true
}
