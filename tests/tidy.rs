//! The shape of the source, as tests: which way imports may point, which library lives where, which rooms are
//! pure, how long a file may be. An exception is a line in a table here, with its reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The ladder. A file may name the rooms listed for its own, and [`SHARED`] ones; `jwt` is the lowest step, `main` the
/// highest.
const LADDER: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // `main` is a page over `cli`, which may take the words of every room, but drives only `client` and `node`.
    ("cli", &["jwt", "config", "tls", "folder", "api", "client", "node"]),
    (
        "node",
        &[
            "jwt", "state", "raft", "resolver", "http", "nats", "config", "tls", "folder",
        ],
    ),
    // Strangers: neither may name the other.
    ("http", &["jwt", "resolver", "config", "tls", "listener", "api"]),
    ("nats", &["jwt", "resolver", "config"]),
    ("resolver", &["jwt", "state", "raft"]),
    ("raft", &["jwt", "state", "config", "tls", "listener", "folder"]),
    ("state", &["jwt"]),
    ("jwt", &[]),
    ("client", &["jwt", "tls", "api"]),
    // Only the command line names it, and tests and benches: `serve` cannot sign.
    ("sign", &["jwt"]),
    // Shared leaf modules.
    ("listener", &["tls", "config"]),
    ("tls", &["config"]),
    ("config", &[]),
    ("folder", &[]),
    ("api", &[]),
    ("lib", &[]),
    ("clock", &[]),
    ("tasks", &[]),
];

/// What every room may name but the pure ones, which are below both.
const SHARED: &[&str] = &["clock", "tasks"];

/// Where each library is at home. Elsewhere its name may not appear.
const HOMES: &[(&str, &[&str])] = &[
    ("redb", &["state/"]),
    ("openraft", &["raft/"]),
    ("axum", &["http/"]),
    ("hyper_util", &["listener/", "client/"]),
    // The demo is a client of the NATS cluster it shows, as its user's own program would be.
    ("async_nats", &["nats/", "cli/demo/"]),
    // The demo makes keys for its own folder; only sign/ signs with them.
    ("nkeys", &["jwt/nkey.rs", "sign/", "cli/demo/"]),
    ("ed25519_dalek", &["jwt/nkey.rs"]),
    ("clap", &["cli/"]),
    ("rcgen", &["cli/demo/"]),
    ("x509_parser", &["tls/"]),
    ("toml", &["config/"]),
    (
        "rustix",
        &["main.rs", "raft/log/disk.rs", "raft/stores/flusher.rs", "listener/"],
    ),
];

/// Words that a pure room may not contain: it sees no clock, no configuration, no channel and no task.
const PURE: &[(&str, &[&str])] = &[
    (
        "jwt/",
        &[
            "std::time",
            "SystemTime",
            "Instant::",
            "async ",
            ".await",
            "tokio",
            "mpsc",
            "crate::config",
            "std::fs",
        ],
    ),
    (
        "state/",
        &[
            "SystemTime",
            "Instant::",
            "async ",
            ".await",
            "tokio",
            "mpsc",
            "crate::config",
            "rand::",
        ],
    ),
];

const MAX_LINES: usize = 600;
const MAX_FILES_PER_ROOM: usize = 10;

struct Source {
    /// Relative to `src`, with `/`.
    name: String,
    text: String,
}

impl Source {
    fn room(&self) -> &str {
        self.name.split(['/', '.']).next().expect("split gives at least one")
    }

    /// The lines that run in the program: without comments and without the inline tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
            .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
    }
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 20, "the source was not found in {}", root.display());
    paths
        .iter()
        .map(|path| Source {
            name: path
                .strip_prefix(&root)
                .expect("below src")
                .to_string_lossy()
                .replace('\\', "/"),
            text: std::fs::read_to_string(path).expect("src is readable"),
        })
        .collect()
}

fn assert_none(defects: Vec<String>) {
    assert!(defects.is_empty(), "\n{}", defects.join("\n"));
}

/// The word that follows `crate::` at each place of a line.
fn rooms_named(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").map(|(at, found)| {
        let rest = &line[at + found.len()..];
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Whether a room sees neither clock nor task.
fn pure(room: &str) -> bool {
    PURE.iter().any(|(pure, _)| pure.strip_suffix('/') == Some(room))
}

#[test]
fn imports_fall_downhill() {
    let ladder: BTreeMap<_, _> = LADDER.iter().copied().collect();
    let mut defects = Vec::new();
    for source in sources() {
        let own = source.room().to_owned();
        let Some(allowed) = ladder.get(own.as_str()) else {
            defects.push(format!("src/{}: {own} has no line in the ladder", source.name));
            continue;
        };
        for (at, line) in source.code() {
            for room in rooms_named(line) {
                if room.is_empty() {
                    defects.push(format!(
                        "src/{}:{at}: `use crate::{{..}}`: one line a room, so that layers are seen",
                        source.name
                    ));
                } else if room != own && !allowed.contains(&room) && (pure(&own) || !SHARED.contains(&room)) {
                    defects.push(format!("src/{}:{at}: {own} may not name {room}", source.name));
                }
            }
        }
    }
    assert_none(defects);
}

#[test]
fn every_library_has_a_home() {
    let mut defects = Vec::new();
    for source in sources() {
        for (at, line) in source.code() {
            for (library, homes) in HOMES {
                let named = line
                    .match_indices(&format!("{library}::"))
                    .any(|(found, _)| !line[..found].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
                if named && !homes.iter().any(|home| source.name.starts_with(home)) {
                    defects.push(format!(
                        "src/{}:{at}: {library} is at home in {}",
                        source.name,
                        homes.join(", ")
                    ));
                }
            }
        }
    }
    assert_none(defects);
}

#[test]
fn pure_rooms_stay_pure() {
    let mut defects = Vec::new();
    for source in sources() {
        for (room, words) in PURE.iter().filter(|(room, _)| source.name.starts_with(room)) {
            for (at, line) in source.code() {
                for word in words.iter().filter(|word| line.contains(**word)) {
                    defects.push(format!(
                        "src/{}:{at}: {room} is pure and may not say {word:?}",
                        source.name
                    ));
                }
            }
        }
    }
    assert_none(defects);
}

/// A task that dies unseen leaves a node that looks alive and agrees on nothing, or tells nobody.
#[test]
fn every_task_that_agrees_or_publishes_ends_the_node_with_its_panic() {
    let mut defects = Vec::new();
    let mut guarded = 0;
    for source in sources() {
        for (at, line) in source.code() {
            guarded += usize::from(line.contains("scope.spawn("));
            let unguarded = ["spawn_for_client(", "TaskTracker", "JoinSet", "thread::Builder"]
                .iter()
                .any(|way| line.contains(way));
            if unguarded && ["raft", "nats", "node"].contains(&source.room()) && source.name != "raft/log/prepare.rs" {
                defects.push(format!(
                    "src/{}:{at}: spawn it with `Scope::spawn` or `spawn_thread`",
                    source.name
                ));
            }
        }
    }
    assert!(
        guarded >= 5,
        "only {guarded} guarded tasks were found: how they are spawned has changed"
    );
    assert_none(defects);
}

#[test]
fn files_and_rooms_stay_small() {
    let mut defects = Vec::new();
    let mut rooms: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            defects.push(format!(
                "src/{}: {lines} lines, {MAX_LINES} are allowed: it has two ideas, name them",
                source.name
            ));
        }
        if let Some((room, _)) = source.name.rsplit_once('/') {
            *rooms.entry(room.to_owned()).or_default() += 1;
        }
    }
    for (room, files) in rooms {
        if files > MAX_FILES_PER_ROOM {
            defects.push(format!(
                "src/{room}: {files} files, {MAX_FILES_PER_ROOM} are allowed: a room hides inside it"
            ));
        }
    }
    assert_none(defects);
}

#[test]
fn every_file_begins_with_its_sentence() {
    let defects = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| {
            format!(
                "src/{}: begins without the sentence that says what it owns",
                source.name
            )
        })
        .collect();
    assert_none(defects);
}
