//! One connection to one server of a NATS cluster, used until it breaks and then thrown away.
//!
//! async-nats can reconnect by itself, but then it sends the messages that it still holds, perhaps after another sender
//! has published a newer token; it keeps the creds that it read first; and it gives the kind of a failure, not the
//! server's sentence. A new client for each connection avoids all three.

mod creds;
mod requests;
mod route;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::SelectAll;
use tokio::sync::mpsc;
use tokio::time::timeout;

use creds::{Creds, account_in};
pub(super) use requests::{Answering, Request, Requests};
pub(super) use route::{Ended, Route};

use super::subjects;
use crate::config::NatsCluster;
use crate::jwt::AccountKey;
use crate::tasks::off_the_workers;
use crate::tls;

/// How long TCP, TLS and the NATS greeting may take together. To another continent they take one second.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);

/// The pause between two pings to the server. Two unanswered pings end the connection, so a server that hangs while
/// there is nothing to send is left after three seconds. A server that is merely busy with an update does answer pings,
/// which distinguishes it from one that hangs. The round trip to the farthest server takes half of this.
const PING_EVERY: Duration = Duration::from_secs(1);

/// How long the client may take to accept one message. It accepts at once, unless the socket is stuck.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(5);

/// Events that may wait to be handled; more are dropped. They are for the log, where so many in a row say nothing new.
const EVENTS: usize = 64;

/// Replies that may wait to be read: enough for every server of a large supercluster to answer everything in flight.
/// The client drops further ones, and the changes that they answered are sent again.
const REPLIES: usize = 32 * 1024;

/// The same of requests, for each of five subjects: more small ones than the client reads from the socket at once. They are
/// read as fast as they come, and set aside or refused. With the default `max_payload` they are 2.5 GiB at most, if the
/// responder did not run for as long as it takes to receive so much.
const WAITING_REQUESTS: usize = 512;

/// Answers that may wait for the socket. Each may have a megabyte, and a task with a further one waits.
const WAITING_ANSWERS: usize = 64;

/// Nothing listens on port 0, so a connection to it is refused at once and without a packet.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// A connection that is up.
pub(in crate::nats) struct Connection {
    url: String,
    client: Client,
    inbox: String,
    messages: SelectAll<Subscriber>,
    events: mpsc::Receiver<Event>,
    /// The claims of its user, if they can be read.
    user: serde_json::Value,
    /// The server's last error, which is mostly the reason why it ends the connection.
    last_error: Option<String>,
}

/// Something that arrived over the connection.
pub(in crate::nats) enum Incoming {
    /// An answer, an event, or what a sender gave to the servers.
    Message {
        /// The subject that it was sent to.
        subject: String,
        /// Where its own answers go, if it wants any.
        reply: Option<String>,
        payload: Bytes,
    },
    /// No server subscribes to the subject of the request whose answer was to be sent to `subject`.
    NoResponders { subject: String },
    /// An error that the server reports, in its own words.
    Complaint(String),
    /// The server will shut down soon.
    LameDuck,
    /// The connection has ended, for this reason.
    End(String),
}

/// The server at the other end.
pub(in crate::nats) struct Server {
    /// Its key, new at each start.
    pub(in crate::nats) id: String,
    pub(in crate::nats) name: String,
    pub(in crate::nats) version: String,
    /// Other servers of its cluster, as URLs.
    pub(in crate::nats) others: Vec<String>,
}

impl Connection {
    /// Connects to the server at `url` of `cluster`. The creds and certificates are read now, so that new files take
    /// effect with the next connection. An error is a sentence for the log.
    pub(in crate::nats) async fn open(node: &str, cluster: &NatsCluster, url: &str) -> Result<Self, String> {
        // What others give to the servers is heard by each publisher itself, over each of its connections: it relies on
        // having heard it, so no other connection may stand in between, which could be lost or reach other servers.
        let [update, older_update] = subjects::UPDATES;
        let heard = [subjects::REPORTS, subjects::SHUTDOWNS, update, older_update];
        Self::open_with(node, cluster, url, &heard, |options| {
            // What it sends itself is not to come back.
            let options = options.no_echo();
            options.name(format!("jwtmesh-{node}")).subscription_capacity(REPLIES)
        })
        .await
    }

    /// The same to answer requests.
    pub(in crate::nats) async fn open_to_answer(node: &str, cluster: &NatsCluster, url: &str) -> Result<Self, String> {
        Self::open_with(node, cluster, url, &[], |options| {
            options
                .name(format!("jwtmesh-{node}-responder"))
                .subscription_capacity(WAITING_REQUESTS)
                .client_capacity(WAITING_ANSWERS)
        })
        .await
    }

    async fn open_with(
        node: &str,
        cluster: &NatsCluster,
        url: &str,
        events: &[&'static str],
        purpose: impl FnOnce(ConnectOptions) -> ConnectOptions + Send,
    ) -> Result<Self, String> {
        let (events_in, events_out) = mpsc::channel(EVENTS);
        let path = cluster.creds.clone();
        let (options, user) = off_the_workers(move || Creds::read(&path)).await?.into_options();
        let mut options = purpose(options)
            .custom_inbox_prefix(format!("{}.{node}", subjects::INBOX_PREFIX))
            .connection_timeout(CONNECT_PATIENCE)
            .ping_interval(PING_EVERY)
            .ignore_discovered_servers()
            .max_reconnects(1)
            .reconnect_delay_callback(|_| Duration::ZERO)
            .event_callback(move |event| {
                // A full channel loses only log lines: the end of the connection also ends the replies.
                let _ = events_in.try_send(event);
                std::future::ready(())
            });
        options = certificates(options, cluster).await?;
        if cluster.tls_first {
            options = options.tls_first();
        }
        if cluster.demands_tls() {
            options = options.require_tls(true);
        }
        let client = options
            .connect(url)
            .await
            .map_err(|error| sentence(url, cluster, &error))?;
        let ended = |error: &dyn std::fmt::Display| format!("{url} ended the connection at once: {error}");
        // From here on the client must not reconnect by itself.
        client.set_server_pool(NOWHERE).await.map_err(|error| ended(&error))?;
        let inbox = client.new_inbox();
        let mut messages = SelectAll::new();
        let replies = format!("{inbox}.*");
        for subject in std::iter::once(&*replies).chain(events.iter().copied()) {
            let subscriber = client.subscribe(subject.to_owned()).await;
            messages.push(subscriber.map_err(|error| ended(&error))?);
        }
        Ok(Self {
            url: url.to_owned(),
            client,
            inbox,
            messages,
            events: events_out,
            user,
            last_error: None,
        })
    }

    /// The account of its user: the one whose identity key signed the user, or the one that a signing key names. `None`
    /// if the creds do not say; the server then judges them.
    pub(in crate::nats) fn account(&self) -> Option<AccountKey> {
        account_in(&self.user)?.parse().ok()
    }

    /// The claims of its user; null if they cannot be read.
    pub(in crate::nats) fn user(&self) -> &serde_json::Value {
        &self.user
    }

    /// The name of its user as nsc knows it, or a placeholder where the creds do not say.
    pub(in crate::nats) fn user_name(&self) -> String {
        let name = self.user["name"].as_str().filter(|name| !name.is_empty());
        subjects::clip(name.unwrap_or("USER"), 100)
    }

    /// The URL of the server.
    pub(in crate::nats) fn url(&self) -> &str {
        &self.url
    }

    /// The prefix of the subjects that answers are sent to.
    pub(in crate::nats) fn inbox(&self) -> &str {
        &self.inbox
    }

    /// The server, as it introduced itself.
    pub(in crate::nats) fn server(&self) -> Server {
        let info = self.client.server_info();
        let scheme = self.url.split_once("://").map_or("nats", |(scheme, _)| scheme);
        Server {
            id: info.server_id,
            name: info.server_name,
            version: info.version,
            others: info
                .connect_urls
                .iter()
                .map(|address| format!("{scheme}://{address}"))
                .collect(),
        }
    }

    /// Total bytes received on this connection, answers to pings included.
    pub(in crate::nats) fn received(&self) -> u64 {
        self.client.statistics().in_bytes.load(Ordering::Relaxed)
    }

    /// The largest message that this server announced, in bytes. It may take less from our user.
    pub(in crate::nats) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Publishes `token` without headers, which directory resolvers would take for a part of the token.
    pub(in crate::nats) async fn publish(&self, subject: String, reply: String, token: Bytes) -> Result<(), String> {
        match timeout(PUBLISH_PATIENCE, self.client.publish_with_reply(subject, reply, token)).await {
            Ok(sent) => sent.map_err(|error| error.to_string()),
            Err(_) => Err(format!("nothing could be sent for {} s", PUBLISH_PATIENCE.as_secs())),
        }
    }

    /// Subscribes to every request, and gives them and a handle to answer them with. The server complains, as one of
    /// [`Incoming`], about subjects that our user may not subscribe to.
    pub(in crate::nats) async fn answer(&self) -> Result<(Requests, Answering), String> {
        let requests = Requests::subscribe(&self.client).await?;
        Ok((requests, Answering::over(self.client.clone())))
    }

    /// Waits for whatever arrives next. Dropping the future loses nothing.
    pub(in crate::nats) async fn next(&mut self) -> Incoming {
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => match event {
                    Event::ServerError(error) => {
                        let words = subjects::clip(&error.to_string(), 300);
                        self.last_error = Some(words.clone());
                        return Incoming::Complaint(words);
                    }
                    Event::LameDuckMode => return Incoming::LameDuck,
                    Event::SlowConsumer(_) => return Incoming::Complaint("messages came faster than they were read, and some were dropped".to_owned()),
                    Event::Disconnected | Event::Closed => return Incoming::End(self.ended()),
                    Event::Connected | Event::Draining | Event::ClientError(_) => {}
                },
                Some(message) = self.messages.next() => return incoming(message),
                // Both channels have ended, as they also do when the client's own task has died.
                else => return Incoming::End(self.ended()),
            }
        }
    }

    fn ended(&self) -> String {
        match &self.last_error {
            Some(words) => format!("{} ended the connection; the server's last error: {words}", self.url),
            None => format!("the connection to {} ended, and the server gave no reason", self.url),
        }
    }

    /// Sends what the client still holds, then ends the connection.
    /// `false`: it had ended already, and some may be lost.
    pub(in crate::nats) async fn close(self) -> bool {
        let is_flushed = self.client.flush().await.is_ok();
        is_flushed && self.client.drain().await.is_ok()
    }
}

fn incoming(message: Message) -> Incoming {
    match message.status {
        Some(async_nats::StatusCode::NO_RESPONDERS) => Incoming::NoResponders {
            subject: message.subject.to_string(),
        },
        _ => Incoming::Message {
            subject: message.subject.to_string(),
            reply: message.reply.map(|reply| reply.to_string()),
            payload: message.payload,
        },
    }
}

/// Adds the cluster's certificates. With `ca`, servers are verified by us; without it, by the client library, with the
/// system's authorities.
async fn certificates(options: ConnectOptions, cluster: &NatsCluster) -> Result<ConnectOptions, String> {
    let (ca, client) = (cluster.ca.clone(), cluster.client.clone());
    if let Some(ca) = ca {
        let config = off_the_workers(move || tls::client(&ca, client.as_ref())).await;
        return Ok(options.tls_client_config(config.map_err(|error| error.to_string())?));
    }
    if let Some(files) = client {
        let options = options.add_client_certificate(files.cert.clone(), files.key.clone());
        // The library's own error would not say which file is wrong.
        let checked = off_the_workers(move || tls::check(&files)).await;
        return checked.map(|()| options).map_err(|error| error.to_string());
    }
    Ok(options)
}

/// The account of the user whose creds are in the file at `path`; `None` if the file cannot be used now, or does not say. Reads
/// the disk.
pub(in crate::nats) fn account_of(path: &Path) -> Option<AccountKey> {
    let (_, claims) = Creds::read(path).ok()?.into_options();
    account_in(&claims)?.parse().ok()
}

fn sentence(url: &str, cluster: &NatsCluster, error: &ConnectError) -> String {
    let text = subjects::clip(&tls::words(error), 300);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => format!(
            "{url} refuses the user of {}: its JWT has expired, was revoked, or is not of the server's system account. \
             If a signing key signed the user: a server that has not fetched its system account yet takes only users \
             signed by that account's identity key; push the system account's JWT here, the server asks for it every \
             second",
            cluster.creds.display()
        ),
        _ => format!("{url}: {text}{}", remedy(cluster, &text)),
    }
}

/// What to set, where the words of a failed connection show that a setting is missing.
fn remedy(cluster: &NatsCluster, text: &str) -> &'static str {
    if text.contains("CertificateRequired") && cluster.client.is_none() {
        return ". The server verifies its clients: set cert and key under [[nats]]";
    }
    if text.contains("expected INFO") && !cluster.tls_first {
        return ". If the server is configured with handshake_first, set tls_first = true under [[nats]]";
    }
    if text.contains("UnknownIssuer") {
        return ". Set ca under [[nats]] to the authority that signed the server's certificate, or to that certificate";
    }
    // The client library reads them in any case.
    if text.contains("could not load platform certs") {
        return ". SSL_CERT_FILE or SSL_CERT_DIR names what cannot be read: correct it, or remove it";
    }
    // rustls's name for an answer that is not TLS.
    if text.contains("InvalidContentType") {
        return match (cluster.tls_first, cluster.demands_tls()) {
            (true, _) => {
                ". The server does not begin with TLS: remove tls_first under [[nats]], or set handshake_first in the server"
            }
            (false, true) => {
                ". The server does not speak TLS, which ca and cert under [[nats]] demand: enable it there, or remove them \
                 where the network is trusted"
            }
            (false, false) => {
                ". The server does not speak TLS: enable it there; a URL with nats:// connects without, where the network \
                 is trusted"
            }
        };
    }
    ""
}
