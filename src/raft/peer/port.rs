//! The peer port: takes other nodes' messages and hands them to the handler.

use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tower::Service;

use super::connection::{WINDOW, listen_address};
use super::handler::Handler;
use super::network::Lane;
use super::refusal::PeerRefusal;
use crate::listener::{self, Certified, Limits, Port};
use crate::tasks::Scope;
use crate::tls::ReloadableTls;

/// The most bytes of a message: entries of a MiB, and one more of the largest token.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Connections at once: two from each peer, and room for attempts.
const CONNECTIONS: usize = 256;

/// How long a connection lasts: so long can a peer go on whose certificate, or authority, is taken from it.
const AGE: Duration = Duration::from_secs(600);

/// The peer port, bound and not yet serving.
pub struct PeerPort {
    listener: TcpListener,
    tls: ReloadableTls,
}

impl PeerPort {
    /// Binds the address that other nodes reach as `peer`, HOST:PORT. To be called where it is to be served.
    pub async fn bind(peer: &str, tls: ReloadableTls) -> io::Result<Self> {
        let listener = listener::bind(listen_address(peer)?)?;
        Ok(Self { listener, tls })
    }

    /// Serves in `scope` until that stops.
    pub fn serve(self, handler: Handler, scope: &Scope) {
        let limits = Limits {
            connections: CONNECTIONS,
            handshake: Duration::from_secs(5),
            drain: Duration::from_secs(1),
            age: AGE,
            ..Limits::default()
        };
        let port = Port::new("peer", Messages { handler }, limits, Some(self.tls), scope.clone()).with_window(WINDOW);
        scope.spawn("the peer port", port.run(self.listener));
    }
}

#[derive(Clone)]
struct Messages {
    handler: Handler,
}

impl Service<Request<Incoming>> for Messages {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let handler = self.handler.clone();
        Box::pin(async move {
            let (status, body) = match answered(&handler, request).await {
                Ok(body) => (StatusCode::OK, body),
                Err((status, reason)) => (status, Bytes::from(reason)),
            };
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = status;
            Ok(response)
        })
    }
}

async fn answered(handler: &Handler, request: Request<Incoming>) -> Result<Bytes, (StatusCode, String)> {
    let path = request.uri().path();
    if ![Lane::Messages, Lane::Bulk].iter().any(|lane| lane.path() == path) {
        let reason = "this node's program speaks version 1 of the peers' protocol".to_owned();
        return Err((StatusCode::NOT_FOUND, reason));
    }
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "messages are sent with POST".to_owned()));
    }
    let certified = request.extensions().get::<Certified>().cloned();
    let names = certified.as_ref().map_or(&[][..], |certified| &certified.0);
    // Nothing of a stranger is kept in memory.
    handler.check_node(names).map_err(refused)?;
    let body = Limited::new(request.into_body(), MAX_MESSAGE).collect().await;
    let body = body
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?
        .to_bytes();
    handler.handle(names, &body).await.map_err(refused)
}

fn refused(refusal: PeerRefusal) -> (StatusCode, String) {
    let status = match refusal {
        PeerRefusal::Stranger(_) => StatusCode::FORBIDDEN,
        PeerRefusal::Wrong(_) => StatusCode::BAD_REQUEST,
        PeerRefusal::NotNow(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, refusal.to_string())
}
