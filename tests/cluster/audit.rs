//! What the servers enforce is read: before it is overwritten, after changes, and when somebody else has given them a JWT.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::deletes::closing;
use crate::proof::{Split, Tie};
use crate::support::mesh::{Nodes, nats_link, node_for, wait_until_up_to_date};
use crate::support::mint::{Account, Operator, now, sign};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::nsc::copy_folder;
use crate::support::process::{PATIENCE, eventually, free_port, within};
use crate::support::proxy::{Direction, Proxy};
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST};

/// How long a server may enforce another JWT than the current one.
const REPAIRED: Duration = Duration::from_secs(5);

fn update_of(account: &Account) -> String {
    format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", account.id())
}

/// The JWT that a server has loaded of `account`.
fn held(server: &NatsServer, operator: &Operator, account: &Account) -> Option<String> {
    let mut system = NatsUser::connect(server.address(), &operator.system.user()).ok()?;
    let names = system.ask("$SYS.REQ.SERVER.PING.IDZ", b"", 9, Duration::from_millis(200));
    let own = names.iter().find(|answer| answer["name"] == server.name())?;
    let subject = format!("$SYS.REQ.SERVER.{}.ACCOUNTZ", own["id"].as_str()?);
    let payload = format!(r#"{{"account":"{}"}}"#, account.id());
    let answer = system.ask(&subject, payload.as_bytes(), 1, PATIENCE);
    answer[0]["data"]["account_detail"]["jwt"]
        .as_str()
        .map(ToOwned::to_owned)
}

/// Waits until a server enforces `token`, no longer than a repair may take.
#[track_caller]
fn enforces(server: &NatsServer, operator: &Operator, account: &Account, token: &str, log: impl Fn() -> String) {
    let begun = Instant::now();
    let is_held = || (held(server, operator, account).as_deref() == Some(token)).then_some(());
    let is = within(REPAIRED, is_held);
    assert!(is.is_some(), "{} after {:?}: {}", server.name(), begun.elapsed(), log());
}

/// A node and a server that has an account loaded.
struct One {
    operator: Operator,
    account: Account,
    node: Node,
    server: NatsServer,
}

impl One {
    fn start(version: &str, respond: bool) -> Self {
        let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
        let user = operator.system.propagating_user();
        let node = node_for(&operator, &user, &[port], respond);
        node.put(&account, &operator.account_at(&account, now() - 600));
        let config = resolver_config(&operator.token(), &node.accounts_url());
        let server = NatsServer::start_on_port(version, port, &config);
        Self {
            operator,
            account,
            node,
            server,
        }
    }

    #[track_caller]
    fn says(&self, words: &str) {
        eventually(words, || self.node.log().contains(words).then_some(()));
    }
}

/// The running server enforces a revocation, which a backup that is put back knows nothing of.
#[test]
fn g6_after_an_older_copy_was_put_back_no_way_to_push_undoes_a_revocation() {
    for way in ["nothing", "the same bytes", "notify", "a JWT between the two"] {
        for version in [NEWEST, NATS_SERVER_VERSIONS[0]] {
            println!("{way}, {version}");
            let mut one = One::start(version, true);
            let (operator, account) = (&one.operator, &one.account);
            let alice = account.user();
            let mut connection = NatsUser::connect(one.server.address(), &alice).expect("alice gets in");
            let before = one.node.get_account(&account.id()).text();
            one.node.terminate();
            let data = one.node.folder().join("data");
            let copy = data.with_extension("older");
            copy_folder(&data, &copy);
            one.node.start_again();
            let revoking = operator.revoking(account, &[&alice], now() - 20);
            one.node.put(account, &revoking);
            assert!(connection.disconnected(PATIENCE).is_some(), "{}", one.node.log());
            one.node.terminate();
            std::fs::remove_dir_all(&data).unwrap();
            copy_folder(&copy, &data);
            one.node.start_again();
            // It may have been adopted by then, and refuses what is older.
            let id = account.id();
            match way {
                "the same bytes" => drop(one.node.post_account(&id, &before)),
                "notify" => drop(one.node.get(&format!("/jwt/v1/accounts/{id}?notify=true"))),
                "a JWT between the two" => {
                    drop(one.node.post_account(&id, &operator.account_at(account, now() - 100)));
                }
                _ => {}
            }
            eventually("it is adopted", || {
                let refused = NatsUser::connect(one.server.address(), &alice);
                assert!(refused.is_err(), "she gets in again: {}", one.node.log());
                (one.node.get_account(&id).text() == revoking).then_some(())
            });
            one.says("adopted a newer JWT of this account, which this server enforces");
            let refused = NatsUser::connect(one.server.address(), &alice);
            assert!(refused.is_err(), "{}", one.node.log());
            eventually("it is counted", || {
                let servers = one.node.cli_json(&["nats", "servers"]);
                (servers["items"][0]["adopted"] == 1).then_some(())
            });
        }
    }
}

/// Its closing JWT is older than its JWT, as those are that were deposited in time: no server says when it was shut.
#[test]
fn g9_an_older_copy_of_an_account_that_was_shut_since_is_named() {
    let mut one = One::start(NEWEST, true);
    let (operator, account) = (&one.operator, &one.account);
    let file = one.node.folder().join("closing.jwt");
    std::fs::write(&file, closing(operator, account)).unwrap();
    one.node.put(account, &operator.account(account));
    let is_done = |args: &[&str]| assert!(one.node.cli(args).status.success(), "{args:?}: {}", one.node.log());
    is_done(&["account", "closing", "set", &account.id(), file.to_str().unwrap()]);
    let _connection = NatsUser::connect(one.server.address(), &account.user()).expect("it gets in");
    one.node.terminate();
    let data = one.node.folder().join("data");
    let copy = data.with_extension("older");
    copy_folder(&data, &copy);
    one.node.start_again();
    let done = one.node.cli(&["account", "kill", &account.id(), "--yes"]);
    assert!(done.status.success(), "{done:?}");
    enforces(
        &one.server,
        operator,
        account,
        &std::fs::read_to_string(&file).unwrap(),
        || one.node.log(),
    );
    one.node.terminate();
    std::fs::remove_dir_all(&data).unwrap();
    copy_folder(&copy, &data);
    one.node.start_again();
    one.says("and the account is not shut here");
}

/// Somebody with system creds, where no responder listens: the publisher does.
#[test]
fn g6_without_a_responder_an_older_jwt_is_overruled_and_a_newer_one_adopted() {
    for version in [NEWEST, NATS_SERVER_VERSIONS[0]] {
        let one = One::start(version, false);
        let (operator, account) = (&one.operator, &one.account);
        let old = one.node.get_account(&account.id()).text();
        let alice = account.user();
        let mut connection = NatsUser::connect(one.server.address(), &alice).expect("alice gets in");
        let revoking = operator.revoking(account, &[&alice], now() - 60);
        one.node.put(account, &revoking);
        assert!(connection.disconnected(PATIENCE).is_some(), "{}", one.node.log());
        let mut system = NatsUser::connect(one.server.address(), &operator.system.user()).expect("it gets in");
        for subject in [
            update_of(account),
            format!("$SYS.ACCOUNT.{}.CLAIMS.UPDATE", account.id()),
        ] {
            system.publish(&subject, old.as_bytes());
            eventually("the server has taken it, or it is overruled", || {
                one.node.log().contains("another sender published a JWT").then_some(())
            });
            enforces(&one.server, operator, account, &revoking, || one.node.log());
        }
        let newer = operator.account_at(account, now() - 10);
        system.publish(&update_of(account), newer.as_bytes());
        eventually("it is adopted", || {
            (one.node.get_account(&account.id()).text() == newer).then_some(())
        });
        enforces(&one.server, operator, account, &newer, || one.node.log());
    }
}

/// Creds of an earlier version may not hear what others send.
#[test]
fn g6_creds_that_may_not_hear_what_others_send_work_and_status_says_what_is_not_seen() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let user = operator.system.sending_user();
    let link = NatsLink {
        respond: false,
        ..NatsLink::plain(vec![format!("nats://127.0.0.1:{port}")], user.creds())
    };
    let options = Options {
        nats: vec![link],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node.put(&account, &operator.account_at(&account, now() - 600));
    let config = resolver_config(&operator.token(), &node.accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let alice = account.user();
    let mut connection = NatsUser::connect(server.address(), &alice).expect("alice gets in");
    node.put(&account, &operator.revoking(&account, &[&alice], now() - 60));
    assert!(connection.disconnected(PATIENCE).is_some(), "{}", node.log());
    eventually("it says so", || {
        let problems = node.cli_json(&["status"])["problems"].to_string();
        let is_said = ["may not receive the updates that others send", "may not ask servers"];
        is_said.iter().all(|words| problems.contains(words)).then_some(())
    });
}

/// Three nodes, and two NATS clusters: what one learns of its servers, all serve and enforce.
#[test]
fn g6_a_newer_jwt_given_to_one_nats_cluster_is_adopted_on_every_node_and_in_the_other() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let ports = [free_port(), free_port()];
    let (_creds, link) = nats_link(&operator, ports[0]);
    let (_others, other) = nats_link(&operator, ports[1]);
    let more = format!("{link}{}", other.replace("\"test\"", "\"other\""));
    let mesh = Nodes::unformed_with(3, &operator.token(), &more).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    let old = operator.account_at(&account, now() - 600);
    mesh.nodes[0].put(&account, &old);
    let servers = [0, 1].map(|at| {
        let config = resolver_config(&operator.token(), &mesh.nodes[at].accounts_url());
        NatsServer::start_on_port(NEWEST, ports[at], &config)
    });
    let _users = servers.each_ref().map(|server| {
        eventually("a user gets in", || {
            NatsUser::connect(server.address(), &account.user()).ok()
        })
    });
    let newer = operator.account_at(&account, now() - 60);
    let mut system = NatsUser::connect(servers[0].address(), &operator.system.user()).expect("it gets in");
    system.publish(&update_of(&account), newer.as_bytes());
    mesh.wait_until_served(&account, &newer);
    for server in &servers {
        enforces(server, &operator, &account, &newer, || mesh.nodes[0].log());
    }
    system.publish(&update_of(&account), old.as_bytes());
    eventually("it is overruled", || {
        let is_said = |node: &Node| node.log().contains("another sender published a JWT");
        mesh.nodes.iter().any(is_said).then_some(())
    });
    enforces(&servers[0], &operator, &account, &newer, || mesh.nodes[0].log());
}

/// Another mesh, as one from an older backup has it, publishes to the same servers. Its reply subjects begin as ours do.
#[test]
fn g6_an_older_jwt_that_another_mesh_publishes_is_overruled_and_that_mesh_adopts_the_newer_one() {
    for respond in [false, true] {
        let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
        let user = operator.system.answering_user();
        let start = || node_for(&operator, &user, &[port], respond);
        let ours = start();
        let config = resolver_config(&operator.token(), &ours.accounts_url());
        let server = NatsServer::start_on_port(NEWEST, port, &config);
        wait_until_up_to_date(&ours, 1);
        let newer = operator.account_at(&account, now() - 600);
        ours.put(&account, &newer);
        eventually("it sends nothing more", || {
            ours.log().contains("new accounts propagated").then_some(())
        });
        let theirs = start();
        wait_until_up_to_date(&theirs, 1);
        // What they upload is sent at once, although the server has loaded something newer meanwhile.
        let mut member = NatsUser::connect(server.address(), &account.user()).expect("the account is served");
        let mut hears = NatsUser::connect(server.address(), &operator.system.user()).expect("it gets in");
        hears.subscribe(&update_of(&account));
        theirs.put(&account, &operator.account_at(&account, now() - 900));
        let overruled = || {
            let lines = ours.log();
            let about = |line: &&str| line.contains("another sender published") && line.contains(&account.id());
            lines.lines().filter(about).count()
        };
        let said = within(REPAIRED, || (overruled() > 0).then_some(()));
        assert!(said.is_some(), "respond {respond}: {}", ours.log());
        enforces(&server, &operator, &account, &newer, || ours.log());
        eventually("they have learned it", || {
            (theirs.get_account(&account.id()).text() == newer).then_some(())
        });
        let mut last = Vec::new();
        eventually("neither sends it any more", || {
            let next = hears.next(Duration::from_secs(3));
            let is_over = next.is_none();
            last = next.map_or(std::mem::take(&mut last), |message| message.payload);
            is_over.then_some(())
        });
        assert_eq!(String::from_utf8_lossy(&last), newer);
        assert_eq!(overruled(), 1, "respond {respond}: {}", ours.log());
        assert!(member.ping(), "nothing in it has changed");
    }
}

/// The older server goes on with what it has. The newer one enforces the JWT, which may carry a revocation: to send the older
/// one would undo it.
#[test]
fn g6_a_newer_jwt_that_an_older_server_would_refuse_is_adopted_from_the_server_that_enforces_it() {
    for (respond, is_heard) in [(false, true), (true, true), (false, false)] {
        let (operator, account) = (Operator::new("O"), Account::new("A"));
        let ports: Vec<_> = (0..2).map(|_| (free_port(), free_port())).collect();
        let user = match is_heard {
            true => operator.system.answering_user(),
            false => operator.system.counting_user(),
        };
        let link = NatsLink {
            respond,
            ..NatsLink::plain(vec![format!("nats://127.0.0.1:{}", ports[0].0)], user.creds())
        };
        let options = Options {
            nats: vec![link],
            ..Options::default()
        };
        let node = Node::start(&operator.token(), options);
        node.put(&operator.system, &operator.system_token());
        node.put(&account, &operator.account_at(&account, now() - 600));
        let config = resolver_config(&operator.token(), &node.accounts_url());
        let start = |at: usize, version: &str| {
            let cluster = format!(
                "cluster {{ name: test, listen: \"127.0.0.1:{}\", routes: [\"nats://127.0.0.1:{}\"] }}\n",
                ports[at].1, ports[0].1
            );
            NatsServer::start_named(version, &format!("n{at}"), ports[at].0, &format!("{config}{cluster}"))
        };
        let servers = [start(0, NATS_SERVER_VERSIONS[0]), start(1, NEWEST)];
        let alice = account.user();
        let mut connections = servers
            .each_ref()
            .map(|server| eventually("alice gets in", || NatsUser::connect(server.address(), &alice).ok()));
        eventually("both servers are known", || {
            let servers = node.cli_json(&["nats", "servers"]);
            let items = servers["items"].as_array()?;
            let are_swept = items.iter().all(|server| server["state"] == "up-to-date");
            (items.len() == 2 && are_swept).then_some(())
        });
        let exporters = [Account::new("X").id(), Account::new("Y").id()];
        let revoking = operator.account_with(&account, |claims| {
            claims["iat"] = json!(now() - 60);
            claims["nats"]["imports"] = exporters
                .map(|exporter| json!({"subject": "a", "account": exporter, "type": "service"}))
                .into();
            claims["nats"]["revocations"] = json!({ alice.id(): now() });
        });
        assert_eq!(
            node.post_account(&account.id(), &revoking).status,
            409,
            "it is refused as an upload"
        );
        let mut system = NatsUser::connect(servers[1].address(), &operator.system.user()).expect("it gets in");
        system.publish(&update_of(&account), revoking.as_bytes());
        assert!(connections[1].disconnected(PATIENCE).is_some(), "{}", servers[1].log());
        eventually("it is adopted", || {
            if !is_heard {
                // Then the servers are read.
                node.get(&format!("/jwt/v1/accounts/{}?notify=true", account.id()));
            }
            (node.get_account(&account.id()).text() == revoking).then_some(())
        });
        let log = node.log();
        assert!(log.contains("would refuse this JWT of account"), "{log}");
        assert!(NatsUser::connect(servers[1].address(), &alice).is_err(), "{log}");
        eventually("the server that does not take it is named", || {
            let servers = node.cli_json(&["nats", "servers"]);
            let items = servers["items"].as_array()?;
            (items.iter().find(|server| server["name"] == "n0")?["state"] == "refuses").then_some(())
        });
        assert_eq!(node.log().matches("refused here").count(), 0, "{}", node.log());
    }
}

/// What a server has not been sent yet is nobody's; what it holds although it had taken the current JWT is.
#[test]
fn g6_a_server_that_was_away_is_not_said_to_enforce_what_somebody_else_sent() {
    let operator = Operator::new("O");
    // It does not hear what others send: that is found by reading the servers.
    let user = operator.system.counting_user();
    let split = Split::with(&[NEWEST; 2], Tie::Route, operator, &user);
    split.warm_up();
    let (operator, account) = (&split.operator, &split.account);
    let (_, mut connection) = split.user();
    let old = split.node.get_account(&account.id()).text();
    let overruled = || {
        let servers = split.node.cli_json(&["nats", "servers"]);
        let items = servers["items"].as_array().cloned().unwrap_or_default();
        let counts = items.iter().filter_map(|server| server["overruled"].as_u64());
        counts.sum::<u64>()
    };
    split.cut();
    let newer = operator.account_at(account, now() - 20);
    split.node.put(account, &newer);
    split.says("this server does not answer");
    split.heal();
    split.says("this server answers again, and enforces every change");
    enforces(split.last(), operator, account, &newer, || split.node.log());
    assert_eq!(overruled(), 0, "{}", split.node.log());
    assert!(
        !split.node.log().contains("enforces another JWT"),
        "{}",
        split.node.log()
    );

    let mut system = NatsUser::connect(split.last().address(), &operator.system.user()).expect("it gets in");
    system.publish(&update_of(account), old.as_bytes());
    eventually("the server has taken it", || {
        (held(split.last(), operator, account)? == old).then_some(())
    });
    split
        .node
        .get(&format!("/jwt/v1/accounts/{}?notify=true", account.id()));
    enforces(split.last(), operator, account, &newer, || split.node.log());
    eventually("it is counted", || (overruled() > 0).then_some(()));
    assert!(
        split.node.log().contains("enforces another JWT"),
        "{}",
        split.node.log()
    );
    assert!(connection.ping());
}

/// A directory resolver says "updated" of a JWT that it does not enforce: one of an operator that it does not trust.
#[test]
fn g6_a_directory_resolver_beside_url_resolvers_is_not_believed() {
    for kind in ["full", "cache"] {
        let (operator, account) = (Operator::new("O"), Account::new("A"));
        let ports: Vec<_> = (0..2).map(|_| (free_port(), free_port())).collect();
        let user = operator.system.answering_user();
        let link = NatsLink::plain(vec![format!("nats://127.0.0.1:{}", ports[0].0)], user.creds());
        let options = Options {
            nats: vec![link],
            ..Options::default()
        };
        // The operator that the servers know has no signing key yet.
        let signing = nkeys::KeyPair::new_operator();
        let later = operator.token_with(|claims| {
            claims["nats"]["signing_keys"] = json!([signing.public_key()]);
        });
        let node = Node::start(&later, options);
        node.put(&operator.system, &operator.system_token());
        node.put(&account, &operator.account_at(&account, now() - 600));
        let config = resolver_config(&operator.token(), &node.accounts_url());
        let routes = |port: u16| {
            format!(
                "cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [\"nats://127.0.0.1:{}\"] }}\n",
                ports[0].1
            )
        };
        let first = NatsServer::start_named(NEWEST, "n1", ports[0].0, &format!("{config}{}", routes(ports[0].1)));
        let directory = format!(
            "operator: {}\nsystem_account: {}\nresolver: {{ type: {kind}, dir: \"jwt\" }}\nresolver_preload {{ {}: {} }}\n{}",
            operator.token(),
            operator.system.id(),
            operator.system.id(),
            operator.system_token(),
            routes(ports[1].1)
        );
        let second = NatsServer::start_named(NEWEST, "n2", ports[1].0, &directory);
        let _users = [&first, &second].map(|server| {
            eventually("a user gets in", || {
                NatsUser::connect(server.address(), &account.user()).ok()
            })
        });
        let newer = operator.account_at(&account, now() - 300);
        node.put(&account, &newer);
        enforces(&second, &operator, &account, &newer, || node.log());
        // It stores this one and enforces the one before.
        let claims = operator.account_claims(&account, |claims| {
            claims["iss"] = json!(signing.public_key());
        });
        node.put(&account, &sign(&signing, &claims));
        eventually("it is named", || {
            let servers = node.cli_json(&["nats", "servers"]);
            let items = servers["items"].as_array()?;
            let second = items.iter().find(|server| server["name"] == "n2")?;
            (second["state"] != "up-to-date" && second["overruled"].as_u64()? > 0).then_some(())
        });
    }
}

/// T5: the push arrives during a server's first fetch, which brings the older JWT.
#[test]
fn g6_a_push_during_a_first_fetch_never_leaves_the_older_jwt_in_force() {
    let (operator, port) = (Operator::new("O"), free_port());
    let user = operator.system.propagating_user();
    let link = NatsLink::plain(vec![format!("nats://127.0.0.1:{port}")], user.creds());
    let options = Options {
        nats: vec![link],
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    // What a server fetches is on its way for a while.
    let way = Proxy::to(node.address());
    way.delay(Direction::FromTarget, Duration::from_millis(200));
    let url = format!("http://{}/jwt/v1/accounts/", way.address());
    let server = NatsServer::start_on_port(NEWEST, port, &resolver_config(&operator.token(), &url));
    let trials: Vec<_> = (0..200)
        .map(|n| {
            let account = Account::new(&format!("A{n}"));
            node.put(&account, &operator.account_at(&account, now() - 600));
            let user = account.user();
            let revoking = operator.revoking(&account, &[&user], now() - 60);
            (account, user, revoking)
        })
        .collect();
    let mut older = 0;
    for some in trials.chunks(20) {
        older += std::thread::scope(|scope| {
            let (node, server) = (&node, &server);
            let pairs: Vec<_> = some
                .iter()
                .map(|(account, user, revoking)| {
                    let connecting = scope.spawn(|| NatsUser::connect(server.address(), user).is_ok());
                    let pushing = scope.spawn(|| node.put(account, revoking));
                    (connecting, pushing)
                })
                .collect();
            let got_in = pairs.into_iter().filter_map(|(connecting, pushing)| {
                pushing.join().expect("it is pushed");
                connecting.join().expect("it ends").then_some(())
            });
            got_in.count()
        });
        let until = Instant::now() + REPAIRED;
        for (account, user, _) in some {
            let left = until.saturating_duration_since(Instant::now());
            let is_refused = || NatsUser::connect(server.address(), user).is_err().then_some(());
            assert!(within(left, is_refused).is_some(), "{}: {}", account.name, node.log());
        }
    }
    assert!(older > 0, "no fetch of 200 brought the older JWT");
}
