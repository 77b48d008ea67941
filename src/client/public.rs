//! A client of the public port.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Uri};
use jiff::fmt::rfc2822::DateTimeParser;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::call::{CONNECT_LIMIT, Call, ClientError, JWT, REQUEST_LIMIT, waiting};
use crate::config::ClientCert;
use crate::jwt::AccountKey;
use crate::tls;

/// An answer of the public port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// What time the node said that it was (`Date`, RFC 9110, 6.6.1), Unix seconds; `None` if it did not say.
    pub fn date(&self) -> Option<i64> {
        let text = self.headers.get(header::DATE)?.to_str().ok()?;
        let date = DateTimeParser::new().parse_timestamp(text).ok()?;
        Some(date.as_second())
    }

    /// Which token it is, without quotes; `None` if it does not say.
    pub fn etag(&self) -> Option<&str> {
        let tag = self.headers.get(header::ETAG)?.to_str().ok()?;
        Some(tag.trim_matches('"'))
    }
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
    /// certificates in the PEM file `ca` and nothing else, each as an authority and as itself. A node that asks is shown
    /// `own`.
    pub fn new(url: &str, ca: Option<&Path>, own: Option<&ClientCert>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse()?;
        let host = uri
            .host()
            .ok_or_else(|| anyhow::anyhow!("{url} names no host"))?
            .to_owned();
        let (tls, default_port) = match (uri.scheme_str(), ca) {
            (Some("http"), _) => (None, 80),
            (Some("https"), Some(ca)) => (Some(Arc::new(tls::client(ca, own)?).into()), 443),
            (Some("https"), None) => anyhow::bail!(
                "{url} needs --ca FILE, with the authority that signed its certificate, or that certificate itself"
            ),
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
        self.ask(self.call(Method::GET, account, Bytes::new())).await
    }

    /// The token of an account after everything that was acknowledged before, at any node.
    pub async fn newest(&self, account: AccountKey) -> Result<Answer, ClientError> {
        let mut call = self.call(Method::GET, account, Bytes::new());
        call.headers = vec![(MIN_REVISION, "newest".to_owned())];
        self.ask(call).await
    }

    /// Submits a token, as `nsc push` does.
    pub async fn submit(&self, account: AccountKey, token: Bytes) -> Result<Answer, ClientError> {
        self.ask(self.call(Method::POST, account, token)).await
    }

    /// Submits a token in the place of the one whose ETag is `etag`. Waits until it is in force at every server, at most
    /// `seconds`; the answer to a token that was not stored already says where it is.
    pub async fn submit_and_wait(
        &self,
        account: AccountKey,
        token: Bytes,
        etag: &str,
        seconds: u64,
    ) -> Result<Answer, ClientError> {
        let mut call = self.call(Method::POST, account, token);
        call.path = format!("{}?{}", call.path, waiting(seconds));
        call.headers = vec![(header::IF_MATCH, format!("\"{etag}\""))];
        call.limit += Duration::from_secs(seconds);
        self.ask(call).await
    }

    fn call(&self, method: Method, account: AccountKey, body: Bytes) -> Call {
        let at = format!("{}:{}", self.host, self.port);
        Call {
            at: at.clone(),
            host: at,
            method,
            path: format!("/jwt/v1/accounts/{account}"),
            body,
            content_type: JWT,
            node: None,
            headers: Vec::new(),
            limit: REQUEST_LIMIT,
        }
    }

    async fn ask(&self, call: Call) -> Result<Answer, ClientError> {
        let unreachable = |error: String| ClientError::Unreachable {
            at: call.at.clone(),
            reason: error,
        };
        let slow = |_| unreachable(format!("no connection within {} seconds", CONNECT_LIMIT.as_secs()));
        let host = self.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect((host.as_str(), self.port)))
            .await
            .map_err(slow)?
            .map_err(|error| unreachable(error.to_string()))?;
        // Head and body are two writes: with Nagle's algorithm the second waits 40 ms for an acknowledgement.
        stream
            .set_nodelay(true)
            .map_err(|error| unreachable(error.to_string()))?;
        let answer = match &self.tls {
            None => call.over(stream).await?,
            Some(connector) => {
                let name = ServerName::try_from(host).map_err(|error| unreachable(error.to_string()))?;
                let stream = timeout(CONNECT_LIMIT, connector.connect(name, stream))
                    .await
                    .map_err(slow)?
                    .map_err(|error| unreachable(tls::words(&error)))?;
                call.over(stream).await?
            }
        };
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

/// Header of a lookup: the revision that the answer must have seen.
const MIN_REVISION: HeaderName = HeaderName::from_static("jwtmesh-min-revision");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_answer_is_read_from_its_date() {
        let dated = |text: &'static str| Answer {
            status: 200,
            headers: HeaderMap::from_iter([(header::DATE, header::HeaderValue::from_static(text))]),
            body: Bytes::new(),
        };
        assert_eq!(dated("Sat, 28 Nov 2026 06:00:00 GMT").date(), Some(1_795_845_600));
        assert_eq!(dated("today").date(), None);
    }
}
