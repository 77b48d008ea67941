//! One request and its answer, over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderName};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::{NODE_HEADER, Problem};

/// Longer than a node takes to answer that an outcome is unknown; a node that is silent for longer is not working.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// How long a mesh may take to form: each node that is admitted receives the whole state first.
pub(super) const FORMING_LIMIT: Duration = Duration::from_secs(3600);

/// How long a connection may take to be opened: then another node is tried.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The query of an upload that waits so many seconds until it is in force everywhere, and counts what that closes.
pub(super) fn waiting(seconds: u64) -> String {
    format!("wait=all&timeout={seconds}&closed=true")
}

/// The media type of a token.
pub(super) const JWT: &str = "application/jwt";

/// A page ends after 8 MiB of tokens, and the last token may be 1 MiB; the rest is for the JSON around them.
const ANSWER_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// Why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node answers there.
    #[error("no node answers at {at}: {reason}")]
    Unreachable {
        /// The socket or address.
        at: String,
        /// What the system says, and what to do.
        reason: String,
    },
    /// The node refused the request; its sentence is the `detail`.
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

/// One request and its answer.
pub(super) struct Call {
    pub(super) at: String,
    pub(super) host: String,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Bytes,
    /// The media type of the body, if there is one.
    pub(super) content_type: &'static str,
    /// The node that is to answer; `None` if any may.
    pub(super) node: Option<String>,
    /// Further headers.
    pub(super) headers: Vec<(HeaderName, String)>,
    /// How long the answer may take.
    pub(super) limit: Duration,
}

impl Call {
    pub(super) fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken {
            at: self.at.clone(),
            request: format!("{} {}", self.method, self.path),
            reason,
        }
    }

    pub(super) async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<Response<Bytes>, ClientError> {
        match tokio::time::timeout(self.limit, self.exchange(stream)).await {
            Ok(answer) => answer.map_err(|reason| self.broken(reason)),
            Err(_) => Err(self.broken(format!(
                "it was silent for {} seconds; whether a submission was stored is unknown, and repeating it is safe",
                self.limit.as_secs()
            ))),
        }
    }

    async fn exchange(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Response<Bytes>, String> {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(&self.path)
            .header(header::HOST, &self.host)
            .header(header::CONNECTION, "close");
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, self.content_type);
        }
        if let Some(node) = &self.node {
            request = request.header(NODE_HEADER, node);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(self.body.clone()))
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT_BYTES)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        // `connection` does the reading and writing for `answer`; polled here, it needs no task of its own. It may end
        // first, while the answer's last bytes are still to be read.
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }
}
