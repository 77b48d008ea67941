//! What a connection has been doing: whether bytes move, whether a head is late.

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

/// What a connection has been doing, noted without a clock: its task looks every `Limits::head`.
#[derive(Default)]
pub(super) struct Activity {
    // A byte went in or out since the last look.
    moved: AtomicBool,
    // A request's head has been complete.
    greeted: AtomicBool,
    // HTTP/2 has bytes of its own between requests; what arrives is not the beginning of a head.
    http2: AtomicBool,
    // The answer that is written, or comes next, is the last one: its client asked for the end of the connection.
    last: AtomicBool,
    in_flight: AtomicU32,
    head: AtomicU8,
}

/// `Activity::head`: no request has begun, one has, one has and was seen at the last look already.
const NONE: u8 = 0;
const BEGUN: u8 = 1;
const SEEN: u8 = 2;

impl Activity {
    pub(super) fn request(this: &Arc<Self>, request: &Request<Incoming>) -> InFlight {
        this.greeted.store(true, Relaxed);
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

    /// Whether anything moved since this was last asked. A request being worked on counts: it has limits of its own.
    pub(super) fn has_moved(&self) -> bool {
        self.moved.swap(false, Relaxed) || self.in_flight.load(Relaxed) > 0
    }

    /// Whether a head that should be complete is not.
    pub(super) fn is_late(&self) -> bool {
        if self.in_flight.load(Relaxed) > 0 {
            return false;
        }
        let head = self.head.load(Relaxed);
        if head == BEGUN {
            self.head.store(SEEN, Relaxed);
        }
        head == SEEN || !self.greeted.load(Relaxed)
    }
}

/// Whether the answer to a request with these headers is its connection's last (RFC 9112, 9.6). Of a list that says
/// more than that nothing is concluded.
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
    fn gather_the_last(&self) {
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
        self.gather_the_last();
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.noted(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gather_the_last();
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
            greeted: true.into(),
            http2: true.into(),
            ..Activity::default()
        };
        for _ in 0..3 {
            http2.read();
            assert!(!http2.is_late(), "HTTP/2 frames between requests are no head");
        }
    }

    #[test]
    fn a_request_being_worked_on_is_neither_late_nor_silent() {
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
    fn only_close_alone_asks_for_the_end() {
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
    async fn only_a_clients_last_answer_is_gathered_and_comes_whole() {
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
