//! The order in which accounts are published: whatever happens to the node that publishes, no server is sent an older JWT
//! after a newer one. A subscriber at the nats-server records all of them, while every node takes uploads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::load::Uploads;
use crate::support::mesh::{Nodes, nats_link_as};
use crate::support::mint::{Operator, claims};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::process::{eventually, free_port};
use crate::support::proxy::{Direction, Proxy};
use crate::support::tools::NEWEST;

/// What was published of each account, by time of issue: the newest, how many, and what went back.
#[derive(Default)]
struct Recorded {
    newest: BTreeMap<String, i64>,
    count: usize,
    defects: Vec<String>,
}

/// A user of the system account who hears every update, until this is dropped.
struct Recorder {
    recorded: Arc<Mutex<Recorded>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    #[track_caller]
    fn begin(server: &NatsServer, operator: &Operator) -> Self {
        let mut user = NatsUser::connect(server.address(), &operator.system.user()).expect("a system user gets in");
        user.subscribe("$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE");
        let (recorded, stop) = (Arc::<Mutex<Recorded>>::default(), Arc::new(AtomicBool::new(false)));
        let (to, until) = (recorded.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let Some(message) = user.next(Duration::from_millis(20)) else {
                    continue;
                };
                let token = String::from_utf8_lossy(&message.payload).into_owned();
                let issued = claims(&token)["iat"].as_i64().expect("uploads have a time of issue");
                let mut recorded = to.lock().unwrap();
                recorded.count += 1;
                let newest = recorded
                    .newest
                    .insert(message.subject.clone(), issued)
                    .unwrap_or(i64::MIN);
                if newest > issued {
                    recorded
                        .defects
                        .push(format!("{}: {newest}, then {issued}", message.subject));
                    recorded.newest.insert(message.subject, newest);
                }
            }
        });
        Self {
            recorded,
            stop,
            thread: Some(thread),
        }
    }

    fn count(&self) -> usize {
        self.recorded.lock().unwrap().count
    }

    #[track_caller]
    fn check(&self) {
        let defects = &self.recorded.lock().unwrap().defects;
        assert!(defects.is_empty(), "an older JWT followed a newer one: {defects:#?}");
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// What happens to the node that publishes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It does nothing, and goes on as if nothing had happened.
    Stopped,
    /// Its peers do not hear it, and it does not hear them. The nats-server does.
    CutOffFromPeers,
    /// The nats-server does not hear it, and it does not hear the nats-server. Its peers do.
    CutOffFromNats,
}

/// How long what is published is on its way: less than the time between two nodes that publish.
const ON_ITS_WAY: Duration = Duration::from_millis(400);

struct Mesh {
    nodes: Nodes,
    /// What each node sends to the nats-server passes a proxy of its own.
    ways: Vec<Proxy>,
}

impl Mesh {
    fn begins(&self, fault: Fault, node: usize) {
        match fault {
            Fault::Stopped => self.nodes.nodes[node].signal(Signal::STOP),
            Fault::CutOffFromPeers => self.nodes.isolate(node),
            Fault::CutOffFromNats => Direction::BOTH.into_iter().for_each(|way| self.ways[node].cut(way)),
        }
    }

    /// Everything works again, with the node or without what it remembers.
    fn ends(&mut self, fault: Fault, node: usize, is_killed: bool) {
        if is_killed {
            self.nodes.nodes[node].kill();
        } else if fault == Fault::Stopped {
            self.nodes.nodes[node].signal(Signal::CONT);
        }
        self.nodes.heal();
        self.ways[node].heal();
        self.ways[node].delay(Direction::ToTarget, ON_ITS_WAY);
        if is_killed {
            self.nodes.nodes[node].start_again();
        }
    }

    /// Which node began to publish last, by its last words, if it is one of these.
    fn publisher(&self, among: &[usize]) -> usize {
        eventually("a node publishes", || {
            let publishes = |at: &usize| {
                let log = self.nodes.nodes[*at].log();
                let said = |words: &str| log.matches(words).count();
                said("this node publishes to this NATS cluster now") > said("another node may publish")
            };
            let all: Vec<usize> = among.iter().copied().filter(publishes).collect();
            (all.len() == 1).then(|| all[0])
        })
    }
}

#[test]
fn g5_no_fault_of_the_node_that_publishes_sends_an_older_jwt_after_a_newer_one() {
    let (operator, port) = (Arc::new(Operator::new("O")), free_port());
    let ways: Vec<Proxy> = (0..3).map(|_| Proxy::to(([127, 0, 0, 1], port).into())).collect();
    let user = operator.system.answering_user();
    let links = ways.iter().map(|way| nats_link_as(&user, way.address().port()));
    let (_creds, links): (Vec<_>, Vec<String>) = links.unzip();
    let mut mesh = Mesh {
        nodes: Nodes::linked_each(&operator.token(), &links),
        ways,
    };
    mesh.nodes.nodes[0].put(&operator.system, &operator.system_token());
    let config = resolver_config(&operator.token(), &mesh.nodes.nodes[0].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let recorder = Recorder::begin(&server, &operator);
    let mut uploads = Uploads::begin(&operator, &mesh.nodes.nodes);
    mesh.ways
        .iter()
        .for_each(|way| way.delay(Direction::ToTarget, ON_ITS_WAY));
    let faults = [Fault::Stopped, Fault::CutOffFromPeers, Fault::CutOffFromNats];
    for (fault, is_killed) in faults.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let first = mesh.publisher(&[0, 1, 2]);
        let others = [(first + 1) % 3, (first + 2) % 3];
        mesh.begins(fault, first);
        let second = mesh.publisher(&others);
        println!("{fault:?}, killed: {is_killed}: node {second} publishes after node {first}");
        // The second publishes what is newer than all that the first ever had.
        uploads.wait_for(&others);
        let before = recorder.count();
        eventually("it publishes", || (recorder.count() > before + 20).then_some(()));
        mesh.ends(fault, first, is_killed);
        uploads.wait_for(&[first]);
        recorder.check();
    }
    uploads.end();
    for account in uploads.accounts() {
        let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", account.id());
        eventually("the newest one was published last", || {
            let stored = claims(&mesh.nodes.nodes[0].get_account(&account.id()).text())["iat"].as_i64();
            (recorder.recorded.lock().unwrap().newest.get(&subject).copied() == stored).then_some(())
        });
    }
    recorder.check();
    println!("{} updates in order", recorder.count());
}
