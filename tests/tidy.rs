//! Tests of the shape of the source: which way imports may point, between rooms and within a room; where each library
//! may be named; which rooms are pure; how long a file may be. An exception is a line in a table here, with its reason.

use std::collections::{BTreeMap, BTreeSet};

use graph::{graph, sources};

#[path = "tidy/graph.rs"]
mod graph;

/// The order of the rooms: `main` is the highest, `jwt` the lowest. A file may name its own room, the rooms listed for
/// that room, and the [`SHARED`] ones.
const LADDER: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // `main` is one page that calls `cli`. `cli` may use the types of many rooms, but drives only `client` and `node`.
    (
        "cli",
        &["jwt", "config", "tls", "folder", "api", "client", "node", "sign"],
    ),
    (
        "node",
        &[
            "jwt", "state", "raft", "resolver", "http", "nats", "config", "tls", "folder",
        ],
    ),
    // `http` and `nats` may not name each other.
    ("http", &["jwt", "resolver", "config", "tls", "listener", "api"]),
    ("nats", &["jwt", "resolver", "config"]),
    ("resolver", &["jwt", "state", "raft"]),
    ("raft", &["jwt", "state", "config", "tls", "listener", "folder"]),
    ("state", &["jwt"]),
    ("jwt", &[]),
    ("client", &["jwt", "tls", "api"]),
    // Only `cli`, tests and benches name `sign`, so that `serve` cannot sign.
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

/// The rooms that every room except the pure ones may name; the pure rooms are below both.
const SHARED: &[&str] = &["clock", "tasks"];

/// The order within each folder, lowest first: a file may name only the entries listed before it. `mod` is the folder's
/// own `mod.rs`; its re-exports do not count.
const ORDER: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "exit", "output", "input", "target", "serve", "inspect", "account", "operator", "nats", "verify", "demo",
            "mod",
        ],
    ),
    (
        "cli/account",
        &["pages", "tally", "list", "show", "push", "pull", "mod"],
    ),
    (
        "cli/demo",
        &[
            "folder",
            "certificates",
            "keys",
            "server",
            "guide",
            "show",
            "story",
            "mod",
        ],
    ),
    ("cli/nats", &["pointing", "config", "mod"]),
    ("cli/operator", &["show", "mod"]),
    ("client", &["call", "admin", "public", "mod"]),
    ("config", &["error", "meaning", "text", "read", "mod"]),
    ("http", &["error", "request", "upload", "public", "v1", "mod"]),
    (
        "http/public",
        &["answer", "accounts", "operator", "pack", "help", "health", "mod"],
    ),
    ("http/v1", &["answer", "status", "accounts", "operators", "mod"]),
    (
        "jwt",
        &[
            "nkey",
            "quote",
            "rejection",
            "token",
            "json",
            "opened",
            "rules",
            "claims",
            "trust",
            "explain",
            "mod",
        ],
    ),
    ("jwt/claims", &["account", "operator", "mod"]),
    // `mod` is the parser; `fields` reads the parser's values by name.
    ("jwt/json", &["mod", "fields"]),
    (
        "jwt/rules",
        &[
            "issues", "shape", "subject", "url", "info", "imports", "exports", "account", "operator", "mod",
        ],
    ),
    (
        "listener",
        &["limits", "gather", "activity", "again", "port", "tcp", "socket", "mod"],
    ),
    (
        "nats",
        &["subjects", "connection", "publish", "notices", "cluster", "mod"],
    ),
    ("nats/connection", &["route", "mod"]),
    (
        "nats/publish",
        &[
            "step",
            "pending",
            "agenda",
            "roster",
            "lanes",
            "position",
            "propagation",
            "mod",
        ],
    ),
    ("nats/subjects", &["names", "replies", "mod"]),
    ("node", &["trust", "life", "assemble", "mod"]),
    // `mod` is the handle that `start` returns.
    (
        "raft",
        &[
            "runtime", "forms", "log", "machine", "network", "propose", "stores", "mod", "start",
        ],
    ),
    (
        "raft/log",
        &[
            "segment", "disk", "fault", "prepare", "options", "memory", "files", "open", "writer", "store", "mod",
        ],
    ),
    ("raft/log/open", &["window", "survey", "replay", "torn", "mod"]),
    // `mod` proposes one command; `batch` makes one command of many submissions.
    ("raft/propose", &["mod", "batch"]),
    ("raft/stores", &["space", "flusher", "trim", "mod"]),
    (
        "resolver",
        &["error", "handle", "lookup", "submit", "trust", "scan", "publish", "mod"],
    ),
    ("sign", &["claims", "creds", "mod"]),
    (
        "state",
        &["command", "rows", "options", "fault", "file", "recent", "apply", "mod"],
    ),
    ("state/apply", &["before", "accounts", "operators", "positions", "mod"]),
    // `mod` has the tables that every other file in the folder reads or writes.
    (
        "state/file",
        &["mod", "encoding", "store", "view", "changes", "install"],
    ),
    ("state/recent", &["change", "memtable", "live", "cache", "flush", "mod"]),
    ("tls", &["provider", "files", "x509", "server", "mod"]),
];

/// The files in which each library may be named, by the beginning of their paths.
const HOMES: &[(&str, &[&str])] = &[
    ("redb", &["state/"]),
    ("openraft", &["raft/"]),
    ("axum", &["http/"]),
    ("hyper_util", &["listener/", "client/"]),
    // The demo connects to its NATS cluster as a client, as a user's program would. The configuration uses the library
    // to parse the URLs of servers.
    ("async_nats", &["nats/", "cli/demo/", "config/read.rs"]),
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

/// Words that a pure room may not contain: it has no clock, no configuration, no channel and no task.
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

/// Alarms, not goals: beyond one of these, find the second idea in the file or folder and name it.
const MAX_LINES: usize = 600;
const MAX_FILES_PER_FOLDER: usize = 12;

fn assert_none(defects: Vec<String>) {
    assert!(defects.is_empty(), "\n{}", defects.join("\n"));
}

/// The word after each `crate::` in a line.
fn rooms_named(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").map(|(at, found)| {
        let rest = &line[at + found.len()..];
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Whether a room is pure: without a clock and without tasks.
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
            defects.push(format!("src/{}: {own} has no line in LADDER", source.name));
            continue;
        };
        for (at, line) in source.code() {
            for room in rooms_named(line) {
                if room.is_empty() {
                    defects.push(format!(
                        "src/{}:{at}: `use crate::{{..}}`: write one `use` line a room, so that this test sees it",
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
                        "src/{}:{at}: {library} may be named only in {}",
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
                        "src/{}:{at}: {room} is pure and may not contain {word:?}",
                        source.name
                    ));
                }
            }
        }
    }
    assert_none(defects);
}

/// If such a task died unnoticed, the node would look alive but agree on nothing, or send no changes to NATS.
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
            if unguarded && ["raft", "nats"].contains(&source.room()) && source.name != "raft/log/prepare.rs" {
                defects.push(format!(
                    "src/{}:{at}: spawn it with `Scope::spawn` or `spawn_thread`",
                    source.name
                ));
            }
        }
    }
    assert!(
        guarded >= 5,
        "only {guarded} calls of `scope.spawn(` were found: adapt this test to how tasks are spawned now"
    );
    assert_none(defects);
}

/// ORDER is total within a room, so no two files of a room can name each other, directly or through other files.
#[test]
fn within_a_room_a_file_names_only_files_before_it() {
    let order: BTreeMap<_, _> = ORDER.iter().copied().collect();
    let mut defects = BTreeSet::new();
    for (file, named) in graph(&sources()) {
        for other in named
            .iter()
            .filter(|other| room(other) == room(&file) && file.contains('/'))
        {
            let (folder, own, its) = part(&file, other);
            let Some(order) = order.get(folder) else {
                defects.insert(format!("src/{folder} has no line in ORDER"));
                continue;
            };
            let place = |entry: &str| order.iter().position(|listed| *listed == entry);
            match (place(own), place(its)) {
                (Some(own), Some(its)) if its < own => {}
                (Some(_), Some(_)) => {
                    defects.insert(format!(
                        "src/{file} names src/{other}, but ORDER has {own} before {its} in {folder}"
                    ));
                }
                (own_place, _) => {
                    let missing = if own_place.is_none() { own } else { its };
                    defects.insert(format!("{missing} is missing from ORDER's line of src/{folder}"));
                }
            }
        }
    }
    assert_none(defects.into_iter().collect());
}

fn room(file: &str) -> &str {
    file.split('/').next().expect("split gives at least one")
}

/// The innermost folder that holds both files, and the entry of that folder that each of them belongs to.
fn part<'f>(one: &'f str, other: &'f str) -> (&'f str, &'f str, &'f str) {
    let common = one
        .char_indices()
        .zip(other.chars())
        .take_while(|((_, a), b)| a == b)
        .filter(|((_, a), _)| *a == '/')
        .last();
    let start = common.map_or(0, |((at, _), _)| at + 1);
    let entry = |file: &'f str| {
        let rest = &file[start..];
        rest.split(['/', '.']).next().expect("split gives at least one")
    };
    (one[..start].trim_end_matches('/'), entry(one), entry(other))
}

/// LADDER orders the rooms and ORDER the files within a room; this finds any cycle that both of them miss.
#[test]
fn no_file_is_part_of_a_cycle() {
    let graph = graph(&sources());
    let mut defects = Vec::new();
    for start in graph.keys() {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&String> = graph[start].iter().collect();
        while let Some(file) = open.pop() {
            if reached.insert(file) {
                open.extend(graph.get(file).into_iter().flatten());
            }
        }
        if reached.contains(start) {
            defects.push(format!("src/{start} names itself through other files: break the cycle"));
        }
    }
    assert_none(defects);
}

#[test]
fn the_order_lists_every_folder_with_exactly_its_entries() {
    let sources = sources();
    let mut folders: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let known = graph(&sources);
    for file in known.keys() {
        let mut rest = file.as_str();
        while let Some((folder, entry)) = rest.rsplit_once('/') {
            folders.entry(folder).or_default().insert(entry.trim_end_matches(".rs"));
            rest = folder;
        }
    }
    let mut defects = Vec::new();
    for (folder, listed) in ORDER {
        let listed: BTreeSet<&str> = listed.iter().copied().collect();
        let found = folders.remove(folder).unwrap_or_default();
        if listed != found {
            defects.push(format!("src/{folder} has {found:?}, ORDER lists {listed:?}"));
        }
    }
    defects.extend(
        folders
            .keys()
            .map(|folder| format!("src/{folder} has no line in ORDER")),
    );
    assert_none(defects);
}

#[test]
fn files_and_folders_stay_small() {
    let mut defects = Vec::new();
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            defects.push(format!(
                "src/{}: {lines} lines, {MAX_LINES} are allowed: split it by its two ideas and name them",
                source.name
            ));
        }
        if let Some((folder, _)) = source.name.rsplit_once('/') {
            *folders.entry(folder.to_owned()).or_default() += 1;
        }
    }
    for (folder, files) in folders {
        if files > MAX_FILES_PER_FOLDER {
            defects.push(format!(
                "src/{folder}: {files} files, {MAX_FILES_PER_FOLDER} are allowed: move some into a folder of their own"
            ));
        }
    }
    assert_none(defects);
}

#[test]
fn every_file_begins_with_a_sentence_on_what_it_owns() {
    let defects = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| {
            format!(
                "src/{}: begin it with a `//!` sentence that says what it owns",
                source.name
            )
        })
        .collect();
    assert_none(defects);
}
