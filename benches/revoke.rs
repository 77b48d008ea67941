//! From the POST of a revocation to the end of the client's connection: beside a bare publish to the same server, and
//! right after an import of many accounts, with two servers.
//!
//! `cargo bench --bench revoke [-- --count 200 --import 40000 --after 50]`; needs nats-server: `tests/tools/fetch nats-server`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nkeys::KeyPair;
use support::arguments::argument;
use support::mint::{Operator, user};
use support::nats::{Connection, NatsServer};
use support::node::{Node, Settings};
use support::process::{clean_up_when_interrupted, free_port, work_folder};
use support::rounds::percentile;
use support::table::{Aim, Table};
use support::upload::post;

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

/// How long a client may stay connected before it counts as not disconnected at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same behind an import, where an earlier build took nine seconds.
const PATIENCE_AFTER_IMPORT: Duration = Duration::from_secs(60);

fn main() {
    clean_up_when_interrupted();
    quiet(argument("count", 200));
    after_import(argument("import", 40_000), argument("after", 50));
}

/// Nothing else happens meanwhile.
fn quiet(count: usize) {
    let folder = work_folder("revoke");
    let operator = Operator::new();
    let nats_address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings {
        nats: Some((format!("nats://{nats_address}"), operator.system_user().creds())),
        ..Settings::default()
    };
    let node = Node::start(folder.path(), &operator, &settings);
    let mut door = Door::open(node.address);
    let system = operator.system.public_key();
    door.post(&system, &operator.account(&system, "SYS", None));
    let server = NatsServer::start(folder.path(), nats_address, &operator, node.address);
    let mut publisher = Connection::open(server.address, &operator.system_user());
    wait_until_connected(&operator, &mut door, &[&server]);

    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let mut victim = Victim::new(&operator, &mut door, &server);
        let begun = Instant::now();
        door.send(&victim.id, &victim.revocation);
        ours.push(
            victim
                .cut_off_after(begun, PATIENCE)
                .expect("an uploaded revocation cuts the user off"),
        );
        door.read_answer();

        let mut victim = Victim::new(&operator, &mut door, &server);
        let begun = Instant::now();
        publisher.publish(
            &format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", victim.id),
            &victim.revocation,
        );
        bare.push(
            victim
                .cut_off_after(begun, PATIENCE)
                .expect("a published revocation cuts the user off"),
        );
    }
    print(ours, bare);
}

fn print(mut ours: Vec<f64>, mut bare: Vec<f64>) {
    ours.sort_by(f64::total_cmp);
    bare.sort_by(f64::total_cmp);
    let title = format!(
        "From a revocation to the disconnection, one node, one server, {} each",
        ours.len()
    );
    let table = Table::begin(&title, "");
    for (name, share, aim) in [("p50", 0.5, Aim::AtMost(4.0)), ("p99", 0.99, Aim::AtMost(10.0))] {
        table.show(
            &format!("POST to disconnection, {name}, ms"),
            percentile(&ours, share),
            aim,
        );
        table.show(
            &format!("bare publish to disconnection, {name}, ms"),
            percentile(&bare, share),
            Aim::Shown,
        );
    }
}

/// A user who is connected, and the token of the account that revokes it.
struct Victim {
    id: String,
    revocation: String,
    connection: Connection,
}

impl Victim {
    /// In an account of its own, so that every token is of the same size.
    fn new(operator: &Operator, door: &mut Door, server: &NatsServer) -> Self {
        let account = KeyPair::new_account();
        let id = account.public_key();
        door.post(&id, &operator.account(&id, "revoke", None));
        let user = user(&account);
        let connection = Connection::open(server.address, &user);
        let revocation = operator.account(&id, "revoke", Some(&user.key.public_key()));
        Self {
            id,
            revocation,
            connection,
        }
    }

    /// Milliseconds from `begun` to the end of the connection.
    fn cut_off_after(&mut self, begun: Instant, patience: Duration) -> Option<f64> {
        let closed = self.connection.closed(patience)?;
        Some(closed.duration_since(begun).as_secs_f64() * 1e3)
    }
}

/// The node was started first (the servers ask it for the system account) and connects when it finds a server. Of
/// several, each has to have found the others too.
fn wait_until_connected(operator: &Operator, door: &mut Door, servers: &[&NatsServer]) {
    const ATTEMPTS: usize = 20;
    for server in servers {
        let connected = (0..ATTEMPTS).any(|_| {
            let mut victim = Victim::new(operator, door, server);
            let begun = Instant::now();
            door.post(&victim.id, &victim.revocation);
            victim.cut_off_after(begun, PATIENCE).is_some()
        });
        assert!(connected, "the node tells the servers of changes");
    }
}

/// Right after `import` accounts were uploaded, `count` users are revoked, one after another, on two servers in turns.
fn after_import(import: usize, count: usize) {
    let folder = work_folder("revoke-import");
    let operator = Operator::new();
    let addresses = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let settings = Settings {
        nats: Some((format!("nats://{}", addresses[0]), operator.system_user().creds())),
        ..Settings::default()
    };
    let node = Node::start(folder.path(), &operator, &settings);
    let mut door = Door::open(node.address);
    let system = operator.system.public_key();
    door.post(&system, &operator.account(&system, "SYS", None));
    let servers = NatsServer::pair(folder.path(), addresses, &operator, node.address);
    wait_until_connected(&operator, &mut door, &[&servers[0], &servers[1]]);

    let accounts = operator.accounts(import);
    let mut victims: Vec<Victim> = (0..count)
        .map(|at| Victim::new(&operator, &mut door, &servers[at % 2]))
        .collect();
    // Their own first revisions are behind the node when the import begins.
    node.settle();
    let seconds = node.load(&accounts);
    let (mut answered, mut took) = (Vec::new(), Vec::new());
    for victim in &mut victims {
        let begun = Instant::now();
        door.send(&victim.id, &victim.revocation);
        // It comes before a server can have been told.
        door.read_answer();
        answered.push(begun.elapsed().as_secs_f64() * 1e3);
        let cut_off = victim.cut_off_after(begun, PATIENCE_AFTER_IMPORT);
        took.push(cut_off.expect("an uploaded revocation cuts the user off"));
    }
    answered.sort_by(f64::total_cmp);
    took.sort_by(f64::total_cmp);
    let title =
        format!("Right after an import of {import} accounts in {seconds:.1} s, two servers, {count} revocations");
    let table = Table::begin(&title, "");
    for (name, share, aim) in [("p50", 0.5, Aim::Shown), ("p99", 0.99, Aim::AtMost(100.0))] {
        table.show(
            &format!("POST to disconnection, {name}, ms"),
            percentile(&took, share),
            aim,
        );
        table.show(
            &format!("of this until the POST is answered, {name}, ms"),
            percentile(&answered, share),
            Aim::Shown,
        );
    }
}

/// A kept-alive connection to the node's public port.
struct Door {
    socket: TcpStream,
}

impl Door {
    fn open(node: SocketAddr) -> Self {
        let socket = TcpStream::connect(node).expect("the node listens");
        socket.set_nodelay(true).expect("a TCP connection has this option");
        Self { socket }
    }

    fn post(&mut self, id: &str, token: &str) {
        self.send(id, token);
        self.read_answer();
    }

    fn send(&mut self, id: &str, token: &str) {
        self.socket
            .write_all(&post(id, token))
            .expect("the node takes an upload");
    }

    /// An acknowledgement has no body, so its head is all of it.
    fn read_answer(&mut self) {
        let mut answer = Vec::new();
        let mut piece = [0; 4_096];
        while !answer.ends_with(b"\r\n\r\n") {
            let count = self.socket.read(&mut piece).expect("the node answers");
            answer.extend_from_slice(&piece[..count]);
            let refused = count == 0 || !answer.starts_with(b"HTTP/1.1 200");
            assert!(!refused, "an upload was refused: {}", String::from_utf8_lossy(&answer));
        }
    }
}
