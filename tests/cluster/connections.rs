//! What becomes of a connection to a nats-server that hangs, hangs up, or denies a right: a revocation finds its way.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::mint::Operator;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::process::eventually;

/// A node that tells one NATS cluster of changes.
#[track_caller]
fn node_telling(operator: &Operator, address: SocketAddr, creds: String) -> Node {
    let options = Options {
        nats: vec![NatsLink::plain(vec![format!("nats://{address}")], creds)],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node
}

#[test]
fn g12_a_server_that_hangs_up_after_every_login_is_tried_with_growing_pauses_and_its_words_are_logged_once() {
    let operator = Operator::new("O");
    let server = Grumbler::start("User Authentication Expired", Then::HangUp);
    let node = node_telling(&operator, server.address, operator.system.propagating_user().creds());
    eventually("the first login", || (server.logins() >= 1).then_some(()));
    let first = Instant::now();
    eventually("the eighth login", || (server.logins() >= 8).then_some(()));
    // 50 ms, and twice as much each time up to 1.5 s, make 4.5 s.
    let took = first.elapsed();
    assert!(took >= Duration::from_secs(4), "eight logins within {took:?}");
    let log = node.log();
    let words: Vec<_> = log.lines().filter(|line| line.contains("last words")).collect();
    assert_eq!(words.len(), 1, "{log}");
    assert!(words[0].contains("User Authentication Expired"), "{}", words[0]);
}

/// What a [`Grumbler`] does after its complaint.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    HangUp,
    Stay,
}

/// Something that takes every login of a NATS client, and complains as soon as that subscribes.
struct Grumbler {
    address: SocketAddr,
    logins: Arc<AtomicUsize>,
}

impl Grumbler {
    fn start(words: &'static str, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let logins = Arc::new(AtomicUsize::new(0));
        let count = logins.clone();
        // Ends with the test's process; the listener is its own.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = count.clone();
                std::thread::spawn(move || grumble(&stream, words, then, &count));
            }
        });
        Self { address, logins }
    }

    fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }
}

/// Until the client goes.
fn grumble(mut stream: &TcpStream, words: &str, then: Then, logins: &AtomicUsize) -> std::io::Result<()> {
    let info = r#"{"server_id":"N","server_name":"grumbler","version":"2.15.1","headers":true,"max_payload":1048576,"nonce":"x"}"#;
    write!(stream, "INFO {info}\r\n")?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line == "PING" {
            stream.write_all(b"PONG\r\n")?;
        } else if line.starts_with("SUB ") {
            logins.fetch_add(1, Ordering::SeqCst);
            write!(stream, "-ERR '{words}'\r\n")?;
            if then == Then::HangUp {
                return Ok(());
            }
        }
    }
    Ok(())
}
