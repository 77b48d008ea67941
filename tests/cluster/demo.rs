//! The demo: one command that shows everything and leaves nothing running.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::support::node::jwtmesh;
use crate::support::process::{Program, eventually};
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
