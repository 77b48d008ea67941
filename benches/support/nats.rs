//! nats-servers that ask our node for accounts, and connections whose end is seen at the socket.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::mint::{Operator, User};
use super::process::{Program, free_port, give_up};

/// A running nats-server.
pub(crate) struct NatsServer {
    _program: Program,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
}

impl NatsServer {
    /// Starts one on `address` that trusts `operator` and fetches accounts from the node at `accounts`.
    pub(crate) fn start(folder: &Path, address: SocketAddr, operator: &Operator, accounts: SocketAddr) -> Self {
        Self::start_with(folder, address, operator, accounts, "")
    }

    /// Starts two on these addresses that form a NATS cluster.
    pub(crate) fn pair(
        folder: &Path,
        addresses: [SocketAddr; 2],
        operator: &Operator,
        accounts: SocketAddr,
    ) -> [Self; 2] {
        let ports = [free_port(), free_port()];
        [0, 1].map(|at| {
            let (own, other) = (ports[at], ports[1 - at]);
            let cluster = format!(
                "cluster {{ name: bench, listen: \"127.0.0.1:{own}\", routes: [\"nats://127.0.0.1:{other}\"] }}\n"
            );
            Self::start_with(folder, addresses[at], operator, accounts, &cluster)
        })
    }

    fn start_with(folder: &Path, address: SocketAddr, operator: &Operator, accounts: SocketAddr, more: &str) -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/nats-server");
        if !binary.exists() {
            give_up("nats-server is missing; install the pinned one with: tests/tools/fetch nats-server");
        }
        let name = format!("nats-server-{}", address.port());
        let config = folder.join(format!("{name}.conf"));
        let text = format!(
            "server_name: {name}\nlisten: \"{address}\"\noperator: {}\n\
             resolver: URL(\"http://{accounts}/jwt/v1/accounts/\")\n{more}",
            operator.token()
        );
        fs::write(&config, text).expect("the bench's own folder is writable");
        let mut command = Command::new(binary);
        command.arg("-c").arg(&config);
        let mut program = Program::start(command, folder, &name);
        program.wait_until(|program| program.output().contains("Server is ready"));
        Self {
            _program: program,
            address,
        }
    }
}

/// A user's connection.
pub(crate) struct Connection {
    socket: TcpStream,
}

impl Connection {
    /// Logs in; done when the server has answered a ping.
    pub(crate) fn open(server: SocketAddr, user: &User) -> Self {
        let mut socket = TcpStream::connect(server).expect("the nats-server listens");
        socket.set_nodelay(true).expect("a TCP connection has this option");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a TCP connection has this option");
        let greeting = read_until(&mut socket, "\r\n");
        let info: Value =
            serde_json::from_str(greeting.trim_start_matches("INFO ").trim()).expect("a server greets with JSON");
        let nonce = info["nonce"]
            .as_str()
            .expect("a server that trusts an operator sends a nonce");
        let signature = user.key.sign(nonce.as_bytes()).expect("the key has its private half");
        let login = json!({
            "jwt": user.token, "sig": BASE64URL_NOPAD.encode(&signature), "verbose": false, "pedantic": false,
            "lang": "bench", "version": "0", "protocol": 1,
        });
        write!(socket, "CONNECT {login}\r\nPING\r\n").expect("a login is sent");
        read_until(&mut socket, "PONG\r\n");
        Self { socket }
    }

    /// Publishes; the server has it when it comes to it.
    pub(crate) fn publish(&mut self, subject: &str, payload: &str) {
        let message = format!("PUB {subject} {}\r\n{payload}\r\n", payload.len());
        self.socket.write_all(message.as_bytes()).expect("a message is sent");
    }

    /// Waits until the server has closed the connection; when that was, or nothing if it did not within `patience`.
    pub(crate) fn closed(&mut self, patience: Duration) -> Option<Instant> {
        self.socket
            .set_read_timeout(Some(patience))
            .expect("a TCP connection has this option");
        let mut words = [0; 4_096];
        loop {
            match self.socket.read(&mut words) {
                Ok(0) => return Some(Instant::now()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(_) => return Some(Instant::now()),
            }
        }
    }
}

fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4_096];
    // More may follow at once: a server repeats its INFO after a login.
    while !text.windows(end.len()).any(|window| window == end.as_bytes()) {
        let count = socket.read(&mut piece).expect("the nats-server answers");
        text.extend_from_slice(&piece[..count]);
        assert!(count > 0, "the nats-server refused: {}", String::from_utf8_lossy(&text));
    }
    String::from_utf8_lossy(&text).into_owned()
}
