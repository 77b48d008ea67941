//! Sends a connection's last answer, TLS's close_notify and the end of the connection in one packet.
//!
//! Each of them that is sent alone wakes the client, and costs both sides about as much as finding the answer did. A
//! long answer, such as a pack, is not held up: Linux holds back only less than a full packet, and that for at most
//! 200 ms (tcp(7), TCP_CORK).

use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A transport that can hold back bytes until a packet is full.
pub trait Gather {
    /// From now on sends only full packets, and the rest together with the end of the connection.
    fn gather(&self);
}

impl Gather for TcpStream {
    fn gather(&self) {
        // If this fails, more packets are sent than necessary, nothing else.
        let _ = rustix::net::sockopt::set_tcp_cork(self, true);
    }
}

impl Gather for UnixStream {
    /// Does nothing: a Unix socket has no packets.
    fn gather(&self) {}
}

impl<IO: Gather> Gather for TlsStream<IO> {
    fn gather(&self) {
        self.get_ref().0.gather();
    }
}
