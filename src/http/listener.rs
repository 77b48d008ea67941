//! Accepts connections, encrypted or not, and serves each on a task of its own until it ends, idles or the port drains.
//!
//! Not `axum::serve`: there one stalled TLS handshake holds up every accept behind it, and nothing bounds the time a
//! client takes for its request's head.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::http::{Request, Version};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tower_http::catch_panic::CatchPanicLayer;

use super::error::Refusal;
use super::request;
use crate::tls::ReloadableTls;

/// What one port takes on. Past each limit a client gets an answer or a closed connection, never an open wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; one more is closed as soon as it is accepted.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long the head of a request may take, and how long a new connection may stay silent.
    pub head: Duration,
    /// How long a connection may stay silent after its first request; counted in steps of `head`.
    pub idle: Duration,
    /// How long the body of an upload may take.
    pub body: Duration,
    /// How long requests in flight may take once the port is told to stop.
    pub drain: Duration,
}

/// A nats-server opens one connection for each fetch of a storm (two stay open): 1,000 servers with 20 clients
/// each reconnecting at once. At about 3 KiB for a silent connection this is 60 MiB.
const CONNECTIONS: usize = 20_000;
/// Open files left to the log, the store, the peers and NATS.
const RESERVED_FILES: usize = 256;
/// A far nats-server gives a whole fetch 1.9 s; 10 s is for people on bad lines and no more.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// As for the handshake. Silent connections in any number are gone after this.
const HEAD: Duration = Duration::from_secs(10);
/// nats-server and nsc close their idle connections after 30 and 90 s. Closing after nats-server does keeps its next
/// fetch from racing our close.
const IDLE: Duration = Duration::from_secs(60);
/// 1 MiB at 100 KiB/s.
const BODY: Duration = Duration::from_secs(10);
/// Longer than any answer takes, shorter than the 30 s after which Kubernetes kills.
const DRAIN: Duration = Duration::from_secs(10);
/// Waiting to be accepted: a storm arrives faster than one task accepts; the kernel caps it at `net.core.somaxconn`.
pub(super) const BACKLOG: u32 = 4096;
/// After "too many open files" the next accept would fail the same way at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The same complaint is logged once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// The head of an HTTP/1 request, and the largest step in which a body is read.
const HTTP1_BUFFER: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection: a nats-server without `resolver_tls` sends its whole storm over one.
const HTTP2_STREAMS: u32 = 250;
/// Header bytes of one HTTP/2 request.
const HTTP2_HEADERS: u32 = 16 * 1024;
/// Upload bytes in flight on one HTTP/2 stream, and on one connection.
const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Answer bytes waiting on one HTTP/2 stream for a client that does not read.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            handshake: HANDSHAKE,
            head: HEAD,
            idle: IDLE,
            body: BODY,
            drain: DRAIN,
        }
    }
}

impl Limits {
    /// The defaults, with no more connections than this process may have files. The soft limit is raised to the hard
    /// one first, as Go programs do: it is low only for programs that use `select`.
    pub fn of_this_process() -> Self {
        let found = getrlimit(Resource::Nofile);
        let wanted = Rlimit {
            current: found.maximum,
            maximum: found.maximum,
        };
        let files = if setrlimit(Resource::Nofile, wanted).is_ok() {
            found.maximum
        } else {
            found.current
        };
        let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        // Where the system allows very few files, half of them.
        let connections = CONNECTIONS.min(files.saturating_sub(RESERVED_FILES).max(files / 2));
        Self {
            connections,
            ..Self::default()
        }
    }
}

/// A socket that hands out connections.
pub(super) trait Listen: Send + Sync + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Waits for the next.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Listen for TcpListener {
    type Io = tokio::net::TcpStream;
    async fn accept(&self) -> io::Result<Self::Io> {
        TcpListener::accept(self).await.map(|(io, _)| io)
    }
}

impl Listen for UnixListener {
    type Io = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<Self::Io> {
        UnixListener::accept(self).await.map(|(io, _)| io)
    }
}

/// One listening port: what its connections share.
pub(super) struct Port {
    name: &'static str,
    router: Router,
    limits: Limits,
    tracker: TaskTracker,
    tls: Option<ReloadableTls>,
    builder: Builder<OnTracker>,
    slots: Arc<Semaphore>,
    // Set before `closing` is cancelled, so that connections need not take its lock to know.
    stopping: AtomicBool,
    closing: CancellationToken,
    overdue: CancellationToken,
}

impl Port {
    pub(super) fn new(
        name: &'static str,
        router: Router,
        limits: Limits,
        tls: Option<ReloadableTls>,
        tracker: TaskTracker,
    ) -> Self {
        let mut builder = Builder::new(OnTracker(tracker.clone()));
        // Hyper's own timer is set again for every request; `Activity` looks only every few seconds, sees silent
        // connections before the first byte too, and covers HTTP/2.
        builder.http1().header_read_timeout(None).max_buf_size(HTTP1_BUFFER);
        builder
            .http2()
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(HTTP2_HEADERS)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_send_buf_size(HTTP2_SEND_BUFFER);
        Self {
            name,
            // A panic of ours ends the request, not the connection's other requests.
            router: router.layer(CatchPanicLayer::custom(|_panic| Refusal::internal().plain())),
            limits,
            tracker,
            tls,
            builder,
            slots: Arc::new(Semaphore::new(limits.connections)),
            stopping: AtomicBool::new(false),
            closing: CancellationToken::new(),
            overdue: CancellationToken::new(),
        }
    }

    /// Accepts until `stop`, then finishes the requests in flight; returns when the last connection has ended.
    pub(super) async fn run<L: Listen>(self, listener: L, stop: CancellationToken) {
        let port = Arc::new(self);
        let (mut full, mut failing) = (Complaint::default(), Complaint::default());
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok(io) => {
                    if !port.take(io) && full.is_due() {
                        let (port, limit) = (port.name, port.limits.connections);
                        tracing::warn!(port, limit, "connections at the limit; new ones are closed at once");
                    }
                }
                // The client went away before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if failing.is_due() {
                        tracing::warn!(port = port.name, %error, "cannot accept connections; trying again");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        port.drain().await;
    }

    /// Serves a connection on a task of its own; false when the port is full, and the connection closed.
    fn take<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: &Arc<Self>, io: IO) -> bool {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            return false;
        };
        let port = self.clone();
        // The two kinds of task are separate so that plain connections do not reserve room for a handshake.
        match self.tls.as_ref().map(ReloadableTls::config) {
            None => drop(self.tracker.spawn(async move {
                port.serve(io).await;
                drop(slot);
            })),
            Some(config) => drop(self.tracker.spawn(async move {
                let handshake = timeout(port.limits.handshake, TlsAcceptor::from(config).accept(io));
                if let Some(Ok(Ok(io))) = port.overdue.run_until_cancelled(handshake).await {
                    // Boxed, so that ten thousand stalled handshakes do not each reserve room for a conversation.
                    Box::pin(port.serve(io)).await;
                }
                drop(slot);
            })),
        }
        true
    }

    async fn serve<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, io: IO) {
        let activity = Arc::new(Activity::default());
        let io = TokioIo::new(Watched {
            io,
            activity: activity.clone(),
        });
        let service =
            service_fn(|request| answer(self.router.clone(), Activity::request(&activity, &request), request));
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let mut pulse = pin!(sleep(self.limits.head));
        let mut closing = pin!(self.closing.cancelled());
        let mut overdue = pin!(self.overdue.cancelled());
        let (mut draining, mut silent) = (false, Duration::ZERO);
        let mut armed: Option<Waker> = None;
        poll_fn(|cx| {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // Almost every wake is for the connection. The other three share locks with all connections, so they are
            // asked once, to leave the waker, and then only when there is something to hear.
            let is_armed = armed.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if is_armed && !pulse.is_elapsed() && !self.stopping.load(Relaxed) {
                return Poll::Pending;
            }
            armed = Some(cx.waker().clone());
            if !draining && closing.as_mut().poll(cx).is_ready() {
                draining = true;
                connection.as_mut().graceful_shutdown();
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
            }
            while pulse.as_mut().poll(cx).is_ready() {
                silent = if activity.has_moved() {
                    Duration::ZERO
                } else {
                    silent + self.limits.head
                };
                if activity.is_late() || silent >= self.limits.idle {
                    return Poll::Ready(());
                }
                pulse.as_mut().reset(Instant::now() + self.limits.head);
            }
            overdue.as_mut().poll(cx)
        })
        .await;
    }

    async fn drain(&self) {
        self.stopping.store(true, Relaxed);
        self.closing.cancel();
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        if timeout(self.limits.drain, self.slots.acquire_many(all)).await.is_err() {
            let open = self.limits.connections - self.slots.available_permits();
            tracing::warn!(
                port = self.name,
                open,
                "requests were still in flight at the end and are cut off"
            );
            self.overdue.cancel();
            // Fails only if the semaphore is closed, which nothing does.
            let _ = self.slots.acquire_many(all).await;
        }
    }
}

/// One request to its answer.
async fn answer(
    mut router: Router,
    flight: InFlight,
    request: Request<Incoming>,
) -> Result<axum::response::Response, Infallible> {
    let answer = router.call(request::cleaned(request)).await;
    drop(flight);
    answer
}

/// Runs hyper's tasks for HTTP/2 streams where every task of the node runs.
#[derive(Clone)]
struct OnTracker(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for OnTracker {
    fn execute(&self, task: F) {
        drop(self.0.spawn(task));
    }
}

/// Logs the first of a row of equal complaints.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}

/// What a connection has been doing, noted without a clock: its task looks every `Limits::head`.
#[derive(Default)]
struct Activity {
    // A byte went in or out since the last look.
    moved: AtomicBool,
    // A request's head has been complete.
    greeted: AtomicBool,
    // HTTP/2 has bytes of its own between requests; what arrives is not the beginning of a head.
    http2: AtomicBool,
    in_flight: AtomicU32,
    head: AtomicU8,
}

/// `Activity::head`: no request has begun, one has, one has and was seen at the last look already.
const NONE: u8 = 0;
const BEGUN: u8 = 1;
const SEEN: u8 = 2;

impl Activity {
    fn request(this: &Arc<Self>, request: &Request<Incoming>) -> InFlight {
        this.greeted.store(true, Relaxed);
        this.http2.store(request.version() == Version::HTTP_2, Relaxed);
        this.head.store(NONE, Relaxed);
        this.in_flight.fetch_add(1, Relaxed);
        InFlight(this.clone())
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
    fn has_moved(&self) -> bool {
        self.moved.swap(false, Relaxed) || self.in_flight.load(Relaxed) > 0
    }

    /// Whether a head that should be complete is not.
    fn is_late(&self) -> bool {
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

/// Counts a request until its answer's head is ready, or it is dropped.
struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A connection that notes when bytes move.
struct Watched<IO> {
    io: IO,
    activity: Arc<Activity>,
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

impl<IO: AsyncWrite + Unpin> Watched<IO> {
    fn noted(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            self.activity.written();
        }
        outcome
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.noted(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
    use super::*;

    #[test]
    fn g12_the_limit_of_connections_leaves_files_for_the_rest() {
        let limits = Limits::of_this_process();
        let files = getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |files| files as usize);
        assert!(limits.connections > 0 && limits.connections < files && limits.connections <= CONNECTIONS);
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
        drop(InFlight(Arc::new(Activity {
            in_flight: 1.into(),
            ..Activity::default()
        })));
    }
}
