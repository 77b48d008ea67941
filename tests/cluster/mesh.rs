//! Several nodes: they form a mesh, agree, and serve, whatever happens to one of them.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jwtmesh::clock::Clock;
use jwtmesh::config::Config;

use crate::support::disks::Hang;
use crate::support::http::Connection;
use crate::support::mesh::{NAMES, Nodes, status};
use crate::support::mint::{Account, Operator, Revoked, now};
use crate::support::node::Node;
use crate::support::process::eventually;

#[test]
fn g1_every_node_takes_uploads_and_every_other_one_serves_them() {
    for count in [3, 5] {
        let operator = Operator::new("O");
        let mesh = Nodes::formed(count, &operator.token());
        let again = mesh.nodes[1].cli_json(&["member", "bootstrap"]);
        assert_eq!(again["outcome"], "already formed", "{again}");
        for (at, node) in mesh.nodes.iter().enumerate() {
            let account = Account::new(&format!("A{at}"));
            let token = operator.account(&account);
            let stored = node.put(&account, &token);
            // A client that is answered reads what was stored at every node, at the revision that it was told.
            for (name, other) in NAMES.iter().zip(&mesh.nodes) {
                let read = other.get_account(&account.id());
                assert_eq!(read.text(), token, "{name}");
                assert!(read.revision() >= stored.revision());
            }
            assert_eq!(node.get_account(&account.id()).text(), token);
            let unchanged = mesh.nodes[(at + 1) % count].put(&account, &token);
            assert_eq!(unchanged.revision(), stored.revision());
            let older = operator.account_at(&account, now() - 100);
            let refused = mesh.nodes[(at + 1) % count].post_account(&account.id(), &older);
            assert_eq!(refused.status, 409, "{}", refused.text());
        }
    }
}

#[test]
fn g1_a_killed_leader_is_replaced_and_what_it_acknowledged_stays() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let account = Account::new("A");
    let token = operator.account_at(&account, now() - 60);
    let leader = mesh.leader();
    mesh.nodes[leader].put(&account, &token);
    mesh.nodes[leader].kill();
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    for at in &others {
        assert_eq!(
            mesh.nodes[*at].get_account(&account.id()).text(),
            token,
            "lookups go on"
        );
    }
    let newer = operator.account(&account);
    eventually("another node leads", || {
        let answer = mesh.nodes[others[0]].post_account(&account.id(), &newer);
        (answer.status == 200).then_some(())
    });
    mesh.nodes[leader].start_again();
    mesh.wait_until_served(&account, &newer);
    mesh.wait_until_writable();
}

#[test]
fn g1_a_mesh_whose_nodes_are_all_killed_at_once_goes_on() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let account = Account::new("A");
    let token = operator.account(&account);
    mesh.nodes[1].put(&account, &token);
    mesh.nodes.iter_mut().for_each(Node::kill);
    mesh.nodes.iter_mut().for_each(Node::start_again);
    // Served at once, before there is a leader.
    mesh.wait_until_served(&account, &token);
    mesh.wait_until_writable();
    let other = Account::new("B");
    mesh.nodes[2].put(&other, &operator.account(&other));
}

#[test]
fn g4_a_node_without_its_peers_serves_and_says_how_old_its_view_is_and_refuses_uploads_in_time() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let account = Account::new("A");
    let token = operator.account(&account);
    mesh.nodes[0].put(&account, &token);
    mesh.wait_until_served(&account, &token);
    let leader = mesh.leader();
    let follower = (leader + 1) % 3;
    for at in (0..3).filter(|at| *at != follower) {
        mesh.nodes[at].kill();
    }
    for alone in [false, true] {
        if alone {
            // It starts without the others.
            mesh.nodes[follower].start_again();
        }
        let node = &mesh.nodes[follower];
        assert_eq!(node.get("/jwt/v1/accounts").status, 200, "nats-servers may start");
        assert_eq!(node.get_account(&account.id()).text(), token);
        let other = Account::new("B");
        let begun = Instant::now();
        let refused = node.post_account(&other.id(), &operator.account(&other));
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.text().contains("nothing was stored"), "{}", refused.text());
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let status = eventually("it says so", || {
            status(node).filter(|status| status["writable"] == false)
        });
        assert_eq!(status["ready"], true, "{status}");
    }
    let age = |node: &Node| status(node).and_then(|status| status["leader_age_ms"].as_u64());
    mesh.nodes[leader].start_again();
    mesh.wait_until_heard(follower);
    mesh.nodes[leader].kill();
    let before = age(&mesh.nodes[follower]).expect("an age");
    eventually("the view grows older", || {
        (age(&mesh.nodes[follower])? > before + 1_000).then_some(())
    });
}

/// Others may serve it a moment later.
#[test]
fn g1_with_acknowledge_majority_an_upload_is_served_at_once_where_it_was_answered() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let file = mesh.folder.path().join("cluster.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("[cluster]\n", "[cluster]\nacknowledge = \"majority\"\n"),
    )
    .unwrap();
    for node in &mut mesh.nodes {
        node.terminate();
        node.start_again();
    }
    mesh.wait_until_writable();
    let account = Account::new("A");
    let mut token = String::new();
    for n in 0..30 {
        token = operator.account_at(&account, now() - 100 + n);
        let node = &mesh.nodes[usize::try_from(n).expect("a few") % 3];
        node.put(&account, &token);
        assert_eq!(node.get_account(&account.id()).text(), token);
    }
    mesh.wait_until_served(&account, &token);
}

#[test]
fn a_leader_that_is_stopped_on_purpose_hands_over_first() {
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let leader = mesh.leader();
    let said = mesh.nodes[leader].log().len();
    assert!(mesh.nodes[leader].terminate().success());
    let log = mesh.nodes[leader].log();
    assert!(log[said..].contains("another node leads now"), "{log}");
    let account = Account::new("A");
    mesh.nodes[(leader + 1) % 3].put(&account, &operator.account(&account));
}

/// What is expired or dated ahead is decided by the members' clocks together, whichever node leads.
#[test]
fn g2_a_leader_whose_clock_is_two_hours_wrong_decides_nobodys_times() {
    for hours in [2, -2] {
        let operator = Operator::new("O");
        let mut mesh = Nodes::unformed(3, &operator.token());
        // The third node runs in this process, with a clock of its own.
        assert!(mesh.nodes[2].terminate().success());
        let config = Config::load(&mesh.folder.path().join("cluster.toml"), Some("n3")).expect("a good file");
        let wrong = Clock::from_source(move || Clock::system().now() + hours * 3_600);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let node = runtime
            .block_on(jwtmesh::node::Node::start(config, wrong))
            .expect("starts");
        let formed = mesh.nodes[2].cli_json(&["member", "bootstrap"]);
        assert_eq!(formed["outcome"], "formed", "{formed}");
        mesh.wait_until_writable();
        assert_eq!(mesh.leader(), 2, "the node that forms the mesh leads it");
        for at in [0, 2] {
            let account = Account::new("A");
            let dated = |seconds: i64, expires: i64| {
                operator.account_with(&account, |claims| {
                    claims["iat"] = serde_json::json!(now() + seconds);
                    claims["exp"] = serde_json::json!(now() + expires);
                })
            };
            let node = &mesh.nodes[at];
            let refused = node.post_account(&account.id(), &dated(-60, -10));
            assert_eq!(refused.status, 400, "expired: {}", refused.text());
            let refused = node.post_account(&account.id(), &dated(1_800, 7_200));
            assert_eq!(refused.status, 400, "dated ahead: {}", refused.text());
            node.put(&account, &dated(0, 1_800));
        }
        let said = status(&mesh.nodes[2]).expect("it answers")["problems"].to_string();
        let word = if hours > 0 { "ahead of" } else { "behind" };
        assert!(said.contains("clock") && said.contains(word), "{said}");
        runtime
            .block_on(node.shutdown(Duration::from_secs(5)))
            .expect("ends well");
    }
}

/// Uploads that a node misses: the log keeps the first number, and not the second.
const BY_LOG: usize = 170;
const BEYOND_THE_LOG: usize = 400;

/// What a node says that was sent a snapshot.
const WHOLE: &str = "has received the whole state";

/// A mesh, one of whose nodes is away.
struct Away {
    mesh: Nodes,
    operator: Operator,
    leader: usize,
    away: usize,
    /// Uploaded before it went.
    first: (Account, String),
    accounts: Vec<Account>,
    revoked: Revoked,
    uploads: usize,
}

impl Away {
    fn new() -> Self {
        let operator = Operator::new("O");
        let mesh = Nodes::formed(3, &operator.token());
        let leader = mesh.leader();
        let first = Account::new("first");
        let small = operator.account(&first);
        mesh.nodes[leader].put(&first, &small);
        Self {
            leader,
            away: (leader + 1) % 3,
            first: (first, small),
            accounts: (0..8).map(|n| Account::new(&format!("A{n}"))).collect(),
            revoked: Revoked::new(),
            uploads: 0,
            operator,
            mesh,
        }
    }

    fn upload(&mut self) -> (String, String) {
        let account = &self.accounts[self.uploads % self.accounts.len()];
        let issued_at = now() - 1_000 + i64::try_from(self.uploads).expect("few");
        let token = self.revoked.token(&self.operator, account, issued_at);
        self.uploads += 1;
        self.mesh.nodes[self.leader].put(account, &token);
        (account.id(), token)
    }

    /// Ends the node, and uploads so many.
    fn miss(&mut self, count: usize) {
        self.mesh.nodes[self.away].kill();
        let log = self.mesh.folder.path().join(NAMES[self.leader]).join("log");
        let segments = || -> BTreeSet<_> {
            let entries = std::fs::read_dir(&log).expect("the leader's log").flatten();
            entries.map(|entry| entry.file_name()).collect()
        };
        let mut before = segments();
        // The last one is prepared, and holds nothing yet.
        before.pop_last();
        for _ in 0..count {
            self.upload();
        }
        if count == BEYOND_THE_LOG {
            eventually("the log no longer has what the node missed", || {
                before.is_disjoint(&segments()).then_some(())
            });
        }
    }

    /// Waits until the node, which runs again, has what was uploaded before, meanwhile and since.
    fn wait_until_it_has_everything(&mut self) {
        let (account, last) = self.upload();
        // Asked for again and again, and so a small one.
        let marker = Account::new("marker");
        self.mesh.nodes[self.leader].put(&marker, &self.operator.account(&marker));
        let node = &self.mesh.nodes[self.away];
        eventually("it has caught up", || {
            (node.get_account(&marker.id()).status == 200).then_some(())
        });
        assert_eq!(node.get_account(&account).text(), last);
        let (first, small) = &self.first;
        assert_eq!(node.get_account(&first.id()).text(), *small);
    }
}

/// A node that was away gets what it missed from the log, and the whole state if that no longer has it. What it has to apply
/// does not fill its memory.
#[test]
fn a_node_that_was_away_catches_up_by_log_or_by_snapshot_within_its_memory() {
    let mut world = Away::new();
    let away = world.away;
    let idle = world.mesh.nodes[away].program().resident_kb();
    for (missed, by_snapshot) in [(BY_LOG, false), (BEYOND_THE_LOG, true)] {
        world.miss(missed);
        world.mesh.nodes[away].start_again();
        world.wait_until_it_has_everything();
        let log = world.mesh.nodes[away].log();
        assert_eq!(log.contains(WHOLE), by_snapshot, "{log}");
        let grown = world.mesh.nodes[away].program().resident_kb().saturating_sub(idle);
        println!("by snapshot {by_snapshot}: {grown} KiB more than before");
        // Beside the state in use, a snapshot has redb's cache of the one that is being built.
        let most = if by_snapshot { 200 * 1024 } else { 100 * 1024 };
        assert!(grown < most, "by snapshot {by_snapshot}: {grown} KiB more than before");
    }
}

/// The thread that moves what is applied into redb.
const FLUSHER: &str = "flush";

/// It takes them into its log, and can apply few of them meanwhile.
#[test]
fn g12_a_follower_applies_hundreds_of_mib_that_it_was_sent_before_in_little_memory() {
    let mut world = Away::new();
    let lagging = world.away;
    let idle = world.mesh.nodes[lagging].program().resident_kb();
    let hang = Hang::of(world.mesh.nodes[lagging].program().pid(), FLUSHER);
    for _ in 0..BEYOND_THE_LOG {
        world.upload();
    }
    let revision = |node: &Node| status(node).and_then(|status| status["revision"].as_u64());
    let [there, here] = [lagging, world.leader].map(|node| revision(&world.mesh.nodes[node]).expect("it answers"));
    println!("it has applied {there} of {here}");
    assert!(here - there > 300, "{there} of {here}");
    drop(hang);
    world.wait_until_it_has_everything();
    let grown = world.mesh.nodes[lagging].program().resident_kb().saturating_sub(idle);
    println!(
        "{grown} KiB more than before; by snapshot: {}",
        world.mesh.nodes[lagging].log().contains(WHOLE)
    );
    assert!(grown < 100 * 1024, "{grown} KiB more than before");
}

/// As many as a busy mesh has in some minutes.
#[test]
fn g1_a_node_that_missed_ten_thousand_revisions_gets_them_from_the_log() {
    const MISSED: u64 = 10_000;
    const CLIENTS: usize = 3;
    let operator = Operator::new("O");
    let mut mesh = Nodes::formed(3, &operator.token());
    let leader = mesh.leader();
    let away = (leader + 1) % 3;
    mesh.nodes[away].kill();
    let uploaded = Mutex::new(Vec::new());
    // Few clients, since what arrives together shares a revision.
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = mesh.nodes[leader].connect();
                loop {
                    let account = Account::new("A");
                    let token = operator.account(&account);
                    let path = format!("/jwt/v1/accounts/{}", account.id());
                    let answer = connection.request("POST", &path, &[], token.as_bytes());
                    let answer = answer.expect("the leader runs");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    uploaded.lock().unwrap().push((path, token));
                    let revision = answer.header("jwtmesh-revision").expect("every answer has it");
                    if revision.parse::<u64>().expect("a number") > MISSED {
                        return;
                    }
                }
            });
        }
    });
    mesh.nodes[away].start_again();
    let uploaded = uploaded.into_inner().unwrap();
    let mut connection = mesh.nodes[away].connect();
    for (path, token) in &uploaded {
        eventually("it has caught up", || {
            let found = connection.request("GET", path, &[], b"").expect("it runs");
            (found.text() == *token).then_some(())
        });
    }
    assert!(!mesh.nodes[away].log().contains(WHOLE));
}

/// Killed again and again while the snapshot arrives, a little later each time, and right when it is there.
#[test]
fn g1_a_node_that_is_killed_while_it_installs_a_snapshot_starts_again_and_has_everything() {
    const STEP: u64 = 1024 * 1024;
    let mut world = Away::new();
    let away = world.away;
    world.miss(BEYOND_THE_LOG);
    let data = world.mesh.folder.path().join(NAMES[away]);
    let size = || {
        let files = std::fs::read_dir(&data).expect("its folder").flatten();
        let received = files.filter(|file| file.file_name().to_string_lossy().contains(".received"));
        received
            .filter_map(|file| Some(file.metadata().ok()?.len()))
            .sum::<u64>()
    };
    let mut kills = 0;
    while !world.mesh.nodes[away].log().contains(WHOLE) {
        world.mesh.nodes[away].start_again();
        eventually("more of it arrives, or it is there", || {
            (size() > kills * STEP || world.mesh.nodes[away].log().contains(WHOLE)).then_some(())
        });
        world.mesh.nodes[away].kill();
        kills += 1;
    }
    println!("killed {kills} times");
    assert!(kills > 2);
    world.mesh.nodes[away].start_again();
    world.wait_until_it_has_everything();
}

#[test]
fn g1_a_lookup_that_asks_for_a_revision_sees_it_on_every_node_or_says_that_it_cannot() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mut mesh = Nodes::formed(3, &operator.token());
    let path = format!("/jwt/v1/accounts/{}", account.id());
    let ask = |node: &Node, revision: &str| {
        let mut connection = Connection::plain(node.address()).expect("it listens");
        let answer = connection.request("GET", &path, &[("jwtmesh-min-revision", revision)], b"");
        answer.expect("an answer")
    };
    for round in 0..30 {
        let token = operator.account_at(&account, now() - 1_000 + round);
        let node = usize::try_from(round).expect("small") % 3;
        let stored = mesh.nodes[node].put(&account, &token).revision().to_string();
        for other in &mesh.nodes {
            assert_eq!(ask(other, &stored).text(), token);
            assert_eq!(ask(other, "newest").text(), token);
        }
    }
    assert_eq!(ask(&mesh.nodes[0], "99999999").status, 503);
    for wrong in ["", "-1", "new", "1.5", "99999999999999999999999"] {
        let answer = ask(&mesh.nodes[0], wrong);
        assert!(
            answer.status == 400 && answer.text().contains("jwtmesh-min-revision"),
            "{wrong}: {}",
            answer.text()
        );
    }
    // Without a majority no node can know what is newest; what is here can still be asked for.
    let (first, others) = mesh.nodes.split_at_mut(1);
    others.iter_mut().for_each(Node::kill);
    assert_eq!(ask(&first[0], "newest").status, 503);
    assert_eq!(ask(&first[0], "1").status, 200);
}
