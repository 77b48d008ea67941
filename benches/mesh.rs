//! Uploads to three nodes on one machine, with a real fsync on each, beside a three-member etcd that puts the same
//! bytes; and what a round trip of 50 ms between the nodes costs.
//!
//! `cargo bench --bench mesh [-- --rounds 3 --seconds 6 --clients 64 --acknowledge majority --only lan]`; needs Debian's
//! package etcd-server. Clients are spread over all nodes; in each round the first of them has another node.

use std::time::Duration;

use support::arguments::argument;
use support::etcd::{Etcd, puts};
use support::mesh::{Mesh, Shape};
use support::mint::Operator;
use support::process::{clean_up_when_interrupted, settle, work_folder};
use support::rounds::{Measured, Pairs, measure, median, percentile};
use support::table::{Aim, Table};
use support::upload::{Requests, Uploaded, upload};

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

const NODES: usize = 3;

/// How many clients, and the aims for `majority`, which is what etcd does: at least this share of etcd's rate, at most
/// this share of its processor time.
const CLIENTS: [(usize, Aim, Aim); 3] = [
    (1, Aim::AtLeast(1.4), Aim::Shown),
    (64, Aim::AtLeast(2.0), Aim::AtMost(0.6)),
    (256, Aim::Shown, Aim::Shown),
];

const ROUND_TRIP: Duration = Duration::from_millis(50);

struct Bench {
    operator: Operator,
    rounds: usize,
    seconds: usize,
    clients: usize,
}

fn main() {
    clean_up_when_interrupted();
    let bench = Bench {
        operator: Operator::new(),
        rounds: argument("rounds", 3),
        seconds: argument("seconds", 6),
        clients: argument("clients", 0),
    };
    let (acknowledge, only) = (
        argument("acknowledge", "both".to_owned()),
        argument("only", "both".to_owned()),
    );
    for setting in ["majority", "reachable"] {
        let wanted = acknowledge == "both" || acknowledge == setting;
        if wanted && only != "wan" {
            bench.lan(setting);
        }
        if wanted && only != "lan" {
            bench.wan(setting);
        }
    }
}

impl Bench {
    fn clients(&self) -> impl Iterator<Item = (usize, Aim, Aim)> {
        let wanted = |clients: usize| self.clients == 0 || self.clients == clients;
        CLIENTS.into_iter().filter(move |(clients, ..)| wanted(*clients))
    }

    /// More than is taken in a round: every token is used once, as a second upload would be no change.
    fn accounts(&self, clients: usize) -> Vec<support::mint::Minted> {
        self.operator
            .accounts(self.seconds * if clients == 1 { 4_000 } else { 20_000 })
    }

    fn lan(&self, acknowledge: &'static str) {
        // Both data folders lie in this one, so both sync the same disk.
        let folder = work_folder("mesh");
        let etcd = Etcd::start(folder.path(), NODES);
        let shape = Shape {
            nodes: NODES,
            acknowledge,
            one_way: Duration::ZERO,
        };
        let mesh = Mesh::start(folder.path(), &self.operator, shape);
        let theirs: Vec<_> = etcd.programs.iter().collect();
        for (clients, rate, cost) in self.clients() {
            let time = Duration::from_secs(self.seconds as u64);
            let round = |round: usize| {
                let accounts = self.accounts(clients);
                let (posts, puts) = (Requests::posts(&accounts), puts(&accounts));
                drop(accounts);
                let mut servers = mesh.addresses.clone();
                servers.rotate_left(round % NODES);
                settle(&mesh.all());
                settle(&theirs);
                let ours = measure(
                    &mesh.all(),
                    || upload(&servers, clients, &posts, time),
                    Uploaded::number,
                );
                (
                    ours,
                    measure(&theirs, || etcd.put(round, (clients, 1), &puts, time), Uploaded::number),
                )
            };
            let rounds: Vec<(Measured<Uploaded>, Measured<Uploaded>)> = (0..self.rounds).map(round).collect();
            let title = format!("Uploads of 1.5 KB, {clients} clients, three nodes, acknowledge = {acknowledge}");
            let table = Table::begin(&title, "etcd");
            let latency = |share: f64| move |measured: &Measured<Uploaded>| percentile(&measured.load.latencies, share);
            table.compare("acknowledged a second", &Pairs::of(&rounds, |m| m.load.rate()), rate);
            table.compare("p50, ms", &Pairs::of(&rounds, latency(0.5)), Aim::Shown);
            table.compare("p99, ms", &Pairs::of(&rounds, latency(0.99)), Aim::AtMost(1.0));
            table.compare(
                "CPU of all nodes, us an upload",
                &Pairs::of(&rounds, |m| m.cost_us),
                cost,
            );
        }
    }

    fn wan(&self, acknowledge: &'static str) {
        let folder = work_folder("mesh");
        let shape = Shape {
            nodes: NODES,
            acknowledge,
            one_way: ROUND_TRIP / 2,
        };
        let mesh = Mesh::start(folder.path(), &self.operator, shape);
        let leader = mesh.leader();
        let table = Table::begin(
            &format!("Three nodes 50 ms apart, acknowledge = {acknowledge}, clients at the leader"),
            "",
        );
        for (clients, ..) in self.clients() {
            let time = Duration::from_secs(self.seconds as u64);
            let rounds = (0..self.rounds).map(|_| {
                let posts = Requests::posts(&self.accounts(1));
                settle(&mesh.all());
                upload(&[mesh.addresses[leader]], clients, &posts, time)
            });
            let rounds: Vec<_> = rounds.collect();
            let p50: Vec<f64> = rounds
                .iter()
                .map(|uploaded| percentile(&uploaded.latencies, 0.5))
                .collect();
            let loops: Vec<f64> = rounds
                .iter()
                .map(|uploaded| uploaded.rate() * ROUND_TRIP.as_secs_f64() / clients as f64)
                .collect();
            let [quick, full] = match clients {
                1 => [Aim::AtMost(1.2), Aim::Shown],
                _ => [Aim::Shown, Aim::AtLeast(0.8)],
            };
            let round_trip = ROUND_TRIP.as_secs_f64() * 1e3;
            table.show(
                &format!("{clients} clients: p50, round trips"),
                median(&p50) / round_trip,
                quick,
            );
            table.show(
                &format!("{clients} clients: share of a closed loop"),
                median(&loops),
                full,
            );
        }
    }
}
