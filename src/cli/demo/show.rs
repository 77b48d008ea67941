//! The demo's revocation: a client connects, its user is revoked, and the time until it is disconnected is measured.

use std::time::Duration;

use anyhow::Context;
use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::folder::Folder;
use super::keys::Keys;
use crate::client::PublicClient;
use crate::clock::Clock;

/// The node tries to connect to a NATS cluster every few seconds; nats-server may have started just after an attempt.
const NODE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Far longer than a revocation takes; beyond it something is broken.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(20);

/// How long an upload is repeated while no node leads: far longer than an election takes.
const UPLOAD_LIMIT: Duration = Duration::from_secs(30);

/// What was measured.
pub(super) struct Measured {
    /// From the beginning of the submission until it was acknowledged.
    pub(super) acknowledged_after: Duration,
    /// From the beginning of the submission until the client lost its connection, which may be earlier.
    pub(super) disconnected_after: Duration,
    /// How often a node said meanwhile that it cannot store it now.
    pub(super) refusals: u32,
}

/// Waits until so many nodes are connected to nats-server: before that they cannot send the revocation.
pub(super) async fn nodes_are_connected(url: &str, keys: &Keys, clock: &Clock, nodes: usize) -> anyhow::Result<()> {
    let watch = ConnectOptions::with_credentials(&keys.watch(clock.now())?)?
        .connect(url)
        .await
        .context("cannot connect with a system-account user")?;
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CONNZ", keys.system()?);
    let deadline = Instant::now() + NODE_LIMIT;
    loop {
        // Asks for the system account's connections. A request that fails or takes too long is repeated.
        let answer = watch.request(subject.clone(), Bytes::from_static(br#"{"auth":true}"#));
        if let Ok(Ok(answer)) = timeout(DISCONNECT_LIMIT, answer).await
            && connections(&answer.payload, &keys.node_user) >= nodes
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            anyhow::bail!(
                "not every node has connected to {url} within {} seconds; see demo-*.log, or with a single node run again with --log info",
                NODE_LIMIT.as_secs()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How many connections `user` has, in an answer of nats-server.
fn connections(answer: &[u8], user: &str) -> usize {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let connections = answer["data"]["connections"].as_array();
    let is_ours = |connection: &&Value| connection["authorized_user"] == user;
    connections.into_iter().flatten().filter(is_ours).count()
}

/// A client whose user is about to be revoked.
pub(super) struct Client {
    connection: async_nats::Client,
    events: mpsc::Receiver<(Event, Instant)>,
    creds: String,
    user: String,
}

impl Client {
    /// Connects a new user of APP.
    pub(super) async fn connect(url: &str, keys: &Keys, folder: &Folder, clock: &Clock) -> anyhow::Result<Self> {
        let (user, creds) = keys.bob(folder, clock.now())?;
        let (seen, events) = mpsc::channel(16);
        let connection = ConnectOptions::with_credentials(&creds)?
            .event_callback(move |event| {
                // An event that does not fit is dropped: the first disconnection is among those that fit.
                let _ = seen.try_send((event, Instant::now()));
                std::future::ready(())
            })
            .max_reconnects(1)
            .connect(url)
            .await
            .context("the client cannot connect")?;
        Ok(Self {
            connection,
            events,
            creds,
            user,
        })
    }

    /// Revokes its user as nsc would, over the public port, and waits until nats-server closes the connection.
    pub(super) async fn revoke(&mut self, keys: &Keys, node: &PublicClient, clock: &Clock) -> anyhow::Result<Measured> {
        let app = keys.app()?;
        let present = node.lookup(app).await?;
        anyhow::ensure!(
            present.status == 200,
            "the node does not know account APP ({})",
            present.status
        );
        let token = keys.revoke(std::str::from_utf8(&present.body)?, &self.user, clock.now())?;
        let token = Bytes::from(token);
        let begun = Instant::now();
        let mut refusals = 0;
        let answer = loop {
            let answer = node.submit(app, token.clone()).await?;
            // 503: there is no leader. 504: whether it was stored is not known yet; the same token again is safe.
            if !matches!(answer.status, 503 | 504) || begun.elapsed() > UPLOAD_LIMIT {
                break answer;
            }
            refusals += 1;
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let acknowledged_after = begun.elapsed();
        anyhow::ensure!(
            answer.status == 200,
            "the revocation was refused with {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        let disconnected = async {
            while let Some((event, at)) = self.events.recv().await {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    return Some(at);
                }
            }
            None
        };
        let seen = timeout(DISCONNECT_LIMIT, disconnected).await.ok().flatten();
        let at = seen.with_context(|| {
            format!(
                "the client is still connected {} seconds after its user was revoked",
                DISCONNECT_LIMIT.as_secs()
            )
        })?;
        let disconnected_after = at.duration_since(begun);
        Ok(Measured {
            acknowledged_after,
            disconnected_after,
            refusals,
        })
    }

    /// Tries to connect again with the same creds, and returns nats-server's refusal.
    pub(super) async fn reconnect_refused(self, url: &str) -> anyhow::Result<String> {
        drop(self.connection);
        match ConnectOptions::with_credentials(&self.creds)?.connect(url).await {
            Ok(_) => anyhow::bail!("a client with the revoked user's creds could connect again"),
            Err(error) if error.kind() == ConnectErrorKind::AuthorizationViolation => Ok(error.to_string()),
            Err(error) => Err(error).context("the client was not refused, but could not connect either"),
        }
    }
}
