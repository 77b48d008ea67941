//! Every server enforces every change, however long it was cut off: it is named as missing, and brought up to date.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::gate::Gate;
use crate::support::mint::{Account, Operator, User, now};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST};

/// How the second server is connected to the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tie {
    Route,
    Gateway,
    Leaf,
}

/// A node that is connected to server n1, and a last server behind a link that can be cut.
pub(crate) struct Split {
    pub(crate) operator: Operator,
    pub(crate) account: Account,
    pub(crate) node: Node,
    servers: Vec<NatsServer>,
    links: Vec<Gate>,
}

/// What ties the servers of these route, gateway or leaf node ports together, beside what every server has. A server that
/// another one tells of its peers connects to them through their gates too.
fn ties(tie: Tie, gates: &[Gate], ports: &[u16], operator: &Operator, creds: &Path) -> Vec<String> {
    let gate = |at: usize| gates[at].address;
    let leaf = format!(
        "leafnodes {{ remotes: [{{ url: \"nats-leaf://{}\", account: {}, credentials: {creds:?} }}] }}",
        gate(0),
        operator.system.id(),
    );
    let of = |at: usize| {
        let listen = format!("listen: \"127.0.0.1:{}\"", ports[at]);
        match (tie, at) {
            (Tie::Route, _) => {
                let first = SocketAddr::from(([127, 0, 0, 1], ports[0]));
                let routes = match at {
                    0 => String::new(),
                    // Only the last one is behind a link.
                    at if at + 1 < ports.len() => format!(", routes: [\"nats://{first}\"]"),
                    _ => format!(", routes: [\"nats://{}\"]", gate(0)),
                };
                format!(
                    "cluster {{ name: test, {listen}, advertise: \"{}\"{routes} }}",
                    gate(at)
                )
            }
            (Tie::Gateway, _) => {
                let (name, other) = if at == 0 { ("near", "far") } else { ("far", "near") };
                format!(
                    "gateway {{ name: {name}, {listen}, advertise: \"{}\", gateways: [{{name: {other}, url: \"nats://{}\"}}] }}",
                    gate(at),
                    gate(1 - at)
                )
            }
            (Tie::Leaf, 0) => format!("leafnodes {{ {listen} }}"),
            (Tie::Leaf, _) => leaf.clone(),
        }
    };
    (0..ports.len()).map(of).collect()
}

impl Split {
    fn start(version: &str, tie: Tie) -> Self {
        Self::of(&[version; 2], tie)
    }

    /// One server of each of these versions.
    fn of(versions: &[&str], tie: Tie) -> Self {
        let operator = Operator::new("O");
        let user = operator.system.propagating_user();
        Self::with(versions, tie, operator, &user)
    }

    pub(crate) fn with(versions: &[&str], tie: Tie, operator: Operator, user: &User) -> Self {
        Self::reaching(1, versions, tie, operator, user)
    }

    /// The same with the first `urls` servers in the node's configuration.
    fn reaching(urls: usize, versions: &[&str], tie: Tie, operator: Operator, user: &User) -> Self {
        let account = Account::new("A");
        let clients: Vec<u16> = versions.iter().map(|_| free_port()).collect();
        let servers = clients[..urls].iter().map(|port| format!("nats://127.0.0.1:{port}"));
        let options = Options {
            nats: vec![NatsLink::plain(servers.collect(), user.creds())],
            ..Options::default()
        };
        let node = Node::start(&operator.token(), options);
        node.put(&operator.system, &operator.system_token());
        node.put(&account, &operator.account_at(&account, now() - 60));
        let config = resolver_config(&operator.token(), &node.accounts_url());
        let ports: Vec<u16> = versions.iter().map(|_| free_port()).collect();
        let gate = |port: &u16| Gate::open(SocketAddr::from(([127, 0, 0, 1], *port)));
        let links: Vec<Gate> = ports.iter().map(gate).collect();
        let creds = node.folder().join("leaf.creds");
        std::fs::write(&creds, operator.system.user().creds()).expect("the test's own folder");
        let ties = ties(tie, &links, &ports, &operator, &creds);
        let start = |(at, (version, tie)): (usize, (&&str, &String))| {
            NatsServer::start_named(
                version,
                &format!("n{}", at + 1),
                clients[at],
                &format!("{config}{tie}\n"),
            )
        };
        let split = Self {
            servers: versions.iter().zip(&ties).enumerate().map(start).collect(),
            operator,
            account,
            node,
            links,
        };
        split.wait_until_tied();
        split
    }

    /// The server that is behind the link.
    pub(crate) fn last(&self) -> &NatsServer {
        self.servers.last().expect("several")
    }

    fn wait_until_tied(&self) {
        eventually("the servers hear each other", || {
            let mut system = NatsUser::connect(self.servers[0].address(), &self.operator.system.user()).ok()?;
            let count = self.servers.len();
            let answers = system.ask("$SYS.REQ.SERVER.PING.IDZ", b"", count, Duration::from_millis(300));
            (answers.len() == count).then_some(())
        });
    }

    pub(crate) fn cut(&self) {
        self.links.iter().for_each(Gate::shut);
    }

    pub(crate) fn heal(&self) {
        self.links.iter().for_each(Gate::reopen);
    }

    /// A user with a connection to the server behind the link.
    pub(crate) fn user(&self) -> (User, NatsUser) {
        let user = self.account.user();
        let connection = NatsUser::connect(self.last().address(), &user)
            .unwrap_or_else(|error| panic!("{error}: {}", self.last().log()));
        (user, connection)
    }

    /// Uploads a token that revokes `user`.
    #[track_caller]
    fn revoke(&self, user: &User) {
        let token = self.operator.revoking(&self.account, &[user], now() - 20);
        self.node.put(&self.account, &token);
    }

    /// All servers have the account loaded and are known.
    #[track_caller]
    pub(crate) fn warm_up(&self) {
        for age in [50, 40] {
            let (alice, mut connection) = self.user();
            let _near = self.near();
            self.node.put(
                &self.account,
                &self.operator.revoking(&self.account, &[&alice], now() - age),
            );
            let reason = connection.disconnected(PATIENCE);
            assert_eq!(
                reason.as_deref(),
                Some("User Authentication Revoked"),
                "{}",
                self.node.log()
            );
        }
    }

    /// Users with connections to the other servers.
    fn near(&self) -> Vec<NatsUser> {
        let near = &self.servers[..self.servers.len() - 1];
        let connect = |server: &NatsServer| NatsUser::connect(server.address(), &self.account.user());
        near.iter().filter_map(|server| connect(server).ok()).collect()
    }

    #[track_caller]
    pub(crate) fn says(&self, words: &str) {
        let says = || self.node.log().lines().any(|line| line.contains(words)).then_some(());
        eventually(words, says);
    }

    #[track_caller]
    fn is_cut_off(&self, mut connection: NatsUser, user: &User) {
        let reason = connection.disconnected(PATIENCE);
        assert_eq!(
            reason.as_deref(),
            Some("User Authentication Revoked"),
            "{}",
            self.node.log()
        );
        let again = NatsUser::connect(self.last().address(), user);
        assert_eq!(again.err().as_deref(), Some("Authorization Violation"));
    }
}

/// The closing JWT of a deleted account reaches servers that were away, too: nothing else evicts a loaded account.
#[test]
fn g9_a_server_that_was_cut_off_during_a_delete_is_sent_the_closing_jwt_when_it_is_back() {
    for version in [NEWEST, NATS_SERVER_VERSIONS[0]] {
        let split = Split::start(version, Tie::Route);
        split.warm_up();
        let (alice, mut connection) = split.user();
        let (operator, id) = (&split.operator, split.account.id());
        let seed = split.node.folder().join("operator.nk");
        std::fs::write(&seed, operator.key.seed().expect("a private key")).expect("the test's own folder");
        let seed = seed.display().to_string();
        let run = |args: &[&str]| {
            let done = split.node.cli(&[args, &["--key", &seed]].concat());
            assert!(
                done.status.success(),
                "{args:?}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        };
        run(&["account", "closing", "set", &id]);
        split.cut();
        run(&["account", "delete", &id, "--yes"]);
        split.says(MISSING);
        assert!(connection.ping(), "{version}: it was cut off");
        split.heal();
        assert!(connection.disconnected(PATIENCE).is_some(), "{}", split.node.log());
        assert!(NatsUser::connect(split.last().address(), &alice).is_err());
        let proof = split.node.cli_json(&["account", "watch", &id]);
        assert_eq!(
            (&proof["confirmed"], &proof["servers"]),
            (&json!(true), &json!(2)),
            "{proof}"
        );
    }
}

const MISSING: &str = "this server does not answer";

/// NATS clusters of three servers: of each version that is in use, and one in the middle of an upgrade.
const CLUSTERS: [[&str; 3]; 4] = {
    let [oldest, older, _, newest] = NATS_SERVER_VERSIONS;
    [[oldest; 3], [older; 3], [newest; 3], [newest, older, oldest]]
};

/// Who should answer was known only from earlier answers, in memory: after a restart no server was missed.
#[test]
fn g5_a_server_that_was_cut_off_while_the_node_restarted_is_named_and_enforces_the_revocation_when_it_is_back() {
    // Nearly all of it is waiting.
    std::thread::scope(|scope| {
        for versions in CLUSTERS {
            scope.spawn(move || is_named_and_brought_up_to_date(versions));
        }
    });
}

fn is_named_and_brought_up_to_date(versions: [&str; 3]) {
    let mut split = Split::of(&versions, Tie::Route);
    split.warm_up();
    let (bob, _connection) = split.user();
    let _near = split.near();
    let token = split.operator.revoking(&split.account, &[&bob], now() - 30);
    let proof = put_and_wait(&split, &token, 20);
    assert_eq!(
        (&proof["confirmed"], &proof["servers"]),
        (&json!(true), &json!(3)),
        "{versions:?}: {proof}"
    );
    let (alice, mut connection) = split.user();
    split.node.terminate();
    split.cut();
    split.node.start_again();
    split.revoke(&alice);
    split.says(MISSING);
    // Once more: what is known about n3 is agreed.
    split.node.kill();
    split.node.start_again();
    split.says(MISSING);
    assert_eq!(state_of(&split.node, "n3").as_deref(), Some("missing"), "{versions:?}");
    assert!(connection.ping(), "{versions:?}: it was cut off");
    split.heal();
    split.is_cut_off(connection, &alice);
    split.says("this server answers again, and enforces every change");
}

#[test]
fn g5_a_server_behind_a_gateway_or_a_leaf_node_link_is_missed_and_brought_up_to_date_too() {
    for tie in [Tie::Gateway, Tie::Leaf] {
        for version in [NEWEST, NATS_SERVER_VERSIONS[0]] {
            println!("{tie:?} {version}");
            let split = Split::start(version, tie);
            split.warm_up();
            // Until then each change waits for what n2 holds, and the leaf node finds a way around the gate in a second.
            becomes(&split.node, "n2", "up-to-date");
            let (alice, connection) = split.user();
            split.cut();
            split.revoke(&alice);
            split.says(MISSING);
            split.heal();
            split.is_cut_off(connection, &alice);
        }
    }
}

/// A server that has loaded the account before anyone here has heard of it, and holds an older JWT than the current one.
#[test]
fn g6_what_a_server_that_is_heard_for_the_first_time_holds_is_looked_at() {
    let split = Split::start(NEWEST, Tie::Route);
    split.node.cli(&["nats", "servers"]);
    let (alice, connection) = split.user();
    split.cut();
    becomes(&split.node, "n1", "up-to-date");
    // No node knows it any more, as if it had been cut off before anyone could.
    eventually("it is forgotten", || {
        split.node.cli(&["nats", "forget", "n2", "--yes"]);
        state_of(&split.node, "n2").is_none().then_some(())
    });
    split.revoke(&alice);
    let watched = split.node.cli(&["account", "watch", &split.account.id()]);
    assert!(watched.status.success(), "of the servers that are known: {watched:?}");
    split.heal();
    split.is_cut_off(connection, &alice);
}

/// Creds that have only the permissions of earlier versions go on working.
#[test]
fn g5_without_permission_to_ask_everything_is_sent_again_to_a_server_that_was_away() {
    let operator = Operator::new("O");
    let user = operator.system.sending_user();
    let split = Split::with(&[NEWEST; 2], Tie::Route, operator, &user);
    split.says("the user may not ask servers who they are");
    split.warm_up();
    let (alice, connection) = split.user();
    split.cut();
    split.revoke(&alice);
    split.says(MISSING);
    split.heal();
    split.is_cut_off(connection, &alice);
}

/// The state of server `name`, as `nats servers` shows it.
fn state_of(node: &Node, name: &str) -> Option<String> {
    let servers = node.cli_json(&["nats", "servers"]);
    let items = servers["items"].as_array().expect("a list");
    let server = items.iter().find(|server| server["name"] == name)?;
    server["state"].as_str().map(ToOwned::to_owned)
}

#[track_caller]
fn becomes(node: &Node, name: &str, state: &str) {
    eventually(&format!("{name} is {state}"), || {
        (state_of(node, name)? == state).then_some(())
    });
}

/// What `POST ...?wait=all` answers.
fn put_and_wait(split: &Split, token: &str, timeout: u64) -> Value {
    let path = format!("/jwt/v1/accounts/{}?wait=all&timeout={timeout}", split.account.id());
    let answer = split.node.post(&path, token.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).expect("JSON")
}

/// The events of `/v1/accounts/{account}/propagation` on the admin socket, as they come.
fn events(split: &Split) -> impl Iterator<Item = Value> + use<> {
    let mut socket = UnixStream::connect(split.node.folder().join("data/admin.sock")).expect("the node serves it");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let path = format!("/v1/accounts/{}/propagation", split.account.id());
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).expect("the node reads it");
    let lines = BufReader::new(socket).lines().map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
}

#[test]
fn g5_an_upload_or_a_watch_is_told_at_which_servers_a_revocation_is_in_force() {
    let split = Split::start(NEWEST, Tie::Route);
    split.warm_up();
    let (alice, mut connection) = split.user();
    let _near = split.near();
    let token = split.operator.revoking(&split.account, &[&alice], now() - 30);
    let proof = put_and_wait(&split, &token, 20);
    assert_eq!(
        (&proof["confirmed"], &proof["servers"]),
        (&json!(true), &json!(2)),
        "{proof}"
    );
    assert!(
        connection.disconnected(Duration::from_millis(1)).is_some(),
        "it is cut off by then"
    );
    let watched = split.node.cli(&["account", "watch", &split.account.id()]);
    assert!(watched.status.success(), "{watched:?}");
    let path = format!("/jwt/v1/accounts/{}?wait=all", split.account.id());
    let again = split.node.post(&path, token.as_bytes());
    assert_eq!((again.status, again.text()), (200, String::new()), "tokens are public");

    split.cut();
    let (bob, _connection) = split.user();
    let token = split.operator.revoking(&split.account, &[&bob], now() - 20);
    let proof = put_and_wait(&split, &token, 3);
    assert_eq!(
        (&proof["confirmed"], &proof["in_force"], &proof["servers"]),
        (&json!(false), &json!(1), &json!(2)),
        "{proof}"
    );
    let servers = proof["nats"][0]["servers"].as_array().expect("its servers");
    let missing = servers.iter().find(|server| server["name"] == "n2").expect("n2");
    assert_eq!(missing["state"], "missing");
    let watched = split
        .node
        .cli(&["account", "watch", &split.account.id(), "--timeout", "1"]);
    let shown = String::from_utf8_lossy(&watched.stdout).into_owned();
    assert_eq!(watched.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("is in force on 1 of 2 servers") && shown.contains("missing     n2"),
        "{shown}"
    );
    becomes(&split.node, "n2", "missing");
    let status = split.node.cli_json(&["status"]);
    let problems = status["problems"].to_string();
    assert!(problems.contains("1 of 2 servers of NATS cluster"), "{problems}");
    let mut events = events(&split);
    let first = events.next().expect("what is known now");
    assert_eq!(
        (&first["confirmed"], &first["in_force"]),
        (&json!(false), &json!(1)),
        "{first}"
    );
    split.heal();
    let watched = split.node.cli(&["account", "watch", &split.account.id()]);
    assert!(watched.status.success(), "{watched:?}");
    becomes(&split.node, "n2", "up-to-date");
    let last = events.last().expect("that it is in force everywhere, and then the end");
    assert_eq!(
        (&last["confirmed"], &last["in_force"]),
        (&json!(true), &json!(2)),
        "{last}"
    );
    for (query, code) in [
        ("wait=some", 400),
        ("wait=all&timeout=61", 400),
        ("wait=all&timeout=x", 400),
    ] {
        let path = format!("/jwt/v1/accounts/{}?{query}", split.account.id());
        assert_eq!(split.node.post(&path, token.as_bytes()).status, code, "{query}");
    }
}

#[test]
fn g5_a_server_is_missing_until_it_is_gone_by_its_own_word_or_forgotten_or_runs_again() {
    let mut split = Split::start(NEWEST, Tie::Route);
    split.warm_up();
    becomes(&split.node, "n2", "up-to-date");
    split.servers[1].signal(Signal::TERM);
    eventually("it has said that it ends", || {
        state_of(&split.node, "n2").is_none().then_some(())
    });
    split.servers[1].restart();
    becomes(&split.node, "n2", "up-to-date");
    // Killed, it says nothing; the next process of its name replaces it.
    split.servers[1].restart();
    let count = |node: &Node| node.cli_json(&["nats", "servers"])["items"].as_array().map(Vec::len);
    eventually("two servers, both up to date", || {
        split.node.put(&split.account, &split.operator.account(&split.account));
        let is_up = |name| state_of(&split.node, name).as_deref() == Some("up-to-date");
        (count(&split.node) == Some(2) && is_up("n1") && is_up("n2")).then_some(())
    });
    split.servers[1].signal(Signal::KILL);
    eventually("it is missed", || {
        split.node.put(&split.account, &split.operator.account(&split.account));
        (state_of(&split.node, "n2")? == "missing").then_some(())
    });
    let refused = split.node.cli(&["nats", "forget", "n1"]);
    assert_eq!(refused.status.code(), Some(2), "it is up to date: {refused:?}");
    let forgotten = split.node.cli(&["nats", "forget", "n2"]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    eventually("nothing waits for it", || (count(&split.node) == Some(1)).then_some(()));
    let watched = split.node.cli(&["account", "watch", &split.account.id()]);
    assert!(watched.status.success(), "{watched:?}");
    assert_eq!(split.node.cli(&["nats", "forget", "n2"]).status.code(), Some(3));
}

/// The NATS cluster has fallen into two parts, and the node has a URL of each.
#[test]
fn g5_a_missing_server_is_reached_at_its_own_url() {
    let operator = Operator::new("O");
    let user = operator.system.propagating_user();
    let split = Split::reaching(2, &[NEWEST; 2], Tie::Route, operator, &user);
    split.warm_up();
    split.cut();
    for age in [30, 20] {
        let (bob, mut connection) = split.user();
        let near = NatsUser::connect(split.servers[0].address(), &split.account.user());
        let token = split.operator.revoking(&split.account, &[&bob], now() - age);
        let proof = put_and_wait(&split, &token, 30);
        assert_eq!(
            (&proof["confirmed"], &proof["servers"]),
            (&json!(true), &json!(2)),
            "{proof} {}",
            split.node.log()
        );
        let reason = connection.disconnected(Duration::from_millis(1));
        assert_eq!(reason.as_deref(), Some("User Authentication Revoked"));
        assert!(near.is_ok_and(|mut near| near.ping()));
    }
    split.heal();
    eventually("it is closed when the parts are one again", || {
        split.node.log().contains("the one of its own is closed").then_some(())
    });
    let (bob, mut connection) = split.user();
    split.revoke(&bob);
    assert!(connection.disconnected(PATIENCE).is_some());
}

/// A server of a part that is cut off takes smaller messages, which ended the connection to it at each attempt.
#[test]
fn g5_an_account_that_is_too_large_for_a_further_server_is_left_out_there_only() {
    let operator = Operator::new("O");
    let user = operator.system.propagating_user();
    let split = Split::reaching(2, &[NEWEST; 2], Tie::Route, operator, &user);
    split.warm_up();
    let config = split.last().folder().join("nats.conf");
    let text = std::fs::read_to_string(&config).expect("the test's own file");
    std::fs::write(&config, format!("{text}\nmax_payload: 4096\n")).expect("the test's own file");
    split.last().signal(Signal::HUP);
    eventually("it takes less", || {
        split.last().log().contains("Reloaded: max_payload").then_some(())
    });
    split.cut();
    let large = Account::new("large");
    let large_token = split.operator.account_with(&large, |claims| {
        claims["nats"]["description"] = json!("x".repeat(7_000));
    });
    split.revoke(&split.account.user());
    let further = || {
        let mut system = NatsUser::connect(split.last().address(), &split.operator.system.user()).ok()?;
        let said = system.ask("$SYS.REQ.SERVER.PING.CONNZ", b"{}", 1, PATIENCE);
        let connections = said.first()?["data"]["connections"].as_array()?;
        let ours = connections
            .iter()
            .find(|one| one["name"].as_str().is_some_and(|name| name.starts_with("jwtmesh-")));
        ours?["cid"].as_u64()
    };
    let before = eventually("it is connected to as well", further);
    split.node.put(&large, &large_token);
    let (bob, mut connection) = split.user();
    let token = split.operator.revoking(&split.account, &[&bob], now() - 10);
    let proof = put_and_wait(&split, &token, 30);
    assert_eq!(&proof["confirmed"], &json!(true), "{proof} {}", split.node.log());
    assert!(connection.disconnected(PATIENCE).is_some(), "{}", split.node.log());
    assert_eq!(further(), Some(before), "that connection lasts: {}", split.node.log());
    split.says("too large for this server");
    let line = split.node.log();
    let line = line.lines().find(|line| line.contains("too large for this server"));
    let url = format!("127.0.0.1:{}", split.last().address().port());
    for words in [&url, &large.id(), "4096"] {
        assert!(line.is_some_and(|line| line.contains(words)), "{words}: {line:?}");
    }
    split.heal();
    split.says("the one of its own is closed");
}
