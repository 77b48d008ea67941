//! Watches one connection: whether bytes move, and whether a request's head is late.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::gather::Gather;

/// What happened on a connection, noted without a clock: the connection's task checks it every `Limits::head`.
#[derive(Default)]
pub(super) struct Activity {
    // A byte was read or written since the last check.
    moved: AtomicBool,
    // At least one request's head was complete.
    had_request: AtomicBool,
    // HTTP/2 sends frames between requests too, so an arriving byte does not mean that a head has begun.
    http2: AtomicBool,
    // The answer that is being written, or the next one, is the last: the client asked to close the connection.
    last: AtomicBool,
    in_flight: AtomicU32,
    head: AtomicU8,
}

/// Values of `Activity::head`: no head has begun; one has begun since the last check; one had begun by the last check.
const NONE: u8 = 0;
const BEGUN: u8 = 1;
const SEEN: u8 = 2;

impl Activity {
    pub(super) fn request(this: &Arc<Self>, request: &Request<Incoming>) -> InFlight {
        this.had_request.store(true, Relaxed);
        this.http2.store(request.version() == Version::HTTP_2, Relaxed);
        this.head.store(NONE, Relaxed);
        this.in_flight.fetch_add(1, Relaxed);
        InFlight {
            activity: this.clone(),
            is_last: asks_to_close(request.headers()),
        }
    }

    fn read(&self) {
        self.moved.store(true, Relaxed);
        if self.head.load(Relaxed) == NONE && self.in_flight.load(Relaxed) == 0 && !self.http2.load(Relaxed) {
            self.head.store(BEGUN, Relaxed);
        }
    }

    fn written(&self) {
        self.moved.store(true, Relaxed);
    }

    /// Whether bytes moved since the last call. A request in flight counts as movement: it has limits of its own.
    pub(super) fn has_moved(&self) -> bool {
        self.moved.swap(false, Relaxed) || self.in_flight.load(Relaxed) > 0
    }

    /// Whether a head that should be complete by now is not: one that had begun by the last call, or the first one. To
    /// be called every `Limits::head`.
    pub(super) fn is_late(&self) -> bool {
        if self.in_flight.load(Relaxed) > 0 {
            return false;
        }
        let head = self.head.load(Relaxed);
        if head == BEGUN {
            self.head.store(SEEN, Relaxed);
        }
        head == SEEN || !self.had_request.load(Relaxed)
    }
}

/// Whether the answer to a request with these headers is its connection's last (RFC 9112, 9.6). Only `close` alone
/// counts, not a list that has other options too.
fn asks_to_close(headers: &HeaderMap) -> bool {
    let mut said = headers.get_all(header::CONNECTION).iter();
    let close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    said.next().is_some_and(close) && said.next().is_none()
}

/// Counts a request until its answer's head is ready, or it is dropped.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    is_last: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.in_flight.fetch_sub(1, Relaxed);
        if self.is_last {
            self.activity.last.store(true, Relaxed);
        }
    }
}

/// A connection that notes when bytes move.
pub(super) struct Watched<IO> {
    pub(super) io: IO,
    pub(super) activity: Arc<Activity>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.io).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.read();
        }
        outcome
    }
}

impl<IO: Gather> Watched<IO> {
    fn gather_last_answer(&self) {
        if self.activity.last.swap(false, Relaxed) {
            self.io.gather();
        }
    }

    fn noted(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            self.activity.written();
        }
        outcome
    }
}

impl<IO: AsyncWrite + Gather + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.gather_last_answer();
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.noted(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gather_last_answer();
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.noted(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_that_speaks_http2_is_not_late_for_a_head() {
        let http2 = Activity {
            had_request: true.into(),
            http2: true.into(),
            ..Activity::default()
        };
        for _ in 0..3 {
            http2.read();
            assert!(!http2.is_late(), "HTTP/2 frames between requests are no head");
        }
    }

    #[test]
    fn a_connection_with_a_request_in_flight_is_neither_late_nor_silent() {
        let activity = Activity {
            in_flight: 1.into(),
            ..Activity::default()
        };
        activity.read();
        for _ in 0..3 {
            assert!(activity.has_moved() && !activity.is_late());
        }
    }

    #[test]
    fn only_close_alone_makes_an_answer_the_last() {
        let cases: [(&[&str], bool); 7] = [
            (&[], false),
            (&["keep-alive"], false),
            (&["close"], true),
            (&["Close"], true),
            (&["close, TE"], false),
            (&["close", "TE"], false),
            (&["upgrade"], false),
        ];
        for (values, asks) in cases {
            let lines = values
                .iter()
                .map(|value| (header::CONNECTION, HeaderValue::from_static(value)));
            assert_eq!(asks_to_close(&lines.collect()), asks, "{values:?}");
        }
    }

    #[tokio::test]
    async fn only_the_last_answer_is_held_back_and_it_arrives_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let (client, served) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (mut client, activity) = (client.expect("listening"), Arc::new(Activity::default()));
        let mut served = Watched {
            io: served.expect("connected").0,
            activity: activity.clone(),
        };
        let is_gathering = |io: &TcpStream| rustix::net::sockopt::tcp_cork(io).expect("a TCP connection");

        served.write_all(b"first").await.expect("connected");
        assert!(!is_gathering(&served.io), "the client waits for it");
        drop(InFlight {
            activity,
            is_last: true,
        });
        served.write_all(b", last").await.expect("connected");
        assert!(is_gathering(&served.io));
        served.shutdown().await.expect("connected");
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.expect("connected");
        assert_eq!(answers, "first, last");
    }
}
