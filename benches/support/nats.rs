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

/// Where the servers of a NATS cluster have their accounts from.
pub(crate) enum Accounts<'a> {
    /// From these nodes, in turns.
    Nodes(&'a [SocketAddr]),
    /// From a folder of their own each, with the built-in full resolver.
    Folders,
}

impl NatsServer {
    /// Starts one on each of these addresses, all of one NATS cluster, which trust `operator`.
    pub(crate) fn cluster(
        folder: &Path,
        addresses: &[SocketAddr],
        operator: &Operator,
        accounts: &Accounts<'_>,
    ) -> Vec<Self> {
        let routes: Vec<String> = addresses
            .iter()
            .map(|_| format!("\"nats://127.0.0.1:{}\"", free_port()))
            .collect();
        let start = |(at, address): (usize, &SocketAddr)| {
            let resolver = match accounts {
                Accounts::Nodes(nodes) => {
                    format!("URL(\"http://{}/jwt/v1/accounts/\")", nodes[at % nodes.len()])
                }
                Accounts::Folders => {
                    let (system, own) = (operator.system.public_key(), folder.join(format!("full-{at}")));
                    let token = operator.account(&system, "SYS", None);
                    format!("{{ type: full, dir: {own:?} }}\nresolver_preload: {{ {system}: {token} }}")
                }
            };
            let own = routes[at].trim_matches('"').trim_start_matches("nats://");
            let more = format!(
                "resolver: {resolver}\ncluster {{ name: bench, listen: \"{own}\", routes: [{}] }}\n",
                routes.join(", ")
            );
            Self::start(folder, *address, operator, &more)
        };
        addresses.iter().enumerate().map(start).collect()
    }

    fn start(folder: &Path, address: SocketAddr, operator: &Operator, more: &str) -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/nats-server");
        if !binary.exists() {
            give_up("nats-server is missing; install the pinned one with: tests/tools/fetch nats-server");
        }
        let name = format!("nats-server-{}", address.port());
        let config = folder.join(format!("{name}.conf"));
        let text = format!(
            "server_name: {name}\nlisten: \"{address}\"\noperator: {}\n{more}",
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
            .set_read_timeout(Some(LONG_ENOUGH))
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
        self.send(subject, "", payload);
    }

    /// Subscribes to the answers of [`Self::request`].
    pub(crate) fn take_answers(&mut self) {
        write!(self.socket, "SUB {ANSWERS} 1\r\nPING\r\n").expect("a subscription is sent");
        read_until(&mut self.socket, "PONG\r\n");
    }

    /// Publishes `requests`, each its subject and payload, and waits until each has so many answers, all of them without
    /// an error.
    pub(crate) fn request(&mut self, requests: &[(String, &str)], answers: usize) {
        for (subject, payload) in requests {
            self.send(subject, ANSWERS, payload);
        }
        let (mut text, mut count) = (String::new(), 0);
        while count < requests.len() * answers {
            text += &read_until(&mut self.socket, "\r\n");
            while let Some((line, rest)) = text.split_once("\r\n") {
                assert!(!line.contains("\"error\""), "the nats-server refused: {line}");
                count += usize::from(line.contains("\"code\":200"));
                text = rest.to_owned();
            }
        }
    }

    /// How many servers answer to this one.
    pub(crate) fn servers(&mut self) -> usize {
        self.send("$SYS.REQ.SERVER.PING.IDZ", ANSWERS, "");
        let (mut text, mut piece) = (Vec::new(), [0; 4_096]);
        self.patience(Duration::from_millis(300));
        while let Ok(count @ 1..) = self.socket.read(&mut piece) {
            text.extend_from_slice(&piece[..count]);
        }
        self.patience(LONG_ENOUGH);
        String::from_utf8_lossy(&text).matches("MSG ").count()
    }

    fn patience(&self, patience: Duration) {
        let set = self.socket.set_read_timeout(Some(patience));
        set.expect("a TCP connection has this option");
    }

    fn send(&mut self, subject: &str, reply: &str, payload: &str) {
        let message = format!("PUB {subject} {reply} {}\r\n{payload}\r\n", payload.len());
        self.socket.write_all(message.as_bytes()).expect("a message is sent");
    }

    /// Waits until the server has closed the connection; when that was, or nothing if it did not within `patience`.
    pub(crate) fn closed(&mut self, patience: Duration) -> Option<Instant> {
        self.patience(patience);
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

/// How long an answer of a server may take.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

const ANSWERS: &str = "_INBOX.bench";

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
