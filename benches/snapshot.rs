//! A million accounts to a node that has none, by snapshot, while clients upload: how long it takes, what it costs both
//! sides, and what lookups elsewhere notice of it.
//!
//! `cargo bench --bench snapshot [-- --accounts 100000]`; needs Debian's package wrk, 10 GB of disk and some minutes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::arguments::argument;
use support::mesh::{Mesh, Shape};
use support::mint::{Minted, Operator};
use support::node::{stored_bytes, until_served};
use support::process::{clean_up_when_interrupted, settle, work_folder};
use support::table::{Aim, Table};
use support::upload::{Requests, upload};
use support::wrk::Wrk;

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

/// Accounts that are minted and uploaded at once.
const PART: usize = 50_000;

/// Of each part, this many are asked for later.
const ASKED_OF_PART: usize = 2_000;

/// How long uploads go on with one part, which is large enough for that.
const TURN: Duration = Duration::from_secs(2);

const CLIENTS: usize = 64;

const MEGABYTE: f64 = 1e6;

fn main() {
    clean_up_when_interrupted();
    let count: usize = argument("accounts", 1_000_000);
    let folder = work_folder("snapshot");
    let operator = Operator::new();
    let shape = Shape {
        nodes: 3,
        acknowledge: "majority",
        one_way: Duration::ZERO,
    };
    let mut mesh = Mesh::start(folder.path(), &operator, shape);
    let leader = mesh.leader();
    let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
    mesh.programs[away].kill();
    let servers = [mesh.addresses[leader], mesh.addresses[other]];
    let asked = load(&servers, &operator, count);
    settle(&[&mesh.programs[leader], &mesh.programs[other]]);

    let wrk = Wrk::new(folder.path(), &asked);
    let over = AtomicBool::new(false);
    let table = Table::begin(
        &format!("A snapshot of {count} accounts, {CLIENTS} clients uploading"),
        "",
    );
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let (mut acknowledged, begun) = (0, Instant::now());
            while !over.load(Ordering::Relaxed) {
                let posts = Requests::posts(&operator.accounts(PART / 2));
                acknowledged += upload(&servers, CLIENTS, &posts, TURN).count;
            }
            acknowledged as f64 / begun.elapsed().as_secs_f64()
        });
        let (wrk, reader) = (&wrk, mesh.addresses[other]);
        let get = move || wrk.run("http", reader, 4, 5).p99;
        let quiet = get();
        mesh.launch(away);
        let begun = Instant::now();
        let beside = scope.spawn(get);
        let last = asked.last().expect("accounts");
        let seconds = until_served(mesh.addresses[away], last, begun) / 1e3;
        let beside = beside.join().expect("wrk runs");
        over.store(true, Ordering::Relaxed);
        let rate = load.join().expect("uploads go on");
        table.show("until the last is served there, s", seconds, Aim::Shown);
        table.show("uploads a second meanwhile and before", rate, Aim::Shown);
        let memory = |node: usize| mesh.programs[node].memory("VmHWM:") / MEGABYTE;
        table.show("most memory of the receiver, MB", memory(away), Aim::AtMost(200.0));
        table.show(
            "most memory of the leader so far, MB",
            memory(leader),
            Aim::AtMost(200.0),
        );
        let data = folder.path().join(format!("n{away}"));
        table.show(
            "disk of the receiver, MB",
            stored_bytes(&data) as f64 / MEGABYTE,
            Aim::Shown,
        );
        table.show("p99 of a GET elsewhere, with uploads, ms", quiet, Aim::Shown);
        table.show("the same while it is sent, ms", beside, Aim::AtMost(2.0 * quiet));
    });
}

fn load(servers: &[SocketAddr], operator: &Operator, count: usize) -> Vec<Minted> {
    const LONG_ENOUGH: Duration = Duration::from_secs(3_600);
    let mut asked = Vec::new();
    let mut left = count;
    while left > 0 {
        let mut part = operator.accounts(PART.min(left));
        left -= part.len();
        let uploaded = upload(servers, CLIENTS, &Requests::posts(&part), LONG_ENOUGH);
        assert_eq!(uploaded.count, part.len(), "every account was acknowledged");
        part.truncate(ASKED_OF_PART);
        asked.append(&mut part);
    }
    asked
}
