//! Further connections of a publisher: to configured servers that are missing, where the connection that it has does not
//! reach them, as when a NATS cluster has fallen into parts.
//!
//! Everything is sent over every connection, in the same order. A connection is closed when its server is heard over the
//! first one and none is missing.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, select_all};
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};

use crate::config::NatsCluster;
use crate::nats::connection::{Connection, Incoming};

/// Connections beside the first one. A NATS cluster falls into two parts, rarely into more.
const MOST: usize = 4;

/// The pause between two attempts while a server is missing. It doubles from the first of these up to the second: a server
/// that was shut down may be missing for days.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How long one may take to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// What became of a connection that was being opened or closed.
pub(super) enum Changed {
    Opened(Result<Box<Connection>, String>),
    /// `in_full`: everything that was sent over it has arrived.
    Closed {
        in_full: bool,
    },
}

/// The further connections.
pub(super) struct Others {
    open: Vec<Connection>,
    changing: FuturesUnordered<BoxFuture<'static, Changed>>,
    is_opening: bool,
    next: usize,
    try_at: Instant,
    pause: Duration,
}

impl Others {
    pub(super) fn new() -> Self {
        Self {
            open: Vec::new(),
            changing: FuturesUnordered::new(),
            is_opening: false,
            next: 0,
            try_at: Instant::now(),
            pause: MIN_PAUSE,
        }
    }

    /// Forgets all of them: they end without a word, as the first one has.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Publishes over each of them what `message` gives: subject, subject for answers, and payload. Waits for none: one that
    /// takes nothing now is dropped, so that no other server waits for it. `true` if there was such a one.
    pub(super) fn publish(&mut self, message: impl Fn(&Connection) -> Option<(String, String, Bytes)>) -> bool {
        let before = self.open.len();
        self.open.retain(|open| match message(open) {
            None => true,
            Some((subject, reply, payload)) => {
                let sent = open.publish(subject, reply, payload).now_or_never();
                sent.is_some_and(|sent| sent.is_ok())
            }
        });
        self.open.len() < before
    }

    /// A server is missing: begins to connect to another of the configured servers than `first`, if it is time. Gives when
    /// it will be.
    pub(super) fn pursue(&mut self, node: &str, cluster: &NatsCluster, first: &str) -> Option<Instant> {
        let is_other = |url: &&String| *url != first && self.open.iter().all(|open| open.url() != **url);
        let candidates: Vec<&String> = cluster.servers.iter().filter(is_other).collect();
        if candidates.is_empty() || self.is_opening || self.open.len() >= MOST {
            return None;
        }
        if Instant::now() < self.try_at {
            return Some(self.try_at);
        }
        let url = candidates[self.next % candidates.len()].clone();
        self.next = self.next.wrapping_add(1);
        self.is_opening = true;
        let (node, cluster) = (node.to_owned(), cluster.clone());
        let opening = async move { Changed::Opened(Connection::open(&node, &cluster, &url).await.map(Box::new)) };
        self.changing.push(opening.boxed());
        None
    }

    /// No server is missing any more.
    pub(super) fn rest(&mut self) {
        self.pause = MIN_PAUSE;
    }

    /// An attempt has ended, with a connection to keep if it is of use.
    pub(super) fn attempted(&mut self, kept: Option<Connection>) {
        self.is_opening = false;
        self.try_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        self.open.extend(kept);
    }

    /// Begins to close the connection to the server with this id. Gives its URL.
    pub(super) fn close(&mut self, id: &str) -> Option<String> {
        let at = self.open.iter().position(|open| open.server().id == id)?;
        let connection = self.open.swap_remove(at);
        let url = connection.url().to_owned();
        self.discard(connection);
        Some(url)
    }

    /// Closes a connection that is not kept.
    pub(super) fn discard(&mut self, connection: Connection) {
        let closing = async move {
            let in_full = timeout(CLOSE_PATIENCE, connection.close()).await.unwrap_or(false);
            Changed::Closed { in_full }
        };
        self.changing.push(closing.boxed());
    }

    /// Takes the connection out, to handle what arrived over it.
    pub(super) fn take(&mut self, at: usize) -> Connection {
        self.open.swap_remove(at)
    }

    /// Puts it back.
    pub(super) fn put_back(&mut self, connection: Connection) {
        self.open.push(connection);
    }

    /// Waits for what arrives next over any of them, and for what becomes of one. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Happened {
        let arriving = async {
            match self.open.is_empty() {
                true => std::future::pending().await,
                false => {
                    let each = self.open.iter_mut().map(|open| open.next().boxed());
                    let (incoming, at, _) = select_all(each).await;
                    (at, incoming)
                }
            }
        };
        tokio::select! {
            (at, incoming) = arriving => Happened::Arrived(at, incoming),
            Some(changed) = self.changing.next() => Happened::Changed(changed),
        }
    }
}

/// What has happened to one of them.
pub(super) enum Happened {
    Arrived(usize, Incoming),
    Changed(Changed),
}
