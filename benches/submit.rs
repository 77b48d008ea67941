//! Uploads with a real fsync at 1, 64 and 256 clients, beside a one-node etcd that puts the same bytes.
//!
//! `cargo bench --bench submit [-- --rounds 3 --seconds 6 --clients 64 --together 1]`; needs Debian's package
//! etcd-server. Each client, of either, has a connection of its own, as programs apart from each other have. With
//! `--together 8` eight of etcd's share one, as one program's client library has it, and etcd is faster for it.

use std::time::Duration;

use support::arguments::argument;
use support::etcd::{Etcd, puts};
use support::mint::Operator;
use support::node::{Node, Settings};
use support::process::{clean_up_when_interrupted, settle, work_folder};
use support::rounds::{Measured, Pairs, measure, percentile};
use support::table::{Aim, Table};
use support::upload::{Requests, Uploaded, upload};

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

/// How many clients, and what to reach: at least this share of etcd's rate.
const CLIENTS: [(usize, Aim); 3] = [(1, Aim::AtLeast(1.3)), (64, Aim::AtLeast(1.4)), (256, Aim::Shown)];

fn main() {
    clean_up_when_interrupted();
    let rounds: usize = argument("rounds", 3);
    let seconds: usize = argument("seconds", 6);
    let only: usize = argument("clients", 0);
    let together: usize = argument("together", 1);
    // Both data folders lie in this one, so both sync the same disk.
    let folder = work_folder("submit");
    let etcd = Etcd::start(folder.path(), 1);
    let operator = Operator::new();
    let node = Node::start(folder.path(), &operator, &Settings::default());
    for (clients, aim) in CLIENTS.into_iter().filter(|(clients, _)| only == 0 || only == *clients) {
        let measured: Vec<(Measured<Uploaded>, Measured<Uploaded>)> = (0..rounds)
            .map(|_| round(&operator, &node, &etcd, (clients, together), seconds))
            .collect();
        print(clients, aim, &measured);
    }
}

fn round(
    operator: &Operator,
    node: &Node,
    etcd: &Etcd,
    (clients, together): (usize, usize),
    seconds: usize,
) -> (Measured<Uploaded>, Measured<Uploaded>) {
    // More than either server takes in a round: every token is used once, as a second upload would be no change.
    let most = seconds * if clients == 1 { 6_000 } else { 30_000 };
    let accounts = operator.accounts(most);
    let (posts, puts) = (Requests::posts(&accounts), puts(&accounts));
    drop(accounts);
    let time = Duration::from_secs(seconds as u64);
    settle(&[&node.program, &etcd.programs[0]]);
    let ours = measure(
        &[&node.program],
        || upload(&[node.address], clients, &posts, time),
        Uploaded::number,
    );
    settle(&[&node.program, &etcd.programs[0]]);
    let theirs = measure(
        &[&etcd.programs[0]],
        || etcd.put(0, (clients, together), &puts, time),
        Uploaded::number,
    );
    (ours, theirs)
}

fn print(clients: usize, aim: Aim, rounds: &[(Measured<Uploaded>, Measured<Uploaded>)]) {
    let table = Table::begin(&format!("Uploads of 1.5 KB, {clients} clients, one node"), "etcd");
    let latency = |share: f64| move |measured: &Measured<Uploaded>| percentile(&measured.load.latencies, share);
    table.compare("acknowledged a second", &Pairs::of(rounds, |m| m.load.rate()), aim);
    table.compare("p50, ms", &Pairs::of(rounds, latency(0.5)), Aim::Shown);
    table.compare("p99, ms", &Pairs::of(rounds, latency(0.99)), Aim::AtMost(1.0));
    table.compare("p99.9, ms", &Pairs::of(rounds, latency(0.999)), Aim::Shown);
    table.compare(
        "server CPU, us an upload",
        &Pairs::of(rounds, |m| m.cost_us),
        Aim::Shown,
    );
}
