//! A million accounts on one node: how long they take to load, what they take on disk and in memory, and how soon
//! they are served again after `kill -9`.
//!
//! `cargo bench --bench million [-- --accounts 100000]`; needs Debian's package wrk, 6 GB of disk and some minutes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::arguments::argument;
use support::mint::{Minted, Operator};
use support::node::{Node, Settings, until_served};
use support::process::{clean_up_when_interrupted, work_folder};
use support::rounds::median;
use support::table::{Aim, Table};
use support::wrk::Wrk;

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

/// Accounts that are minted and uploaded at once: what the bench itself holds in memory.
const PART: usize = 50_000;

/// Of each part, this many are asked for later.
const ASKED_OF_PART: usize = 10_000;

/// Uploads just before a crash: about what may lie in the log and not in the store.
const UNFINISHED: usize = 20_000;

const CRASHES: usize = 5;

const MEGABYTE: f64 = 1e6;

fn main() {
    clean_up_when_interrupted();
    let count: usize = argument("accounts", 1_000_000);
    let seconds: usize = argument("seconds", 20);
    let folder = work_folder("million");
    let operator = Operator::new();
    let node = Node::start(folder.path(), &operator, &Settings::default());
    let table = Table::begin(&format!("{count} accounts of 1.5 KB on one node"), "");

    let loaded = load(&node, &operator, count);
    table.show("load, s", loaded.seconds, Aim::Shown);
    table.show("load, accounts a second", count as f64 / loaded.seconds, Aim::Shown);
    table.show(
        "most memory held while loading, MB",
        node.program.memory("VmHWM:") / MEGABYTE,
        Aim::Shown,
    );
    node.settle();
    table.show("data folder, MB", node.stored_bytes() / MEGABYTE, Aim::Shown);
    table.show(
        "data folder / bytes of the tokens",
        node.stored_bytes() / loaded.bytes,
        Aim::AtMost(2.0),
    );
    drop(node);

    let wrk = Wrk::new(folder.path(), &loaded.asked);
    let mut node = Node::start(folder.path(), &operator, &Settings::default());
    let (rate, memory) = serve(&node, &wrk, seconds);
    table.show("random GETs a second", rate, Aim::Shown);
    table.show("memory while serving them, MB", memory / MEGABYTE, Aim::AtMost(200.0));

    let mut restarts = Vec::new();
    for _ in 0..CRASHES {
        let last = operator.accounts(UNFINISHED);
        node.load(&last);
        node.program.kill();
        let begun = Instant::now();
        node = Node::launch(folder.path(), &operator, &Settings::default());
        let old = &loaded.asked[rand::random::<usize>() % loaded.asked.len()];
        restarts.push(until_served(node.address, old, begun));
        until_served(node.address, &last[UNFINISHED - 1], begun);
    }
    table.show(
        "start after kill -9 to the first GET, ms",
        median(&restarts),
        Aim::AtMost(1_000.0),
    );
    let slowest = restarts.iter().copied().fold(0.0, f64::max);
    table.show("the slowest of them, ms", slowest, Aim::Shown);
}

struct Loaded {
    seconds: f64,
    bytes: f64,
    asked: Vec<Minted>,
}

fn load(node: &Node, operator: &Operator, count: usize) -> Loaded {
    let mut loaded = Loaded {
        seconds: 0.0,
        bytes: 0.0,
        asked: Vec::new(),
    };
    let mut left = count;
    while left > 0 {
        let mut part = operator.accounts(PART.min(left));
        left -= part.len();
        loaded.seconds += node.load(&part);
        loaded.bytes += part.iter().map(|account| account.token.len() as f64).sum::<f64>();
        part.truncate(ASKED_OF_PART);
        loaded.asked.append(&mut part);
    }
    loaded
}

/// GETs a second, and the most memory that was seen meanwhile.
fn serve(node: &Node, wrk: &Wrk, seconds: usize) -> (f64, f64) {
    const CONNECTIONS: usize = 64;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most: f64 = 0.0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(node.program.memory("VmRSS:"));
                thread::sleep(Duration::from_millis(100));
            }
            most
        });
        let load = wrk.run("http", node.address, CONNECTIONS, seconds);
        over.store(true, Ordering::Relaxed);
        (load.rate, watch.join().expect("watching does not panic"))
    })
}
