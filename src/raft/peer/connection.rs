//! Connections to peers: HTTP/2 over TLS, two to each, opened when something is to be sent.
//!
//! A name is resolved at every attempt, so that a node starts even if one does not resolve yet. A connection on
//! which nothing is answered for a while is closed: after a cut TCP would take long to notice that the peer is back. One
//! whose certificate files have changed is opened again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, TryFutureExt};
use h2::RecvStream;
use h2::client::SendRequest;
use hyper::{Request, StatusCode};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::network::{Lane, Transport};
use super::refusal::CallError;
use crate::config::PeerTls;
use crate::raft::runtime::Member;
use crate::tasks::{Scope, chain, off_the_workers};
use crate::tls::{Stamp, peer_client, stamp};

/// How often the certificate files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long connecting may take: several round trips around the world. Calls give up earlier; this ends what they leave.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// The most bytes of an answer: the outcomes of a command are small, and so is everything else.
const MAX_ANSWER: usize = 1024 * 1024;

/// The most that is on its way on one stream and on one connection: an append carries up to two MiB.
pub(super) const WINDOW: u32 = 4 * 1024 * 1024;

/// The connections by the names of their peers.
type Slots = HashMap<(String, Lane), Arc<Mutex<Slot>>>;

/// A connection on which nothing was answered for so long is closed, with the calls on it. A line that is slow, or full of
/// entries, is not silent.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// The pause between two connections, the first of which ended without an answer.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What was said on a connection.
#[derive(Debug, Default)]
struct Said {
    is_answered: bool,
    /// Calls that go on.
    calls: usize,
    /// When the first of them began since the last answer; `None` if nothing waits.
    asked: Option<Instant>,
}

/// A call that goes on.
struct Asking<'o>(&'o Open);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut said = self.0.said();
        said.calls -= 1;
        if said.calls == 0 {
            said.asked = None;
        }
    }
}

/// An open connection. Clones are the same.
#[derive(Clone)]
struct Open {
    sender: SendRequest<Bytes>,
    /// What was asked and answered on it.
    said: Arc<StdMutex<Said>>,
    opened: Instant,
    /// Ends the calls on it.
    closed: CancellationToken,
}

impl Open {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was opened just now, and has ended although nothing was answered on it.
    fn is_useless(&self) -> bool {
        !self.said().is_answered && self.opened.elapsed() < AGAIN_AFTER
    }

    /// Begins a call.
    fn ask(&self) -> Asking<'_> {
        let mut said = self.said();
        said.calls += 1;
        said.asked.get_or_insert_with(Instant::now);
        drop(said);
        Asking(self)
    }

    /// Closes it if it was asked long ago and has answered nothing since.
    fn close_if_silent(&self) {
        let asked = self.said().asked;
        if asked.is_some_and(|asked| asked.elapsed() >= SILENT_FOR) {
            self.closed.cancel();
        }
    }
}

/// Connections to all peers. Clones share them.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    tls: PeerTls,
    /// Addresses by name, as this node's configuration has them: they move without the mesh agreeing on it.
    nodes: BTreeMap<String, String>,
    slots: StdMutex<Slots>,
    /// What is being asked for, by HOST:PORT.
    resolving: StdMutex<HashMap<String, Resolution>>,
    scope: Scope,
}

type Resolution = Shared<BoxFuture<'static, Result<Vec<SocketAddr>, String>>>;

#[derive(Default)]
struct Slot {
    open: Option<Open>,
    /// The certificate files when it was opened.
    stamp: Stamp,
    looked: Option<Instant>,
    is_looking: bool,
}

impl Connections {
    /// Connections with the certificates of `tls`, to nodes at `nodes`; their tasks run in `scope`.
    pub fn new(tls: PeerTls, nodes: BTreeMap<String, String>, scope: Scope) -> Self {
        Self(Arc::new(Inner {
            tls,
            nodes,
            slots: StdMutex::default(),
            resolving: StdMutex::default(),
            scope,
        }))
    }

    fn slot(&self, name: &str, lane: Lane) -> Arc<Mutex<Slot>> {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((name.to_owned(), lane)).or_default().clone()
    }

    /// The open connection to `to`, or a new one. A caller may stop waiting for a new one: it is opened all
    /// the same, by one task at a time, and found by the next call.
    async fn open_to(&self, slot: Arc<Mutex<Slot>>, to: &Member) -> Result<Open, String> {
        let shared = slot.clone();
        let mut slot = slot.lock_owned().await;
        if let Some(open) = slot.open.clone().filter(|open| !open.closed.is_cancelled()) {
            // It knows that its connection has ended.
            if let Ok(sender) = open.sender.ready().await {
                if slot.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) && !slot.is_looking {
                    slot.looked = Some(Instant::now());
                    slot.is_looking = true;
                    // Beside the message, which does not wait for a disk.
                    let look = self.clone().look(shared);
                    self.0.scope.spawn("a look at the peers' certificates", look);
                }
                return Ok(Open { sender, ..open });
            }
        }
        if let Some(ended) = &slot.open
            && ended.is_useless()
        {
            // Such as when its certificate is refused, which TLS 1.3 tells only afterwards.
            return Err(
                "the connection before was closed without an answer: is this node's certificate refused?".to_owned(),
            );
        }
        let (connections, to) = (self.clone(), to.clone());
        let opened = self
            .0
            .scope
            .within(async move { connections.open(&mut slot, &to).await });
        opened.await
    }

    /// Closes the connection of `slot` if the certificate files are others than when it was opened.
    async fn look(self, slot: Arc<Mutex<Slot>>) {
        let found = self.stamp().await;
        let mut slot = slot.lock().await;
        slot.is_looking = false;
        if slot.stamp != found {
            slot.open = None;
        }
    }

    async fn stamp(&self) -> Stamp {
        let PeerTls { ca, cert, key } = self.0.tls.clone();
        off_the_workers(move || stamp([&ca, &cert, &key])).await
    }

    async fn open(&self, slot: &mut Slot, to: &Member) -> Result<Open, String> {
        slot.open = None;
        let connected = tokio::time::timeout(CONNECT_WITHIN, async {
            // Before they are read: what changes meanwhile is noticed at the next look.
            slot.stamp = self.stamp().await;
            self.connect(to).await
        });
        let open = match self.0.scope.until_stop(connected).await {
            Some(Ok(connected)) => connected?,
            Some(Err(_)) => return Err(format!("no connection within {} s", CONNECT_WITHIN.as_secs())),
            None => return Err("this node is ending".to_owned()),
        };
        slot.open = Some(open.clone());
        Ok(open)
    }

    /// The addresses that `address` stands for now. A resolver that does not answer keeps a thread for as long as the system
    /// likes, so a name is asked for once at a time.
    async fn resolved(&self, address: &str) -> Result<Vec<SocketAddr>, String> {
        if let Ok(literal) = address.parse() {
            return Ok(vec![literal]);
        }
        let resolving = || self.0.resolving.lock().unwrap_or_else(PoisonError::into_inner);
        let found = resolving().get(address).cloned();
        let resolution = found.unwrap_or_else(|| {
            let asked = tokio::net::lookup_host(address.to_owned());
            let asked = asked.map_ok(Iterator::collect).map_err(|error| error.to_string());
            let resolution = asked.boxed().shared();
            resolving().insert(address.to_owned(), resolution.clone());
            resolution
        });
        let resolved = resolution.await;
        resolving().remove(address);
        resolved.map_err(|error| format!("{address} does not resolve: {error}"))
    }

    async fn connect(&self, to: &Member) -> Result<Open, String> {
        let address = self.0.nodes.get(&to.name).unwrap_or(&to.peer);
        let stream = TcpStream::connect(&self.resolved(address).await?[..])
            .await
            .map_err(|error| format!("cannot connect to {address}: {error}"))?;
        // Fails only on a connection that is closed already.
        let _ = stream.set_nodelay(true);
        let files = self.0.tls.clone();
        let config = off_the_workers(move || peer_client(&files)).await;
        let config = config.map_err(|error| chain(&error))?;
        let name = ServerName::try_from(to.name.clone()).map_err(|error| error.to_string())?;
        let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = shaken.map_err(|error| format!("TLS with {address}, which should be {:?}: {error}", to.name))?;
        // Not hyper's client, which writes the head and the body of a message apart.
        let shaken = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await;
        let (sender, connection) = shaken.map_err(|error| format!("HTTP/2 with {address}: {}", chain(&error)))?;
        let (scope, closed) = (self.0.scope.clone(), CancellationToken::new());
        let opened = Instant::now();
        let open = Open {
            sender,
            said: Arc::default(),
            opened,
            closed: closed.clone(),
        };
        self.0.scope.spawn("a connection to a peer", async move {
            // Every call on it learns how it ended.
            let _ = scope.until_stop(closed.run_until_cancelled(connection)).await;
        });
        Ok(open)
    }
}

impl Transport for Connections {
    async fn call(&self, to: &Member, lane: Lane, body: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        let slot = self.slot(&to.name, lane);
        let until = Instant::now() + patience;
        let connected = tokio::time::timeout_at(until, self.open_to(slot, to)).await;
        let open = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(reason)) => return Err(CallError::NotSent(reason)),
            Err(_) => return Err(CallError::NotSent(format!("no connection to {} in time", to.name))),
        };
        let request = Request::post(format!("https://{}{}", to.name, lane.path())).body(());
        let request = request.map_err(|error| CallError::NotSent(error.to_string()))?;
        let mut sender = open.sender.clone();
        let _asking = open.ask();
        let answer = async {
            let (answer, mut out) = sender.send_request(request, false)?;
            out.send_data(body, true)?;
            let answer = answer.await?;
            Ok::<_, h2::Error>((answer.status(), read(answer.into_body()).await?))
        };
        let closed = open.closed.clone();
        let answered = tokio::time::timeout_at(until, closed.run_until_cancelled(answer)).await;
        let failed = match answered {
            Ok(Some(Ok((status, body)))) => {
                let mut said = open.said();
                (said.is_answered, said.asked) = (true, None);
                drop(said);
                return match status {
                    StatusCode::OK => Ok(body),
                    _ => Err(CallError::Refused(String::from_utf8_lossy(&body).trim().to_owned())),
                };
            }
            Ok(Some(Err(error))) => {
                closed.cancel();
                chain(&error)
            }
            Ok(None) => "the connection was silent for too long".to_owned(),
            Err(_) => {
                open.close_if_silent();
                "no answer in time".to_owned()
            }
        };
        Err(CallError::NoAnswer(failed))
    }
}

/// The body of an answer. One that is too long ends its stream.
async fn read(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut whole = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        if whole.len() + part.len() > MAX_ANSWER {
            return Err(h2::Reason::ENHANCE_YOUR_CALM.into());
        }
        if whole.is_empty() && body.is_end_stream() {
            return Ok(part);
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections")
            .field("nodes", &self.0.nodes)
            .finish_non_exhaustive()
    }
}

/// The address to listen on for what other nodes reach as `peer`, HOST:PORT: the host's own if it is a literal. A name
/// may stand for another address on the way here, so for one this listens on all, of both families where there are two.
pub(in crate::raft) fn listen_address(peer: &str) -> io::Result<SocketAddr> {
    if let Ok(literal) = peer.parse() {
        return Ok(literal);
    }
    let port = peer.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other(format!("{peer:?} has no port")))?;
    // A system without IPv6 refuses to bind this.
    let all = (Ipv6Addr::UNSPECIFIED, 0);
    Ok(match std::net::TcpListener::bind(all) {
        Ok(_) => (all.0, port).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
    })
}

#[cfg(test)]
mod tests {
    use hyper::Response;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::ServerConfig;
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsAcceptor, server::TlsStream};

    use super::*;
    use crate::tasks::FaultHandle;

    /// A peer of a test, who does with each connection what the test likes.
    struct Remote {
        listener: TcpListener,
        tls: TlsAcceptor,
        peer: Member,
        connections: Connections,
        scope: Scope,
        folder: tempfile::TempDir,
    }

    impl Remote {
        async fn start() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec!["n2".to_owned()]).expect("a name");
            let cert = params.self_signed(&key).expect("a certificate");
            let file = |name: &str, text: String| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).expect("written");
                path
            };
            let files = PeerTls {
                ca: file("ca.pem", cert.pem()),
                cert: file("cert.pem", cert.pem()),
                key: file("key.pem", key.serialize_pem()),
            };
            let key = key.serialize_der().try_into().expect("a key");
            let config = ServerConfig::builder().with_no_client_auth();
            let mut config = config.with_single_cert(vec![cert.der().clone()], key).expect("a pair");
            config.alpn_protocols = vec![b"h2".to_vec()];
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound").to_string();
            let scope = Scope::on(tokio::runtime::Handle::current(), FaultHandle::default());
            Self {
                listener,
                tls: Arc::new(config).into(),
                peer: Member {
                    name: "n2".to_owned(),
                    ..Member::default()
                },
                connections: Connections::new(files, [("n2".to_owned(), address)].into(), scope.clone()),
                scope,
                folder,
            }
        }

        /// A call of the node under test. It is never answered.
        async fn call(&self, patience: Duration) -> CallError {
            let called = self
                .connections
                .call(&self.peer, Lane::Messages, Bytes::new(), patience);
            called.await.expect_err("no answer comes")
        }

        /// The next connection, which the node under test takes for one to its peer.
        async fn accept(&self) -> TlsStream<TcpStream> {
            let connected = async {
                let (stream, _) = self.listener.accept().await.expect("a connection");
                self.tls.accept(stream).await.expect("it is the peer")
            };
            let connected = tokio::time::timeout(Duration::from_secs(10), connected).await;
            connected.expect("it connects")
        }

        /// Whether there is no other connection.
        async fn is_left_alone(&self) -> bool {
            let again = tokio::time::timeout(Duration::from_millis(200), self.listener.accept());
            again.await.is_err()
        }
    }

    /// A peer behind a cut: connections are taken, and nothing ever comes back.
    #[tokio::test(flavor = "multi_thread")]
    async fn g12_calls_that_give_up_leave_one_attempt_to_connect_and_none_after_the_end() {
        let remote = Remote::start().await;
        for _ in 0..20 {
            let called = remote.call(Duration::from_millis(10)).await;
            assert!(matches!(called, CallError::NotSent(_)), "{called}");
        }
        let first = remote.listener.accept().await.expect("one connection");
        assert!(remote.is_left_alone().await, "another attempt beside the first");
        remote.scope.stop();
        tokio::time::timeout(Duration::from_secs(10), remote.scope.ended())
            .await
            .expect("the attempt ends with its scope");
        drop(first);
    }

    /// A peer to whom this node's certificate means nothing: TLS 1.3 says so behind the handshake.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_ends_without_an_answer_is_not_opened_again_at_once() {
        let remote = Remote::start().await;
        let close = async { drop(remote.accept().await) };
        let (called, ()) = tokio::join!(remote.call(Duration::from_secs(10)), close);
        assert!(matches!(called, CallError::NoAnswer(_)), "{called}");
        let called = remote.call(Duration::from_secs(10)).await;
        assert!(matches!(called, CallError::NotSent(_)), "{called}");
        assert!(called.to_string().contains("certificate refused"), "{called}");
        assert!(remote.is_left_alone().await);
        let calling = async {
            loop {
                remote.call(Duration::from_millis(20)).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = remote.accept() => {}
            () = calling => unreachable!("it calls for ever"),
        }
    }

    /// Answers every call on `stream`, until that ends.
    async fn answer_all(stream: TlsStream<TcpStream>) {
        let mut served = h2::server::handshake(stream).await.expect("HTTP/2");
        while let Some(Ok((request, mut answer))) = served.accept().await {
            let mut body = request.into_body();
            let whole = async { while body.data().await.is_some() {} };
            // Answered earlier, the caller's last frame would be one too many; and `accept` is what reads it.
            tokio::select! {
                () = whole => {}
                _ = served.accept() => {}
            }
            answer.send_response(Response::new(()), true).expect("it is sent");
        }
    }

    /// A certificate that runs out is replaced in its file while the node runs.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_is_opened_again_when_the_certificate_files_have_changed() {
        let remote = Remote::start().await;
        let answered = async || {
            let call = remote
                .connections
                .call(&remote.peer, Lane::Messages, Bytes::new(), SILENT_FOR);
            call.await.expect("an answer");
        };
        let first = async {
            let stream = remote.accept().await;
            remote.scope.spawn("the peer", answer_all(stream));
        };
        tokio::join!(first, answered());
        answered().await;
        assert!(
            remote.is_left_alone().await,
            "the second call has the first's connection"
        );
        let file = remote.folder.path().join("cert.pem");
        let text = std::fs::read_to_string(&file).expect("a certificate");
        std::fs::write(&file, text + "\n").expect("written");
        // The files are looked at now and then, beside a call.
        let calling = async {
            loop {
                answered().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let again = tokio::select! {
            stream = remote.accept() => stream,
            () = calling => unreachable!("it calls for ever"),
        };
        drop(again);
    }

    /// Between elections little is said, and a candidate gives up a call after a fifth of a second.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_had_nothing_to_answer_is_kept_when_a_call_is_given_up() {
        let remote = Remote::start().await;
        let answering = async {
            let mut served = h2::server::handshake(remote.accept().await).await.expect("HTTP/2");
            let (_request, mut answer) = served.accept().await.expect("a call").expect("a whole one");
            answer.send_response(Response::new(()), true).expect("it is sent");
            // Drives the connection, and answers nothing more: one that is dropped is an answer.
            let mut unanswered = Vec::new();
            while let Some(call) = served.accept().await {
                unanswered.push(call);
            }
        };
        let calling = async {
            let answered = remote
                .connections
                .call(&remote.peer, Lane::Messages, Bytes::new(), Duration::from_secs(10));
            answered.await.expect("an answer");
            tokio::time::sleep(SILENT_FOR).await;
            remote.call(Duration::from_millis(50)).await;
            assert!(remote.is_left_alone().await, "the next call has the same connection");
            remote.call(Duration::from_millis(50)).await;
            assert!(remote.is_left_alone().await, "the next call has the same connection");
        };
        tokio::select! {
            () = answering => unreachable!("the connection is kept"),
            () = calling => {}
        }
    }

    /// A peer behind a cut that began later: what is sent is taken, and nothing comes back any more.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_is_silent_is_closed_and_one_that_is_slow_is_kept() {
        let remote = Remote::start().await;
        let quick = remote.call(Duration::from_millis(200));
        let (called, silent) = tokio::join!(quick, remote.accept());
        assert!(matches!(called, CallError::NoAnswer(_)), "{called}");
        let called = remote.call(SILENT_FOR / 2).await;
        assert!(matches!(called, CallError::NoAnswer(_)), "{called}");
        assert!(remote.is_left_alone().await, "it may only be slow");
        remote.call(SILENT_FOR).await;
        let (_, again) = tokio::join!(remote.call(Duration::from_millis(200)), remote.accept());
        drop((silent, again));
    }
}
