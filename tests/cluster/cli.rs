//! The command line beside a running node, as administrators type it and scripts read it.

use std::fs;
use std::process::{Command, Output, Stdio};

use nkeys::KeyPair;
use serde_json::Value;

use crate::support::mint::{Account, Operator, now};
use crate::support::nats_server::NatsServer;
use crate::support::nats_user::NatsUser;
use crate::support::node::{Node, NodeTls, Options, jwtmesh};
use crate::support::nsc::Nsc;
use crate::support::process::{PATIENCE, within};
use crate::support::tls::Authority;
use crate::support::tools::{NATS_SERVER_VERSIONS, NEWEST, tool};

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The objects of a JSON listing, whether it is an array or has them under `items`.
fn items(listing: &Value) -> &Vec<Value> {
    listing
        .as_array()
        .or_else(|| listing["items"].as_array())
        .unwrap_or_else(|| panic!("no listing: {listing}"))
}

fn start() -> (Operator, Account, Node) {
    let operator = Operator::new("O");
    let account = Account::new("payments");
    let node = Node::of(&operator);
    node.put(&account, &operator.account(&account));
    (operator, account, node)
}

#[test]
fn account_list_shows_every_account_for_people_and_for_scripts() {
    let (operator, account, node) = start();
    let listing = node.cli_json(&["account", "list"]);
    let mut found: Vec<&str> = items(&listing)
        .iter()
        .map(|item| item["account"].as_str().unwrap())
        .collect();
    found.sort_unstable();
    let mut wanted = [account.id(), operator.system.id()];
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    let payments = items(&listing).iter().find(|item| item["name"] == "payments").unwrap();
    assert_eq!(payments["operator"], operator.key.public_key());
    assert_eq!(payments["expires_at"], 0);

    let table = node.cli(&["account", "list"]);
    assert!(table.status.success());
    assert!(
        text(&table).contains(&account.id()) && text(&table).contains("payments"),
        "{}",
        text(&table)
    );
}

#[test]
fn account_list_goes_on_past_one_page() {
    let (operator, _, node) = start();
    for number in 0..300 {
        let account = Account::new(&format!("account {number}"));
        node.put(&account, &operator.account(&account));
    }
    assert_eq!(items(&node.cli_json(&["account", "list"])).len(), 302);
}

#[test]
fn account_show_prints_one_account() {
    let (_, account, node) = start();
    let shown = node.cli_json(&["account", "show", &account.id()]);
    assert_eq!(
        (&shown["account"], &shown["name"]),
        (&Value::from(account.id()), &Value::from("payments"))
    );
    let table = node.cli(&["account", "show", &account.id()]);
    assert!(
        table.status.success() && text(&table).contains("payments"),
        "{}",
        text(&table)
    );

    let unknown = node.cli(&["account", "show", &Account::new("unknown").id()]);
    assert_eq!(unknown.status.code(), Some(3), "{}", text(&unknown));
    assert_ne!(text(&unknown).trim(), "");
}

#[test]
fn an_account_is_named_by_its_key_or_by_a_name_that_only_it_has() {
    let (operator, account, node) = start();
    let [one, other] = [Account::new("twice"), Account::new("twice")];
    for twin in [&one, &other] {
        node.put(twin, &operator.account(twin));
    }
    let token = operator.account(&account);
    node.put(&account, &token);
    for named in [account.id().as_str(), "payments"] {
        assert_eq!(
            node.cli_json(&["account", "show", named])["account"],
            account.id().as_str()
        );
        let pulled = node.cli(&["account", "pull", named]);
        assert_eq!(String::from_utf8_lossy(&pulled.stdout).trim(), token, "{named}");
    }
    for (named, code, words) in [
        ("nobody", 3, "jwtmesh account list"),
        ("twice", 2, one.id().as_str()),
        (&account.id().to_lowercase(), 2, "upper case"),
        (&account.id()[..55], 3, "no account is called"),
    ] {
        for verb in ["show", "pull"] {
            let done = node.cli(&["account", verb, named]);
            assert_eq!(done.status.code(), Some(code), "{verb} {named}: {}", text(&done));
            assert!(text(&done).contains(words), "{verb} {named}: {}", text(&done));
        }
    }
}

#[test]
fn account_show_of_an_expired_account_says_so_and_ends_as_inspect_does() {
    let (operator, _, node) = start();
    let account = Account::new("short");
    let token = operator.account_with(&account, |claims| claims["exp"] = serde_json::json!(now() + 2));
    node.put(&account, &token);
    let expired = within(PATIENCE, || {
        let done = node.cli(&["account", "show", "short"]);
        (done.status.code() == Some(4)).then(|| text(&done))
    });
    let expired = expired.expect("it expires within two seconds");
    assert!(expired.contains("expired: "), "{expired}");
    let inspected = jwtmesh().args(["inspect", &token]).output().unwrap();
    assert_eq!(inspected.status.code(), Some(4));
    assert_eq!(node.cli(&["account", "show", "payments"]).status.code(), Some(0));
}

#[test]
fn ready_ends_with_0_while_the_node_serves_and_with_5_once_it_does_not() {
    let mut node = Node::of(&Operator::new("O"));
    for args in [&["ready"][..], &["ready", "--write"]] {
        let done = node.cli(args);
        assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    }
    let status = node.cli_json(&["ready"]);
    assert_eq!((&status["ready"], &status["writable"]), (&true.into(), &true.into()));
    node.kill();
    for args in [&["ready"][..], &["ready", "--write", "--json"]] {
        let done = node.cli(args);
        assert_eq!(done.status.code(), Some(5), "{}", text(&done));
    }
    assert_eq!(
        jwtmesh()
            .args(["ready", "--config", "/nowhere"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
}

/// An nsc store as it is, with the JWTs of its operator and its users among those of its accounts.
#[test]
fn account_push_takes_an_nsc_store_with_all_that_is_below_it() {
    let nsc = Nsc::with_operator();
    let ids = ["A", "B"].map(|name| nsc.add_account(name));
    nsc.add_user("A", "alice");
    let node = Node::plain(&nsc.operator_token());
    let store = nsc.stores().display().to_string();
    let (verdicts, code) = verdicts(&node, &["account", "push", &store]);
    assert_eq!(code, Some(0), "{verdicts:?}");
    let mut outcomes = words(&verdicts, "outcome");
    outcomes.sort_unstable();
    assert_eq!(
        outcomes,
        ["skipped", "skipped", "stored", "stored", "stored"],
        "{verdicts:?}"
    );
    for (id, name) in ids.iter().zip(["A", "B"]) {
        assert_eq!(node.get_account(id).text(), nsc.account_token(name));
    }
}

#[test]
fn account_push_stores_and_account_pull_fetches_the_exact_bytes() {
    let (operator, _, node) = start();
    let account = Account::new("pushed");
    let token = operator.account_at(&account, now() - 10);
    let file = node.folder().join("pushed.jwt");
    fs::write(&file, &token).unwrap();
    let file = file.display().to_string();
    let pushed = node.cli_json(&["account", "push", &file]);
    assert!(pushed.to_string().contains("stored"), "{pushed}");
    assert_eq!(node.get_account(&account.id()).text(), token);
    let again = node.cli_json(&["account", "push", &file]);
    assert!(again.to_string().contains("unchanged"), "{again}");

    let pulled = node.cli(&["account", "pull", &account.id()]);
    assert_eq!(String::from_utf8_lossy(&pulled.stdout).trim(), token);

    fs::write(&file, operator.account_at(&account, now() - 100)).unwrap();
    let older = node.cli(&["account", "push", &file]);
    assert_eq!(older.status.code(), Some(4), "{}", text(&older));
    assert!(text(&older).contains(&account.id()), "{}", text(&older));
    assert_eq!(node.get_account(&account.id()).text(), token);
}

/// What `jwtmesh ARGS... --json` printed, and how it ended.
fn verdicts(node: &Node, args: &[&str]) -> (Vec<Value>, Option<i32>) {
    let done = node.cli(&[args, &["--json"]].concat());
    let printed: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", String::from_utf8_lossy(&done.stdout)));
    (items(&printed).clone(), done.status.code())
}

fn words<'v>(verdicts: &'v [Value], field: &str) -> Vec<&'v str> {
    verdicts
        .iter()
        .map(|verdict| verdict[field].as_str().unwrap_or("-"))
        .collect()
}

#[test]
fn account_push_gives_every_file_its_own_verdict_even_after_one_that_failed() {
    let (operator, _, node) = start();
    let [first, last, stale] = ["first", "last", "stale"].map(Account::new);
    node.put(&stale, &operator.account_at(&stale, now() - 10));
    let file = |name: &str, token: &str| {
        let path = node.folder().join(name);
        fs::write(&path, token).unwrap();
        path.display().to_string()
    };
    let good = file("a.jwt", &operator.account(&first));
    let also = file("b.jwt", &operator.account(&last));
    let older = file("older.jwt", &operator.account_at(&stale, now() - 100));
    let missing = node.folder().join("missing.jwt").display().to_string();
    let empty = node.folder().join("empty").display().to_string();
    fs::create_dir(&empty).unwrap();
    // It can be opened but not read, not even by root.
    let unreadable = "/proc/self/mem";

    let (found, code) = verdicts(
        &node,
        &["account", "push", &good, &missing, &older, unreadable, &empty, &also],
    );
    assert_eq!(
        words(&found, "outcome"),
        ["stored", "failed", "refused", "failed", "failed", "stored"]
    );
    assert_eq!(
        words(&found, "code"),
        ["-", "not-found", "superseded", "unreadable", "not-found", "-"]
    );
    assert_eq!(code, Some(4));
    assert_eq!(node.get_account(&last.id()).status, 200);

    for (files, wanted) in [
        (vec![&*missing, &good], 3),
        (vec![unreadable, &good], 1),
        (vec![unreadable, &missing, &good], 1),
        (vec![&*good, &also], 0),
    ] {
        let args = [&["account", "push"], &files[..]].concat();
        assert_eq!(verdicts(&node, &args).1, Some(wanted), "{files:?}");
    }
    let printed = node.cli(&["account", "push", &missing, &good]);
    assert_eq!(printed.status.code(), Some(3));
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert_eq!(printed.lines().last(), Some("1 failed, 1 unchanged"), "{printed}");
    assert!(printed.contains(&missing), "{printed}");
}

#[test]
fn account_pull_gives_every_account_its_own_verdict_and_prints_verdicts_apart_from_tokens() {
    let (operator, account, mut node) = start();
    let (known, unknown, system) = (account.id(), Account::new("unknown").id(), operator.system.id());
    let (found, code) = verdicts(&node, &["account", "pull", &known, &unknown, &system]);
    assert_eq!(words(&found, "outcome"), ["pulled", "failed", "pulled"]);
    assert_eq!(words(&found, "account"), [&*known, &unknown, &system]);
    assert_eq!(code, Some(3));
    let token = node.get_account(&known).text();
    assert_eq!(found[0]["token"], token.as_str());

    let printed = node.cli(&["account", "pull", &known, &unknown, &system]);
    assert_eq!(printed.status.code(), Some(3));
    let tokens = format!("{token}\n{}\n", node.get_account(&system).text());
    assert_eq!(String::from_utf8_lossy(&printed.stdout), tokens);
    let said = String::from_utf8_lossy(&printed.stderr).into_owned();
    assert!(said.contains(&unknown), "{said}");
    assert_eq!(said.lines().last(), Some("1 failed, 2 pulled"), "{said}");

    // A folder stands where one file should be, so that this file cannot be written.
    let dir = node.folder().join("out");
    fs::create_dir_all(dir.join(format!("{known}.jwt"))).unwrap();
    let path = dir.display().to_string();
    let (found, code) = verdicts(&node, &["account", "pull", "--dir", &path, &known, &system]);
    assert_eq!(words(&found, "outcome"), ["failed", "pulled"]);
    assert_eq!(words(&found, "code"), ["unwritable", "-"]);
    assert_eq!(code, Some(1));
    let (all, code) = verdicts(&node, &["account", "pull", "-A"]);
    assert_eq!((all.len(), code), (2, Some(0)));

    node.kill();
    let (found, code) = verdicts(&node, &["account", "pull", &known, &system]);
    assert_eq!(words(&found, "code"), ["no-answer", "not-asked"]);
    assert_eq!(code, Some(5));
}

#[test]
fn operator_show_prints_the_trusted_operators() {
    let (operator, _, node) = start();
    let shown = node.cli_json(&["operator", "show"]);
    let first = &items(&shown)[0];
    assert_eq!(first["operator"], operator.key.public_key());
    assert_eq!(first["system_account"], operator.system.id());
    assert_eq!(first["strict_signing_key_usage"], false);
    let table = node.cli(&["operator", "show"]);
    assert!(
        table.status.success() && text(&table).contains(&operator.key.public_key()),
        "{}",
        text(&table)
    );
}

/// The test also starts a nats-server on the printed text.
#[test]
fn nats_config_prints_what_a_nats_server_starts_with() {
    let (_, account, node) = start();
    let printed = node.cli(&["nats", "config"]);
    assert!(printed.status.success(), "{}", text(&printed));
    let config = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(config.contains(&node.accounts_url()), "{config}");
    assert!(config.contains("nsc edit operator"), "{config}");
    let server = NatsServer::start(NEWEST, &config);
    assert!(
        NatsUser::connect(server.address(), &account.user()).is_ok(),
        "{}",
        server.log()
    );
}

#[test]
fn nats_config_over_tls_prints_what_a_nats_server_starts_with() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let client = authority.issue("client");
    let tls = NodeTls::of(&authority, Some(&client));
    let operator = Operator::new("O");
    let account = Account::new("A");
    let options = Options {
        tls: Some(tls),
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node.put(&account, &operator.account(&account));
    let files = [authority.cert(), client.cert, client.key].map(|file| file.display().to_string());
    let [ca, cert, key] = &files;
    let printed = node.cli(&["nats", "config", "--ca", ca, "--client-cert", cert, "--client-key", key]);
    assert!(printed.status.success(), "{}", text(&printed));
    let config = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        config.contains("SSL_CERT_FILE"),
        "nsc needs it for a private authority: {config}"
    );
    let server = NatsServer::start(NEWEST, &config);
    assert!(
        NatsUser::connect(server.address(), &account.user()).is_ok(),
        "{}",
        server.log()
    );

    assert!(!text(&printed).contains("client_required"), "{}", text(&printed));

    let json = node.cli_json(&["nats", "config", "--ca", ca]);
    assert!(json.to_string().contains(&node.accounts_url()), "{json}");
    assert!(json["warnings"].to_string().contains("--client-cert"), "{json}");
}

/// Every kind of URL, path and operator, parsed by every version.
#[test]
fn every_printed_configuration_is_one_that_nats_server_reads() {
    let folder = tempfile::Builder::new()
        .prefix("a 'path' with spaces ")
        .tempdir()
        .unwrap();
    let authority = Authority::new(folder.path(), "test");
    let client = authority.issue("client");
    let (first, second) = (Operator::new("O, the first \"one\""), Operator::new("P"));
    let node = Node::of_both(&first, &second);
    let [ca, cert, key] = [&authority.cert(), &client.cert, &client.key].map(|file| file.display().to_string());
    let with_ca = ["--ca", &ca];
    let with_client = ["--client-cert", &cert, "--client-key", &key];
    let with_both = [&with_ca[..], &with_client].concat();
    for (url, options) in [
        ("http://127.0.0.1:9090", &[][..]),
        ("http://[::1]:9090", &[]),
        ("http://[fe80::1%25eth0]:9090/jwt/v1/", &[]),
        ("http://jwtmesh.example.net", &[]),
        ("http://h:9090/a/prefix", &[]),
        ("https://[2001:db8::1]:9090", &[]),
        ("https://[2001:db8::1]:9090", &with_ca),
        ("https://h:9090", &with_client),
        ("https://h:9090", &with_both),
    ] {
        for operator in [&first, &second] {
            let key = operator.key.public_key();
            let args = [&["nats", "config", "--operator", &key, "--url", url], options].concat();
            let printed = node.cli(&args);
            assert!(printed.status.success(), "{args:?}: {}", text(&printed));
            let file = folder.path().join("nats.conf");
            fs::write(&file, &printed.stdout).unwrap();
            for version in NATS_SERVER_VERSIONS {
                let mut server = Command::new(tool(&format!("nats-server-{version}")));
                let read = server.arg("-t").arg("-c").arg(&file).output().unwrap();
                assert!(
                    read.status.success(),
                    "nats-server {version} does not read what {args:?} printed: {}\n{}",
                    text(&read),
                    text(&printed)
                );
            }
        }
    }
}

#[test]
fn verify_checks_every_stored_token() {
    let (_, _, node) = start();
    let report = node.cli_json(&["verify"]);
    assert!(report.to_string().contains('2'), "{report}");
    let printed = node.cli(&["verify"]);
    assert!(
        printed.status.success() && text(&printed).contains('2'),
        "{}",
        text(&printed)
    );
}

#[test]
fn inspect_explains_any_token_without_a_node() {
    let operator = Operator::new("O");
    let account = Account::new("payments");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    for (token, word) in [
        (operator.account(&account), "payments"),
        (operator.token(), "operator"),
        (account.user().token, "user"),
        (
            operator.account_with(&account, |claims| claims["exp"] = (now() - 5).into()),
            "expired",
        ),
        ("nonsense".to_owned(), "chunk"),
    ] {
        fs::write(&file, &token).unwrap();
        let plain = jwtmesh().arg("inspect").arg(&file).output().unwrap();
        assert!(text(&plain).contains(word), "{word}: {}", text(&plain));
        let json = jwtmesh().arg("inspect").arg(&file).arg("--json").output().unwrap();
        let explained: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert!(explained.is_object(), "{explained}");
    }
}

#[test]
fn without_a_running_node_the_command_line_names_the_socket() {
    let (_, _, mut node) = start();
    node.kill();
    let done = node.cli(&["account", "list"]);
    assert_eq!(done.status.code(), Some(5), "{}", text(&done));
    assert!(text(&done).contains("admin.sock"), "{}", text(&done));
}

/// The README recommends both variables. What is on the command line takes their place.
#[test]
fn a_way_on_the_command_line_comes_before_the_variables_of_another() {
    let (_, account, node) = start();
    let with_variables = |args: &[&str]| {
        let mut command = jwtmesh();
        command
            .env("JWTMESH_CONFIG", "/nowhere.toml")
            .env("JWTMESH_NODE", "other");
        command.args(args).output().expect("the program can be started")
    };
    let key = node.folder().join("operator.nk");
    fs::write(&key, Operator::new("X").key.seed().unwrap()).unwrap();
    let key = key.display().to_string();
    let (id, user, url) = (account.id(), account.user().id(), node.base());
    let done = with_variables(&["revoke", &id, &user, "--key", &key, "--url", &url]);
    assert_eq!(done.status.code(), Some(4), "the node refuses the key: {}", text(&done));
    let socket = node.folder().join("data/admin.sock").display().to_string();
    let done = with_variables(&["account", "show", &id, "--socket", &socket]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    let done = with_variables(&["account", "show", &id]);
    assert_eq!(done.status.code(), Some(2), "{}", text(&done));
    assert!(text(&done).contains("/nowhere.toml"), "{}", text(&done));
    // On the command line both are too many, and the usage has the arguments in their order.
    let done = with_variables(&["revoke", &id, &user, "--key", &key, "--url", &url, "--config", "c.toml"]);
    assert_eq!(done.status.code(), Some(2), "{}", text(&done));
    assert!(text(&done).contains("<ACCOUNT> <USER>..."), "{}", text(&done));
}

/// A seed is easily typed or pasted where a file or a key belongs. What is printed ends in CI logs and screenshots.
#[test]
fn a_seed_given_as_an_argument_is_never_printed() {
    let (_, account, node) = start();
    let seed = account.key.seed().unwrap();
    let of_user = KeyPair::new_user().seed().unwrap();
    let in_path = format!("keys/{seed}.nk");
    for given in [&seed, &of_user, &in_path, &seed.to_lowercase(), &seed[..57].to_owned()] {
        let given = given.as_str();
        let folder = node.folder().join(given).display().to_string();
        for args in [
            &["inspect", given][..],
            &["inspect", "--operator", given, "-"],
            &["inspect", "--nats-server", given, "-"],
            &["account", "show", given],
            &["account", "push", given],
            &["account", "push", given, "--json"],
            &["account", "pull", given],
            &["account", "pull", "-A", "--dir", &folder],
            &["account", "pull", "-A", "--json", "--dir", &folder],
            &["account", "list", "--socket", given],
            &["nats", "config", "--url", given],
            &["nats", "config", "--ca", given, "--url", "https://h:9090"],
            &[
                "nats",
                "config",
                "--url",
                "https://h:9090",
                "--client-cert",
                given,
                "--client-key",
                given,
            ],
            &["serve", "--node", given],
            &["verify", given],
            &[given],
            &["account", given],
            &["account", "list", "--unknown", given],
        ] {
            let done = if args[0] == "inspect" || args.contains(&"--socket") {
                jwtmesh().args(args).stdin(Stdio::null()).output().unwrap()
            } else {
                node.cli(args)
            };
            let said = format!("{}{}", text(&done), String::from_utf8_lossy(&done.stderr));
            for secret in [&seed, &of_user] {
                assert!(
                    !said.to_uppercase().contains(&secret[..57]),
                    "{} printed a seed: {said}",
                    args.join(" ").replace(given, "SEED")
                );
            }
        }
    }
    // A name is not a seed, though it begins with S.
    let named = node.cli(&["account", "show", "SALES"]);
    let said = String::from_utf8_lossy(&named.stderr).into_owned();
    assert!(said.contains("SALES") && !said.contains("seed"), "{said}");
}
