//! A client of the public port.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, Uri};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::call::{Call, ClientError, JWT, REQUEST_LIMIT};
use crate::jwt::AccountKey;
use crate::tls;

/// An answer of the public port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// A client of the public port: what nats-server asks and what nsc sends.
#[derive(Clone)]
pub struct PublicClient {
    host: String,
    port: u16,
    tls: Option<tokio_rustls::TlsConnector>,
}

impl PublicClient {
    /// A client of the node at `url`, `http://HOST:PORT` or `https://HOST:PORT`; https is verified with the
    /// certificates in the PEM file `ca` and nothing else, each as an authority and as itself.
    pub fn new(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse()?;
        let host = uri
            .host()
            .ok_or_else(|| anyhow::anyhow!("{url} names no host"))?
            .to_owned();
        let (tls, default_port) = match (uri.scheme_str(), ca) {
            (Some("http"), _) => (None, 80),
            (Some("https"), Some(ca)) => (Some(Arc::new(tls::client(ca, None)?).into()), 443),
            (Some("https"), None) => anyhow::bail!("{url} needs a file with the authority that signed its certificate"),
            _ => anyhow::bail!("{url} begins neither with http:// nor with https://"),
        };
        Ok(Self {
            host,
            port: uri.port_u16().unwrap_or(default_port),
            tls,
        })
    }

    /// The token of an account, as nats-server asks for it.
    pub async fn lookup(&self, account: AccountKey) -> Result<Answer, ClientError> {
        self.ask(Method::GET, account, Bytes::new()).await
    }

    /// Submits a token, as `nsc push` does.
    pub async fn submit(&self, account: AccountKey, token: Bytes) -> Result<Answer, ClientError> {
        self.ask(Method::POST, account, token).await
    }

    async fn ask(&self, method: Method, account: AccountKey, body: Bytes) -> Result<Answer, ClientError> {
        let at = format!("{}:{}", self.host, self.port);
        let unreachable = |error: String| ClientError::Unreachable {
            at: at.clone(),
            reason: error,
        };
        let call = Call {
            at: at.clone(),
            host: at.clone(),
            method,
            path: format!("/jwt/v1/accounts/{account}"),
            body,
            content_type: JWT,
            node: None,
            limit: REQUEST_LIMIT,
        };
        let host = self.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = TcpStream::connect((host.as_str(), self.port))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        // Head and body are two writes: with Nagle's algorithm the second waits 40 ms for an acknowledgement.
        stream
            .set_nodelay(true)
            .map_err(|error| unreachable(error.to_string()))?;
        let (status, body) = match &self.tls {
            None => call.over(stream).await?,
            Some(connector) => {
                let name = ServerName::try_from(host).map_err(|error| unreachable(error.to_string()))?;
                let stream = connector
                    .connect(name, stream)
                    .await
                    .map_err(|error| unreachable(tls::words(&error)))?;
                call.over(stream).await?
            }
        };
        Ok(Answer {
            status: status.as_u16(),
            body,
        })
    }
}
