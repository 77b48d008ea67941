//! This build beside an earlier one, in the same run: the loads of `lookup` and `submit`, with no other peer.
//!
//! `cargo bench --bench before -- --program PATH [--only uploads|http|https --accounts 100000 --rounds 5 --seconds 5]`;
//! needs Debian's package wrk. A change that is to cost nothing is held against its parent with this: each ratio at
//! least 0.97.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::arguments::argument;
use support::mint::Operator;
use support::node::{Node, Settings, binary};
use support::process::{clean_up_when_interrupted, settle, work_folder};
use support::rounds::{Measured, Pairs, measure, percentile};
use support::table::{Aim, Table};
use support::tls::Identity;
use support::upload::{Requests, Uploaded, upload};
use support::wrk::{Load, Wrk};

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

/// Connections of the lookups, as in `lookup`.
const CONNECTIONS: usize = 64;

/// Clients of the uploads, as in `submit`.
const CLIENTS: [usize; 3] = [1, 64, 256];

/// Identical builds differ by less over a few rounds; what is slower than this is slower.
const AS_FAST: Aim = Aim::AtLeast(0.97);

fn main() {
    clean_up_when_interrupted();
    let program: PathBuf = argument("program", PathBuf::new());
    assert!(
        program.is_file(),
        "--program PATH names the earlier build, such as target/release/jwtmesh of another checkout"
    );
    let bench = Bench {
        program,
        rounds: argument("rounds", 5),
        seconds: argument("seconds", 5),
    };
    let only: String = argument("only", String::new());
    assert!(
        ["", "uploads", "http", "https"].contains(&only.as_str()),
        "--only takes uploads, http or https, not {only:?}"
    );
    let wanted = |load: &str| only.is_empty() || only == load;
    println!("ours: {}\nbefore: {}", binary().display(), bench.program.display());
    let folder = work_folder("before");
    let operator = Operator::new();
    if wanted("uploads") {
        bench.uploads(&folder.path().join("uploads"), &operator);
    }
    if !(wanted("http") || wanted("https")) {
        return;
    }
    let accounts = operator.accounts(argument("accounts", 100_000));
    let identity = Identity::new(folder.path());
    let wrk = Wrk::new(folder.path(), &accounts);
    let folder = folder.path().join("lookups");
    let (now, before) = bench.pair(&folder, &operator, None);
    for node in [&now, &before] {
        node.load(&accounts);
        node.settle();
    }
    if wanted("http") {
        bench.lookups("http", &now, &before, &wrk);
    }
    drop((now, before));
    if !wanted("https") {
        return;
    }
    let (now, before) = bench.pair(&folder, &operator, Some(&identity));
    bench.lookups("https", &now, &before, &wrk);
}

struct Bench {
    program: PathBuf,
    rounds: usize,
    seconds: usize,
}

impl Bench {
    /// This build's node and the earlier one's, each on a folder of its own.
    fn pair(&self, folder: &Path, operator: &Operator, tls: Option<&Identity>) -> (Node, Node) {
        let start = |name: &str, program: Option<PathBuf>| {
            let folder = folder.join(name);
            fs::create_dir_all(&folder).expect("the bench's own folder is writable");
            let settings = Settings {
                tls,
                program,
                ..Settings::default()
            };
            Node::start(&folder, operator, &settings)
        };
        (start("now", None), start("before", Some(self.program.clone())))
    }

    /// Rounds in which each goes first in turn, with what `prepare` makes for both.
    fn rounds<P, T>(
        &self,
        mut prepare: impl FnMut() -> P,
        run: impl Fn(&P, &Node) -> T,
        (now, before): (&Node, &Node),
    ) -> Vec<(T, T)> {
        let round = |at: usize| {
            let prepared = prepare();
            settle(&[&now.program, &before.program]);
            if at.is_multiple_of(2) {
                let first = run(&prepared, now);
                (first, run(&prepared, before))
            } else {
                let first = run(&prepared, before);
                (run(&prepared, now), first)
            }
        };
        (0..self.rounds).map(round).collect()
    }

    fn lookups(&self, scheme: &str, now: &Node, before: &Node, wrk: &Wrk) {
        let load = |address: SocketAddr| wrk.run(scheme, address, CONNECTIONS, self.seconds);
        for node in [now, before] {
            // Nothing is in its cache yet.
            load(node.address);
        }
        let run = |(): &(), node: &Node| measure(&[&node.program], || load(node.address), |load: &Load| load.count);
        let rounds = self.rounds(|| (), run, (now, before));
        let table = Table::begin(&format!("GET of 1.5 KB by random key, {scheme} kept alive"), "before");
        table.compare("GET/s", &Pairs::of(&rounds, |m| m.load.rate), AS_FAST);
        table.compare("p99, ms", &Pairs::of(&rounds, |m| m.load.p99), Aim::Shown);
        table.compare("server CPU, us", &Pairs::of(&rounds, |m| m.cost_us), Aim::Shown);
    }

    fn uploads(&self, folder: &Path, operator: &Operator) {
        let (now, before) = self.pair(folder, operator, None);
        for clients in CLIENTS {
            let time = Duration::from_secs(self.seconds as u64);
            let most = self.seconds * if clients == 1 { 6_000 } else { 30_000 };
            let run = |posts: &Requests, node: &Node| {
                measure(
                    &[&node.program],
                    || upload(&[node.address], clients, posts, time),
                    Uploaded::number,
                )
            };
            // Every token is used once by each: a second upload would be no change.
            let rounds = self.rounds(|| Requests::posts(&operator.accounts(most)), run, (&now, &before));
            let table = Table::begin(&format!("Uploads of 1.5 KB, {clients} clients"), "before");
            let latency = |share: f64| move |m: &Measured<Uploaded>| percentile(&m.load.latencies, share);
            table.compare("acknowledged a second", &Pairs::of(&rounds, |m| m.load.rate()), AS_FAST);
            table.compare("p50, ms", &Pairs::of(&rounds, latency(0.5)), Aim::Shown);
            table.compare("p99, ms", &Pairs::of(&rounds, latency(0.99)), Aim::Shown);
            table.compare(
                "server CPU, us an upload",
                &Pairs::of(&rounds, |m| m.cost_us),
                Aim::Shown,
            );
        }
    }
}
