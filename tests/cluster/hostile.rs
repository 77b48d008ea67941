//! Requests that must do no harm: too big, too slow, too deep, malformed or too many.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::http::{Answer, Connection};
use crate::support::mint::{Account, Operator};
use crate::support::node::Node;
use crate::support::process::{eventually, within};

/// How much a node's memory may grow under all of this. If it kept the 2 MiB body of every attempt, it would grow by
/// ten times as much.
const FLAT_KB: u64 = 64 * 1024;

/// Long enough for any time-out of the node to expire.
const TIME_OUT: Duration = Duration::from_secs(60);

fn start() -> (Operator, Account, Node) {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let node = Node::of(&operator);
    (operator, account, node)
}

#[track_caller]
fn still_well(node: &Node) {
    assert_eq!(node.get("/jwt/v1/accounts/").status, 200);
}

/// Sends `bytes` on a connection of their own; gives the answer, or `None` if the connection was just closed.
fn raw(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut connection = Connection::plain(address).expect("a running node takes connections");
    // The node may refuse and close before it has read all of it.
    let _ = connection.send(bytes);
    connection.answer(false).ok()
}

/// Whole requests, as bytes, and the answers they may get. ACCOUNT stands for an account key.
const REQUESTS: &[(&str, &[u8], &[u16])] = &[
    (
        "an empty body",
        b"POST /jwt/v1/accounts/ACCOUNT HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        &[400],
    ),
    (
        "no length and no body",
        b"POST /jwt/v1/accounts/ACCOUNT HTTP/1.1\r\nHost: x\r\n\r\n",
        &[400, 411],
    ),
    (
        "only newlines",
        b"POST /jwt/v1/accounts/ACCOUNT HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n\r\n",
        &[400],
    ),
    (
        "NUL bytes",
        b"POST /jwt/v1/accounts/ACCOUNT HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n\0.\0.\0",
        &[400],
    ),
    (
        "a NUL in the path",
        b"GET /jwt/v1/accounts/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        &[400],
    ),
    (
        "an encoded NUL in the path",
        b"GET /jwt/v1/accounts/A%00B HTTP/1.1\r\nHost: x\r\n\r\n",
        &[400, 404],
    ),
    (
        "dots in the path",
        b"GET /jwt/v1/accounts/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        &[400, 404],
    ),
    (
        "encoded dots",
        b"GET /jwt/v1/accounts/%2e%2e%2f%2e%2e%2fetc HTTP/1.1\r\nHost: x\r\n\r\n",
        &[400, 404],
    ),
    (
        "posting to dots",
        b"POST /jwt/v1/accounts/.. HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        &[400, 404, 405],
    ),
    (
        "not a key",
        b"GET /jwt/v1/accounts/hello HTTP/1.1\r\nHost: x\r\n\r\n",
        &[400, 404],
    ),
    (
        "posting to not a key",
        b"POST /jwt/v1/accounts/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        &[400],
    ),
    (
        "DELETE",
        b"DELETE /jwt/v1/accounts/ACCOUNT HTTP/1.1\r\nHost: x\r\n\r\n",
        &[405],
    ),
    (
        "PUT",
        b"PUT /jwt/v1/accounts/ACCOUNT HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        &[405],
    ),
    (
        "POST to the probe",
        b"POST /jwt/v1/accounts/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        &[405],
    ),
    (
        "POST to the operator",
        b"POST /jwt/v1/operator HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        &[405],
    ),
    (
        "an invented method",
        b"BREW /jwt/v1/accounts/ACCOUNT HTTP/1.1\r\nHost: x\r\n\r\n",
        &[405],
    ),
];

/// One HTTP/2 frame on stream 0 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a small one");
    [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
}

/// Libraries warn about what a client sends, once for each packet. An administrator who wants to see that uses --log.
#[test]
fn a_client_cannot_fill_the_log_with_warnings_of_libraries() {
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    let (_, _, node) = start();
    let before = node.log();
    let mut stream = TcpStream::connect(node.address()).unwrap();
    stream.set_read_timeout(Some(TIME_OUT)).unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(SETTINGS, 0, b""));
    for _ in 0..100 {
        sent.extend(frame(PING, ACK, b"stray!!!"));
    }
    // Its answer comes after all of these were read.
    sent.extend(frame(PING, 0, b"the last"));
    stream.write_all(&sent).unwrap();
    let answer = frame(PING, ACK, b"the last");
    let mut read: Vec<u8> = Vec::new();
    while !read.windows(answer.len()).any(|window| window == answer) {
        let mut piece = [0; 1024];
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "it hung up after {read:?}");
        read.extend(&piece[..length]);
    }
    assert_eq!(node.log(), before);
    still_well(&node);
}

#[test]
fn malformed_requests_get_their_status_and_a_sentence() {
    let (_, account, node) = start();
    for (name, request, statuses) in REQUESTS {
        let text = String::from_utf8_lossy(request).replace("ACCOUNT", &account.id());
        let answer = raw(node.address(), text.as_bytes()).unwrap_or_else(|| panic!("{name}: closed without an answer"));
        assert!(
            statuses.contains(&answer.status),
            "{name}: {} {}",
            answer.status,
            answer.text()
        );
        // Bytes that are not HTTP are refused by the HTTP library, which answers with a status alone.
        if !request.contains(&0) || answer.status != 400 {
            assert_ne!(answer.text().trim(), "", "{name}: no sentence");
        }
        if answer.status == 405 {
            assert!(answer.header("allow").is_some(), "{name}: a 405 says what is allowed");
        }
        still_well(&node);
    }
}

/// Bytes that are not HTTP get an error or a closed connection, and other clients are not affected.
#[test]
fn bytes_that_are_not_http_get_an_error_or_a_closed_connection() {
    let (_, account, node) = start();
    let long = "x".repeat(300_000);
    let path = format!("/jwt/v1/accounts/{}", account.id());
    let many: String = (0..5000).map(|number| format!("x-{number}: y\r\n")).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "a TLS greeting",
            vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 13, 10, 13, 10],
        ),
        ("noise", b"\xff\xfe\xfd\r\n\r\n".to_vec()),
        (
            "a long path",
            format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
        ),
        (
            "a long header",
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n").into_bytes(),
        ),
        (
            "many headers",
            format!("GET {path} HTTP/1.1\r\nHost: x\r\n{many}\r\n").into_bytes(),
        ),
        (
            "a negative length",
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n").into_bytes(),
        ),
        (
            "two lengths",
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx").into_bytes(),
        ),
        (
            "a chunk without end",
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n").into_bytes(),
        ),
        (
            "a length beyond all",
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n").into_bytes(),
        ),
    ];
    for (name, bytes) in cases {
        if let Some(answer) = raw(node.address(), &bytes) {
            assert!(
                (400..500).contains(&answer.status),
                "{name}: {} {}",
                answer.status,
                answer.text()
            );
        }
        still_well(&node);
    }
}

#[test]
fn the_content_type_of_an_upload_does_not_matter() {
    let (operator, account, node) = start();
    let path = format!("/jwt/v1/accounts/{}", account.id());
    for kind in [
        "application/jwt",
        "application/json",
        "text/html",
        "image/png",
        "nonsense",
        "",
    ] {
        let token = operator.account(&account);
        let answer = node
            .connect()
            .request("POST", &path, &[("Content-Type", kind)], token.as_bytes())
            .unwrap();
        assert_eq!((answer.status, answer.text()), (200, String::new()), "{kind:?}");
        assert_eq!(node.get(&path).text(), token);
    }
}

#[test]
fn g12_a_body_over_the_limit_is_refused_and_memory_stays_flat() {
    let (_, account, mut node) = start();
    let body = vec![b'x'; 2 * 1024 * 1024];
    let path = format!("/jwt/v1/accounts/{}", account.id());
    let with_length = [
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
        &body,
    ]
    .concat();
    let chunked = [
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            body.len()
        )
        .as_bytes(),
        &body,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    let attempt = || {
        for bytes in [&with_length, &chunked] {
            let answer = raw(node.address(), bytes);
            // The refusal may overtake the body, and a closed connection may overtake the refusal.
            if let Some(answer) = answer {
                assert_eq!(answer.status, 413, "{}", answer.text());
                assert_ne!(answer.text().trim(), "", "no sentence");
            }
        }
    };
    attempt();
    // A client that sends the length first and waits, as a careful client does, can read the sentence.
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = raw(node.address(), head.as_bytes()).expect("a refusal that can be read");
    assert_eq!(answer.status, 413);
    assert!(answer.text().contains("1048"), "it names the limit: {}", answer.text());

    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..25).for_each(|_| attempt()));
        }
    });
    still_well(&node);
    let grown = node.program().resident_kb();
    assert!(grown < 2 * FLAT_KB, "{grown} KB after 400 bodies of 2 MiB");
}

#[test]
fn claims_of_any_depth_are_refused_without_harm() {
    let (operator, account, node) = start();
    for depth in [100, 10_000, 300_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = if close == "}" { "1" } else { "" };
            let deep = format!(
                "{}{inner}{}",
                open.repeat(depth.min(100_000)),
                close.repeat(depth.min(100_000))
            );
            // The claims themselves, signed by the right operator; and the header.
            let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
            let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(deep.as_bytes()));
            let signature = BASE64URL_NOPAD.encode(&operator.key.sign(signed.as_bytes()).unwrap());
            let deep_header = format!("{}.e30.{signature}", BASE64URL_NOPAD.encode(deep.as_bytes()));
            for token in [format!("{signed}.{signature}"), deep_header] {
                let answer = node.post_account(&account.id(), &token);
                assert_eq!(answer.status, 400, "depth {depth}: {}", answer.text());
                assert!(
                    answer.text().len() < 2000,
                    "depth {depth}: the refusal repeats the token"
                );
            }
        }
    }
    still_well(&node);
}

/// A client that never ends its request is disconnected, whether it stops in the head or in the body, and even if it
/// keeps sending something all the time.
#[test]
fn g12_slow_senders_are_disconnected() {
    let (_, account, node) = start();
    let id = account.id();
    let starts = [
        ("nothing at all", String::new()),
        (
            "slow headers",
            "GET /jwt/v1/accounts/ HTTP/1.1\r\nHost: x\r\nX: ".to_owned(),
        ),
        (
            "slow body",
            format!("POST /jwt/v1/accounts/{id} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"),
        ),
    ];
    std::thread::scope(|scope| {
        for (name, start) in &starts {
            let address = node.address();
            scope.spawn(move || {
                let mut connection = Connection::plain(address).unwrap();
                connection.send(start.as_bytes()).unwrap();
                let silent = start.is_empty();
                // One byte at a time, until the node gives up: the pipe breaks or an answer is there.
                let ended = within(TIME_OUT, || {
                    std::thread::sleep(Duration::from_millis(100));
                    let drip = if silent { Ok(()) } else { connection.send(b"x") };
                    (drip.is_err() || has_ended(&mut connection)).then_some(())
                });
                assert!(ended.is_some(), "{name}: still connected after {TIME_OUT:?}");
            });
        }
    });
    still_well(&node);
}

/// Whether the server has sent something (a refusal) or hung up.
fn has_ended(connection: &mut Connection) -> bool {
    connection.arrived(Duration::from_millis(1))
}

/// Ten thousand clients connect and send nothing. The node serves others, uses little memory for these, and closes
/// them.
#[test]
fn g12_ten_thousand_idle_connections_do_not_keep_others_out() {
    const COUNT: usize = 10_000;
    allow_open_files(COUNT as u64 + 1000);
    let (operator, account, mut node) = start();
    node.put(&account, &operator.account(&account));
    let before = node.program().resident_kb();
    let began = Instant::now();
    let idle: Vec<TcpStream> = (0..COUNT)
        .filter_map(|_| TcpStream::connect(node.address()).ok())
        .collect();
    assert!(
        idle.len() > COUNT / 2,
        "only {} connections were taken in {:?}",
        idle.len(),
        began.elapsed()
    );
    let path = format!("/jwt/v1/accounts/{}", account.id());
    eventually("a lookup is answered beside them", || {
        let mut connection = Connection::plain(node.address()).ok()?;
        (connection.request("GET", &path, &[], b"").ok()?.status == 200).then_some(())
    });
    let grown = node.program().resident_kb().saturating_sub(before);
    assert!(grown < 3 * FLAT_KB, "{grown} KB for {} idle connections", idle.len());
    let open = || idle.iter().filter(|stream| !hung_up(stream)).count();
    // When connections come faster than they are accepted, the kernel may drop the last packet of a handshake. The
    // client then takes the connection for open, which the server never had, until the client sends something.
    within(TIME_OUT, || (open() <= COUNT / 1000).then_some(()));
    let left = open();
    assert!(
        left <= COUNT / 1000,
        "{left} idle connections are still open after {TIME_OUT:?}"
    );
    for mut stream in idle.iter().filter(|stream| !hung_up(stream)) {
        // An error is an end, too.
        let _ = stream.write(b"G");
    }
    eventually("the last of them is closed", || (open() == 0).then_some(()));
    still_well(&node);
}

fn hung_up(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    match stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Raises the limit of open files. Each end of a connection is a file, of this process or of the node, which inherits
/// the limit.
fn allow_open_files(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised).expect("the limit may be raised to its own ceiling");
        let ceiling = limit.maximum.unwrap_or(u64::MAX);
        assert!(
            ceiling >= count,
            "this test needs {count} open files; `ulimit -Hn` allows {ceiling}"
        );
    }
}

/// Half of the memory for the beginnings of bodies is what one address may hold: 1,024 times 16 KiB.
#[test]
fn g12_one_address_with_thousands_of_stalled_uploads_does_not_shut_out_another() {
    let operator = Operator::new("O");
    let node = Node::of(&operator);
    allow_open_files(4096);
    let account = Account::new("A");
    let path = format!("/jwt/v1/accounts/{}", account.id());
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 17000\r\n\r\n");
    let body = [b'x'; 16 * 1024];
    let stalled: Vec<TcpStream> = (0..2060)
        .map(|_| {
            let mut stream = TcpStream::connect(node.address()).expect("a running node takes connections");
            // One that is refused may be closed before all is sent.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            stream
        })
        .collect();
    let token = operator.account(&account);
    let push = |from: [u8; 4]| {
        let mut connection = Connection::plain_from(IpAddr::from(from), node.address()).expect("a connection");
        connection
            .request("POST", &path, &[], token.as_bytes())
            .expect("an answer")
    };
    let refused = eventually("the share of the address is used up", || {
        Some(push([127, 0, 0, 1])).filter(|answer| answer.status == 429)
    });
    assert!(refused.text().contains("from your address"), "{}", refused.text());
    let other = push([127, 0, 0, 2]);
    assert_eq!((other.status, other.text()), (200, String::new()));
    drop(stalled);
    eventually("the share is free again", || {
        (push([127, 0, 0, 1]).status == 200).then_some(())
    });
}
