//! Requests that arrive over a connection, and answers that leave over it.

use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::{SelectAll, select_all};
use tokio::time::timeout;

use crate::nats::subjects::REQUESTS;

/// How long the client may take to accept one answer, or the socket those before. After that the sender of the request no longer waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request. Headers are left out: some libraries add them, and none has a meaning here.
pub(in crate::nats) struct Request {
    /// The subject that it was sent to.
    pub(in crate::nats) subject: String,
    /// Where its answer goes, if one is wanted.
    pub(in crate::nats) reply: Option<String>,
    /// The rest. It shares its memory with other messages.
    pub(in crate::nats) payload: Bytes,
}

/// The requests of one connection.
pub(in crate::nats) struct Requests(SelectAll<Subscriber>);

impl Requests {
    pub(super) async fn subscribe(client: &Client) -> Result<Self, String> {
        let mut all = Vec::new();
        for (subject, group) in REQUESTS {
            let subscribed = client.queue_subscribe(subject, group.to_owned()).await;
            all.push(subscribed.map_err(|error| format!("the connection ended at once: {error}"))?);
        }
        Ok(Self(select_all(all)))
    }

    /// Waits for the next one; `None` if no more come. Dropping the future loses nothing.
    pub(in crate::nats) async fn next(&mut self) -> Option<Request> {
        self.0.next().await.map(request)
    }

    /// Asks for no more of them. Those that the server has sent already still come, and then [`Self::next`] gives `None`.
    pub(in crate::nats) async fn drain(&mut self) {
        // It fails only where the connection has ended already.
        drop(join_all(self.0.iter_mut().map(Subscriber::drain)).await);
    }
}

fn request(message: Message) -> Request {
    Request {
        subject: message.subject.to_string(),
        reply: message.reply.map(|reply| reply.to_string()),
        payload: message.payload,
    }
}

/// Sends answers. Clones use the same connection.
#[derive(Clone)]
pub(in crate::nats) struct Answering(Client);

impl Answering {
    pub(super) fn over(client: Client) -> Self {
        Self(client)
    }

    /// The largest message that the server takes, in bytes.
    pub(in crate::nats) fn max_payload(&self) -> usize {
        self.0.max_payload()
    }

    /// Sends `payload` to `reply`, without headers, which a resolver would take for a part of a token.
    pub(in crate::nats) async fn send(&self, reply: &str, payload: Bytes) -> Result<(), String> {
        match timeout(PATIENCE, self.0.publish(reply.to_owned(), payload)).await {
            Ok(sent) => sent.map_err(|error| error.to_string()),
            Err(_) => Err("nothing could be sent for too long".to_owned()),
        }
    }

    /// Returns when the socket has taken what was sent before.
    pub(in crate::nats) async fn flush(&self) -> Result<(), String> {
        match timeout(PATIENCE, self.0.flush()).await {
            Ok(flushed) => flushed.map_err(|error| error.to_string()),
            Err(_) => Err("nothing could be sent for too long".to_owned()),
        }
    }
}
