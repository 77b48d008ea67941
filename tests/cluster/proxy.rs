//! The tests' own network faults: a test of a partition proves something only if the partition is one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::process::{PATIENCE, eventually, within};
use crate::support::proxy::{Direction, Proxy, RETRANSMISSION};

/// How long nothing may arrive before it counts as cut.
const SILENCE: Duration = Duration::from_millis(150);

/// A proxy and the target behind it.
struct Setup {
    proxy: Proxy,
    target: TcpListener,
}

/// The two ends of a connection through the proxy.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Setup {
    fn new() -> Self {
        let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
        target.set_nonblocking(true).expect("a listener");
        let proxy = Proxy::to(target.local_addr().expect("it is bound"));
        Self { proxy, target }
    }

    /// The next connection that the target sees, if it sees one now.
    fn seen(&self) -> Option<TcpStream> {
        self.target.accept().ok().map(|(stream, _)| patient(stream))
    }

    #[track_caller]
    fn connect(&self) -> Pair {
        let client = connect(self.proxy.address());
        let server = eventually("the target sees the connection", || self.seen());
        Pair { client, server }
    }

    /// Asserts that a new connection passes bytes both ways. The target may see older ones first.
    #[track_caller]
    fn assert_passes(&self) {
        let mut client = connect(self.proxy.address());
        client.write_all(b"new").expect("it is connected");
        let mut server = eventually("a new connection passes", || {
            let mut server = self.seen()?;
            let mut bytes = [0; 3];
            server.read_exact(&mut bytes).ok()?;
            (bytes == *b"new").then_some(server)
        });
        server.write_all(b"yes").expect("it is connected");
        assert_arrives(&mut client, b"yes");
    }
}

impl Pair {
    /// Who sends and who receives in this direction.
    fn ends(&mut self, direction: Direction) -> (&mut TcpStream, &mut TcpStream) {
        match direction {
            Direction::ToTarget => (&mut self.client, &mut self.server),
            Direction::FromTarget => (&mut self.server, &mut self.client),
        }
    }

    #[track_caller]
    fn assert_passes(&mut self, direction: Direction, bytes: &[u8]) {
        let (sender, receiver) = self.ends(direction);
        sender.write_all(bytes).expect("it is connected");
        assert_arrives(receiver, bytes);
    }

    /// How long a byte takes to the target and another one back.
    #[track_caller]
    fn round_trip(&mut self) -> Duration {
        let start = Instant::now();
        self.assert_passes(Direction::ToTarget, b"?");
        self.assert_passes(Direction::FromTarget, b"!");
        start.elapsed()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).expect("the proxy listens"))
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a TCP socket");
    stream
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::ToTarget => Direction::FromTarget,
        Direction::FromTarget => Direction::ToTarget,
    }
}

#[track_caller]
fn assert_arrives(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).expect("it arrives");
    assert_eq!(bytes, expected);
}

/// Asserts that nothing arrives, neither bytes nor the end.
#[track_caller]
fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).expect("a TCP socket");
    let read = stream.read(&mut [0]);
    let silent = matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock);
    assert!(silent, "not silent: {read:?}");
    stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
}

/// Asserts that no byte arrives any more, and that the connection ends.
#[track_caller]
fn assert_closed(stream: &mut TcpStream) {
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("not closed: {other:?}"),
    }
}

fn random_bytes(size: usize) -> Vec<u8> {
    (0..size).map(|_| rand::random()).collect()
}

/// Sends `there` and `back` at once, each with the end after it; both must arrive whole.
#[track_caller]
fn assert_exchanges(pair: &Pair, there: &[u8], back: &[u8]) {
    let send = |mut stream: &TcpStream, bytes: &[u8]| {
        stream.write_all(bytes).expect("it is connected");
        stream.shutdown(Shutdown::Write).expect("it is connected");
    };
    let receive = |mut stream: &TcpStream, expected: &[u8]| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("all of it arrives");
        assert!(bytes == expected, "{} bytes, not the {}", bytes.len(), expected.len());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| send(&pair.client, there));
        scope.spawn(|| send(&pair.server, back));
        scope.spawn(|| receive(&pair.server, there));
        receive(&pair.client, back);
    });
}

#[test]
fn bytes_and_the_end_pass_unchanged_both_ways() {
    let setup = Setup::new();
    let (there, back) = (random_bytes(1 << 20), random_bytes(1 << 20));
    assert_exchanges(&setup.connect(), &there, &back);
    setup.proxy.delay(Direction::ToTarget, Duration::from_millis(30));
    setup.proxy.loss(100);
    assert_exchanges(&setup.connect(), &there, &back);
}

#[test]
fn a_delay_of_either_direction_is_seen_in_a_round_trip() {
    let delay = Duration::from_millis(100);
    for direction in Direction::BOTH {
        let setup = Setup::new();
        let mut pair = setup.connect();
        setup.proxy.delay(direction, delay);
        let took = pair.round_trip();
        assert!(took >= delay, "{direction:?}: {took:?}");
    }
}

/// One chunk for each delay would take longer than the test waits: 4 MiB are at least 64 chunks.
#[test]
fn a_delay_does_not_limit_the_throughput() {
    let setup = Setup::new();
    let delay = PATIENCE / 60;
    setup.proxy.delay(Direction::ToTarget, delay);
    let start = Instant::now();
    assert_exchanges(&setup.connect(), &random_bytes(4 << 20), b"");
    let took = start.elapsed();
    assert!(took >= delay && took < PATIENCE, "{took:?}");
}

#[test]
fn a_loss_costs_a_retransmission_in_each_direction() {
    let setup = Setup::new();
    let mut pair = setup.connect();
    setup.proxy.loss(1000);
    let took = pair.round_trip();
    assert!(took >= 2 * RETRANSMISSION, "{took:?}");
}

/// Writes until nothing more is taken for a while; gives how much was.
#[track_caller]
fn fill(stream: &mut TcpStream) -> usize {
    const MOST: usize = 128 << 20;
    stream.set_write_timeout(Some(SILENCE)).expect("a TCP socket");
    let chunk = [7; 64 * 1024];
    let mut sent = 0;
    while let Ok(count) = stream.write(&chunk) {
        sent += count;
        assert!(sent < MOST, "the sender never has to wait");
    }
    sent
}

/// Ends the client's side; all that it sent must arrive at the server.
#[track_caller]
fn assert_received(pair: &mut Pair, sent: usize) {
    pair.client.shutdown(Shutdown::Write).expect("it is connected");
    let mut received = Vec::new();
    pair.server.read_to_end(&mut received).expect("it is connected");
    assert_eq!(received.len(), sent);
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender() {
    let setup = Setup::new();
    let mut pair = setup.connect();
    let sent = fill(&mut pair.client);
    assert_received(&mut pair, sent);
}

/// The queue is full long before the delay has passed; what it holds arrives when the network heals.
#[test]
fn a_delayed_direction_stops_reading_at_its_limit() {
    let setup = Setup::new();
    let mut pair = setup.connect();
    setup.proxy.delay(Direction::ToTarget, Duration::from_secs(3600));
    let sent = fill(&mut pair.client);
    assert_silent(&mut pair.server);
    setup.proxy.heal();
    assert_received(&mut pair, sent);
}

#[test]
fn a_cut_in_one_direction_lets_the_other_pass() {
    for cut in Direction::BOTH {
        let setup = Setup::new();
        let mut pair = setup.connect();
        pair.round_trip();
        setup.proxy.cut(cut);

        pair.ends(cut).0.write_all(b"lost").expect("it stays open");
        pair.assert_passes(opposite(cut), b"passes");
        assert_silent(pair.ends(cut).1);

        // Nor does the receiver see that the sender has ended.
        pair.ends(cut).0.shutdown(Shutdown::Write).expect("it stays open");
        pair.assert_passes(opposite(cut), b"passes");
        assert_silent(pair.ends(cut).1);
    }
}

#[test]
fn heal_closes_the_connections_on_which_something_was_withheld() {
    for cut in Direction::BOTH {
        let setup = Setup::new();
        let (mut sends, mut ends, mut idle, mut half) =
            (setup.connect(), setup.connect(), setup.connect(), setup.connect());
        half.ends(cut).0.shutdown(Shutdown::Write).expect("it is connected");
        assert_closed(half.ends(cut).1);
        setup.proxy.cut(cut);
        sends.ends(cut).0.write_all(b"lost").expect("it stays open");
        ends.ends(cut).0.shutdown(Shutdown::Write).expect("it stays open");
        idle.assert_passes(opposite(cut), b"passes");
        assert_silent(sends.ends(cut).1);
        assert_silent(ends.ends(cut).1);

        setup.proxy.heal();
        for pair in [&mut sends, &mut ends] {
            assert_closed(&mut pair.client);
            assert_closed(&mut pair.server);
        }
        idle.round_trip();
        half.assert_passes(opposite(cut), b"passes");
        setup.assert_passes();
    }
}

/// What was queued for later when the cut began is withheld as well.
#[test]
fn a_cut_withholds_what_is_on_its_way() {
    let setup = Setup::new();
    let mut pair = setup.connect();
    let delay = Duration::from_secs(1);
    setup.proxy.delay(Direction::ToTarget, delay);
    let start = Instant::now();
    pair.client.write_all(b"lost").expect("it is connected");
    assert_silent(&mut pair.server);
    setup.proxy.cut(Direction::ToTarget);
    while start.elapsed() < delay + SILENCE {
        assert_silent(&mut pair.server);
    }
    setup.proxy.heal();
    assert_closed(&mut pair.server);
}

#[test]
fn a_connection_made_during_a_cut_does_not_reach_the_target() {
    for cut in Direction::BOTH {
        let setup = Setup::new();
        setup.proxy.cut(cut);
        let mut client = connect(setup.proxy.address());
        client.write_all(b"old").expect("the kernel accepts it");
        assert_silent(&mut client);
        assert!(
            within(SILENCE, || setup.seen()).is_none(),
            "{cut:?}: the target sees it"
        );

        setup.proxy.heal();
        setup.assert_passes();
        assert_closed(&mut client);
    }
}

#[test]
fn refuse_closes_open_connections_and_new_ones_until_heal() {
    let setup = Setup::new();
    let mut pair = setup.connect();
    setup.proxy.cut(Direction::FromTarget);
    let mut waiting = connect(setup.proxy.address());
    assert_silent(&mut waiting);
    setup.proxy.refuse();
    assert_closed(&mut pair.client);
    assert_closed(&mut pair.server);
    assert_closed(&mut waiting);
    assert_closed(&mut connect(setup.proxy.address()));
    assert!(setup.seen().is_none(), "the target sees a refused connection");

    setup.proxy.heal();
    setup.assert_passes();
}

#[test]
fn one_side_sees_that_the_other_is_gone() {
    for direction in Direction::BOTH {
        let setup = Setup::new();
        let Pair { client, server } = setup.connect();
        let (gone, mut left) = match direction {
            Direction::ToTarget => (client, server),
            Direction::FromTarget => (server, client),
        };
        drop(gone);
        assert_closed(&mut left);
        // The end alone does not say that nothing reads; the reset after it does.
        eventually("writes fail", || left.write_all(b"unread").is_err().then_some(()));
    }
}

/// Neither its end nor the reset that answers the server passes the cut.
#[test]
fn the_server_does_not_see_that_a_client_behind_a_cut_is_gone() {
    let setup = Setup::new();
    let Pair { client, mut server } = setup.connect();
    setup.proxy.cut(Direction::ToTarget);
    drop(client);
    for _ in 0..3 {
        server.write_all(b"unread").expect("it stays open");
        assert_silent(&mut server);
    }
    setup.proxy.heal();
    assert_closed(&mut server);
}

#[test]
fn a_dropped_proxy_closes_its_connections_and_its_port() {
    let setup = Setup::new();
    setup.assert_passes();
    let address = setup.proxy.address();
    setup.proxy.delay(Direction::ToTarget, Duration::from_secs(3600));
    let mut client = connect(address);
    client.write_all(b"never arrives").expect("it is connected");
    // Fails if a thread of the proxy goes on.
    drop(setup.proxy);
    assert_closed(&mut client);
    let error = TcpStream::connect(address).expect_err("nothing listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
