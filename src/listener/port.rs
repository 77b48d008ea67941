//! Accepts connections, encrypted or not, and serves each on a task of its own until it ends, idles or the port drains.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::Limits;
use super::activity::{Activity, InFlight, Watched};
use super::again::Again;
use super::certified::Certified;
use super::failures::Failures;
use super::gather::Gather;
use super::origin::Origin;
use crate::tasks::Scope;
use crate::tls::{PortConfig, ReloadableTls};

/// The pause after a failed accept: after "too many open files" the next one would fail the same way at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The same warning is logged at most once in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// The most bytes of the head of an HTTP/1 request, and of a body that are read at once.
const HTTP1_BUFFER: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection: a nats-server without `resolver_tls` sends all its fetches over one,
/// however many clients reconnect.
const HTTP2_STREAMS: u32 = 250;
/// Header bytes of one HTTP/2 request.
const HTTP2_HEADERS: u32 = 16 * 1024;
/// Upload bytes in flight on one HTTP/2 stream, and on one connection.
const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Answer bytes waiting on one HTTP/2 stream for a client that does not read.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;

/// A socket that hands out connections.
pub trait Listen: Send + Sync + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Gather + Unpin + Send + 'static;
    /// Waits for the next, and gives the client's address if it has one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Option<SocketAddr>)>> + Send;
}

impl Listen for TcpListener {
    type Io = tokio::net::TcpStream;
    async fn accept(&self) -> io::Result<(Self::Io, Option<SocketAddr>)> {
        TcpListener::accept(self).await.map(|(io, client)| (io, Some(client)))
    }
}

impl Listen for UnixListener {
    type Io = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<(Self::Io, Option<SocketAddr>)> {
        UnixListener::accept(self).await.map(|(io, _)| (io, None))
    }
}

/// One listening port: what its connections share. The service `S` answers the requests. It must always be ready,
/// because `poll_ready` is never called.
pub struct Port<S> {
    name: &'static str,
    service: S,
    limits: Limits,
    scope: Scope,
    tls: Option<ReloadableTls>,
    failures: Arc<Failures>,
    builder: Builder<InScope>,
    slots: Arc<Semaphore>,
    // Set before `closing` is cancelled, so that connections can check it without the lock of `closing`.
    stopping: AtomicBool,
    closing: CancellationToken,
    overdue: CancellationToken,
}

impl<S, B> Port<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    /// A port that is called `name` in the log, and runs its connections in `scope`.
    pub fn new(name: &'static str, service: S, limits: Limits, tls: Option<ReloadableTls>, scope: Scope) -> Self {
        let mut builder = Builder::new(InScope(scope.clone()));
        // Hyper's own timer would be set again for every request. `Activity` is checked only every few seconds, and it
        // also covers HTTP/2 and connections that are silent from the start.
        builder
            .http1()
            .header_read_timeout(None)
            .max_buf_size(HTTP1_BUFFER)
            // A client that closes its side after its request, as `nc -N` does, still wants the answer.
            .half_close(true);
        builder
            .http2()
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(HTTP2_HEADERS)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_send_buf_size(HTTP2_SEND_BUFFER);
        Self {
            name,
            service,
            limits,
            scope,
            tls,
            failures: Arc::new(Failures::of(name)),
            builder,
            slots: Arc::new(Semaphore::new(limits.connections)),
            stopping: AtomicBool::new(false),
            closing: CancellationToken::new(),
            overdue: CancellationToken::new(),
        }
    }

    /// The same with this much on its way to it on each HTTP/2 stream and connection: for clients that may be far away
    /// and send much.
    pub fn with_window(mut self, bytes: u32) -> Self {
        self.builder
            .http2()
            .initial_stream_window_size(bytes)
            .initial_connection_window_size(bytes);
        self
    }

    /// Accepts connections until its scope stops, then finishes the requests in flight; returns when the last
    /// connection has ended.
    pub async fn run<L: Listen>(self, listener: L) {
        let port = Arc::new(self);
        if port.tls.is_some() {
            let (failures, scope) = (port.failures.clone(), port.scope.clone());
            port.scope.spawn("the report of failed handshakes", async move {
                failures.report(&scope).await;
            });
        }
        let (mut full, mut failing) = (Throttle::default(), Throttle::default());
        while let Some(accepted) = port.scope.until_stop(listener.accept()).await {
            match accepted {
                Ok((io, client)) => {
                    if !port.take(io, client) && full.is_due() {
                        let (port, limit) = (port.name, port.limits.connections);
                        tracing::warn!(port, limit, "connection limit reached; new connections are closed");
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

    /// Serves a connection on a task of its own; false if the port is full and the connection was closed.
    fn take<IO: AsyncRead + AsyncWrite + Gather + Unpin + Send + 'static>(
        self: &Arc<Self>,
        io: IO,
        client: Option<SocketAddr>,
    ) -> bool {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            return false;
        };
        let origin = client.map_or(Origin::Local, |client| Origin::of(client.ip()));
        let port = self.clone();
        // The two kinds of task are separate so that plain connections do not reserve memory for a handshake.
        match self.tls.as_ref().map(ReloadableTls::config) {
            None => self.scope.spawn_for_client(async move {
                port.serve(io, origin, None).await;
                drop(slot);
            }),
            Some(config) => self.scope.spawn_for_client(async move {
                let handshake = timeout(port.limits.handshake, shake_hands(config, io));
                // No request has arrived yet, so a closing port does not wait for handshakes.
                match port.closing.run_until_cancelled(handshake).await {
                    // Boxed, so that ten thousand stalled handshakes do not each reserve the memory for serving.
                    Some(Ok(Ok(io))) => {
                        let certified = Certified::of(io.get_ref().1.peer_certificates());
                        Box::pin(port.serve(io, origin, certified)).await;
                    }
                    Some(Ok(Err(error))) => port.failures.failed(client, &error),
                    Some(Err(_)) => port.failures.too_slow(client, port.limits.handshake),
                    None => {}
                }
                drop(slot);
            }),
        }
        true
    }

    async fn serve<IO: AsyncRead + AsyncWrite + Gather + Unpin + Send + 'static>(
        &self,
        io: IO,
        origin: Origin,
        certified: Option<Certified>,
    ) {
        let activity = Arc::new(Activity::default());
        let io = TokioIo::new(Watched {
            io,
            activity: activity.clone(),
        });
        let service = service_fn(|mut request: Request<Incoming>| {
            // Nothing about a lookup depends on it, and putting it there costs an allocation.
            if request.method() != Method::GET {
                request.extensions_mut().insert(origin);
                if let Some(certified) = &certified {
                    request.extensions_mut().insert(certified.clone());
                }
            }
            answer(self.service.clone(), Activity::request(&activity, &request), request)
        });
        let opened = Instant::now();
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let mut check = pin!(sleep(self.limits.head));
        let mut closing = pin!(self.closing.cancelled());
        let mut overdue = pin!(self.overdue.cancelled());
        let (mut draining, mut silent) = (false, Duration::ZERO);
        let mut again = Again::default();
        poll_fn(|cx| {
            let is_armed = again.is_for(cx.waker());
            if again.poll(connection.as_mut(), cx).is_ready() {
                return Poll::Ready(());
            }
            // Almost every wake is for the connection. To poll the other three takes locks that all connections share,
            // so they are polled once to register the waker, and after that only when one of them may be ready.
            if is_armed && !check.is_elapsed() && !self.stopping.load(Relaxed) {
                return Poll::Pending;
            }
            if !draining && closing.as_mut().poll(cx).is_ready() {
                draining = true;
                connection.as_mut().graceful_shutdown();
                if again.poll(connection.as_mut(), cx).is_ready() {
                    return Poll::Ready(());
                }
            }
            while check.as_mut().poll(cx).is_ready() {
                silent = if activity.has_moved() {
                    Duration::ZERO
                } else {
                    silent + self.limits.head
                };
                if activity.is_late() || silent >= self.limits.idle {
                    return Poll::Ready(());
                }
                check.as_mut().reset(Instant::now() + self.limits.head);
                if !draining && opened.elapsed() >= self.limits.age {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                    if again.poll(connection.as_mut(), cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
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
                "requests in flight did not finish in time; their connections are closed"
            );
            self.overdue.cancel();
            // Fails only if the semaphore is closed, which nothing does.
            let _ = self.slots.acquire_many(all).await;
        }
    }
}

/// Makes the TLS handshake with the configuration for what the client offers.
async fn shake_hands<IO: AsyncRead + AsyncWrite + Unpin>(config: PortConfig, io: IO) -> io::Result<TlsStream<IO>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
    let config = config.for_client(&start.client_hello());
    start.into_stream(config).await
}

/// Answers one request, which is in flight until the answer's head is ready.
async fn answer<S: Service<Request<Incoming>>>(
    mut service: S,
    flight: InFlight,
    request: Request<Incoming>,
) -> Result<S::Response, S::Error> {
    let answer = service.call(request).await;
    drop(flight);
    answer
}

/// Runs hyper's tasks for HTTP/2 streams in the port's scope, as every task of the node runs in one.
#[derive(Clone)]
struct InScope(Scope);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for InScope {
    fn execute(&self, task: F) {
        self.0.spawn_for_client(task);
    }
}

/// Limits a repeated warning to one in [`WARN_EVERY`].
#[derive(Default)]
struct Throttle(Option<Instant>);

impl Throttle {
    fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::tasks::FaultHandle;

    #[tokio::test]
    async fn a_connection_ends_at_its_age_after_the_answer_and_not_before() {
        let limits = Limits {
            head: Duration::from_millis(20),
            age: Duration::from_millis(100),
            ..Limits::default()
        };
        let service = tower::service_fn(|_request: Request<Incoming>| async {
            sleep(Duration::from_millis(300)).await;
            Ok::<_, Infallible>(Response::new(String::from("whole")))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let scope = Scope::new(FaultHandle::default());
        let port = Port::new("test", service, limits, None, scope.clone());
        scope.spawn("the port", port.run(listener));
        let mut client = TcpStream::connect(address).await.expect("connected");
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = String::new();
        let ended = timeout(Duration::from_secs(10), client.read_to_string(&mut answer)).await;
        ended.expect("it ends").expect("readable");
        assert!(answer.ends_with("whole"), "{answer}");
        scope.stop();
    }
}
