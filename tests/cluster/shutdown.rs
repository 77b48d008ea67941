//! How a node starts, stops and refuses to start.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::http::Connection;
use crate::support::mint::{Account, Operator, now};
use crate::support::node::{Node, NodeTls, Options, jwtmesh};
use crate::support::process::{Program, broken_pipe, eventually, within};
use crate::support::tls::Authority;

/// Far less than a node waits for unfinished requests by itself.
const AT_ONCE: Duration = Duration::from_secs(3);

/// An upload of which only the first half has been sent.
fn half_an_upload(node: &Node, account: &Account, token: &str) -> (Connection, Vec<u8>) {
    let (first, rest) = token.split_at(token.len() / 2);
    let mut connection = node.connect();
    let head = format!(
        "POST /jwt/v1/accounts/{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{first}",
        account.id(),
        token.len()
    );
    connection.send(head.as_bytes()).unwrap();
    (connection, rest.as_bytes().to_vec())
}

#[test]
fn sigterm_finishes_what_was_begun_takes_nothing_new_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let operator = Operator::new("O");
        let account = Account::new("A");
        let mut node = Node::of(&operator);
        let token = operator.account(&account);
        let (mut connection, rest) = half_an_upload(&node, &account, &token);
        // This answer came after the half upload was sent, so the node has begun to read it.
        assert_eq!(node.get("/healthz").status, 200);

        node.program().signal(signal);
        eventually("nothing new is taken", || Connection::plain(node.address()).err());
        connection.send(&rest).unwrap();
        let answer = connection.answer(false).unwrap();
        assert_eq!((answer.status, answer.text()), (200, String::new()));
        assert_eq!(node.program().wait().code(), Some(0));

        node.start_again();
        assert_eq!(node.get_account(&account.id()).text(), token);
    }
}

#[test]
fn a_second_signal_ends_the_node_at_once() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mut node = Node::of(&operator);
    let (connection, _) = half_an_upload(&node, &account, &operator.account(&account));
    assert_eq!(node.get("/healthz").status, 200);
    node.program().signal(Signal::TERM);
    eventually("nothing new is taken", || Connection::plain(node.address()).err());
    assert!(
        node.program().ended().is_none(),
        "it waits for the upload that was begun"
    );
    node.program().signal(Signal::TERM);
    let ended = within(AT_ONCE, || node.program().ended());
    assert!(ended.is_some(), "still there {AT_ONCE:?} after the second signal");
    drop(connection);
    node.start_again();
    assert_eq!(node.get("/jwt/v1/accounts/").status, 200);
}

#[test]
fn idle_connections_do_not_delay_the_end() {
    let mut node = Node::of(&Operator::new("O"));
    let mut used = node.connect();
    assert_eq!(used.request("GET", "/healthz", &[], b"").unwrap().status, 200);
    let _unused = node.connect();
    node.program().signal(Signal::TERM);
    let ended = within(AT_ONCE, || node.program().ended());
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

/// A client that has not even begun a handshake has asked for nothing.
#[test]
fn a_silent_client_on_the_tls_port_does_not_delay_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let mut node = Node::encrypted(&Operator::new("O").token(), &authority);
    let silent = TcpStream::connect(node.address()).unwrap();
    // An answer on a later connection: the silent one has been accepted by now.
    assert_eq!(node.get("/healthz").status, 200);
    node.program().signal(Signal::TERM);
    let ended = within(AT_ONCE, || node.program().ended());
    assert_eq!(
        ended.and_then(|status| status.code()),
        Some(0),
        "it does not wait for a handshake"
    );
    drop(silent);
}

#[test]
fn a_certificate_is_taken_up_when_its_files_change_and_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let first = Authority::new(folder.path(), "first");
    let identity = first.issue("server");
    let tls = NodeTls {
        identity: identity.clone(),
        client_ca: None,
        client_required: false,
        client: first.client(None, &[]),
    };
    let options = Options {
        tls: Some(tls),
        ..Options::default()
    };
    let mut node = Node::start(&Operator::new("O").token(), options);
    let mut kept = node.connect();
    for (name, hang_up) in [("second", true), ("third", false)] {
        let next = Authority::new(folder.path(), name);
        // Issued elsewhere and moved over, as certificate tools do.
        let new = next.issue(name);
        fs::rename(&new.key, &identity.key).unwrap();
        fs::rename(&new.cert, &identity.cert).unwrap();
        if hang_up {
            node.program().signal(Signal::HUP);
        }
        eventually(&format!("the {name} certificate is shown"), || {
            Connection::tls(node.address(), next.client(None, &[])).ok()
        });
    }
    fs::write(&identity.cert, "no certificate").unwrap();
    node.program().signal(Signal::HUP);
    eventually("the defect is in the log", || {
        node.program()
            .stderr()
            .contains(&identity.cert.display().to_string())
            .then_some(())
    });
    assert_eq!(kept.request("GET", "/healthz", &[], b"").unwrap().status, 200);
}

/// `jwtmesh serve` with this text as its configuration, run to its end.
fn serve(folder: &Path, text: &str, args: &[&str]) -> Output {
    let config = folder.join("cluster.toml");
    fs::write(&config, text).unwrap();
    jwtmesh()
        .arg("serve")
        .arg("--config")
        .arg(config)
        .args(args)
        .output()
        .unwrap()
}

const GOOD: &str = r#"[cluster]
name = "test"
operators = ["operator.jwt"]

[[node]]
name = "one"
data = "data"
public = "127.0.0.1:0"
"#;

#[test]
fn a_bad_configuration_exits_with_2_naming_the_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("operator.jwt"), Operator::new("O").token()).unwrap();
    let without_data = GOOD.replace("data = \"data\"\n", "");
    let cases = [
        ("an unknown key", GOOD.replace("data = ", "date = "), 7),
        ("an unknown section", format!("{GOOD}\n[publik]\n"), 10),
        ("no TOML", GOOD.replace("name = \"one\"", "name = one\""), 6),
        ("a wrong type", GOOD.replace("\"test\"", "5"), 2),
        ("no address", GOOD.replace("127.0.0.1:0", "everywhere"), 8),
        ("no operator", GOOD.replace("\"operator.jwt\"", ""), 3),
        ("a bad name", GOOD.replace("\"one\"", "\"One!\""), 6),
        ("a missing key", without_data, 5),
    ];
    for (name, text, line) in cases {
        let done = serve(folder.path(), &text, &[]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{name}: {said}");
        let found = said.contains(&format!("cluster.toml:{line}:")) || said.contains(&format!("line {line},"));
        assert!(found, "{name}: does not name line {line}: {said}");
        assert!(
            !folder.path().join("data").exists(),
            "{name}: something was opened before"
        );
    }
}

/// A secret, a certificate or a mount may come later than the first start: after 1 systemd tries again, after 2 never.
#[test]
fn a_file_that_cannot_be_read_exits_with_1_naming_the_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("operator.jwt"), Operator::new("O").token()).unwrap();
    let authority = Authority::new(folder.path(), "test");
    authority.issue("one");
    let tls = |files: &str| format!("{GOOD}\n[public]\ntls = {{ cert = \"one.pem\", key = \"one.key\"{files} }}\n");
    let nats = |files: &str| {
        format!(
            "{GOOD}\n[[nats]]\nname = \"fra\"\nservers = [\"nats://127.0.0.1:1\"]\ncreds = \"operator.jwt\"\n{files}\n"
        )
    };
    let cases = [
        ("the operator's JWT", GOOD.replace("operator.jwt", "missing"), 3),
        ("the certificate", tls("").replace("one.pem", "missing"), 11),
        ("its key", tls("").replace("one.key", "missing"), 11),
        ("the clients' authority", tls(", client_ca = \"missing\""), 11),
        (
            "creds",
            nats("").replace("creds = \"operator.jwt\"", "creds = \"missing\""),
            13,
        ),
        ("the NATS servers' authority", nats("ca = \"missing\""), 14),
        (
            "the client certificate",
            nats("cert = \"missing\"\nkey = \"one.key\""),
            14,
        ),
        ("its key", nats("cert = \"one.pem\"\nkey = \"missing\""), 15),
    ];
    for (name, text, line) in cases {
        let done = serve(folder.path(), &text, &[]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{name}: {said}");
        assert!(
            said.contains(&format!("cluster.toml:{line}: cannot read")),
            "{name}: {said}"
        );
        assert!(
            !folder.path().join("data").exists(),
            "{name}: something was opened before"
        );
    }
}

#[test]
fn a_data_folder_that_cannot_be_used_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("operator.jwt"), Operator::new("O").token()).unwrap();
    fs::create_dir_all(path.join("held/identity.json")).unwrap();
    for (data, words) in [
        ("operator.jwt/data", "cannot make the data folder"),
        ("held", "identity.json: Is a directory"),
    ] {
        let done = serve(path, &GOOD.replace("\"data\"", &format!("{data:?}")), &[]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(said.matches("os error").count(), 1, "{said}");
    }
}

#[test]
fn a_newer_jwt_of_a_trusted_operator_is_logged_as_an_update() {
    let operator = Operator::new("O");
    let issued = |at: i64| operator.token_with(|claims| claims["iat"] = at.into());
    let mut node = Node::plain(&issued(now() - 60));
    assert!(node.log().contains("operator trusted"), "{}", node.log());
    fs::write(node.folder().join("operator.jwt"), issued(now() - 30)).unwrap();
    node.start_again();
    let log = node.log();
    assert!(log.contains("JWT of a trusted operator updated"), "{log}");
    assert!(!log.contains("operator trusted"), "{log}");
}

/// systemd does not start it again after 2: a restart would find the same files.
#[test]
fn configured_files_with_the_wrong_content_exit_with_2_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new("O");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("operator.jwt", &operator.token());
    write("account.jwt", &operator.account(&Account::new("A")));
    write("operator.txt", "no token at all");
    let authority = Authority::new(folder.path(), "test");
    authority.issue("one");
    authority.issue("other");
    fs::create_dir(folder.path().join("sub")).unwrap();
    let tls = |cert: &str, key: &str| format!("{GOOD}\n[public]\ntls = {{ cert = {cert:?}, key = {key:?} }}\n");
    let nats = |creds: &str| {
        format!("{GOOD}\n[[nats]]\nname = \"fra\"\nservers = [\"nats://127.0.0.1:1\"]\ncreds = {creds:?}\n")
    };
    for (text, named) in [
        (
            GOOD.replace("operator.jwt", "account.jwt"),
            "account.jwt is not an operator JWT",
        ),
        (
            GOOD.replace("operator.jwt", "operator.txt"),
            "operator.txt is not an operator JWT",
        ),
        (GOOD.replace("operator.jwt", "sub"), "sub is a folder"),
        (tls("one.pem", "other.key"), "other.key does not belong to"),
        (tls("one.key", "one.key"), "one.key holds no CERTIFICATE"),
        (tls("sub", "one.key"), "sub is a folder"),
        (nats("sub"), "sub is a folder"),
    ] {
        let done = serve(folder.path(), &text, &[]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{named}: {said}");
        assert!(said.contains(named), "{named}: {said}");
        assert!(
            !folder.path().join("data").exists(),
            "{named}: something was opened before"
        );
    }

    let mut node = Node::of(&operator);
    node.terminate();
    let config = fs::read_to_string(node.folder().join("cluster.toml")).unwrap();
    let done = serve(node.folder(), &config.replace("\"one\"", "\"two\""), &[]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "another node's store: {said}");
}

#[test]
fn a_signal_ends_a_start_that_waits_for_the_disk() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = Node::of(&Operator::new("O"));
        node.terminate();
        let log = node.folder().join("data/log");
        fs::rename(&log, node.folder().join("log")).unwrap();
        // Opening a FIFO waits for a process to write into it, as opening a folder on a disk that hangs waits forever.
        let made = Command::new("mkfifo").arg(&log).status().unwrap();
        assert!(made.success());
        let mut command = jwtmesh();
        command
            .arg("serve")
            .arg("--config")
            .arg(node.folder().join("cluster.toml"));
        let mut program = Program::start(command, node.folder(), "stuck");
        // The stores are opened after the port is.
        eventually("the port is taken", || Connection::plain(node.address()).ok());
        program.signal(signal);
        let ended = within(AT_ONCE, || program.ended());
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", program.stderr());
        assert!(program.stderr().contains("ended before the start was complete"));

        fs::remove_file(&log).unwrap();
        fs::rename(node.folder().join("log"), &log).unwrap();
        node.start_again();
        assert_eq!(node.get("/jwt/v1/accounts/").status, 200);
    }
}

#[test]
fn a_node_goes_on_serving_when_its_stderr_is_no_longer_read() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mut node = Node::of(&operator);
    node.terminate();
    let mut command = jwtmesh();
    command
        .arg("serve")
        .arg("--config")
        .arg(node.folder().join("cluster.toml"));
    let mut program = Program::start_unheard(command, node.folder(), "unheard");
    let until_ready = || program.stdout().contains("jwtmesh ready: ").then_some(());
    eventually("it is ready", until_ready);
    // The node logs that it reloads, and has done so by the time of the next answer.
    program.signal(Signal::HUP);
    node.put(&account, &operator.account(&account));
    assert_eq!(node.get_account(&account.id()).status, 200);
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));

    let mut refused = jwtmesh();
    refused
        .args(["serve", "--config", "/nowhere/cluster.toml"])
        .stderr(broken_pipe());
    assert_eq!(
        refused.status().unwrap().code(),
        Some(2),
        "the reason cannot be printed, but the code is given"
    );
}

#[test]
fn a_usage_error_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("operator.jwt"), Operator::new("O").token()).unwrap();
    assert_eq!(serve(folder.path(), GOOD, &["--node", "two"]).status.code(), Some(2));
    assert_eq!(serve(folder.path(), GOOD, &["--nonsense"]).status.code(), Some(2));
    let missing = folder.path().join("missing.toml");
    let done = jwtmesh().arg("serve").arg("--config").arg(missing).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("missing.toml"));
    assert_eq!(jwtmesh().output().unwrap().status.code(), Some(2));
}

#[test]
fn a_second_program_on_the_same_folder_ends_with_1_and_disturbs_nothing() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let node = Node::of(&operator);
    let config = fs::read_to_string(node.folder().join("cluster.toml")).unwrap();
    let text = config.replace(&node.address().to_string(), "127.0.0.1:0");
    fs::write(node.folder().join("second.toml"), text).unwrap();
    let done = jwtmesh()
        .arg("serve")
        .arg("--config")
        .arg(node.folder().join("second.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains("/data"), "{said}");
    node.put(&account, &operator.account(&account));
}

#[test]
fn a_port_that_is_taken_ends_the_start_with_1_naming_the_address() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("operator.jwt"), Operator::new("O").token()).unwrap();
    let node = Node::of(&Operator::new("O"));
    let taken = node.address().to_string();
    let done = serve(folder.path(), &GOOD.replace("127.0.0.1:0", &taken), &[]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains(&taken), "{said}");
}

#[test]
fn the_ready_line_names_the_port_that_was_chosen() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("operator.jwt"), Operator::new("O").token()).unwrap();
    fs::write(folder.path().join("cluster.toml"), GOOD).unwrap();
    let mut command = jwtmesh();
    command
        .arg("serve")
        .arg("--config")
        .arg(folder.path().join("cluster.toml"));
    let mut program = Program::start(command, folder.path(), "node");
    let line = eventually("the ready line", || {
        let out = program.stdout();
        out.lines()
            .find(|line| line.starts_with("jwtmesh ready: "))
            .map(str::to_owned)
    });
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[2], "node=one", "{line}");
    let address = words[3].strip_prefix("public=http://").unwrap().parse().unwrap();
    let admin = words[4].strip_prefix("admin=").unwrap();
    let answer = Connection::plain(address)
        .unwrap()
        .request("GET", "/jwt/v1/accounts/", &[], b"")
        .unwrap();
    assert_eq!(answer.status, 200);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("data")), 0o700);
    assert_eq!(mode(Path::new(admin)), 0o600);
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn secrets_and_tokens_stay_out_of_the_log() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mut node = Node::of(&operator);
    let token = operator.account(&account);
    node.put(&account, &token);
    node.post_account(&account.id(), &format!("{token}x"));
    node.get_account(&account.id());
    assert_eq!(node.terminate().code(), Some(0));
    let (_, claims) = token.split_once('.').unwrap();
    for text in [node.program().stdout(), node.program().stderr()] {
        assert!(!text.contains(&claims[..40]), "a token in the log: {text}");
        assert!(!text.contains(&operator.key.seed().unwrap()));
    }
}
