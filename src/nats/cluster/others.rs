//! Further connections of a publisher: to configured servers that are missing, where the connection that it has does not
//! reach them, as when a NATS cluster has fallen into parts.
//!
//! Everything is sent over every connection, in the same order; but not what is too large for the server there, which would
//! end the connection each time. A connection is closed when its server is heard over the first one and none is missing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, select_all};
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};

use crate::config::NatsCluster;
use crate::nats::connection::{Connection, Incoming};
use crate::nats::payload::Limit;

/// Connections beside the first one. A NATS cluster falls into two parts, rarely into more.
const MOST: usize = 4;

/// The pause between two attempts while a server is missing. It doubles from the first of these up to the second: a server
/// that was shut down may be missing for days.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How long one may take to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a payload limit that a server showed is believed. The next message that is larger shows it again.
pub(super) const LIMIT_LASTS: Duration = Duration::from_secs(600);

/// What became of a connection that was being opened or closed.
pub(super) enum Changed {
    Opened(Result<Box<Connection>, String>),
    /// `in_full`: everything that was sent over it has arrived.
    Closed {
        in_full: bool,
    },
}

/// What became of a message that was to be published over each of them.
#[derive(Default)]
pub(super) struct Sent {
    /// One of them is gone.
    pub(super) is_lost: bool,
    /// The URLs of servers that it is too large for, and which limit it is above there.
    pub(super) too_large: Vec<(String, Limit)>,
}

/// The further connections.
pub(super) struct Others {
    open: Vec<Connection>,
    sizes: Sizes,
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
            sizes: Sizes::default(),
            changing: FuturesUnordered::new(),
            is_opening: false,
            next: 0,
            try_at: Instant::now(),
            pause: MIN_PAUSE,
        }
    }

    /// Forgets all of them: they end without a word, as the first one has. What their servers take is still known.
    pub(super) fn clear(&mut self) {
        let sizes = std::mem::take(&mut self.sizes);
        *self = Self { sizes, ..Self::new() };
    }

    /// Publishes over each of them what `message` gives: subject, subject for answers, and payload; unless that is too large
    /// for its server. Waits for none: one that takes nothing now is dropped, so that no other server waits for it.
    pub(super) fn publish(&mut self, message: impl Fn(&Connection) -> Option<(String, String, Bytes)>) -> Sent {
        let (Self { open, sizes, .. }, now) = (self, Instant::now());
        let mut sent_over = Sent::default();
        open.retain(|open| {
            let Some((subject, reply, payload)) = message(open) else {
                return true;
            };
            let (url, announced) = (open.url(), Limit::Server(open.max_payload()));
            if let Err(limit) = sizes.take(url, announced, payload.len(), now) {
                sent_over.too_large.push((url.to_owned(), limit));
                return true;
            }
            let sent = open.publish(subject, reply, payload).now_or_never();
            let is_sent = sent.is_some_and(|sent| sent.is_ok());
            sent_over.is_lost |= !is_sent;
            is_sent
        });
        sent_over
    }

    /// The server at `url` has ended its connection over a message that was too large.
    pub(super) fn refused(&mut self, url: &str) {
        self.sizes.refused(url, Instant::now());
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
        self.try_at = self.try_at.min(Instant::now() + MIN_PAUSE);
    }

    /// An attempt has ended, with a connection to keep if it is of use.
    pub(super) fn attempted(&mut self, kept: Option<Connection>) {
        self.is_opening = false;
        self.try_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        if let Some(kept) = kept {
            self.sizes.opened(kept.url());
            self.open.push(kept);
        }
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

/// What each server was sent and takes, by its URL: as many as are configured.
///
/// A server applies limits that it does not announce here, such as those of an account's JWT that is older there. It does not
/// say which message was too large: certainly the largest of all that it was sent over the connection.
#[derive(Default)]
struct Sizes(BTreeMap<String, Size>);

#[derive(Default)]
struct Size {
    /// The largest message that was sent over the present connection.
    largest: usize,
    /// What it takes less than, and until when that is believed.
    below: Option<(usize, Instant)>,
}

impl Sizes {
    fn opened(&mut self, url: &str) {
        self.0.entry(url.to_owned()).or_default().largest = 0;
    }

    /// A message of `bytes` is to be sent; the limit that it is above, if it may not.
    fn take(&mut self, url: &str, announced: Limit, bytes: usize, now: Instant) -> Result<(), Limit> {
        if !announced.allows(bytes) {
            return Err(announced);
        }
        let Some(size) = self.0.get_mut(url) else { return Ok(()) };
        let learned = size.below.filter(|(_, until)| now < *until);
        if let Some(limit) = learned.map(|(below, _)| Limit::Below(below))
            && !limit.allows(bytes)
        {
            return Err(limit);
        }
        size.largest = size.largest.max(bytes);
        Ok(())
    }

    fn refused(&mut self, url: &str, now: Instant) {
        if let Some(size) = self.0.get_mut(url).filter(|size| size.largest > 0) {
            size.below = Some((size.largest, now + LIMIT_LASTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g5_what_a_server_has_refused_is_not_sent_over_the_next_connection_to_it_and_all_else_is() {
        let (mut sizes, now) = (Sizes::default(), Instant::now());
        let announced = Limit::Server(10_000);
        let take = |sizes: &mut Sizes, url: &str, bytes: usize, at: Instant| sizes.take(url, announced, bytes, at);
        sizes.opened("a");
        sizes.opened("b");
        assert_eq!(take(&mut sizes, "a", 10_001, now), Err(announced));
        for bytes in [500, 9_000, 800] {
            assert_eq!(take(&mut sizes, "a", bytes, now), Ok(()));
        }
        sizes.refused("a", now);
        sizes.opened("a");
        assert_eq!(take(&mut sizes, "a", 9_000, now), Err(Limit::Below(9_000)));
        assert_eq!(take(&mut sizes, "a", 8_999, now), Ok(()));
        assert_eq!(take(&mut sizes, "b", 9_000, now), Ok(()), "another server");
        // It is the limit of a JWT, which may be raised.
        assert_eq!(take(&mut sizes, "a", 9_000, now + LIMIT_LASTS), Ok(()));
        sizes.opened("a");
        sizes.refused("a", now + LIMIT_LASTS);
        assert_eq!(
            take(&mut sizes, "a", 9_000, now + LIMIT_LASTS),
            Ok(()),
            "it was sent nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn g5_another_server_is_tried_at_growing_pauses_and_within_a_second_when_one_is_missing_again() {
        let servers = ["a", "b", "c"].map(str::to_owned);
        let cluster = NatsCluster {
            name: "test".to_owned(),
            servers: servers.to_vec(),
            creds: "none.creds".into(),
            ca: None,
            client: None,
            tls_first: false,
            respond: false,
        };
        let mut others = Others::new();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(others.pursue("n1", &cluster, "a"), None, "it begins to connect");
            assert_eq!(others.changing.len(), 1);
            assert_eq!(others.pursue("n1", &cluster, "a"), None, "to one at a time");
            assert_eq!(others.changing.len(), 1);
            others.changing.clear();
            others.attempted(None);
            let at = others.pursue("n1", &cluster, "a").expect("later");
            pauses.push((at - Instant::now()).as_secs());
            tokio::time::advance(at - Instant::now()).await;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        others.attempted(None);
        others.rest();
        let soon = others.pursue("n1", &cluster, "a");
        assert_eq!(soon, Some(Instant::now() + MIN_PAUSE));
        tokio::time::advance(MIN_PAUSE).await;
        assert_eq!(others.pursue("n1", &cluster, "c"), None);
        assert_eq!(others.changing.len(), 1);
        let only = NatsCluster {
            servers: vec!["a".to_owned()],
            ..cluster
        };
        let mut others = Others::new();
        assert_eq!(others.pursue("n1", &only, "a"), None);
        assert_eq!(others.changing.len(), 0, "there is no other server");
    }
}
