//! How long three nodes take no uploads after their leader was killed, and how long a writer waits while it is stopped on
//! purpose; with the nodes beside each other, and 50 ms apart.
//!
//! `cargo bench --bench failover [-- --kills 30 --stops 10 --only lan --acknowledge majority]`. The time includes that of the
//! upload itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::arguments::argument;
use support::mesh::{Mesh, Shape};
use support::mint::Operator;
use support::node::ask;
use support::process::{clean_up_when_interrupted, eventually, work_folder};
use support::rounds::median;
use support::table::{Aim, Table};

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

const NODES: usize = 3;

/// How long the nodes run undisturbed before each fault.
const QUIET: Duration = Duration::from_secs(3);

fn main() {
    clean_up_when_interrupted();
    let (kills, stops): (usize, usize) = (argument("kills", 30), argument("stops", 10));
    let only = argument("only", "both".to_owned());
    let acknowledge = match argument("acknowledge", "majority".to_owned()).as_str() {
        "majority" => "majority",
        "reachable" => "reachable",
        other => panic!("--acknowledge {other}: majority or reachable"),
    };
    // Without a leader: the median and the worst, in seconds. The longest pause of a planned stop, in milliseconds.
    for (name, one_way, aims, pause) in [("lan", 0, [1.2, 2.5], 50.0), ("wan", 25, [3.0, 6.0], 250.0)] {
        if only != "both" && only != name {
            continue;
        }
        let folder = work_folder("failover");
        let operator = Operator::new();
        let shape = Shape {
            nodes: NODES,
            acknowledge,
            one_way: Duration::from_millis(one_way),
        };
        let mut mesh = Mesh::start(folder.path(), &operator, shape);
        let table = Table::begin(
            &format!("Three nodes, timing = {name}, acknowledge = {acknowledge}"),
            "",
        );
        let killed: Vec<f64> = (0..kills).map(|_| kill(&mut mesh, &operator)).collect();
        table.show(
            &format!("kill -9 of the leader, median of {kills}, s"),
            median(&killed),
            Aim::AtMost(aims[0]),
        );
        table.show("the worst of them, s", worst(&killed), Aim::AtMost(aims[1]));
        let stopped: Vec<f64> = (0..stops).map(|_| stop(&mut mesh, &operator)).collect();
        table.show(
            &format!("a writer's longest pause, median of {stops} stops, ms"),
            median(&stopped),
            Aim::Shown,
        );
        table.show("the worst of them, ms", worst(&stopped), Aim::AtMost(pause));
    }
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Whether an upload of a new account through this node was acknowledged.
fn uploads(node: SocketAddr, operator: &Operator) -> bool {
    let account = operator.accounts(1).remove(0);
    let (id, token) = (&account.id, &account.token);
    let request = format!(
        "POST /jwt/v1/accounts/{id} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{token}",
        token.len()
    );
    ask(node, request.as_bytes()).is_some()
}

/// Seconds from a kill of the leader to the next acknowledged upload through another node.
fn kill(mesh: &mut Mesh, operator: &Operator) -> f64 {
    thread::sleep(QUIET);
    let leader = mesh.leader();
    let other = mesh.addresses[(leader + 1) % NODES];
    assert!(uploads(other, operator), "an upload before the fault");
    mesh.programs[leader].kill();
    let begun = Instant::now();
    eventually("an upload is acknowledged", || uploads(other, operator).then_some(()));
    let without = begun.elapsed().as_secs_f64();
    mesh.launch(leader);
    eventually("the node is back", || mesh.command(leader, &["ready", "--write"]));
    without
}

/// Milliseconds of the longest pause of a writer at another node while the leader stops on purpose.
fn stop(mesh: &mut Mesh, operator: &Operator) -> f64 {
    thread::sleep(QUIET);
    let leader = mesh.leader();
    let other = mesh.addresses[(leader + 1) % NODES];
    let over = AtomicBool::new(false);
    let longest = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                if uploads(other, operator) {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            longest
        });
        thread::sleep(QUIET / 10);
        mesh.programs[leader].end();
        thread::sleep(QUIET / 3);
        over.store(true, Ordering::Relaxed);
        writer.join().expect("a writer does not panic")
    });
    mesh.launch(leader);
    eventually("the node is back", || mesh.command(leader, &["ready", "--write"]));
    longest.as_secs_f64() * 1e3
}
