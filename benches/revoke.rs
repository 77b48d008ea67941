//! From the POST of a revocation to the end of the client's connection, on one and three nats-servers, with one and three
//! nodes, beside nats-server's built-in full resolver that is pushed the same; right after an import of many accounts; and
//! many revocations at once, until the last of them is proven.
//!
//! `cargo bench --bench revoke [-- --count 200 --import 40000 --after 50 --batch 1000]`; needs nats-server:
//! `tests/tools/fetch nats-server`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nkeys::KeyPair;
use support::arguments::argument;
use support::mesh::{Mesh, Shape};
use support::mint::{Operator, User, user};
use support::nats::{Accounts, Connection, NatsServer};
use support::process::{clean_up_when_interrupted, eventually, free_port, settle, work_folder};
use support::rounds::percentile;
use support::table::{Aim, Table};
use support::upload::{Requests, post, upload};
use tempfile::TempDir;

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

/// How long a client may stay connected before it counts as not disconnected at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same behind an import, where an earlier build took nine seconds.
const PATIENCE_AFTER_IMPORT: Duration = Duration::from_secs(60);

/// Uploads at once in an import.
const CLIENTS: usize = 64;

/// Uploads at once in a batch: a node takes 256 questions about what is in force where.
const AT_ONCE: usize = 250;

const LONG_ENOUGH: Duration = Duration::from_secs(3_600);

const UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";

fn main() {
    clean_up_when_interrupted();
    for (nodes, servers, p50, p99) in [
        (1, 1, Aim::AtMost(4.0), Aim::AtMost(10.0)),
        (1, 3, Aim::Shown, Aim::Shown),
        (3, 1, Aim::Shown, Aim::Shown),
        (3, 3, Aim::AtMost(8.0), Aim::AtMost(25.0)),
    ] {
        quiet(&mut Ours::start(nodes, servers), argument("count", 200), (p50, p99));
    }
    for size in [1, 3] {
        after_import(
            &mut Ours::start(size, size),
            argument("import", 40_000),
            argument("after", 50),
        );
    }
    for size in [1, 3] {
        batch(&mut Ours::start(size, size), argument("batch", 1_000));
    }
}

/// A mesh, and the NATS cluster that it publishes to.
struct Ours {
    operator: Operator,
    mesh: Mesh,
    servers: Vec<NatsServer>,
    doors: Vec<Door>,
    _folder: TempDir,
}

fn addresses(count: usize) -> Vec<SocketAddr> {
    (0..count)
        .map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())))
        .collect()
}

impl Ours {
    fn start(nodes: usize, servers: usize) -> Self {
        let (folder, operator, addresses) = (work_folder("revoke"), Operator::new(), addresses(servers));
        let creds = folder.path().join("system.creds");
        std::fs::write(&creds, operator.system_user().creds()).expect("the bench's own folder is writable");
        let urls: Vec<String> = addresses.iter().map(|address| format!("nats://{address}")).collect();
        let link = format!("\n[[nats]]\nname = \"bench\"\nservers = {urls:?}\ncreds = {creds:?}\n");
        let shape = Shape {
            nodes,
            acknowledge: "reachable",
            one_way: Duration::ZERO,
        };
        let mesh = Mesh::start_with(folder.path(), &operator, shape, &link);
        let mut doors: Vec<Door> = mesh.addresses.iter().map(|node| Door::open(*node)).collect();
        let system = operator.system.public_key();
        doors[0].post(&system, &operator.account(&system, "SYS", None));
        let servers = NatsServer::cluster(folder.path(), &addresses, &operator, &Accounts::Nodes(&mesh.addresses));
        let mut ours = Self {
            operator,
            mesh,
            servers,
            doors,
            _folder: folder,
        };
        ours.wait_until_connected();
        ours
    }

    /// The nodes were started first (the servers ask them for the system account) and connect when they find a server.
    /// Each server has to have found the others too.
    fn wait_until_connected(&mut self) {
        const ATTEMPTS: usize = 20;
        for server in 0..self.servers.len() {
            let connected = (0..ATTEMPTS).any(|_| {
                let mut victim = self.victim(server);
                let begun = Instant::now();
                self.doors[0].post(&victim.id, &victim.revocation);
                victim.cut_off_after(begun, PATIENCE).is_some()
            });
            assert!(connected, "the nodes tell the servers of changes");
        }
    }

    /// A user who is connected to the server of this number.
    fn victim(&mut self, server: usize) -> Victim {
        // Through the node that the server will ask.
        let node = server % self.doors.len();
        let victim = Victim::mint(&self.operator);
        self.doors[node].post(&victim.id, &victim.first);
        victim.connect(&self.servers[server])
    }
}

/// A NATS cluster with the built-in resolver.
struct Peer {
    servers: Vec<NatsServer>,
    /// As nsc has one.
    pusher: Connection,
    _folder: TempDir,
}

impl Peer {
    fn start(operator: &Operator, servers: usize) -> Self {
        let folder = work_folder("revoke-peer");
        let servers = NatsServer::cluster(folder.path(), &addresses(servers), operator, &Accounts::Folders);
        let mut pusher = Connection::open(servers[0].address, &operator.system_user());
        pusher.take_answers();
        let count = servers.len();
        eventually("the servers find each other", || {
            (pusher.servers() == count).then_some(())
        });
        Self {
            servers,
            pusher,
            _folder: folder,
        }
    }

    /// Until every server has answered.
    fn push(&mut self, tokens: &[&str]) {
        let requests: Vec<_> = tokens.iter().map(|token| (UPDATE.to_owned(), *token)).collect();
        self.pusher.request(&requests, self.servers.len());
    }

    fn victim(&mut self, operator: &Operator, server: usize) -> Victim {
        let victim = Victim::mint(operator);
        self.push(&[&victim.first]);
        victim.connect(&self.servers[server])
    }
}

/// Nothing else happens meanwhile.
fn quiet(ours: &mut Ours, count: usize, (p50, p99): (Aim, Aim)) {
    let (nodes, servers) = (ours.doors.len(), ours.servers.len());
    let mut peer = Peer::start(&ours.operator, servers);
    let (mut took, mut theirs) = (Vec::new(), Vec::new());
    for at in 0..count {
        let mut victim = ours.victim(at % servers);
        let begun = Instant::now();
        let door = &mut ours.doors[at % nodes];
        door.send(&victim.id, &victim.revocation);
        let cut_off = victim.cut_off_after(begun, PATIENCE);
        took.push(cut_off.expect("an uploaded revocation cuts the user off"));
        door.read_answer();

        let mut victim = peer.victim(&ours.operator, at % servers);
        let begun = Instant::now();
        peer.pusher.publish(UPDATE, &victim.revocation);
        let cut_off = victim.cut_off_after(begun, PATIENCE);
        theirs.push(cut_off.expect("a pushed revocation cuts the user off"));
    }
    took.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let title = format!("From a revocation to the disconnection, {nodes} nodes, {servers} nats-servers, {count} each");
    let table = Table::begin(&title, "full");
    for (name, share, aim) in [("p50", 0.5, p50), ("p99", 0.99, p99)] {
        let what = format!("POST or push to disconnection, {name}, ms");
        table.beside(&what, percentile(&took, share), percentile(&theirs, share), aim);
    }
}

/// An account, and the token of it that revokes its user.
struct Victim {
    id: String,
    user: User,
    first: String,
    revocation: String,
    connection: Option<Connection>,
}

impl Victim {
    /// In an account of its own, so that every token is of the same size.
    fn mint(operator: &Operator) -> Self {
        let account = KeyPair::new_account();
        let (id, user) = (account.public_key(), user(&account));
        Self {
            first: operator.account(&id, "revoke", None),
            revocation: operator.account(&id, "revoke", Some(&user.key.public_key())),
            connection: None,
            id,
            user,
        }
    }

    fn connect(mut self, server: &NatsServer) -> Self {
        self.connection = Some(Connection::open(server.address, &self.user));
        self
    }

    /// Milliseconds from `begun` to the end of the connection.
    fn cut_off_after(&mut self, begun: Instant, patience: Duration) -> Option<f64> {
        let connection = self.connection.as_mut().expect("it is connected");
        let closed = connection.closed(patience)?;
        Some(closed.duration_since(begun).as_secs_f64() * 1e3)
    }
}

/// Right after `import` accounts were uploaded, `count` users are revoked, one after another, on the servers in turns.
fn after_import(ours: &mut Ours, import: usize, count: usize) {
    let accounts = ours.operator.accounts(import);
    let servers = ours.servers.len();
    let mut victims: Vec<Victim> = (0..count).map(|at| ours.victim(at % servers)).collect();
    // Their own first revisions are behind the nodes when the import begins.
    settle(&ours.mesh.all());
    let uploaded = upload(&ours.mesh.addresses, CLIENTS, &Requests::posts(&accounts), LONG_ENOUGH);
    assert_eq!(uploaded.count, import, "every account was acknowledged");
    let (mut answered, mut took) = (Vec::new(), Vec::new());
    for (at, victim) in victims.iter_mut().enumerate() {
        let begun = Instant::now();
        let nodes = ours.doors.len();
        let door = &mut ours.doors[at % nodes];
        door.send(&victim.id, &victim.revocation);
        // It comes before a server can have been told.
        door.read_answer();
        answered.push(begun.elapsed().as_secs_f64() * 1e3);
        let cut_off = victim.cut_off_after(begun, PATIENCE_AFTER_IMPORT);
        took.push(cut_off.expect("an uploaded revocation cuts the user off"));
    }
    answered.sort_by(f64::total_cmp);
    took.sort_by(f64::total_cmp);
    let title = format!(
        "Right after an import of {import} accounts in {:.1} s, {} nodes, {servers} nats-servers, {count} revocations",
        uploaded.seconds,
        ours.doors.len()
    );
    let table = Table::begin(&title, "");
    for (name, share, aim) in [("p50", 0.5, Aim::Shown), ("p99", 0.99, Aim::AtMost(100.0))] {
        let what = format!("POST to disconnection, {name}, ms");
        table.show(&what, percentile(&took, share), aim);
        let what = format!("of this until the POST is answered, {name}, ms");
        table.show(&what, percentile(&answered, share), Aim::Shown);
    }
}

/// `count` accounts that every server has loaded, each with a user, are revoked at once, by clients that each wait until
/// every server enforces what they have uploaded.
fn batch(ours: &mut Ours, count: usize) {
    let servers = ours.servers.len();
    let mut peer = Peer::start(&ours.operator, servers);
    let connect = |servers: &[NatsServer], victim: Victim, at: usize| {
        for server in servers {
            drop(Connection::open(server.address, &victim.user));
        }
        victim.connect(&servers[at % servers.len()])
    };
    let mut victims: Vec<Victim> = Vec::new();
    for at in 0..count {
        let victim = Victim::mint(&ours.operator);
        ours.doors
            .iter_mut()
            .for_each(|door| door.post(&victim.id, &victim.first));
        victims.push(connect(&ours.servers, victim, at));
    }
    settle(&ours.mesh.all());
    let (begun, next) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..AT_ONCE.min(count) {
            let mut door = Door::open(ours.mesh.addresses[client % ours.mesh.addresses.len()]);
            let (next, victims) = (&next, &victims);
            scope.spawn(move || {
                while let Some(victim) = victims.get(next.fetch_add(1, Ordering::Relaxed)) {
                    door.prove(&victim.id, &victim.revocation);
                }
            });
        }
    });
    let proven = begun.elapsed().as_secs_f64() * 1e3;
    for victim in &mut victims {
        victim.cut_off_after(begun, PATIENCE).expect("it was revoked");
    }

    let mut theirs: Vec<Victim> = Vec::new();
    for at in 0..count {
        let victim = Victim::mint(&ours.operator);
        peer.push(&[&victim.first]);
        theirs.push(connect(&peer.servers, victim, at));
    }
    let tokens: Vec<&str> = theirs.iter().map(|victim| victim.revocation.as_str()).collect();
    let begun = Instant::now();
    tokens.chunks(AT_ONCE).for_each(|some| peer.push(some));
    let answered = begun.elapsed().as_secs_f64() * 1e3;
    for victim in &mut theirs {
        victim.cut_off_after(begun, PATIENCE).expect("it was revoked");
    }
    let nodes = ours.doors.len();
    let title = format!("{count} revocations in one batch, {AT_ONCE} at once, {nodes} nodes, {servers} nats-servers");
    let table = Table::begin(&title, "full");
    table.beside(
        "until the last is in force everywhere, ms",
        proven,
        answered,
        Aim::Shown,
    );
}

/// A kept-alive connection to a node's public port.
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

    /// Uploads, and waits until every server enforces it.
    fn prove(&mut self, id: &str, token: &str) {
        self.send(&format!("{id}?wait=all&timeout=60"), token);
        let (mut answer, mut piece) = (String::new(), [0; 4_096]);
        // JSON, and nothing behind it.
        while !answer.ends_with("}\n") && !answer.ends_with("}") {
            let count = self.socket.read(&mut piece).expect("the node answers");
            answer += &String::from_utf8_lossy(&piece[..count]);
            assert!(count > 0, "no answer: {answer}");
        }
        assert!(
            answer.contains("\"confirmed\":true"),
            "it is not in force everywhere: {answer}"
        );
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
