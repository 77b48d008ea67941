//! The NATS clusters of one node.

use async_nats::ServerAddr;
use toml::Spanned;

use super::Reader;
use crate::config::error::ConfigError;
use crate::config::meaning::{ClientCert, NatsCluster};
use crate::config::text::{ConfigText, NatsText};

impl Reader<'_> {
    pub(super) fn nats(&self, text: &ConfigText, node: &str) -> Result<Vec<NatsCluster>, ConfigError> {
        let mut clusters: Vec<NatsCluster> = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for nats in &text.nats {
            let nats = nats.get_ref();
            let name = nats.name.get_ref();
            self.name(&nats.name, "a NATS cluster")?;
            if names.contains(&name.as_str()) {
                return self.wrong(
                    nats.name.span(),
                    format!("two [[nats]] are called {name:?}: give each its own name"),
                );
            }
            names.push(name);
            if nats.servers.get_ref().is_empty() {
                return self.wrong(
                    nats.servers.span(),
                    "servers is empty: name at least one, such as nats://127.0.0.1:4222",
                );
            }
            for server in nats.servers.get_ref() {
                self.nats_url(server)?;
            }
            if let Some(nodes) = &nats.nodes {
                if nodes.get_ref().is_empty() {
                    return self.wrong(
                        nodes.span(),
                        "nodes is empty, so no node would connect to this NATS cluster: name at least one, or remove the \
                         line, which means every node",
                    );
                }
                for named in nodes.get_ref() {
                    if !text.node.iter().any(|n| n.get_ref().name.get_ref() == named.get_ref()) {
                        return self.wrong(named.span(), format!("no [[node]] is called {:?}", named.get_ref()));
                    }
                }
                if !nodes.get_ref().iter().any(|named| named.get_ref() == node) {
                    continue;
                }
            }
            clusters.push(NatsCluster {
                name: name.clone(),
                servers: nats
                    .servers
                    .get_ref()
                    .iter()
                    .map(|server| server.get_ref().clone())
                    .collect(),
                creds: self.file(&nats.creds, node, "the system-account creds")?,
                ca: nats
                    .ca
                    .as_ref()
                    .map(|ca| self.file(ca, node, "the NATS servers' authority"))
                    .transpose()?,
                client: self.client_cert(nats, node)?,
                tls_first: nats.tls_first,
                respond: nats.respond,
            });
        }
        Ok(clusters)
    }

    fn client_cert(&self, nats: &NatsText, node: &str) -> Result<Option<ClientCert>, ConfigError> {
        match (&nats.cert, &nats.key) {
            (Some(cert), Some(key)) => Ok(Some(ClientCert {
                cert: self.file(cert, node, "the client certificate for NATS")?,
                key: self.file(key, node, "the client certificate's key")?,
            })),
            (Some(cert), None) => self.wrong(cert.span(), "cert without key: name the file with its private key"),
            (None, Some(key)) => self.wrong(key.span(), "key without cert: name the file with its certificate"),
            (None, None) => Ok(None),
        }
    }

    fn nats_url(&self, server: &Spanned<String>) -> Result<(), ConfigError> {
        let url = server.get_ref();
        // Checked first, because every other error shows the URL. It also keeps passwords out of all later messages
        // that name a server.
        if url.contains('@') {
            return self.wrong(
                server.span(),
                "a server URL must not carry a user or password: put the system-account user into the creds file",
            );
        }
        // `ServerAddr` also takes an address without a scheme, and websocket URLs, which need a feature of async-nats
        // that is not compiled in.
        let is_ours = |server: &ServerAddr| matches!(server.scheme(), "nats" | "tls") && !server.host().is_empty();
        // It also takes what it then ignores or looks up as a name: a path, a query, a list, spaces.
        let is_plain = |url: &str| {
            let address = url.split_once("://").map_or("", |(_, address)| address);
            let address = address.strip_suffix('/').unwrap_or(address);
            !url.contains(|c: char| c.is_whitespace() || c.is_control())
                && !address.contains(['/', ',', '?', '#', '\\'])
        };
        let is_list = url.matches("://").count() > 1 || url.contains(',');
        let defect = match url.parse::<ServerAddr>() {
            _ if is_list => "is more than one server URL (servers = [\"URL\", \"URL\"])".to_owned(),
            Ok(server) if server.port() == 0 => "has port 0, which no server listens on".to_owned(),
            Ok(server) if is_plain(url) && url.contains("://") && is_ours(&server) => return Ok(()),
            Ok(_) => "is no server URL".to_owned(),
            Err(error) => format!("is no server URL ({error})"),
        };
        self.wrong(
            server.span(),
            format!("{url:?} {defect}: write nats://HOST:4222 or tls://HOST:4222"),
        )
    }
}
