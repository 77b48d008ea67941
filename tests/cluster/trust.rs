//! Whom a node trusts, as it changes: signing keys, operators issued anew, and tokens whose order `iat` does not give.

use std::fs;

use nkeys::KeyPair;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::deletes::request;
use crate::propagation::Mesh;
use crate::support::mint::{Account, Operator, now, sign};
use crate::support::nats_server::NatsServer;
use crate::support::nats_user::NatsUser;
use crate::support::node::{NatsLink, Node, Options};
use crate::support::nsc::Nsc;
use crate::support::process::{PATIENCE, eventually, free_port};
use crate::support::tools::NEWEST;

/// Writes `text` into the node's folder; gives the file's path.
fn file(node: &Node, name: &str, text: &str) -> String {
    let path = node.folder().join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Exit code, stdout and stderr of a command.
fn cli(node: &Node, args: &[&str]) -> (Option<i32>, String, String) {
    let done = node.cli(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

/// What `account push` says about one file.
fn push(node: &Node, path: &str, flags: &[&str]) -> Value {
    let done = node.cli(&[&["account", "push", path, "--json"], flags].concat());
    let verdicts: Value = serde_json::from_slice(&done.stdout).expect("a JSON array");
    verdicts[0].clone()
}

/// Both ways in which nsc gives an operator another identity: it signs everything anew, or only from now on.
#[test]
fn an_operator_that_nsc_issues_anew_takes_the_place_of_the_old_one() {
    for convert in [false, true] {
        let nsc = Nsc::with_operator();
        let system = nsc.add_user("SYS", "jwtmesh");
        let account = nsc.add_account("A");
        nsc.add_user("A", "alice");
        let (port, nats_port) = (free_port(), free_port());
        nsc.account_server(&format!("http://127.0.0.1:{port}/jwt/v1"));
        let old = nsc.operator_token();
        let options = Options {
            port,
            nats: vec![NatsLink::plain(
                vec![format!("nats://127.0.0.1:{nats_port}")],
                system.creds(),
            )],
            ..Options::default()
        };
        let mut node = Node::start(&old, options);
        nsc.run(&["push", "--all"]);

        let reissue = ["reissue", "operator", "--convert-to-signing-key"];
        nsc.run(if convert { &reissue } else { &reissue[..2] });
        let new = nsc.operator_token();
        let [old_key, new_key] = [&old, &new].map(|token| issuer(token));
        // nsc signs a revocation with the new identity key in both cases.
        nsc.run(&["revocations", "add-user", "--account", "A", "--name", "alice"]);
        let refused = node.post_account(&account, &nsc.account_token("A"));
        assert_eq!(refused.status, 400, "convert {convert}");
        assert!(
            refused.text().contains("jwtmesh operator replace"),
            "{}",
            refused.text()
        );

        // The new operator in the configuration alone changes nothing; everything says so and what to do.
        file(&node, "operator.jwt", &new);
        node.start_again();
        every_sentence_names_the_verb(&nsc, &node, [&old_key, &new_key]);

        let new_file = file(&node, "new.jwt", &new);
        let (code, _, error) = cli(&node, &["operator", "update", &new_file]);
        assert_eq!(code, Some(4), "{error}");
        let old_file = file(&node, "old.jwt", &old);
        let (code, _, error) = cli(&node, &["operator", "replace", "O", &old_file, "--yes"]);
        assert_eq!(code, Some(4), "{error}");
        assert!(error.contains("is trusted already"), "{error}");
        let (code, _, asked) = cli(&node, &["operator", "replace", "O", &new_file]);
        assert_eq!(code, Some(2), "nobody can confirm: {asked}");
        let (code, said, error) = cli(&node, &["operator", "replace", "O", &new_file, "--yes"]);
        assert_eq!(code, Some(0), "{said}{error}");
        assert_eq!(said.contains(&account), !convert, "what is still to be signed: {said}");
        assert!(said.contains("restart the nats-servers"), "{said}");
        let listed = node.cli_json(&["account", "list"]);
        assert_eq!(listed[0]["operator"], new_key.as_str(), "{listed}");

        nsc.run(&["push", "--all"]);
        assert_eq!(node.get_account(&account).text(), nsc.account_token("A"));
        node.start_again();
        let trusted = node.cli_json(&["operator", "show"]);
        assert_eq!(trusted["items"][0]["operator"], new_key.as_str());
        assert_eq!(trusted["items"].as_array().map(Vec::len), Some(1));
        let (code, said, error) = cli(&node, &["verify"]);
        assert_eq!(code, Some(0), "{said}{error}");

        a_revocation_disconnects_its_user(&nsc, &node, nats_port);
    }
}

/// A push, the log, the printed configuration, and what nsc pulls, where the configuration names the new operator.
fn every_sentence_names_the_verb(nsc: &Nsc, node: &Node, [old, new]: [&str; 2]) {
    let refused = node.post_account(&nsc.account_id("A"), &nsc.account_token("A")).text();
    assert!(refused.contains("configuration of this node"), "{refused}");
    for words in [old, new, "jwtmesh operator replace"] {
        assert!(refused.contains(words), "no {words} in {refused}");
        assert!(node.log().contains(words), "no {words} in {}", node.log());
    }
    let (_, config, warning) = cli(node, &["nats", "config"]);
    for text in [&config, &warning] {
        assert!(
            text.contains(new) && text.contains("jwtmesh operator replace"),
            "{text}"
        );
    }
    let (colleague, before) = (nsc.copy(), nsc.operator_token());
    colleague.try_run(&["pull", "--all"]);
    assert_eq!(colleague.operator_token(), before, "nsc keeps its operator");
}

/// The main job, with a nats-server that starts with what the node prints for it.
fn a_revocation_disconnects_its_user(nsc: &Nsc, node: &Node, nats_port: u16) {
    let config = String::from_utf8(node.cli(&["nats", "config"]).stdout).unwrap();
    let server = NatsServer::start_on_port(NEWEST, nats_port, &config);
    let bob = nsc.add_user("A", "bob");
    let mut connection = NatsUser::connect(server.address(), &bob).unwrap();
    nsc.run(&["revocations", "add-user", "--account", "A", "--name", "bob"]);
    nsc.run(&["push", "--account", "A"]);
    connection.disconnected(PATIENCE);
}

fn issuer(token: &str) -> String {
    let claims = crate::support::mint::claims(token);
    claims["iss"].as_str().expect("an issuer").to_owned()
}

#[test]
fn a_new_signing_key_is_taken_with_operator_update_and_without_a_restart() {
    let mut operator = Operator::new("O");
    let node = Node::of(&operator);
    let (account, signing) = (Account::new("A"), KeyPair::new_operator());
    let signed = |operator: &Operator| {
        sign(
            &signing,
            &with_issuer(operator.account_claims(&account, |_| {}), &signing),
        )
    };
    let refused = node.post_account(&account.id(), &signed(&operator));
    assert_eq!(refused.status, 400);
    for words in [
        &signing.public_key(),
        "nsc describe operator --raw",
        "jwtmesh operator update",
        "by its JWT of 20",
    ] {
        assert!(refused.text().contains(words), "no {words} in {}", refused.text());
    }

    let newer = operator.token_with(|claims| {
        claims["iat"] = json!(now() + 1);
        claims["nats"]["signing_keys"] = json!([signing.public_key()]);
    });
    let newer = file(&node, "newer.jwt", &newer);
    let updated = node.cli_json(&["operator", "update", &newer]);
    assert_eq!(updated["outcome"], "stored");
    node.put(&account, &signed(&operator));
    assert_eq!(node.cli_json(&["operator", "update", &newer])["outcome"], "unchanged");

    let older = file(
        &node,
        "older.jwt",
        &operator.token_with(|claims| claims["iat"] = json!(now() - 60)),
    );
    let stranger = file(&node, "stranger.jwt", &Operator::new("stranger").token());
    let account_file = file(&node, "account.jwt", &signed(&operator));
    operator.name = "O".to_owned();
    for (path, code, words) in [
        (&older, 4, "has a newer JWT here"),
        (&stranger, 4, "jwtmesh operator replace"),
        (&account_file, 4, "account JWT"),
    ] {
        let (exit, _, error) = cli(&node, &["operator", "update", path]);
        assert_eq!(exit, Some(code), "{error}");
        assert!(error.contains(words), "no {words} in {error}");
    }
}

fn with_issuer(mut claims: Value, issuer: &KeyPair) -> Value {
    claims["iss"] = json!(issuer.public_key());
    claims
}

/// SIGHUP reads the operators' files again, and what is wrong with one changes nothing.
#[test]
fn a_newer_operator_in_the_configurations_file_is_taken_on_sighup() {
    let operator = Operator::new("O");
    let mut node = Node::of(&operator);
    let signing = KeyPair::new_operator();
    file(&node, "operator.jwt", "damaged");
    node.program().signal(Signal::HUP);
    eventually("the log says what is wrong with the file", || {
        let log = node.log();
        (log.contains("were not read again") && log.contains("operator.jwt")).then_some(())
    });
    let newer = operator.token_with(|claims| {
        claims["iat"] = json!(now() + 1);
        claims["nats"]["signing_keys"] = json!([signing.public_key()]);
    });
    file(&node, "operator.jwt", &newer);
    node.program().signal(Signal::HUP);
    let account = Account::new("A");
    let token = sign(
        &signing,
        &with_issuer(operator.account_claims(&account, |_| {}), &signing),
    );
    eventually("the new signing key counts", || {
        (node.post_account(&account.id(), &token).status == 200).then_some(())
    });
    assert!(
        node.log().contains("JWT of a trusted operator updated"),
        "{}",
        node.log()
    );
}

/// G3: whose an account is must not depend on the order in which operators are listed.
#[test]
fn g3_operators_that_share_a_key_are_not_trusted_together() {
    let (operator, other) = (Operator::new("O"), Operator::new("P"));
    let node = Node::of_both(&operator, &other);
    let sharing = other.token_with(|claims| {
        claims["iat"] = json!(now() + 1);
        claims["nats"]["signing_keys"] = json!([operator.key.public_key()]);
    });
    let sharing = file(&node, "sharing.jwt", &sharing);
    let (code, _, error) = cli(&node, &["operator", "update", &sharing]);
    assert_eq!(code, Some(4), "{error}");
    for key in [&operator.key, &other.key] {
        assert!(error.contains(&key.public_key()), "{error}");
    }
    // Taking the place of the one that it shares a key with is what nsc makes of an operator that it issues anew.
    let (code, said, error) = cli(&node, &["operator", "replace", "O", &sharing, "--yes"]);
    assert_eq!(code, Some(0), "{said}{error}");
}

/// G2: without `iat` a token cannot be told from an older one that any client sends again.
#[test]
fn g2_a_token_without_an_issue_time_is_refused_where_any_client_may_submit_and_counts_by_arrival_for_an_administrator()
{
    let operator = Operator::new("O");
    let node = Node::of(&operator);
    let account = Account::new("A");
    let undated = |name: &str| {
        operator.account_with(&account, |claims| {
            claims.as_object_mut().expect("claims").remove("iat");
            claims["name"] = json!(name);
        })
    };
    let zero = operator.account_with(&account, |claims| claims["iat"] = json!(0));
    let [a, b] = ["a", "b"].map(|name| (undated(name), file(&node, &format!("{name}.jwt"), &undated(name))));
    for token in [&a.0, &zero] {
        let refused = node.post_account(&account.id(), token);
        assert_eq!(refused.status, 400);
        assert!(refused.text().contains("`iat`"), "{}", refused.text());
    }
    assert_eq!(node.get_account(&account.id()).status, 404);

    // Over an account that nsc made, and back to an earlier text on purpose.
    let dated = operator.account_at(&account, now() - 60);
    node.put(&account, &dated);
    let read = |path: &str| fs::read_to_string(path).unwrap();
    for path in [&a.1, &b.1, &a.1, &a.1] {
        let verdict = push(&node, path, &[]);
        assert!(verdict["outcome"] == "stored" || path == &a.1, "{verdict}");
        assert_eq!(node.get_account(&account.id()).text(), read(path));
    }
    assert_eq!(push(&node, &a.1, &[])["outcome"], "unchanged");
    // What any client may fetch stays what it is: the stored bytes again are no news, the replaced ones are refused.
    node.put(&account, &read(&a.1));
    for (token, status) in [
        (&read(&b.1), 400),
        (&dated, 409),
        (&operator.account_at(&account, now() - 90), 409),
    ] {
        assert_eq!(node.post_account(&account.id(), token).status, status);
    }
    node.put(&account, &operator.account_at(&account, now() - 30));
    assert_eq!(node.post_account(&account.id(), &dated).status, 409);
}

/// G2: what an administrator replaced does not come back through those who have fetched it.
#[test]
fn g2_an_administrator_replaces_a_token_that_a_wrong_clock_dated_ahead_and_it_does_not_come_back() {
    let operator = Operator::new("O");
    let mut node = Node::of(&operator);
    let account = Account::new("A");
    let ahead = operator.account_at(&account, now() + 290);
    node.put(&account, &ahead);
    let honest = operator.account_at(&account, now() - 5);
    let refused = node.post_account(&account.id(), &honest);
    assert_eq!(refused.status, 409);
    assert!(
        refused.text().contains("jwtmesh account push --replace"),
        "{}",
        refused.text()
    );
    let path = file(&node, "honest.jwt", &honest);
    assert_eq!(push(&node, &path, &[])["code"], "superseded");
    assert_eq!(push(&node, &path, &["--replace"])["outcome"], "stored");
    assert!(node.log().contains("an administrator replaced"), "{}", node.log());
    for _ in 0..2 {
        assert_eq!(node.get_account(&account.id()).text(), honest);
        let again = node.post_account(&account.id(), &ahead);
        assert_eq!(again.status, 409);
        assert!(
            again.text().contains("an administrator replaced it"),
            "{}",
            again.text()
        );
        node.start_again();
    }
    let next = operator.account_at(&account, now() - 1);
    node.put(&account, &next);
    assert_eq!(node.post_account(&account.id(), &ahead).status, 409, "still");
    assert_eq!(node.post_account(&account.id(), &honest).status, 409);
}

/// A nats-server reads its operator only when it starts: it goes on refusing what a newer signing key has signed.
#[test]
fn a_nats_server_with_the_operator_of_before_is_warned_of_at_its_first_refusal() {
    let mesh = Mesh::start(NEWEST, 1);
    let (node, operator, account) = (&mesh.node, &mesh.operator, &mesh.account);
    let _connections = mesh.connect_everywhere(&account.user());
    let signing = KeyPair::new_operator();
    let newer = operator.token_with(|claims| {
        claims["iat"] = json!(now() + 1);
        claims["nats"]["signing_keys"] = json!([signing.public_key()]);
    });
    let newer = file(node, "newer.jwt", &newer);
    assert_eq!(node.cli_json(&["operator", "update", &newer])["outcome"], "stored");
    let claims = with_issuer(operator.account_claims(account, |_| {}), &signing);
    node.put(account, &sign(&signing, &claims));
    eventually("the log warns and names the remedy", || {
        let log = node.log();
        let mut warnings = log.lines().filter(|line| line.contains("WARN"));
        warnings.find(|line| line.contains(&account.id()) && line.contains("restart that server"))?;
        Some(())
    });
    // It is refused again until it is given up, half a minute later; the warning is the first refusal's.
    assert!(!node.log().contains("keeps refusing"), "{}", node.log());
}

/// Servers would refuse it, so a delete or a kill that counts on it would shut nothing.
#[test]
fn g9_a_closing_jwt_whose_key_the_operator_has_removed_counts_as_none() {
    let (operator, account, signer) = (Operator::new("O"), Account::new("A"), KeyPair::new_operator());
    let with_signer = operator.token_with(|claims| {
        claims["iat"] = json!(now() - 20);
        claims["nats"]["signing_keys"] = json!([signer.public_key()]);
    });
    let node = Node::start(&with_signer, Options::default());
    let (id, issued) = (account.id(), now() - 10);
    node.put(&account, &operator.account_at(&account, issued));
    let mut claims = operator.account_claims(&account, |claims| {
        claims["iat"] = json!(issued);
        claims["nats"]["limits"]["conn"] = json!(0);
        claims["nats"]["limits"]["leaf"] = json!(0);
    });
    claims["iss"] = json!(signer.public_key());
    let closing = file(&node, "closing.jwt", &sign(&signer, &claims));
    let (code, said, error) = cli(&node, &["account", "closing", "set", &id, &closing]);
    assert_eq!(code, Some(0), "{said}{error}");
    let (code, said, error) = cli(&node, &["verify"]);
    assert_eq!(code, Some(0), "{said}{error}");
    assert!(said.contains("accounts verified: 1, closing JWTs: 1,"), "{said}");
    let delete = |dry: &str| {
        let request = file(&node, "delete.jwt", &request(&operator, &[&account], Some(now())));
        cli(&node, &["account", "delete", &id, "--claim", &request, dry])
    };
    let (code, said, error) = delete("--dry-run");
    assert_eq!(code, Some(0), "{said}{error}");
    assert!(said.contains("and its closing JWT sent"), "{said}");

    let without = file(&node, "without.jwt", &operator.token());
    let (code, said, error) = cli(&node, &["operator", "update", &without]);
    assert_eq!(code, Some(0), "{said}{error}");
    let (code, said, _) = cli(&node, &["verify"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&id) && said.contains("closing JWT: untrusted"), "{said}");
    let report = node.cli(&["verify", "--json"]);
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!(report["findings"][0]["closing"], true, "{report}");
    let (code, _, error) = cli(&node, &["account", "kill", &id, "--yes"]);
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("is not valid any more"), "{error}");
    let (code, said, error) = delete("--dry-run");
    assert_eq!(code, Some(0), "{said}{error}");
    assert!(said.contains("it has no valid closing JWT"), "{said}");
    let (code, said, error) = delete("--yes");
    assert_eq!(code, Some(0), "{said}{error}");
    assert!(said.contains("1 of the accounts had no valid closing JWT"), "{said}");
    let (_, said, error) = cli(&node, &["account", "watch", &id]);
    assert!(
        error.contains("no valid closing JWT is kept for it"),
        "nothing is sent: {said}{error}"
    );
}
