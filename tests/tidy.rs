//! Tests of the shape of the source: which way imports may point, between rooms and within a room; where each library
//! may be named; which rooms are pure; how long a file may be. An exception is a line in a table here, with its reason.

use std::collections::{BTreeMap, BTreeSet};

use graph::{Graph, graph, is_use, sources};

#[path = "tidy/graph.rs"]
mod graph;

/// The order of the rooms: `main` is the highest, `jwt` the lowest. A file may name its own room and the rooms listed for
/// that room; each of those is named by some file.
const LADDER: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // `main` is one page that calls `cli`. `cli` may use the types of many rooms, but drives only `client` and `node`.
    (
        "cli",
        &[
            "jwt", "config", "folder", "api", "client", "node", "sign", "clock", "tasks", "panics",
        ],
    ),
    (
        "node",
        &[
            "jwt", "raft", "resolver", "http", "nats", "config", "tls", "folder", "clock", "tasks",
        ],
    ),
    // `http` and `nats` may not name each other.
    ("http", &["jwt", "resolver", "tls", "listener", "api", "clock", "tasks"]),
    ("nats", &["jwt", "resolver", "config", "clock", "tls", "tasks"]),
    ("resolver", &["jwt", "state", "raft", "clock", "tasks"]),
    (
        "raft",
        &["state", "config", "folder", "clock", "tls", "listener", "tasks"],
    ),
    ("state", &["jwt", "panics"]),
    ("jwt", &[]),
    ("client", &["jwt", "tls", "config", "api"]),
    // Only `cli`, tests and benches name `sign`, so that `serve` cannot sign.
    ("sign", &[]),
    // Shared leaf modules.
    ("listener", &["tls", "tasks"]),
    ("tls", &["config", "clock", "tasks"]),
    ("config", &[]),
    ("folder", &[]),
    ("api", &[]),
    ("lib", &[]),
    ("clock", &[]),
    ("tasks", &[]),
    ("panics", &[]),
];

/// The order within each folder, lowest first: a file may name only the entries listed before it. `mod` is the folder's
/// own `mod.rs`; what it re-exports from its own folder does not count.
const ORDER: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "exit", "output", "proof", "input", "key", "target", "serve", "ready", "inspect", "account", "revoke",
            "operator", "member", "status", "nats", "verify", "demo", "mod",
        ],
    ),
    (
        "cli/account",
        &[
            "pages", "named", "tally", "list", "show", "push", "pull", "watch", "consent", "delete", "closing", "mod",
        ],
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
            "stage",
            "mesh",
            "failover",
            "story",
            "mod",
        ],
    ),
    ("cli/member", &["list", "bootstrap", "mod"]),
    ("cli/nats", &["pointing", "config", "servers", "mod"]),
    ("cli/revoke", &["way", "mod"]),
    ("cli/operator", &["named", "show", "update", "replace", "mod"]),
    ("client", &["call", "admin", "public", "mod"]),
    ("config", &["error", "meaning", "text", "read", "mod"]),
    // `mod` has the reader, and reads the rest of the file.
    ("config/read", &["mod", "peers", "nats"]),
    ("http", &["error", "request", "proof", "upload", "public", "v1", "mod"]),
    (
        "http/public",
        &["answer", "accounts", "operator", "pack", "help", "health", "mod"],
    ),
    (
        "http/v1",
        &[
            "answer",
            "members",
            "nats",
            "status",
            "accounts",
            "propagation",
            "removals",
            "operators",
            "mod",
        ],
    ),
    (
        "jwt",
        &[
            "quote",
            "nkey",
            "rejection",
            "token",
            "json",
            "opened",
            "rules",
            "claims",
            "trust",
            "explain",
            "older",
            "mod",
        ],
    ),
    ("jwt/claims", &["account", "operator", "delete", "mod"]),
    // `mod` is the parser; `fields` reads the parser's values by name.
    ("jwt/json", &["mod", "fields"]),
    (
        "jwt/rules",
        &[
            "issues", "shape", "subject", "mapping", "url", "info", "imports", "exports", "account", "operator",
            "user", "mod", "user", "mod",
        ],
    ),
    (
        "listener",
        &[
            "limits",
            "origin",
            "certified",
            "gather",
            "activity",
            "again",
            "failures",
            "port",
            "tcp",
            "socket",
            "mod",
        ],
    ),
    (
        "nats",
        &[
            "subjects",
            "connection",
            "publish",
            "clocks",
            "payload",
            "said",
            "notices",
            "lease",
            "wait",
            "respond",
            "cluster",
            "mod",
        ],
    ),
    // `mod` is the task, whose parts the others are.
    (
        "nats/cluster",
        &[
            "count", "judge", "streams", "others", "mod", "send", "answer", "search", "agree",
        ],
    ),
    ("nats/connection", &["creds", "route", "requests", "mod"]),
    (
        "nats/publish",
        &[
            "step",
            "roster",
            "pending",
            "agenda",
            "lanes",
            "position",
            "sweep",
            "propagation",
            "pace",
            "listing",
            "reading",
            "servers",
            "mod",
        ],
    ),
    // `mod` has the servers; `checks` finds out what each of them enforces.
    ("nats/publish/roster", &["looking", "mod", "checks"]),
    (
        "nats/respond",
        &[
            "notices",
            "limits",
            "overrule",
            "answers",
            "update",
            "published",
            "lookup",
            "pages",
            "digest",
            "pack",
            "responder",
            "mod",
        ],
    ),
    ("nats/subjects", &["names", "servers", "replies", "requests", "mod"]),
    ("node", &["runtime", "life", "trust", "reload", "assemble", "mod"]),
    // `mod` is the handle that `start` returns.
    (
        "raft",
        &[
            "runtime", "forms", "error", "settings", "log", "machine", "stores", "peer", "propose", "mod", "attend",
            "start", "members", "form",
        ],
    ),
    (
        "raft/log",
        &[
            "segment", "disk", "fault", "prepare", "options", "memory", "files", "open", "writer", "store", "mod",
        ],
    ),
    ("raft/log/open", &["window", "survey", "replay", "torn", "mod"]),
    (
        "raft/peer",
        &[
            "contacts",
            "messages",
            "refusal",
            "health",
            "pipeline",
            "handler",
            "network",
            "speak",
            "connection",
            "port",
            "mod",
        ],
    ),
    ("raft/peer/handler", &["turns", "queue", "receive", "checks", "mod"]),
    // `mod` proposes one command; `batch` makes one command of many submissions.
    ("raft/propose", &["mod", "batch", "route", "settle"]),
    ("raft/stores", &["space", "flusher", "quiet", "trim", "mod"]),
    // `mod` says what is not removed.
    ("resolver/remove", &["mod", "streams", "closing", "delete"]),
    (
        "resolver",
        &[
            "nats",
            "error",
            "handle",
            "lookup",
            "members",
            "scan",
            "older",
            "submit",
            "remove",
            "trust",
            "publish",
            "publishers",
            "lead",
            "mod",
        ],
    ),
    (
        "resolver/nats",
        &["resend", "seen", "streams", "travel", "versions", "mod"],
    ),
    ("sign", &["claims", "creds", "keys", "mod"]),
    (
        "state",
        &[
            "revision", "roster", "command", "rows", "options", "fault", "file", "recent", "apply", "mod",
        ],
    ),
    (
        "state/apply",
        &[
            "before",
            "accounts",
            "deletes",
            "closings",
            "operators",
            "positions",
            "roster",
            "mod",
        ],
    ),
    // `mod` has the tables that every other file in the folder reads or writes.
    (
        "state/file",
        &[
            "mod", "backend", "encoding", "store", "view", "changes", "install", "export", "import",
        ],
    ),
    ("state/recent", &["change", "memtable", "live", "cache", "flush", "mod"]),
    (
        "tls",
        &[
            "provider", "files", "x509", "named", "pair", "reason", "client", "server", "mod",
        ],
    ),
];

/// The files in which each library may be named, by the beginning of their paths.
const HOMES: &[(&str, &[&str])] = &[
    ("redb", &["state/"]),
    ("openraft", &["raft/"]),
    ("axum", &["http/"]),
    ("headers", &["http/"]),
    ("form_urlencoded", &["http/", "client/"]),
    ("hyper_util", &["listener/", "client/", "raft/peer/"]),
    // The demo connects to its NATS cluster as a client, as a user's program would. The configuration uses the library
    // to parse the URLs of servers.
    ("async_nats", &["nats/", "cli/demo/", "config/read/nats.rs"]),
    // The demo and a test make keys for their own folders; only sign/ signs with them.
    (
        "nkeys",
        &[
            "jwt/nkey.rs",
            "sign/",
            "cli/demo/",
            "nats/connection/creds.rs",
            "node/tests.rs",
        ],
    ),
    ("ed25519_dalek", &["jwt/nkey.rs"]),
    ("clap", &["cli/"]),
    ("rcgen", &["cli/demo/"]),
    ("governor", &["resolver/nats/resend.rs"]),
    ("x509_parser", &["tls/"]),
    ("toml", &["config/"]),
    // The demo stops its nodes, which are processes, with SIGTERM.
    (
        "rustix",
        &[
            "main.rs",
            "raft/log/disk.rs",
            "raft/stores/flusher.rs",
            "listener/",
            "cli/demo/mesh.rs",
        ],
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

/// The files of `raft` and `nats` that may make a thread of their own.
const OWN_THREADS: &[&str] = &[
    // The thread that prepares segments is owned by the log's writer, which reports the thread's fault as its own.
    "raft/log/prepare.rs",
];

/// The files of `raft` and `nats` that may run tasks whose panic affects one client alone.
const FOR_CLIENTS: &[&str] = &[
    // Each answers one request, which then gets no answer.
    "nats/respond/responder.rs",
    // Each adopts or overrules what one sender has published; the next one is not affected.
    "nats/respond/published.rs",
];

/// Alarms, not goals: beyond one of these, find the second idea in the file or folder and name it.
const MAX_LINES: usize = 600;
const MAX_FILES_PER_FOLDER: usize = 12;

fn assert_none(defects: Vec<String>) {
    assert!(defects.is_empty(), "\n{}", defects.join("\n"));
}

#[test]
fn imports_fall_downhill() {
    let ladder: BTreeMap<_, _> = LADDER.iter().copied().collect();
    let mut unused: BTreeSet<(String, &str)> = LADDER
        .iter()
        .flat_map(|(own, allowed)| allowed.iter().map(|its| ((*own).to_owned(), *its)))
        .collect();
    let mut defects = BTreeSet::new();
    let graph = graph(&sources());
    for (file, named) in &graph {
        let own = room(file);
        let Some(allowed) = ladder.get(own) else {
            defects.insert(format!("src/{file}: {own} has no line in LADDER"));
            continue;
        };
        for other in named {
            let its = room(other);
            if its != own && !allowed.contains(&its) {
                defects.insert(format!("src/{file}: {own} may not name {its} (src/{other})"));
            }
            unused.remove(&(own.to_owned(), its));
        }
    }
    defects.extend(
        unused
            .iter()
            .map(|(own, its)| format!("{own} names {its} nowhere: remove it from LADDER")),
    );
    assert_none(defects.into_iter().collect());
}

/// LADDER lets `cli` name `sign`, for the demo. What `serve` runs may not, not even through another file.
#[test]
fn serve_cannot_reach_the_code_that_signs() {
    let graph = graph(&sources());
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut open = vec!["cli/serve.rs"];
    while let Some(file) = open.pop() {
        if reached.insert(file) {
            open.extend(graph[file].iter().map(String::as_str));
            // Of a room of the node, all of it: a method may be in another file than its type.
            let all = graph
                .keys()
                .filter(|other| room(other) == room(file) && room(file) != "cli");
            open.extend(all.map(String::as_str));
        }
    }
    assert!(reached.contains("node/assemble.rs"), "serve starts a node: {reached:?}");
    let signing = reached.iter().filter(|file| room(file) == "sign");
    assert_none(
        signing
            .map(|file| format!("src/cli/serve.rs reaches src/{file}"))
            .collect(),
    );
}

/// The other tests follow names; these ways to name something would hide it from them.
#[test]
fn every_import_says_what_it_names() {
    let mut defects = Vec::new();
    let sources = sources();
    let graph = graph(&sources);
    // Not those that are compiled only for tests.
    for source in sources.iter().filter(|source| graph.contains_key(&source.name)) {
        for (at, line) in source.code() {
            let hidden = (is_use(line) && line.contains('*')) || line.trim_start().starts_with("extern crate");
            if hidden {
                defects.push(format!("src/{}:{at}: import what is used, name by name", source.name));
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
                let named = line.match_indices(library).any(|(found, _)| {
                    let (before, after) = (&line[..found], &line[found + library.len()..]);
                    let is_path = after.starts_with("::") || is_use(line) && after.starts_with([' ', ';']);
                    is_path && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
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
            let unguarded = [
                "spawn_for_client(",
                "spawn_blocking(",
                "TaskTracker",
                "JoinSet",
                "thread::Builder",
                "thread::spawn",
            ]
            .iter()
            .any(|way| line.contains(way));
            let is_for_client = line.contains("spawn_for_client(") && FOR_CLIENTS.contains(&source.name.as_str());
            let unguarded = unguarded && !is_for_client;
            if unguarded && ["raft", "nats"].contains(&source.room()) && !OWN_THREADS.contains(&source.name.as_str()) {
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
/// A method that is written in another file than its type is not seen: what names the type may call it.
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

/// The room of a file, as [`graph::Source::room`].
fn room(file: &str) -> &str {
    file.split(['/', '.']).next().expect("split gives at least one")
}

/// The files that `start` names, directly or through other files.
fn reached<'g>(graph: &'g Graph, start: &str) -> BTreeSet<&'g str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = graph[start].iter().map(String::as_str).collect();
    while let Some(file) = open.pop() {
        if reached.insert(file) {
            open.extend(graph.get(file).into_iter().flatten().map(String::as_str));
        }
    }
    reached
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
    let cyclic = graph
        .keys()
        .filter(|file| reached(&graph, file).contains(file.as_str()));
    let defects = cyclic
        .map(|file| format!("src/{file} names itself through other files: break the cycle"))
        .collect();
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
