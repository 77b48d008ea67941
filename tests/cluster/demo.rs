//! The demo: one command that shows everything and leaves nothing running.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::node::jwtmesh;
use crate::support::process::{PATIENCE, Program, eventually, within};
use crate::support::tools::tool;

fn demo(folder: &Path, args: &[&str]) -> Command {
    let mut command = jwtmesh();
    command.arg("demo").arg("--dir").arg(folder.join("demo")).args(args);
    command
}

/// The process id that the demo names for its nats-server.
fn server_id(said: &str) -> u32 {
    let after = said
        .split("process ")
        .nth(1)
        .unwrap_or_else(|| panic!("no process is named: {said}"));
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn the_demo_disconnects_a_client_and_ctrl_c_stops_everything_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let server = tool("nats-server").display().to_string();
    // Twice in one folder: the second run finds what the first one made.
    for run in ["first", "second"] {
        let mut program = Program::start(demo(folder.path(), &["--nats-server", &server]), folder.path(), run);
        let said = eventually("the demo serves until Ctrl-C", || {
            assert!(program.ended().is_none(), "{}{}", program.stdout(), program.stderr());
            Some(program.stdout()).filter(|said| said.contains("until Ctrl-C"))
        });
        let after = said
            .split("client cut off after ")
            .nth(1)
            .unwrap_or_else(|| panic!("{said}"));
        assert!(after.contains(" ms"), "{said}");
        let server = server_id(&said);
        assert!(Path::new(&format!("/proc/{server}")).exists(), "{said}");

        program.signal(Signal::INT);
        assert_eq!(program.wait().code(), Some(0), "{}", program.stderr());
        assert!(
            !Path::new(&format!("/proc/{server}")).exists(),
            "its nats-server is left running"
        );
    }
}

#[test]
fn the_demo_runs_without_a_nats_server_and_says_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let done = demo(folder.path(), &["--exit"])
        .env("PATH", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(
        done.status.code(),
        Some(0),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        said.contains("--nats-server") && said.contains("resolver: \"URL("),
        "{said}"
    );
}

/// The processes whose command line names `folder`.
fn processes_of(folder: &Path) -> Vec<i32> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        // A process may end meanwhile.
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&folder)
    })
    .collect()
}

/// Fails if a process of the demo in `folder` is left over, and kills it.
#[track_caller]
fn assert_nothing_runs(folder: &Path, when: &str) {
    let left = processes_of(folder);
    for id in left.iter().filter_map(|id| Pid::from_raw(*id)) {
        let _ = kill_process(id, Signal::KILL);
    }
    assert!(left.is_empty(), "{when}: the processes {left:?} are left running");
}

/// What the line of the story says that begins with `what`.
#[track_caller]
fn line<'s>(said: &'s str, what: &str) -> &'s str {
    let line = said
        .lines()
        .find(|line| line.split_whitespace().next() == Some(what) && !line.starts_with(' '));
    line.unwrap_or_else(|| panic!("no line {what:?} in: {said}"))[what.len()..].trim_start()
}

/// The word after `before`, up to a blank or a comma.
#[track_caller]
fn word<'l>(line: &'l str, before: &str) -> &'l str {
    let after = line
        .split_once(before)
        .unwrap_or_else(|| panic!("{before:?}: {line}"))
        .1;
    after.split([' ', ',', ';']).next().expect("split gives at least one")
}

#[test]
fn the_demo_of_a_mesh_kills_the_leader_and_the_client_is_disconnected_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let server = tool("nats-server").display().to_string();
    let args = ["--nodes", "3", "--exit", "--nats-server", &server];
    let done = demo(folder.path(), &args).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let said = said.as_ref();
    let err = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{said}{err}");
    assert_nothing_runs(folder.path(), "after its end");

    assert!(line(said, "formed").contains("a mesh of 3 nodes"), "{said}");
    let killed = word(line(said, "killed"), "");
    assert!(line(said, "killed").contains("with SIGKILL: the leader"), "{said}");
    for left in [
        word(line(said, "nats-server"), "fetches accounts from "),
        word(line(said, "leader"), ""),
        word(line(said, "revoked"), "through "),
        word(line(said, "publisher"), ""),
    ] {
        assert!(left.starts_with("demo-") && left != killed, "{left}: {said}");
    }
    let ms = |what, before| -> u64 { word(line(said, what), before).parse().unwrap() };
    // Followers wait so long for a leader that did not hand over; before that nothing can be agreed on.
    for (what, before) in [
        ("leader", "after "),
        ("revoked", "answered after "),
        ("measured", "client cut off after "),
    ] {
        assert!(ms(what, before) >= 500, "{said}");
    }
    if line(said, "killed").contains("the publisher too") {
        // The rest of a lease of four seconds that is renewed after one and a half.
        assert!(ms("publisher", "took over after ") >= 2_000, "{said}");
    }
    assert!(line(said, "refused").contains("authorization violation"), "{said}");
    assert_eq!(word(line(said, "returned"), ""), killed, "{said}");
    let log = std::fs::read_to_string(folder.path().join(format!("demo/{killed}.log"))).unwrap();
    assert_eq!(log.matches("shutting down").count(), 1, "only at the demo's end: {log}");
    let secret = |word: &str| word.contains("eyJ") || word.starts_with('S') && word.len() == 58;
    assert!(
        !said.split_whitespace().any(secret) && !err.contains("eyJ"),
        "{said}{err}"
    );
}

#[test]
fn the_nodes_of_a_demo_end_with_it_even_if_it_is_interrupted_or_fails() {
    let folder = tempfile::tempdir().unwrap();
    let without = demo(folder.path(), &["--nodes", "3", "--exit"])
        .env("PATH", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&without.stdout);
    assert_eq!(without.status.code(), Some(0), "{said}");
    assert!(
        said.contains("--nats-server") && said.contains("resolver: \"URL("),
        "{said}"
    );
    assert!(!said.contains("SIGKILL"), "{said}");
    assert_nothing_runs(folder.path(), "without a nats-server");

    let server = tool("nats-server").display().to_string();
    for (signal, after) in [(Signal::INT, "with SIGKILL"), (Signal::HUP, "kept          a mesh")] {
        let name = format!("{signal:?}");
        let mut program = Program::start(demo(folder.path(), &["--nats-server", &server]), folder.path(), &name);
        eventually(after, || {
            assert!(program.ended().is_none(), "{}{}", program.stdout(), program.stderr());
            program.stdout().contains(after).then_some(())
        });
        assert!(processes_of(folder.path()).len() >= 3, "{}", program.stdout());
        program.signal(signal);
        assert_eq!(program.wait().code(), Some(0), "{}", program.stderr());
        assert_nothing_runs(folder.path(), &name);
    }

    let failed = demo(folder.path(), &["--nats-server", "/bin/false"]).output().unwrap();
    let err = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{err}");
    assert!(err.contains("nats-server ended"), "{err}");
    assert_nothing_runs(folder.path(), "after a failure");

    let other = demo(folder.path(), &["--nodes", "5"]).output().unwrap();
    let err = String::from_utf8_lossy(&other.stderr);
    assert_eq!(other.status.code(), Some(2), "{err}");
    assert!(err.contains("--nodes 3"), "{err}");
}

/// `deploy/local/run` in `folder`, which ends when everything runs; `base` is the port that its own are counted from.
fn local(folder: &Path, base: u16) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_BIN_EXE_jwtmesh"));
    let mut path = vec![program.parent().unwrap().to_owned(), root.join("target/tools")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let mut command = Command::new(root.join("deploy/local/run"));
    command
        .arg(folder.join("mesh"))
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("BASE_PORT", base.to_string())
        .env("EXIT_WHEN_UP", "1");
    command
}

/// The port before as many free ones as the script takes, of which no other test is given any.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const BLOCKS: u16 = 30;
    let start = (std::process::id() % u32::from(BLOCKS)) as u16;
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut bases = (0..BLOCKS).map(|_| 31_000 + 50 * ((start + NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS));
    bases
        .find(|base| (1..=33).all(|port| is_free(base + port)))
        .expect("free ports")
}

#[test]
fn deploy_local_brings_up_a_mesh_and_its_nats_servers_and_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let base = free_ports();
    for (run, formed) in [("first", "formed\n"), ("second", "already formed\n")] {
        let mut program = Program::start(local(folder.path(), base), folder.path(), run);
        // Keys, certificates, six servers.
        let ended = within(4 * PATIENCE, || program.ended()).expect("it ends");
        assert!(ended.success(), "{}", program.stderr());
        assert!(program.stdout().starts_with(formed), "{}", program.stdout());
    }
    let server = std::fs::read_to_string(folder.path().join("mesh/nats-1.log")).unwrap();
    assert!(server.contains("Server is ready"), "{server}");
}

#[test]
fn deploy_local_says_why_a_node_cannot_start_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let base = free_ports() + 1;
    let _taken = TcpListener::bind(("127.0.0.1", base + 2)).unwrap();
    let mut program = Program::start(local(folder.path(), base), folder.path(), "local");
    let ended = within(4 * PATIENCE, || program.ended()).expect("it ends");
    assert!(!ended.success());
    assert!(program.stderr().contains("cannot listen on"), "{}", program.stderr());
}
