//! Uploads over HTTP/1.1: one thread, one kept-alive connection a client, every byte made before the clock starts.
//!
//! It allocates nothing while it runs: a generator that collects garbage or grows buffers shows its own pauses in the
//! p99 of the server it measures.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::mint::Minted;

/// Requests, one behind the other in one piece of memory.
#[derive(Default)]
pub(crate) struct Requests {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Requests {
    /// The POST of each account.
    pub(crate) fn posts(accounts: &[Minted]) -> Self {
        let mut requests = Self::default();
        requests
            .bytes
            .reserve(accounts.iter().map(|account| account.token.len() + 256).sum());
        for account in accounts {
            requests.push(&post(&account.id, &account.token));
        }
        requests
    }

    /// Adds one.
    pub(crate) fn push(&mut self, request: &[u8]) {
        self.bytes.extend_from_slice(request);
        self.ends.push(self.bytes.len());
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)?;
        let begin = if at == 0 { 0 } else { self.ends[at - 1] };
        Some(&self.bytes[begin..end])
    }
}

/// The request that uploads `token`.
pub(crate) fn post(id: &str, token: &str) -> Vec<u8> {
    let length = token.len();
    format!("POST /jwt/v1/accounts/{id} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{token}").into()
}

/// What a round did.
pub(crate) struct Uploaded {
    /// Acknowledged.
    pub(crate) count: usize,
    /// From the first request to the last answer.
    pub(crate) seconds: f64,
    /// Milliseconds of each, in ascending order.
    pub(crate) latencies: Vec<f64>,
}

impl Uploaded {
    /// How many, to divide by.
    pub(crate) fn number(&self) -> f64 {
        self.count as f64
    }

    /// Acknowledged a second.
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }
}

/// What the clients of one round share: the requests that are left, and what was measured.
pub(crate) struct Round<'a> {
    requests: &'a Requests,
    next: Cell<usize>,
    begun: Instant,
    time: Duration,
    micros: RefCell<Vec<u32>>,
}

impl<'a> Round<'a> {
    /// Begins now and ends after `time`, or when all requests are used up.
    pub(crate) fn begin(requests: &'a Requests, time: Duration) -> Self {
        let micros = RefCell::new(Vec::with_capacity(requests.len()));
        Self {
            requests,
            next: Cell::new(0),
            begun: Instant::now(),
            time,
            micros,
        }
    }

    /// The next request, as long as the round lasts.
    pub(crate) fn take(&self) -> Option<&'a [u8]> {
        let at = self.next.get();
        self.next.set(at + 1);
        if self.begun.elapsed() < self.time {
            self.requests.get(at)
        } else {
            None
        }
    }

    /// One was acknowledged.
    pub(crate) fn record(&self, latency: Duration) {
        self.micros
            .borrow_mut()
            .push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// What was measured.
    pub(crate) fn end(self) -> Uploaded {
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut latencies: Vec<f64> = self
            .micros
            .into_inner()
            .into_iter()
            .map(|us| f64::from(us) / 1e3)
            .collect();
        latencies.sort_by(f64::total_cmp);
        Uploaded {
            count: latencies.len(),
            seconds,
            latencies,
        }
    }
}

/// Uploads for `time`, or until all of `requests` are used up, each of `clients` waiting for its answer. They take the
/// servers in turn.
pub(crate) fn upload(servers: &[SocketAddr], clients: usize, requests: &Requests, time: Duration) -> Uploaded {
    one_thread().block_on(async {
        let connect = |client| async move { connect(servers[client % servers.len()]).await };
        let mut connections = join_all((0..clients).map(connect)).await;
        let round = Round::begin(requests, time);
        join_all(connections.iter_mut().map(|connection| run(connection, &round))).await;
        round.end()
    })
}

/// A runtime on the calling thread alone.
pub(crate) fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime on this thread")
}

/// A connection that sends what it is given at once.
pub(crate) async fn connect(server: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(server)
        .await
        .unwrap_or_else(|error| panic!("connect {server}: {error}"));
    connection.set_nodelay(true).expect("a TCP connection has this option");
    connection
}

async fn run(connection: &mut TcpStream, round: &Round<'_>) {
    let mut answer = [0; 4_096];
    while let Some(request) = round.take() {
        let begun = Instant::now();
        connection.write_all(request).await.expect("the server takes an upload");
        read_answer(connection, &mut answer).await;
        round.record(begun.elapsed());
    }
}

/// Reads one answer; anything but success ends the bench, because a round with refusals measures something else.
async fn read_answer(connection: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let count = connection
            .read(&mut buffer[filled..])
            .await
            .expect("the server answers");
        filled += count;
        let answer = &buffer[..filled];
        assert!(
            count > 0,
            "the server closed the connection after: {}",
            String::from_utf8_lossy(answer)
        );
        if let Some(head) = find(answer, b"\r\n\r\n") {
            let whole = head + 4 + content_length(&answer[..head]);
            if filled >= whole {
                assert!(
                    answer.starts_with(b"HTTP/1.1 200"),
                    "{}",
                    String::from_utf8_lossy(answer)
                );
                return;
            }
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length: ";
    let named = head.split(|byte| *byte == b'\n').find(|line| {
        line.get(..NAME.len())
            .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
    });
    let digits = named.map_or(&[][..], |line| line[NAME.len()..].trim_ascii());
    digits
        .iter()
        .fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
