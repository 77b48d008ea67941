//! Connections to peers: HTTP/2 over TLS, two to each, opened when something is to be sent.
//!
//! A name is resolved at every attempt, so that one that does not resolve yet keeps nobody from starting. A connection on
//! which a call had no answer in time is closed: after a cut TCP would take long to notice that the peer is back. One
//! whose certificate files have changed is opened again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::network::{CallError, Lane, Transport};
use crate::config::PeerTls;
use crate::raft::runtime::Member;
use crate::tasks::{Scope, chain};
use crate::tls::{Stamp, off_the_workers, peer_client, stamp};

/// How often the certificate files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The most bytes of an answer: the outcomes of a command are small, and so is everything else.
const MAX_ANSWER: usize = 1024 * 1024;

/// The most that is on its way on one stream and on one connection: an append carries up to two MiB.
pub(super) const WINDOW: u32 = 4 * 1024 * 1024;

/// The connections by the names of their peers.
type Slots = HashMap<(String, Lane), Arc<Mutex<Slot>>>;

type Sender = SendRequest<Full<Bytes>>;

/// Connections to all peers. Clones share them.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    tls: PeerTls,
    /// Addresses by name, as this node's configuration has them: they move without the mesh agreeing on it.
    nodes: BTreeMap<String, String>,
    slots: StdMutex<Slots>,
    scope: Scope,
}

#[derive(Default)]
struct Slot {
    open: Option<Sender>,
    /// The certificate files when it was opened.
    stamp: Stamp,
    looked: Option<Instant>,
    /// Counts connections, so that a late failure does not close the next one.
    number: u64,
}

impl Connections {
    /// Connections with the certificates of `tls`, to nodes at `nodes`; their tasks run in `scope`.
    pub fn new(tls: PeerTls, nodes: BTreeMap<String, String>, scope: Scope) -> Self {
        Self(Arc::new(Inner {
            tls,
            nodes,
            slots: StdMutex::default(),
            scope,
        }))
    }

    fn slot(&self, name: &str, lane: Lane) -> Arc<Mutex<Slot>> {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((name.to_owned(), lane)).or_default().clone()
    }

    fn stamp(&self) -> Stamp {
        let PeerTls { ca, cert, key } = &self.0.tls;
        stamp([ca, cert, key])
    }

    /// The open connection to `to`, or a new one, and its number.
    async fn sender(&self, slot: &Mutex<Slot>, to: &Member) -> Result<(Sender, u64), String> {
        let mut slot = slot.lock().await;
        if slot.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            slot.looked = Some(Instant::now());
            let found = self.stamp();
            if slot.stamp != found {
                slot.stamp = found;
                slot.open = None;
            }
        }
        if let Some(sender) = slot.open.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((sender.clone(), slot.number));
        }
        slot.open = None;
        let (connections, to) = (self.clone(), to.clone());
        let sender = self
            .0
            .scope
            .within(async move { connections.connect(&to).await })
            .await?;
        slot.number += 1;
        slot.open = Some(sender.clone());
        Ok((sender, slot.number))
    }

    async fn connect(&self, to: &Member) -> Result<Sender, String> {
        let address = self.0.nodes.get(&to.name).unwrap_or(&to.peer);
        let stream = TcpStream::connect(address.as_str())
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
        let shaken = http2::Builder::new(InScope(self.0.scope.clone()))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = shaken.map_err(|error| format!("HTTP/2 with {address}: {}", chain(&error)))?;
        let scope = self.0.scope.clone();
        self.0.scope.spawn("a connection to a peer", async move {
            // How it ended is told to whoever has a call on it.
            let _ = scope.until_stop(connection).await;
        });
        Ok(sender)
    }
}

impl Transport for Connections {
    async fn call(&self, to: &Member, lane: Lane, body: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        let slot = self.slot(&to.name, lane);
        let until = Instant::now() + patience;
        let connected = tokio::time::timeout_at(until, self.sender(&slot, to)).await;
        let (mut sender, number) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(reason)) => return Err(CallError::NotSent(reason)),
            Err(_) => return Err(CallError::NotSent(format!("no connection to {} in time", to.name))),
        };
        let request = Request::post(format!("https://{}{}", to.name, lane.path())).body(Full::new(body));
        let request = request.map_err(|error| CallError::NotSent(error.to_string()))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| chain(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>((status, body))
        };
        let failed = match tokio::time::timeout_at(until, answer).await {
            Ok(Ok((StatusCode::OK, body))) => return Ok(body),
            Ok(Ok((_, body))) => return Err(CallError::Refused(String::from_utf8_lossy(&body).trim().to_owned())),
            Ok(Err(reason)) => reason,
            Err(_) => "no answer in time".to_owned(),
        };
        let close = async {
            let mut slot = slot.lock().await;
            if slot.number == number {
                slot.open = None;
            }
        };
        // Whoever opens a new connection meanwhile holds the slot, and replaces this one anyway.
        let _ = timeout(Duration::from_millis(1), close).await;
        Err(CallError::NoAnswer(failed))
    }
}

/// Runs hyper's tasks in a scope.
#[derive(Clone)]
struct InScope(Scope);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for InScope {
    fn execute(&self, task: F) {
        self.0.spawn("a stream to a peer", async move {
            drop(task.await);
        });
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections")
            .field("nodes", &self.0.nodes)
            .finish_non_exhaustive()
    }
}

/// The address to listen on for what other nodes reach as `peer`, HOST:PORT: the host's own if it is a literal. A name
/// may stand for another address on the way here, so for one this listens on all.
pub(in crate::raft) fn listen_address(peer: &str) -> io::Result<std::net::SocketAddr> {
    if let Ok(literal) = peer.parse() {
        return Ok(literal);
    }
    let port = peer.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other(format!("{peer:?} has no port")))?;
    Ok((std::net::Ipv4Addr::UNSPECIFIED, port).into())
}
