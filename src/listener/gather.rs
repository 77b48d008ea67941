//! A connection's last answer, the good-bye of TLS and the end of the connection in one packet. Each that is sent alone
//! wakes the client, and costs both sides about as much as finding the answer did. What does not end soon, as a pack,
//! goes on: Linux holds back less than a packet for 200 ms at most (tcp(7), TCP_CORK).

use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// What a connection's bytes go out on.
pub trait Gather {
    /// From now on sends full packets only, and the rest with the end of the connection.
    fn gather(&self);
}

impl Gather for TcpStream {
    fn gather(&self) {
        // Where it fails, more packets go out than need be.
        let _ = rustix::net::sockopt::set_tcp_cork(self, true);
    }
}

impl Gather for UnixStream {
    /// Nothing to gain: it has no packets.
    fn gather(&self) {}
}

impl<IO: Gather> Gather for TlsStream<IO> {
    fn gather(&self) {
        self.get_ref().0.gather();
    }
}
