//! A client of `/v1` over a node's admin socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{self, HeaderName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::call::{Call, ClientError, FORMING_LIMIT, JWT, REQUEST_LIMIT, waiting};
use crate::api::{
    Account, Accounts, Bootstrap, Bootstrapped, Closing, Closings, Deleted, Members, NatsClusters, NatsServer,
    NatsServers, Operators, Propagation, Status, Submitted,
};
use crate::jwt::{AccountKey, OperatorKey};

/// Accounts in one page of a listing: the most that a node gives. With their tokens it may give fewer.
pub const PAGE: usize = 1000;

/// The media type of what is no token.
const JSON: &str = "application/json";

/// An administrator's client: a process that may open a node's `admin.sock` may do everything.
#[derive(Debug, Clone)]
pub struct AdminClient {
    socket: PathBuf,
    /// The node that is to answer; `None` if any may.
    node: Option<String>,
}

impl AdminClient {
    /// A client of the node whose socket is at `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            node: None,
        }
    }

    /// The same client, whose requests every other node than `name` refuses.
    #[must_use]
    pub fn for_node(self, name: impl Into<String>) -> Self {
        Self {
            node: Some(name.into()),
            ..self
        }
    }

    /// Which node this is, and how current its view of the state is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// The members of the mesh.
    pub async fn members(&self) -> Result<Members, ClientError> {
        self.ask(Method::GET, "/v1/members", Bytes::new()).await
    }

    /// Forms the mesh of `nodes`, or of all nodes in the node's configuration. Refused where that has other nodes.
    pub async fn bootstrap(&self, nodes: Option<Bootstrap>) -> Result<Bootstrapped, ClientError> {
        // A map of texts can always be written as JSON.
        let wanted = nodes.and_then(|nodes| serde_json::to_vec(&nodes).ok());
        let body = Bytes::from(wanted.unwrap_or_default());
        self.ask_for(FORMING_LIMIT, Method::POST, "/v1/mesh", body, JSON).await
    }

    /// The accounts after `after` in the order of their keys, at most `limit` of them; with `name`, those of that name.
    pub async fn accounts(
        &self,
        after: Option<&str>,
        limit: usize,
        with_tokens: bool,
        name: Option<&str>,
    ) -> Result<Accounts, ClientError> {
        let after = after.map(|key| format!("&after={key}")).unwrap_or_default();
        let token = if with_tokens { "&token=true" } else { "" };
        let name = name.map(|name| {
            let escaped: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
            format!("&name={escaped}")
        });
        let name = name.unwrap_or_default();
        let path = format!("/v1/accounts?limit={limit}{after}{token}{name}");
        self.ask(Method::GET, &path, Bytes::new()).await
    }

    /// One account with its token.
    pub async fn account(&self, account: AccountKey) -> Result<Account, ClientError> {
        self.ask(Method::GET, &format!("/v1/accounts/{account}"), Bytes::new())
            .await
    }

    /// Submits a token; with `replace` it is stored even if the stored one is newer.
    pub async fn submit(&self, account: AccountKey, token: Bytes, replace: bool) -> Result<Submitted, ClientError> {
        let replace = if replace { "?replace=true" } else { "" };
        self.ask(Method::PUT, &format!("/v1/accounts/{account}{replace}"), token)
            .await
    }

    /// Submits a token in the place of the one whose ETag is `etag`. Waits until it is in force at every server, at most
    /// `seconds`, and counts the connections that this closes. `None` for a token that was stored already.
    pub async fn submit_and_wait(
        &self,
        account: AccountKey,
        token: Bytes,
        etag: &str,
        seconds: u64,
    ) -> Result<Option<Propagation>, ClientError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Answer {
            Proof(Propagation),
            Known(Submitted),
        }
        let headers = vec![(header::IF_MATCH, format!("\"{etag}\""))];
        let path = format!("/v1/accounts/{account}?{}", waiting(seconds));
        let limit = REQUEST_LIMIT + Duration::from_secs(seconds);
        let asking = self.ask_with(headers, limit, Method::PUT, &path, token, JWT);
        Ok(match asking.await? {
            Answer::Proof(found) => Some(found),
            Answer::Known(submitted) => {
                debug_assert_eq!(submitted.outcome, "unchanged", "what is stored is waited for");
                None
            }
        })
    }

    /// One account, also if it was deleted.
    pub async fn account_or_tombstone(&self, account: AccountKey) -> Result<Account, ClientError> {
        let path = format!("/v1/accounts/{account}?deleted=true");
        self.ask(Method::GET, &path, Bytes::new()).await
    }

    /// Carries out a signed request to delete accounts, or says what would become of it.
    pub async fn delete(&self, request: Bytes, dry_run: bool) -> Result<Deleted, ClientError> {
        let path = format!("/v1/accounts{}", dry(dry_run));
        self.ask(Method::DELETE, &path, request).await
    }

    /// The JWT with which `account` can be shut.
    pub async fn closing(&self, account: AccountKey) -> Result<Closing, ClientError> {
        let path = format!("/v1/accounts/{account}/closing");
        self.ask(Method::GET, &path, Bytes::new()).await
    }

    /// The JWTs with which accounts can be shut, of accounts after `after` in the order of their keys.
    pub async fn closings(&self, after: Option<&str>) -> Result<Closings, ClientError> {
        let after = after.map(|key| format!("?after={key}")).unwrap_or_default();
        self.ask(Method::GET, &format!("/v1/closings{after}"), Bytes::new())
            .await
    }

    /// Keeps such a JWT.
    pub async fn keep_closing(&self, account: AccountKey, token: Bytes) -> Result<Submitted, ClientError> {
        let path = format!("/v1/accounts/{account}/closing");
        self.ask(Method::PUT, &path, token).await
    }

    /// Keeps none for `account` any more.
    pub async fn forget_closing(&self, account: AccountKey) -> Result<(), ClientError> {
        let path = format!("/v1/accounts/{account}/closing");
        let answer: serde_json::Value = self.ask(Method::DELETE, &path, Bytes::new()).await?;
        drop(answer);
        Ok(())
    }

    /// Shuts `account` with that JWT, or says whether it could be.
    pub async fn kill(&self, account: AccountKey, dry_run: bool) -> Result<Submitted, ClientError> {
        let path = format!("/v1/accounts/{account}/kill{}", dry(dry_run));
        self.ask(Method::POST, &path, Bytes::new()).await
    }

    /// The NATS clusters of the node's configuration.
    pub async fn nats_clusters(&self) -> Result<NatsClusters, ClientError> {
        self.ask(Method::GET, "/v1/nats", Bytes::new()).await
    }

    /// The servers of the NATS cluster called `nats`.
    pub async fn nats_servers(&self, nats: &str) -> Result<NatsServers, ClientError> {
        self.ask(Method::GET, &format!("/v1/nats/{nats}/servers"), Bytes::new())
            .await
    }

    /// Has the server `id` of the NATS cluster `nats` waited for no longer.
    pub async fn forget_server(&self, nats: &str, id: &str) -> Result<NatsServer, ClientError> {
        let path = format!("/v1/nats/{nats}/servers/{id}");
        self.ask(Method::DELETE, &path, Bytes::new()).await
    }

    /// Where the token of `account` is in force: as soon as it is everywhere, at the latest after `wait` seconds.
    pub async fn propagation(&self, account: AccountKey, wait: u64) -> Result<Propagation, ClientError> {
        let path = format!("/v1/accounts/{account}/propagation?wait={wait}");
        let limit = REQUEST_LIMIT + Duration::from_secs(wait);
        self.ask_for(limit, Method::GET, &path, Bytes::new(), JWT).await
    }

    /// The operators that the mesh trusts.
    pub async fn operators(&self) -> Result<Operators, ClientError> {
        self.ask(Method::GET, "/v1/operators", Bytes::new()).await
    }

    /// Submits a newer token of a trusted operator.
    pub async fn update_operator(&self, operator: OperatorKey, token: Bytes) -> Result<Submitted, ClientError> {
        self.ask(Method::PUT, &format!("/v1/operators/{operator}"), token).await
    }

    /// Has the operator of `token` trusted in the place of `old`.
    pub async fn replace_operator(&self, old: OperatorKey, token: Bytes) -> Result<Submitted, ClientError> {
        self.ask(Method::PUT, &format!("/v1/operators/{old}/successor"), token)
            .await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        self.ask_for(REQUEST_LIMIT, method, path, body, JWT).await
    }

    async fn ask_for<T: DeserializeOwned>(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        body: Bytes,
        content_type: &'static str,
    ) -> Result<T, ClientError> {
        self.ask_with(Vec::new(), limit, method, path, body, content_type).await
    }

    async fn ask_with<T: DeserializeOwned>(
        &self,
        headers: Vec<(HeaderName, String)>,
        limit: Duration,
        method: Method,
        path: &str,
        body: Bytes,
        content_type: &'static str,
    ) -> Result<T, ClientError> {
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
            content_type,
            node: self.node.clone(),
            headers,
            limit,
        };
        let (head, answer) = call.over(stream).await?.into_parts();
        let status = head.status;
        if status.is_success() {
            return serde_json::from_slice(&answer)
                .map_err(|error| call.broken(format!("{error}; is this program of the same version as the node?")));
        }
        match serde_json::from_slice(&answer) {
            Ok(problem) => Err(ClientError::Problem(problem)),
            Err(_) => Err(call.broken(format!("status {status} without a reason"))),
        }
    }
}

fn dry(dry_run: bool) -> &'static str {
    if dry_run { "?dry_run=true" } else { "" }
}

fn why_no_socket(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no such socket. Is the node running, and on this machine? `jwtmesh serve` starts it".to_owned()
        }
        std::io::ErrorKind::ConnectionRefused => {
            "no process listens on it. The node has ended; `jwtmesh serve` starts it".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "you may not open it. Run this as the user that runs the node".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_without_a_node_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let error = AdminClient::new(&socket).status().await.expect_err("there is no node");
        assert!(matches!(error, ClientError::Unreachable { .. }));
        assert!(error.to_string().contains("Is the node running"), "{error}");

        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = AdminClient::new(&socket).status().await.expect_err("the node ended");
        assert!(error.to_string().contains("no process listens on it"), "{error}");
    }
}
