//! A TCP socket that listens, for a port.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted: many nats-servers at once connect faster than one task accepts. The kernel
/// caps this at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Listens on `addr`. An error names the address.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    listen(addr).map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A restart must not have to wait until the system forgets the connections of the process before.
    socket.set_reuseaddr(true)?;
    // On Linux every accepted connection inherits this, which saves a call for each.
    socket.set_nodelay(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}
