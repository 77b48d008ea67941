//! One connection to one server of a NATS cluster, used until it breaks and then thrown away.
//!
//! async-nats would reconnect by itself, but then it sends what it still holds, perhaps after somebody else told
//! the cluster something newer; it keeps the creds it read first; and of a failure it gives the kind, not the
//! sentence. A new client for each connection has none of this.

mod route;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(super) use route::{Ended, Route};

use super::subjects;
use crate::config::NatsCluster;

/// For TCP, TLS and the greeting together. Another continent takes one second.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);

/// Silence after which the server is asked whether it is there; two unanswered questions end the connection, so a
/// server that hung before there was anything to say is left after three seconds. One that is merely busy with an
/// update answers this, and is told apart from one that hangs; the farthest needs half of it.
const PING_EVERY: Duration = Duration::from_secs(1);

/// How long the client may take to accept one message. It does at once, unless the socket is stuck.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(5);

/// Events that wait to be looked at. They are for the log; more than this in a row say nothing new.
const EVENTS: usize = 64;

/// Replies that wait to be looked at: every server of a large supercluster answering everything in flight. More are
/// dropped by the client, and what they answered is sent again.
const REPLIES: usize = 32 * 1024;

/// A creds file holds a user JWT and a seed, 2 KiB; this is room for a user with very many permissions.
const MAX_CREDS_BYTES: u64 = 256 * 1024;

/// Nothing listens on port 0, so a connection to it is refused at once and without a packet.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// A connection that is up.
pub(in crate::nats) struct Connection {
    url: String,
    client: Client,
    inbox: String,
    replies: Subscriber,
    events: mpsc::Receiver<Event>,
    /// The server's last complaint: mostly why it ends the connection.
    last_words: Option<String>,
}

/// Something that came over the connection.
pub(in crate::nats) enum Incoming {
    /// An answer, to the subject given.
    Reply { subject: String, payload: Bytes },
    /// Nobody listens to the subject of a request.
    Nobody,
    /// The server complains, in its own words.
    Complaint(String),
    /// The server will go away soon.
    LameDuck,
    /// Nothing more will come, for this reason.
    End(String),
}

/// Who is at the other end.
pub(in crate::nats) struct Server {
    pub(in crate::nats) name: String,
    pub(in crate::nats) version: String,
    /// Other servers of its cluster, as URLs.
    pub(in crate::nats) others: Vec<String>,
}

impl Connection {
    /// Connects to the server at `url` of `cluster`. The creds are read now, so that new ones count from the next
    /// connection on.
    pub(in crate::nats) async fn open(node: &str, cluster: &NatsCluster, url: &str) -> Result<Self, String> {
        let (events_in, events) = mpsc::channel(EVENTS);
        let mut options = credentials(&cluster.creds)
            .await?
            .name(format!("jwtmesh-{node}"))
            .custom_inbox_prefix(format!("{}.{node}", subjects::INBOX_PREFIX))
            .connection_timeout(CONNECT_PATIENCE)
            .ping_interval(PING_EVERY)
            .subscription_capacity(REPLIES)
            .ignore_discovered_servers()
            .max_reconnects(1)
            .reconnect_delay_callback(|_| Duration::ZERO)
            .event_callback(move |event| {
                // A full channel loses a line of the log, no more: the end is seen by the end of the replies.
                let _ = events_in.try_send(event);
                std::future::ready(())
            });
        if let Some(ca) = &cluster.ca {
            options = options.add_root_certificates(ca.clone());
        }
        let client = options
            .connect(url)
            .await
            .map_err(|error| sentence(url, cluster, &error))?;
        let ended = |error: &dyn std::fmt::Display| format!("{url} ended the connection at once: {error}");
        // From here on the client must not find its way back by itself.
        client.set_server_pool(NOWHERE).await.map_err(|error| ended(&error))?;
        let inbox = client.new_inbox();
        let replies = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| ended(&error))?;
        Ok(Self {
            url: url.to_owned(),
            client,
            inbox,
            replies,
            events,
            last_words: None,
        })
    }

    /// To which server.
    pub(in crate::nats) fn url(&self) -> &str {
        &self.url
    }

    /// Below which subject answers come.
    pub(in crate::nats) fn inbox(&self) -> &str {
        &self.inbox
    }

    /// Who answered.
    pub(in crate::nats) fn server(&self) -> Server {
        let info = self.client.server_info();
        let scheme = self.url.split_once("://").map_or("nats", |(scheme, _)| scheme);
        Server {
            name: info.server_name,
            version: info.version,
            others: info
                .connect_urls
                .iter()
                .map(|address| format!("{scheme}://{address}"))
                .collect(),
        }
    }

    /// Bytes that came over it, answers to pings included.
    pub(in crate::nats) fn received(&self) -> u64 {
        self.client.statistics().in_bytes.load(Ordering::Relaxed)
    }

    /// The largest message that this server takes.
    pub(in crate::nats) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Sends `token` without headers: directory resolvers would take them for a part of it.
    pub(in crate::nats) async fn publish(&self, subject: String, reply: String, token: Bytes) -> Result<(), String> {
        match timeout(PUBLISH_PATIENCE, self.client.publish_with_reply(subject, reply, token)).await {
            Ok(sent) => sent.map_err(|error| error.to_string()),
            Err(_) => Err(format!("nothing could be sent for {} s", PUBLISH_PATIENCE.as_secs())),
        }
    }

    /// The next that comes. Losing the future loses nothing.
    pub(in crate::nats) async fn next(&mut self) -> Incoming {
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => match event {
                    Event::ServerError(error) => {
                        let words = subjects::clip(&error.to_string(), 300);
                        self.last_words = Some(words.clone());
                        return Incoming::Complaint(words);
                    }
                    Event::LameDuckMode => return Incoming::LameDuck,
                    Event::SlowConsumer(_) => return Incoming::Complaint("replies came faster than they were read".to_owned()),
                    Event::Disconnected | Event::Closed => return Incoming::End(self.ended()),
                    Event::Connected | Event::Draining | Event::ClientError(_) => {}
                },
                Some(message) = self.replies.next() => return incoming(message),
                // Both have ended, as they do also when the client's own task has died.
                else => return Incoming::End(self.ended()),
            }
        }
    }

    fn ended(&self) -> String {
        match &self.last_words {
            Some(words) => format!("{} ended the connection; the server's last words: {words}", self.url),
            None => format!("the connection to {} ended without a word of the server", self.url),
        }
    }

    /// Sends what is still held, and ends.
    pub(in crate::nats) async fn close(self) {
        // Both fail only where the connection has ended already.
        let _ = self.client.flush().await;
        let _ = self.client.drain().await;
    }
}

fn incoming(message: Message) -> Incoming {
    match message.status {
        Some(async_nats::StatusCode::NO_RESPONDERS) => Incoming::Nobody,
        _ => Incoming::Reply {
            subject: message.subject.to_string(),
            payload: message.payload,
        },
    }
}

async fn credentials(path: &Path) -> Result<ConnectOptions, String> {
    let unusable = |defect: &dyn std::fmt::Display| {
        format!(
            "cannot use the creds file {}: {defect}. It holds the JWT and seed of a system-account user, as \
             `nsc generate creds -a SYS -n jwtmesh` prints them",
            path.display()
        )
    };
    let size = tokio::fs::metadata(path).await.map_err(|error| unusable(&error))?.len();
    if size > MAX_CREDS_BYTES {
        return Err(unusable(&format!(
            "it has {size} bytes, no creds have more than {MAX_CREDS_BYTES}"
        )));
    }
    let creds = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| unusable(&error))?;
    ConnectOptions::with_credentials(&creds).map_err(|error| unusable(&error))
}

fn sentence(url: &str, cluster: &NatsCluster, error: &ConnectError) -> String {
    let text = subjects::clip(&error.to_string(), 300);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => format!(
            "{url} refuses the user of {}: its JWT is expired, revoked, or not of the system account that this server runs \
             with. If the user was signed by a signing key: a server that could not fetch its system account yet takes only \
             users signed by that account's identity key; push the system account's JWT here, it asks every second",
            cluster.creds.display()
        ),
        _ => format!("{url}: {text}"),
    }
}
