//! A typed client of a node: `/v1` over its Unix socket, and the lookups and submissions of the public port.
//!
//! Used by the command line, tests and benches. Every request has its own connection: on a socket of the same
//! machine that costs a tenth of a millisecond, and nothing has to be kept alive or spawned.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::api::{Account, Accounts, Operators, Problem, Status, Submitted};
use crate::jwt::AccountKey;

/// Longer than a node may take to say that an outcome is unknown; a node that is silent for so long is not well.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// A page of tokens ends after 8 MiB of them, and the last one may be 1 MiB; the rest is room for its JSON.
const ANSWER_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// How many accounts are asked for at once: the most that a node gives. With their tokens it may give fewer.
pub const PAGE: usize = 1000;

/// Why a request has no answer of the kind asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("no node answers at {at}: {reason}")]
    Unreachable {
        /// The socket or address.
        at: String,
        /// What the system says, and what to do.
        reason: String,
    },
    /// The node's own words.
    #[error("{}", .0.detail)]
    Problem(Problem),
    /// The connection broke or the answer is not what this version expects.
    #[error("the node at {at} gave no usable answer to {request}: {reason}")]
    Broken {
        /// The socket or address.
        at: String,
        /// Method and path.
        request: String,
        /// What was wrong.
        reason: String,
    },
}

/// An administrator's client: whoever may open a node's `admin.sock` may do everything.
#[derive(Debug, Clone)]
pub struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// A client of the node whose socket is at `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// What the node is and what it knows.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// The accounts after `after` in the order of their keys, at most `limit` of them.
    pub async fn accounts(
        &self,
        after: Option<&str>,
        limit: usize,
        with_tokens: bool,
    ) -> Result<Accounts, ClientError> {
        let after = after.map(|key| format!("&after={key}")).unwrap_or_default();
        let token = if with_tokens { "&token=true" } else { "" };
        let path = format!("/v1/accounts?limit={limit}{after}{token}");
        self.ask(Method::GET, &path, Bytes::new()).await
    }

    /// One account with its token.
    pub async fn account(&self, account: AccountKey) -> Result<Account, ClientError> {
        self.ask(Method::GET, &format!("/v1/accounts/{account}"), Bytes::new())
            .await
    }

    /// Submits a token.
    pub async fn submit(&self, account: AccountKey, token: Bytes) -> Result<Submitted, ClientError> {
        self.ask(Method::PUT, &format!("/v1/accounts/{account}"), token).await
    }

    /// The agreed trust.
    pub async fn operators(&self) -> Result<Operators, ClientError> {
        self.ask(Method::GET, "/v1/operators", Bytes::new()).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let at = self.socket.display().to_string();
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::Unreachable {
                at: at.clone(),
                reason: why_no_socket(&error),
            })?;
        let call = Call {
            at,
            host: "localhost".to_owned(),
            method,
            path: path.to_owned(),
            body,
        };
        let (status, answer) = call.over(stream).await?;
        if status.is_success() {
            return serde_json::from_slice(&answer)
                .map_err(|error| call.broken(format!("{error}; are program and node of one version?")));
        }
        match serde_json::from_slice(&answer) {
            Ok(problem) => Err(ClientError::Problem(problem)),
            Err(_) => Err(call.broken(format!("status {status} without a reason"))),
        }
    }
}

fn why_no_socket(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no such socket. Is the node running? Start it with `jwtmesh serve --config FILE`".to_owned()
        }
        std::io::ErrorKind::ConnectionRefused => {
            "nobody listens on it any more. The node has ended; start it with `jwtmesh serve --config FILE`".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "you may not open it. Run this as the user that runs the node".to_owned()
        }
        _ => error.to_string(),
    }
}

/// What the public port said.
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
    /// authorities in the PEM file `ca` and nothing else.
    pub fn new(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse()?;
        let host = uri
            .host()
            .ok_or_else(|| anyhow::anyhow!("{url} names no host"))?
            .to_owned();
        let (tls, default_port) = match (uri.scheme_str(), ca) {
            (Some("http"), _) => (None, 80),
            (Some("https"), Some(ca)) => (Some(connector(ca)?), 443),
            (Some("https"), None) => anyhow::bail!("{url} needs the authority that signed its certificate"),
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
            Some(tls) => {
                let name = ServerName::try_from(host).map_err(|error| unreachable(error.to_string()))?;
                let stream = tls
                    .connect(name, stream)
                    .await
                    .map_err(|error| unreachable(error.to_string()))?;
                call.over(stream).await?
            }
        };
        Ok(Answer {
            status: status.as_u16(),
            body,
        })
    }
}

fn connector(ca: &Path) -> anyhow::Result<tokio_rustls::TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

/// One request and its answer.
struct Call {
    at: String,
    host: String,
    method: Method,
    path: String,
    body: Bytes,
}

impl Call {
    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken {
            at: self.at.clone(),
            request: format!("{} {}", self.method, self.path),
            reason,
        }
    }

    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(StatusCode, Bytes), ClientError> {
        match tokio::time::timeout(REQUEST_LIMIT, self.exchange(stream)).await {
            Ok(answer) => answer.map_err(|reason| self.broken(reason)),
            Err(_) => Err(self.broken(format!(
                "it said nothing for {} seconds; whether a submission was kept is unknown, and it is safe to repeat it",
                REQUEST_LIMIT.as_secs()
            ))),
        }
    }

    async fn exchange(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(&self.path)
            .header(header::HOST, &self.host)
            .header(header::CONNECTION, "close");
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/jwt");
        }
        let request = request
            .body(Full::new(self.body.clone()))
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        // The connection does the reading and writing for `answer`; polled here it needs no task of its own. It
        // may end first, with the answer's last bytes still to be picked up.
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_is_not_there_is_said_so_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let error = AdminClient::new(&socket).status().await.expect_err("there is no node");
        assert!(matches!(error, ClientError::Unreachable { .. }));
        assert!(error.to_string().contains("Is the node running?"), "{error}");

        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = AdminClient::new(&socket).status().await.expect_err("the node ended");
        assert!(error.to_string().contains("nobody listens on it any more"), "{error}");
    }
}
