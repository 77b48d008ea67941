//! Where the nodes of a mesh reach each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use toml::Spanned;

use super::Reader;
use crate::config::error::{ConfigError, without_userinfo};
use crate::config::meaning::{PeerTls, Peering};
use crate::config::text::ConfigText;

/// More would make each upload slower: it waits for a majority of them.
const MOST_NODES: usize = 7;

impl Reader<'_> {
    /// Where the nodes reach each other. A file with one node may say it already, or have neither `[peer]` nor `peer`.
    pub(super) fn peering(&self, text: &ConfigText, own: &str) -> Result<Option<Peering>, ConfigError> {
        let is_alone = text.node.len() == 1;
        if let Some(eighth) = text.node.get(MOST_NODES) {
            return self.wrong(
                eighth.span(),
                format!("a mesh has at most {MOST_NODES} nodes: remove some"),
            );
        }
        let mut nodes = BTreeMap::new();
        for node in &text.node {
            let name = node.get_ref().name.get_ref();
            match &node.get_ref().peer {
                Some(peer) => {
                    self.peer_address(peer)?;
                    if nodes.values().any(|known| known == peer.get_ref()) {
                        return self.wrong(
                            peer.span(),
                            format!(
                                "two nodes have the peer address {:?}: give each its own",
                                peer.get_ref()
                            ),
                        );
                    }
                    nodes.insert(name.clone(), peer.get_ref().clone());
                }
                None if is_alone => return Ok(None),
                None => {
                    return self.wrong(
                        node.span(),
                        format!("node {name:?} has no peer address: add peer = \"HOST:PORT\", where the other nodes reach it"),
                    );
                }
            }
        }
        let Some(peer) = &text.peer else {
            if is_alone {
                return Ok(None);
            }
            return self.wrong(
                text.node[1].span(),
                "a second [[node]] without [peer]: add [peer] with tls = { ca = ..., cert = ..., key = ... }, since nodes speak with \
                 each other over TLS only",
            );
        };
        let tls = &peer.get_ref().tls;
        Ok(Some(Peering {
            nodes,
            tls: PeerTls {
                ca: self.file(&tls.ca, own, "the mesh's authority")?,
                cert: self.file(&tls.cert, own, "the peer certificate")?,
                key: self.file(&tls.key, own, "the peer certificate's key")?,
            },
        }))
    }

    fn peer_address(&self, peer: &Spanned<String>) -> Result<(), ConfigError> {
        let text = peer.get_ref();
        let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
            let is_literal = host.starts_with('[') && host.ends_with(']');
            let is_host = !host.is_empty()
                && !host.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '?' | '#'))
                && (is_literal || !host.contains([':', '[', ']']));
            is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        let is_any = text
            .parse()
            .is_ok_and(|literal: SocketAddr| literal.ip().is_unspecified());
        if is_any {
            let defect = format!(
                "peer = {text:?} is no address that another node can reach: write the address that this node has for them"
            );
            return self.wrong(peer.span(), defect);
        }
        if is_address {
            return Ok(());
        }
        let defect = format!(
            "peer = {:?} is no address: write HOST:PORT, such as fra-1.example.net:9191 or [2001:db8::1]:9191",
            without_userinfo(text)
        );
        self.wrong(peer.span(), defect)
    }
}
