//! The peer for uploads: etcd, and puts over gRPC from a generator as frugal as the one for our own uploads.
//!
//! gRPC is spoken by hand (RFC 9113, RFC 7541, `PROTOCOL-HTTP2.md` of grpc) so that both servers get the same share of
//! the machine: a client library would take its own share from etcd only. Header fields are sent in full once a
//! connection and by index from then on, as client libraries do.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::mint::Minted;
use super::node::get;
use super::process::{Program, find_program, free_port};
use super::upload::{Requests, Round, Uploaded, connect, one_thread};

const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A running etcd.
pub(crate) struct Etcd {
    /// The processes of its members.
    pub(crate) programs: Vec<Program>,
    /// Where clients connect.
    addresses: Vec<SocketAddr>,
}

impl Etcd {
    /// Starts one of `count` members with their data in `folder`.
    pub(crate) fn start(folder: &Path, count: usize) -> Self {
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let [clients, peers] = [(); 2].map(|()| (0..count).map(|_| free_port()).collect::<Vec<_>>());
        let members = peers
            .iter()
            .enumerate()
            .map(|(at, peer)| format!("m{at}={}", url(peer)));
        let members = members.collect::<Vec<_>>().join(",");
        let mut programs = Vec::new();
        for (at, (client, peer)) in clients.iter().zip(&peers).enumerate() {
            let mut command = Command::new(find_program("etcd", "etcd-server"));
            command
                .arg(format!("--name=m{at}"))
                .arg("--data-dir")
                .arg(folder.join(format!("etcd-{at}")));
            command
                .arg(format!("--listen-client-urls={}", url(client)))
                .arg(format!("--advertise-client-urls={}", url(client)));
            command
                .arg(format!("--listen-peer-urls={}", url(peer)))
                .arg(format!("--initial-advertise-peer-urls={}", url(peer)))
                .arg(format!("--initial-cluster={members}"));
            // Beyond the default of 2 GB it would refuse to write in a long run.
            command
                .arg("--quota-backend-bytes=8589934592")
                .arg("--logger=zap")
                .arg("--log-level=warn");
            programs.push(Program::start(command, folder, &format!("etcd-{at}")));
        }
        let addresses: Vec<SocketAddr> = clients.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
        for (program, address) in programs.iter_mut().zip(&addresses) {
            // It answers once it knows a leader.
            program.wait_until(|_| get(*address, "/health").is_some_and(|health| health.contains("true")));
        }
        Self { programs, addresses }
    }

    /// Puts for `time`, or until all of `requests` (see `puts`) are used up, each of `clients` waiting for its answer;
    /// `together` of them share a connection. The connections go to the members in turn, from number `first` on.
    pub(crate) fn put(
        &self,
        first: usize,
        (clients, together): (usize, usize),
        requests: &Requests,
        time: Duration,
    ) -> Uploaded {
        let address = |at: usize| self.addresses[(first + at) % self.addresses.len()];
        one_thread().block_on(async {
            let shares = (0..clients.div_ceil(together)).map(|at| (at, together.min(clients - at * together)));
            let open = shares.map(|(at, share)| Connection::open(address(at), share));
            let mut connections = join_all(open).await;
            let round = Round::begin(requests, time);
            join_all(connections.iter_mut().map(|connection| connection.run(&round))).await;
            round.end()
        })
    }
}

/// The put of each account's token under its key, as DATA frames whose stream is filled in when they are sent.
pub(crate) fn puts(accounts: &[Minted]) -> Requests {
    let mut requests = Requests::default();
    for account in accounts {
        requests.push(&put(account));
    }
    requests
}

fn put(account: &Minted) -> Vec<u8> {
    let mut message = Vec::new();
    // PutRequest { bytes key = 1; bytes value = 2; }
    for (tag, field) in [(0x0a, account.id.as_bytes()), (0x12, account.token.as_bytes())] {
        message.push(tag);
        let mut length = field.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(field);
    }
    // gRPC: not compressed, four bytes of length.
    let mut payload = vec![0];
    payload.extend_from_slice(&(message.len() as u32).to_be_bytes());
    payload.extend_from_slice(&message);
    let mut frame = Vec::new();
    push_frame(&mut frame, DATA, END_STREAM, 0, &payload);
    frame
}

fn push_frame(into: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    into.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    into.extend_from_slice(&[kind, flags]);
    into.extend_from_slice(&stream.to_be_bytes());
    into.extend_from_slice(payload);
}

/// One put on its way.
#[derive(Clone, Copy)]
struct Call {
    stream: u32,
    begun: Instant,
    answered: bool,
}

/// A connection that several clients share.
struct Connection {
    socket: TcpStream,
    calls: Vec<Option<Call>>,
    next_stream: u32,
    /// How many bytes the server takes before it says that it takes more (RFC 9113, 6.9).
    window: usize,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
}

impl Connection {
    async fn open(server: SocketAddr, clients: usize) -> Self {
        let mut output = Vec::with_capacity(64 * 1024);
        output.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        push_frame(&mut output, SETTINGS, 0, 0, &[]);
        // All the room for answers that can be given, so that none is ever added while the clock runs.
        push_frame(
            &mut output,
            WINDOW_UPDATE,
            0,
            0,
            &(0x7fff_ffff_u32 - 65_535).to_be_bytes(),
        );
        Self {
            socket: connect(server).await,
            calls: vec![None; clients],
            next_stream: 1,
            window: 65_535,
            input: vec![0; 64 * 1024],
            filled: 0,
            output,
        }
    }

    async fn run(&mut self, round: &Round<'_>) {
        for client in 0..self.calls.len() {
            self.send_next(client, round);
        }
        while self.calls.iter().any(Option::is_some) {
            self.socket.write_all(&self.output).await.expect("etcd takes a put");
            self.output.clear();
            let count = self
                .socket
                .read(&mut self.input[self.filled..])
                .await
                .expect("etcd answers");
            assert!(count > 0, "etcd closed the connection");
            self.filled += count;
            self.take_frames(round);
        }
    }

    fn take_frames(&mut self, round: &Round<'_>) {
        let mut at = 0;
        while at + FRAME_HEAD <= self.filled {
            let head: [u8; FRAME_HEAD] = self.input[at..at + FRAME_HEAD].try_into().expect("nine bytes are nine");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let end = at + FRAME_HEAD + length;
            if end > self.filled {
                break;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            self.take_frame(head[3], head[4], stream, at + FRAME_HEAD..end, round);
            at = end;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
    }

    fn take_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: std::ops::Range<usize>, round: &Round<'_>) {
        match kind {
            SETTINGS if flags & ACK == 0 => push_frame(&mut self.output, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => push_frame(&mut self.output, PING, ACK, 0, &self.input[payload]),
            WINDOW_UPDATE if stream == 0 => {
                let more = self.input[payload]
                    .iter()
                    .fold(0, |number, byte| number << 8 | usize::from(*byte));
                self.window += more;
            }
            DATA | HEADERS => {
                let of_stream = |call: &Option<Call>| call.is_some_and(|call| call.stream == stream);
                let client = self
                    .calls
                    .iter()
                    .position(of_stream)
                    .expect("etcd answers what was asked");
                let call = self.calls[client].as_mut().expect("found by its stream");
                // An error is answered with headers alone.
                call.answered |= kind == DATA;
                if flags & END_STREAM != 0 {
                    assert!(call.answered, "etcd refused a put");
                    round.record(call.begun.elapsed());
                    self.send_next(client, round);
                }
            }
            GO_AWAY => panic!("etcd ended the connection: {:?}", &self.input[payload]),
            _ => {}
        }
    }

    fn send_next(&mut self, client: usize, round: &Round<'_>) {
        self.calls[client] = None;
        let Some(frame) = round.take() else {
            return;
        };
        let stream = self.next_stream;
        self.next_stream += 2;
        let payload = frame.len() - FRAME_HEAD;
        // It renews the window after a quarter of it was used, and all clients of a connection need another quarter.
        self.window = self
            .window
            .checked_sub(payload)
            .expect("etcd renews the window in time");
        let fields = if stream == 1 { FIRST_FIELDS } else { LATER_FIELDS };
        push_frame(&mut self.output, HEADERS, END_HEADERS, stream, fields);
        let begin = self.output.len();
        self.output.extend_from_slice(frame);
        self.output[begin + 5..begin + FRAME_HEAD].copy_from_slice(&stream.to_be_bytes());
        self.calls[client] = Some(Call {
            stream,
            begun: Instant::now(),
            answered: false,
        });
    }
}

/// `:method: POST` and `:scheme: http` from the static table, then `:path`, `:authority`, `content-type` and `te` in
/// full, each entering the dynamic table.
const FIRST_FIELDS: &[u8] =
    b"\x83\x86\x44\x14/etcdserverpb.KV/Put\x41\x09localhost\x5f\x10application/grpc\x40\x02te\x08trailers";

/// The same fields, the four from the dynamic table, where the latest is number 62.
const LATER_FIELDS: &[u8] = &[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];
