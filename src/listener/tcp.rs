//! A TCP socket that listens, for a port.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Waiting to be accepted: a storm arrives faster than one task accepts; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Listens on `addr`. The error names it.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    listen(addr).map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A restart must not wait for the connections of the process before it to be forgotten.
    socket.set_reuseaddr(true)?;
    // Linux hands this on to every connection it accepts, which saves a call for each.
    socket.set_nodelay(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}
