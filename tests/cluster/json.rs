//! `serve --log-format json`: each line on both streams is a JSON object, whatever happens.

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::mint::Operator;
use crate::support::node::{Node, jwtmesh};
use crate::support::process::{Program, eventually};

/// The lines of `text`, each of which must be an object with a level and a message.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    let parsed = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["level"].is_string() && value["message"].is_string(), "{line}");
        value
    });
    parsed.collect()
}

fn serve(node: &Node) -> Command {
    let mut command = jwtmesh();
    let config = node.folder().join("cluster.toml");
    command.args(["serve", "--log-format", "json", "--config"]).arg(config);
    command
}

#[test]
fn a_node_that_runs_writes_json_alone() {
    let mut node = Node::of(&Operator::new("O"));
    assert_eq!(node.terminate().code(), Some(0));
    let mut program = Program::start(serve(&node), node.folder(), "json");
    let ready = eventually("the node is ready", || lines(&program.stdout()).pop());
    let said = ready["message"].as_str().expect("a message");
    assert!(
        said.starts_with("jwtmesh ready: node=one public=http://127.0.0.1:"),
        "{ready}"
    );
    assert_eq!(ready["node"], "one");
    assert!(
        ready["public"].as_str().is_some_and(|url| said.contains(url)),
        "{ready}"
    );
    assert!(
        ready["admin"].as_str().is_some_and(|path| path.ends_with("admin.sock")),
        "{ready}"
    );
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
    assert_eq!(lines(&program.stdout()).len(), 1);
    assert!(!lines(&program.stderr()).is_empty());
}

#[test]
fn every_error_of_a_start_is_one_line_of_json() {
    type Spoil = fn(&Node, &mut Command);
    let cases: [(&str, Spoil, i32, &str); 7] = [
        (
            "a wrong setting",
            |node, _| write(node, "cluster.toml", "[cluster]\nname = 7\n"),
            2,
            "cluster.toml",
        ),
        (
            "no configuration",
            |node, _| remove(node, "cluster.toml"),
            2,
            "cluster.toml",
        ),
        (
            "no operator file",
            |node, _| remove(node, "operator.jwt"),
            1,
            "operator.jwt",
        ),
        (
            "a wrong operator file",
            |node, _| write(node, "operator.jwt", "no JWT"),
            2,
            "operator.jwt",
        ),
        (
            "a damaged data folder",
            |node, _| write(node, "data/state.redb", "no state"),
            1,
            "from a backup",
        ),
        (
            "a wrong filter",
            |_, command| _ = command.args(["--log", "a=b=c"]),
            2,
            "--log",
        ),
        (
            "an unknown option",
            |_, command| _ = command.arg("--unknown"),
            2,
            "--unknown",
        ),
    ];
    for (what, spoil, code, named) in cases {
        let mut node = Node::of(&Operator::new("O"));
        assert_eq!(node.terminate().code(), Some(0));
        let mut command = serve(&node);
        spoil(&node, &mut command);
        let done = command.output().expect("the program can be started");
        let err = String::from_utf8(done.stderr).expect("text");
        assert_eq!(done.status.code(), Some(code), "{what}: {err}");
        assert!(done.stdout.is_empty(), "{what}");
        let last = lines(&err).pop().expect("it says why");
        let message = last["message"].as_str().expect("a message");
        assert!(last["level"] == "ERROR" && message.contains(named), "{what}: {last}");
    }
}

fn write(node: &Node, file: &str, text: &str) {
    fs::write(node.folder().join(file), text).expect("the test's own folder is writable");
}

fn remove(node: &Node, file: &str) {
    fs::remove_file(node.folder().join(file)).expect("it is there");
}
