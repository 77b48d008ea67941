//! GETs of 1.5 KB by random key over 100,000 accounts, beside nginx serving the same bytes as files.
//!
//! `cargo bench --bench lookup [-- --accounts 100000 --rounds 5 --seconds 5]`; needs Debian's packages nginx-light
//! and wrk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use support::arguments::argument;
use support::mint::{Minted, Operator};
use support::nginx::Nginx;
use support::node::{Node, Settings, get};
use support::process::{Program, clean_up_when_interrupted, work_folder};
use support::rounds::{Pairs, interleave};
use support::table::{Aim, Table};
use support::tls::Identity;
use support::wrk::{Load, Wrk};

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

/// Connections that are kept, as stack figures for this work are given for.
const CONNECTIONS: usize = 64;

/// Enough that nearly every account was asked for once.
const WARM_UP_SECONDS: usize = 10;

/// New connections a round: enough that the kernel's hundredths of a second do not show.
const NEW_CONNECTIONS: usize = 3_000;

struct Bench {
    wrk: Wrk,
    nginx: Nginx,
    rounds: usize,
    seconds: usize,
}

fn main() {
    clean_up_when_interrupted();
    let count: usize = argument("accounts", 100_000);
    let folder = work_folder("lookup");
    let operator = Operator::new();
    let accounts = operator.accounts(count);
    let identity = Identity::new(folder.path());
    let bench = Bench {
        wrk: Wrk::new(folder.path(), &accounts),
        nginx: Nginx::start(folder.path(), &accounts, &identity),
        rounds: argument("rounds", 5),
        seconds: argument("seconds", 5),
    };
    let node = Node::start(folder.path(), &operator, &Settings::default());
    let seconds = node.load(&accounts);
    println!("{count} accounts loaded in {seconds:.1} s");
    node.settle();
    check_same_bytes(&accounts, node.address, bench.nginx.http);

    let table = Table::begin(&format!("GET of 1.5 KB by random key, {count} accounts"), "nginx");
    bench.kept_alive(&table, "http", &node, bench.nginx.http, Aim::AtLeast(1.2));
    let beside_pack = bench.beside_pack(&node);
    drop(node);
    bench.over_tls(&table, folder.path(), &operator, &identity, &accounts);

    let table = Table::begin(
        "The same GETs over HTTP while one client reads /jwt/v1/pack in a loop",
        "quiet",
    );
    table.compare("GET/s", &Pairs::of(&beside_pack, |load| load.rate), Aim::Shown);
    table.compare("p99, ms", &Pairs::of(&beside_pack, |load| load.p99), Aim::AtMost(2.0));
}

/// A load, and the server's processor time for each answer in it.
struct Measured {
    load: Load,
    cost_us: f64,
}

impl Bench {
    fn kept_alive(&self, table: &Table, scheme: &str, node: &Node, nginx: SocketAddr, aim: Aim) {
        let measure = |program: &Program, address| {
            let before = program.processor_seconds();
            let load = self.wrk.run(scheme, address, CONNECTIONS, self.seconds);
            Measured {
                cost_us: (program.processor_seconds() - before) * 1e6 / load.count,
                load,
            }
        };
        // nginx's files were written just now, so they are in memory; a node that was started just now has read nothing.
        for server in [node.address, nginx] {
            self.wrk.run(scheme, server, CONNECTIONS, WARM_UP_SECONDS);
        }
        let rounds = interleave(
            self.rounds,
            || measure(&node.program, node.address),
            || measure(&self.nginx.program, nginx),
        );
        let what = |figure: &str| format!("{scheme} kept alive, {figure}");
        table.compare(&what("GET/s"), &Pairs::of(&rounds, |m| m.load.rate), aim);
        table.compare(&what("p99, ms"), &Pairs::of(&rounds, |m| m.load.p99), Aim::Shown);
        table.compare(&what("server CPU, us"), &Pairs::of(&rounds, |m| m.cost_us), Aim::Shown);
    }

    fn over_tls(&self, table: &Table, folder: &Path, operator: &Operator, identity: &Identity, accounts: &[Minted]) {
        let settings = Settings {
            tls: Some(identity),
            ..Settings::default()
        };
        let node = Node::start(folder, operator, &settings);
        node.settle();
        self.kept_alive(table, "https", &node, self.nginx.https, Aim::AtLeast(1.35));
        let paths: Vec<String> = accounts.iter().map(path).collect();
        let measure = |program: &Program, address| {
            let before = program.processor_seconds();
            identity.get_with_new_connections(address, &paths, NEW_CONNECTIONS);
            (program.processor_seconds() - before) * 1e6 / NEW_CONNECTIONS as f64
        };
        let rounds = interleave(
            self.rounds,
            || measure(&node.program, node.address),
            || measure(&self.nginx.program, self.nginx.https),
        );
        table.compare(
            "new TLS 1.3 connection each, server CPU, us",
            &Pairs::of(&rounds, |us| *us),
            Aim::AtMost(0.5),
        );
    }

    /// Loads with and without a reader of the whole pack.
    fn beside_pack(&self, node: &Node) -> Vec<(Load, Load)> {
        let load = || self.wrk.run("http", node.address, CONNECTIONS, self.seconds);
        let packs = AtomicUsize::new(0);
        let beside = || {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| read_packs(node.address, &over, &packs));
                let load = load();
                over.store(true, Ordering::Relaxed);
                load
            })
        };
        let rounds = interleave(self.rounds, beside, load);
        println!("{} packs were read meanwhile", packs.load(Ordering::Relaxed));
        rounds
    }
}

fn path(account: &Minted) -> String {
    format!("/jwt/v1/accounts/{}", account.id)
}

/// Both servers must answer with the same bytes, or nothing is compared.
fn check_same_bytes(accounts: &[Minted], node: SocketAddr, nginx: SocketAddr) {
    const SAMPLE: usize = 100;
    for account in accounts.iter().step_by((accounts.len() / SAMPLE).max(1)) {
        for server in [node, nginx] {
            let body = get(server, &path(account));
            assert_eq!(
                body.as_deref(),
                Some(account.token.as_str()),
                "{server} serves what was uploaded"
            );
        }
    }
}

/// Reads the pack again and again until it is over.
fn read_packs(node: SocketAddr, over: &AtomicBool, packs: &AtomicUsize) {
    let mut piece = vec![0; 64 * 1024];
    while !over.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(node).expect("the node listens");
        // So that the end of the round is noticed even where a pack stalls.
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a TCP connection has this option");
        let request = "GET /jwt/v1/pack HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a GET is sent");
        let mut first = true;
        while !over.load(Ordering::Relaxed) {
            let count = stream.read(&mut piece).expect("the node answers");
            if first {
                let head = &piece[..count];
                assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(head));
                first = false;
            }
            if count == 0 {
                packs.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
    }
}
