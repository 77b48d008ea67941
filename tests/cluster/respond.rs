//! Requests over the system account are answered by one node, in time, and in the shapes of nats-server's full resolver.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::asker::{Answering, Asker, DELETE, IN_TIME, LIST, UPDATE, lookup_of, update_of};
use crate::support::mesh::{Nodes, nats_link_as};
use crate::support::mint::{Account, Operator, claims, now, sign};
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::nats_user::NatsUser;
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST};

#[test]
fn g7_each_kind_of_payload_gets_its_answer() {
    for version in [NEWEST, NATS_SERVER_VERSIONS[0]] {
        let mesh = Answering::start(version);
        let (operator, account, mut system) = (&mesh.operator, &mesh.account, mesh.system());
        let newer = operator.account_at(account, now() - 30);
        for token in [newer.clone(), format!("{newer}\n")] {
            let answer = system.ask_json(UPDATE, token.as_bytes());
            assert_eq!(
                answer["data"],
                json!({"account": account.id(), "code": 200, "message": "jwt updated"})
            );
            assert_eq!(mesh.node.get_account(&account.id()).text(), newer);
        }
        let foreign = Operator::new("P");
        let expired = operator.account_with(account, |claims| claims["exp"] = json!(now() - 5));
        let long = "x".repeat(1_048_520);
        for (payload, words) in [
            (mesh.token.clone(), "has a newer JWT, issued at"),
            (foreign.account(account), "issuer"),
            (
                sign(
                    &account.key,
                    &operator.account_claims(account, |claims| claims["iss"] = json!(account.id())),
                ),
                "signed",
            ),
            (expired, "expired"),
            ("garbage".to_owned(), ""),
            (long, "bytes"),
            (String::new(), "nothing is here"),
        ] {
            let description = system.refused(UPDATE, payload.as_bytes());
            let sentence = description.strip_prefix("jwt update resulted in error - ");
            assert!(
                sentence.is_some_and(|sentence| sentence.contains(words)),
                "{description}, not {words}"
            );
        }
        assert_eq!(mesh.node.get_account(&account.id()).text(), newer);

        let (with_header, _) = system
            .try_ask(
                UPDATE,
                Some("Nats-Trace: x"),
                operator.account_at(account, now() - 20).as_bytes(),
                PATIENCE,
            )
            .expect("an answer");
        assert!(String::from_utf8_lossy(&with_header.payload).contains("jwt updated"));

        // Without a time of issue, the order of arrival counts, since those who may ask here are known.
        let undated = operator.account_with(&Account::new("undated"), |claims| {
            claims.as_object_mut().expect("claims").remove("iat");
        });
        assert_eq!(system.ask_json(UPDATE, undated.as_bytes())["data"]["code"], 200);
    }
}

#[test]
fn a_submission_without_a_reply_is_stored_and_its_refusal_is_logged() {
    let mesh = Answering::start(NEWEST);
    let mut system = mesh.system();
    let newer = mesh.operator.account_at(&mesh.account, now() - 30);
    system.0.publish(UPDATE, newer.as_bytes());
    eventually("it is stored", || {
        (mesh.node.get_account(&mesh.account.id()).text() == newer).then_some(())
    });
    system.0.publish(UPDATE, mesh.token.as_bytes());
    let line = eventually("the refusal is logged", || {
        let log = mesh.node.log();
        let line = log.lines().find(|line| line.contains("did not ask for an answer"))?;
        Some(line.to_owned())
    });
    assert!(
        line.contains(" WARN ") && line.contains(&mesh.account.id()) && line.contains("has a newer JWT"),
        "{line}"
    );
    assert!(!mesh.node.log().contains(&mesh.token), "a token is logged");
}

#[test]
fn a_lookup_gives_the_stored_bytes_or_nothing() {
    let mesh = Answering::start(NEWEST);
    let mut system = mesh.system();
    assert_eq!(system.ask(&lookup_of(&mesh.account), b""), mesh.token.as_bytes());
    // nats sends an empty object.
    assert_eq!(system.ask(&lookup_of(&mesh.account), b"{}"), mesh.token.as_bytes());

    let soon = Account::new("soon");
    let expiring = mesh
        .operator
        .account_with(&soon, |claims| claims["exp"] = json!(now() + 3));
    mesh.node.put(&soon, &expiring);
    eventually("it has expired", || {
        let answer = mesh.node.get(&format!("/jwt/v1/accounts/{}?check=true", soon.id()));
        (answer.status == 404).then_some(())
    });
    assert_eq!(
        system.ask(&lookup_of(&soon), b""),
        expiring.as_bytes(),
        "the server judges it"
    );
    assert_eq!(
        system.pack(b"").len(),
        2,
        "a pack has the others: {:?}",
        mesh.account.id()
    );

    // An empty answer could end the search of a nats-server whose peer has the account.
    for unknown in [
        lookup_of(&Account::new("B")),
        "$SYS.REQ.ACCOUNT.x.CLAIMS.LOOKUP".to_owned(),
    ] {
        let patience = Duration::from_millis(300);
        assert!(system.try_ask(&unknown, None, b"", patience).is_none(), "{unknown}");
    }
    // Nothing is answered where the answer would be a request.
    let (trap, update) = (lookup_of(&mesh.account), "$SYS.REQ.SERVER.PING.IDZ");
    system.0.subscribe(update);
    system.0.request_to(&trap, update, None, b"");
    assert_eq!(system.ask(&trap, b""), mesh.token.as_bytes());
}

#[test]
fn a_list_and_a_pack_have_every_account_and_an_equal_hash_needs_none() {
    use sha2::{Digest, Sha256};

    let mesh = Answering::start(NEWEST);
    let mut system = mesh.system();
    let mut stored = vec![
        (
            mesh.operator.system.id(),
            mesh.node.get_account(&mesh.operator.system.id()).text(),
        ),
        (mesh.account.id(), mesh.token.clone()),
    ];
    for _ in 0..40 {
        let account = Account::new("more");
        let token = mesh.operator.account(&account);
        mesh.node.put(&account, &token);
        stored.push((account.id(), token));
    }
    let check = |system: &mut Asker, stored: &mut Vec<(String, String)>| {
        stored.sort();
        let answer = system.ask_json(LIST, b"");
        let mut keys: Vec<&str> = answer["data"]
            .as_array()
            .expect("keys")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, stored.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>());

        let lines: Vec<String> = stored.iter().map(|(key, token)| format!("{key}|{token}")).collect();
        let mut hash = [0_u8; 32];
        for (_, token) in stored.iter() {
            hash.iter_mut().zip(Sha256::digest(token)).for_each(|(a, b)| *a ^= b);
        }
        for (theirs, wanted) in [
            (&b""[..], &lines[..]),
            (&[0; 32], &lines),
            (&hash, &[]),
            (&hash[..31], &lines),
        ] {
            let mut found = system.pack(theirs);
            found.sort();
            assert_eq!(found, wanted);
        }
    };
    check(&mut system, &mut stored);
    // A change, which the hash follows.
    let newer = mesh.operator.account_at(&mesh.account, now() - 10);
    mesh.node.put(&mesh.account, &newer);
    let at = stored
        .iter()
        .position(|(key, _)| *key == mesh.account.id())
        .expect("stored");
    stored[at].1 = newer;
    check(&mut system, &mut stored);
}

#[test]
fn g12_a_list_that_does_not_fit_into_a_message_is_refused_with_a_sentence() {
    let mesh = Answering::start_with(NEWEST, |operator, node| {
        format!(
            "{}max_payload: 1024\n",
            resolver_config(&operator.token(), &node.accounts_url())
        )
    });
    let mut system = mesh.system();
    for _ in 0..20 {
        let account = Account::new("more");
        mesh.node.put(&account, &mesh.operator.account(&account));
    }
    let description = system.refused(LIST, b"");
    assert!(
        description.contains("22 accounts are stored") && description.contains("jwtmesh account list"),
        "{description}"
    );
}

#[test]
fn a_delete_is_refused_as_a_nats_server_refuses_it() {
    let mesh = Answering::start(NEWEST);
    let mut system = mesh.system();
    let operator = mesh.operator.key.public_key();
    let request = sign(
        &mesh.operator.key,
        &json!({"iss": operator, "sub": operator, "iat": now(), "nats": {"accounts": "none", "version": 2}}),
    );
    let description = system.refused(DELETE, request.as_bytes());
    let begin = format!("delete accounts request by {operator} failed - ");
    assert!(
        description.starts_with(&begin) && description.contains("nats.accounts must be a list"),
        "{description}"
    );
    let description = system.refused(DELETE, b"garbage");
    assert!(
        description.starts_with("delete accounts request by  failed - "),
        "{description}"
    );
    let large = format!("{request}{}", "x".repeat(1_000_000));
    let description = system.refused(DELETE, large.as_bytes());
    assert!(
        description.starts_with("delete accounts request by  failed - "),
        "{description}"
    );
    assert_eq!(mesh.node.get_account(&mesh.account.id()).status, 200);
}

/// A publisher would count the answer as that of a nats-server, and no longer send its change.
#[test]
fn no_answer_is_sent_to_a_publisher() {
    let mesh = Answering::start(NEWEST);
    let mut system = mesh.system();
    let inbox = format!("_INBOX.jwtmesh.one.x.{}-1", mesh.account.id());
    system.0.subscribe(&inbox);
    let newer = mesh.operator.account_at(&mesh.account, now() - 30);
    system.0.request_to(UPDATE, &inbox, None, newer.as_bytes());
    for subject in [lookup_of(&mesh.account), LIST.to_owned(), DELETE.to_owned()] {
        system.0.request_to(&subject, &inbox, None, b"");
    }
    eventually("it is stored", || {
        (mesh.node.get_account(&mesh.account.id()).text() == newer).then_some(())
    });
    let received = system.0.next(Duration::from_millis(500));
    assert!(received.is_none(), "{received:?}");
}

/// The refusal outlives the connection that it came over, and does not depend on what the public port allows.
#[test]
fn g6_an_older_jwt_is_overruled_although_the_connection_is_lost_at_once() {
    let mesh = Answering::start(NEWEST);
    let (account, mut system) = (&mesh.account, mesh.system());
    let bob = account.user();
    let mut connection = NatsUser::connect(mesh.server.address(), &bob).expect("bob gets in");
    let revoking = mesh.operator.revoking(account, &[&bob], now() - 20);
    mesh.node.put(account, &revoking);
    assert!(connection.disconnected(PATIENCE).is_some(), "bob is revoked");
    let (answer, _) = system
        .try_ask("$SYS.REQ.SERVER.PING.CONNZ", None, b"", PATIENCE)
        .expect("the connections");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    let all = answer["data"]["connections"].as_array().expect("connections");
    let publisher = all.iter().find(|one| one["name"] == "jwtmesh-one");
    let kick = json!({"cid": publisher.expect("it is connected")["cid"]}).to_string();
    let kick_subject = format!(
        "$SYS.REQ.SERVER.{}.KICK",
        answer["server"]["id"].as_str().expect("an id")
    );

    // From now on the public port has the account sent again no more for a second.
    mesh.node.get(&format!("/jwt/v1/accounts/{}?notify=true", account.id()));
    system.0.publish(&update_of(account), mesh.token.as_bytes());
    eventually("it is refused", || {
        mesh.node.log().contains("another sender published a JWT").then_some(())
    });
    // Without a reply subject the server would do nothing.
    assert!(system.try_ask(&kick_subject, None, kick.as_bytes(), PATIENCE).is_some());
    eventually("the connection is lost", || {
        let log = mesh.node.log();
        log.contains("the connection to this NATS cluster is lost")
            .then_some(())
    });
    eventually("bob is kept out again", || {
        NatsUser::connect(mesh.server.address(), &bob).is_err().then_some(())
    });
}

/// A client that publishes to the servers directly gets no answer from a node, since the servers' answers are counted.
#[test]
fn g6_a_newer_jwt_that_somebody_else_published_is_adopted_and_an_older_one_is_overruled() {
    let mesh = Answering::start(NEWEST);
    let (operator, account, mut system) = (&mesh.operator, &mesh.account, mesh.system());
    let bob = account.user();
    let mut connection = NatsUser::connect(mesh.server.address(), &bob).expect("bob gets in");

    let revoking = operator.revoking(account, &[&bob], now() - 20);
    let answers = system
        .0
        .ask(&update_of(account), revoking.as_bytes(), 2, Duration::from_millis(300));
    let names: Vec<&Value> = answers.iter().map(|answer| &answer["server"]["name"]).collect();
    assert_eq!(names, [&json!("alone")], "only the server answers");
    assert_eq!(
        connection.disconnected(PATIENCE).as_deref(),
        Some("User Authentication Revoked")
    );
    eventually("it is adopted", || {
        (mesh.node.get_account(&account.id()).text() == revoking).then_some(())
    });
    assert!(mesh.node.log().contains("adopted a newer JWT"), "{}", mesh.node.log());

    // The server takes the older one, which lets bob in again.
    for round in 0..2 {
        let subject = ["$SYS.ACCOUNT.", "$SYS.REQ.ACCOUNT."][round];
        let subject = format!("{subject}{}.CLAIMS.UPDATE", account.id());
        let answers = system.0.ask(&subject, mesh.token.as_bytes(), 1, PATIENCE);
        assert_eq!(answers[0]["data"]["message"], "jwt updated", "the server takes it");
        let sent = Instant::now();
        eventually("bob is kept out again", || {
            NatsUser::connect(mesh.server.address(), &bob).is_err().then_some(())
        });
        assert!(sent.elapsed() < Duration::from_secs(5));
        assert_eq!(mesh.node.get_account(&account.id()).text(), revoking);
    }
    let log = mesh.node.log();
    let line = log.lines().find(|line| line.contains("another sender published a JWT"));
    let line = line.expect("it is logged");
    assert!(line.contains(" WARN ") && line.contains(&account.id()), "{line}");
    assert!(
        line.contains(&format!("issued_at={}", claims(&mesh.token)["iat"])),
        "it has the time of issue: {line}"
    );

    // Others' are refused too.
    let other = Account::new("B");
    for bad in [
        Operator::new("P").account(&other),
        "garbage".to_owned(),
        mesh.token.clone(),
    ] {
        system.0.publish(&update_of(&other), bad.as_bytes());
    }
    eventually("the refusal is logged", || {
        let log = mesh.node.log();
        log.lines()
            .any(|line| line.contains("another sender published a JWT") && line.contains(&other.id()))
            .then_some(())
    });
    assert_eq!(mesh.node.get_account(&other.id()).status, 404);
}

/// What a publisher of ours sends is not taken for somebody else's, also if it arrives after something newer was stored.
#[test]
fn what_a_node_publishes_itself_is_not_looked_at() {
    let mesh = Answering::start(NEWEST);
    let mut system = mesh.system();
    let token = mesh.operator.account_at(&mesh.account, now() - 20);
    mesh.node.put(&mesh.account, &token);
    let inbox = mesh.node.publishers_inbox(&mesh.account);
    system
        .0
        .request_to(&update_of(&mesh.account), &inbox, None, mesh.token.as_bytes());
    let other = Account::new("B");
    system.0.publish(&update_of(&other), b"garbage");
    let log = eventually("what came later was looked at", || {
        let log = mesh.node.log();
        let overruled = |line: &str| line.contains("another sender published") && line.contains(&other.id());
        log.lines().any(overruled).then_some(log)
    });
    assert_eq!(log.matches("another sender").count(), 1, "{log}");
    assert!(!log.contains("adopted"), "{log}");
    // Nor is what another mesh publishes its own.
    let theirs = format!("{inbox}0");
    system
        .0
        .request_to(&update_of(&mesh.account), &theirs, None, mesh.token.as_bytes());
    eventually("that is overruled", || {
        let log = mesh.node.log();
        let overruled = |line: &str| line.contains("another sender published") && line.contains(&mesh.account.id());
        log.lines().any(overruled).then_some(())
    });
}

#[test]
fn g7_one_of_three_nodes_answers_each_request() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let (_creds, link) = nats_link_as(&operator.system.answering_user(), port);
    let mut mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    mesh.nodes[1].put(&account, &operator.account_at(&account, now() - 60));
    let config = resolver_config(&operator.token(), &mesh.nodes[2].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let mut system = Asker::new(&server, &operator);
    let mut names = std::collections::BTreeSet::new();
    eventually("each of them answers", || {
        let (message, _) = system.try_ask(LIST, None, b"", Duration::from_millis(300))?;
        let answer: Value = serde_json::from_slice(&message.payload).expect("JSON");
        names.insert(answer["server"]["name"].to_string());
        (names.len() == 3).then_some(())
    });

    let inbox = system.0.inbox();
    for round in 0..60 {
        let token = operator.account_at(&account, now() - 50 + round / 2);
        system.0.request_to(UPDATE, &inbox, None, token.as_bytes());
        let answer = system.0.next(PATIENCE).expect("an answer");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert_eq!(answer["data"]["message"], "jwt updated", "{answer}");
        // Whichever node is asked next has it.
        assert_eq!(system.ask(&lookup_of(&account), b""), token.as_bytes());
    }
    assert!(
        system.0.next(Duration::from_millis(300)).is_none(),
        "an answer too many"
    );

    // A node that is stopped answers what it was sent before, and the others the rest.
    let asked = 200;
    for _ in 0..asked / 2 {
        system.0.request_to(LIST, &inbox, None, b"");
    }
    mesh.nodes[1].program().signal(Signal::TERM);
    for _ in 0..asked / 2 {
        system.0.request_to(LIST, &inbox, None, b"");
    }
    let mut answers = 0;
    while answers < asked && system.0.next(IN_TIME).is_some() {
        answers += 1;
    }
    assert_eq!(answers, asked);
    assert!(
        system.0.next(Duration::from_millis(300)).is_none(),
        "an answer too many"
    );
}

#[test]
fn g7_without_a_quorum_an_error_is_answered_in_time() {
    let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
    let (_creds, link) = nats_link_as(&operator.system.answering_user(), port);
    let mut mesh = Nodes::unformed_with(3, &operator.token(), &link).form();
    mesh.nodes[0].put(&operator.system, &operator.system_token());
    let token = operator.account_at(&account, now() - 60);
    mesh.nodes[0].put(&account, &token);
    mesh.wait_until_served(&account, &token);
    let config = resolver_config(&operator.token(), &mesh.nodes[0].accounts_url());
    let server = NatsServer::start_on_port(NEWEST, port, &config);
    let mut system = Asker::new(&server, &operator);
    system.wait_until_answered(&account);
    let _loaded = NatsUser::connect(server.address(), &account.user()).expect("the account is served");
    mesh.nodes[1].kill();
    mesh.nodes[2].kill();
    system.wait_until_answered(&account);
    let newer = operator.account_at(&account, now() - 30);
    for _ in 0..8 {
        let description = system.refused(UPDATE, newer.as_bytes());
        assert!(
            description.contains("majority") || description.contains("agreed on it"),
            "{description}"
        );
    }
    assert_eq!(system.ask(&lookup_of(&account), b""), token.as_bytes(), "lookups go on");
    // What is published to the servers meanwhile is adopted later.
    let newest = operator.account_at(&account, now() - 10);
    system.0.publish(&update_of(&account), newest.as_bytes());
    // The same again, once a majority is back.
    mesh.nodes[1].start_again();
    eventually("it is agreed on, unless the newest one was before", || {
        let (message, _) = system.try_ask(UPDATE, None, newer.as_bytes(), IN_TIME)?;
        let answer: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let is_older = answer["error"]["description"].to_string().contains("has a newer JWT");
        (answer["data"]["code"] == 200 || is_older).then_some(())
    });
    eventually("the newest one is adopted", || {
        (mesh.nodes[0].get_account(&account.id()).text() == newest).then_some(())
    });
}

/// A user of the system account may send any number of the largest messages; a node takes some and refuses the rest.
#[test]
fn g12_a_flood_of_large_messages_fills_no_memory() {
    let mut mesh = Answering::start(NEWEST);
    let mut system = mesh.system();
    let garbage = vec![b'x'; 1_000_000];
    let before = mesh.node.program().resident_kb();
    let inbox = system.0.inbox();
    let (update, lookup) = (update_of(&mesh.account), lookup_of(&mesh.account));
    for subject in [UPDATE, &update, &lookup, DELETE, LIST] {
        // As fast as the server takes them.
        for _ in 0..240 {
            system.0.send(subject, &inbox, &garbage);
        }
        assert!(system.0.ping());
    }
    system.wait_until_answered(&mesh.account);
    let grown = mesh.node.program().resident_kb().saturating_sub(before);
    assert!(grown < 300 * 1024, "1.2 GB came, and the node grew by {grown} KiB");
}
