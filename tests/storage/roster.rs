//! The servers of a NATS cluster: who may change them, how many there may be, and how one is forgotten.

use ::redb::backends::InMemoryBackend;
use jwtmesh::state::{
    Command, Effect, Fault, ForgetServer, MAX_SERVERS, MAX_SERVERS_OF_A_COMMAND, Server, State, TakeLease,
    UpdateRoster, UpdateRosterIf,
};
use redb::{Database, TableDefinition};

use crate::model::{Outcome, apply, flush, mark, options, server};

/// A state in memory, and the index of its last entry.
struct Log {
    state: State,
    last: u64,
}

impl Log {
    fn new() -> Self {
        let state = State::open_backend(InMemoryBackend::new(), options()).expect("a new state");
        Self { state, last: 0 }
    }

    fn next(&mut self, command: impl Into<Command>) -> Outcome {
        self.last += 1;
        apply(&self.state, self.last, &command.into()).remove(0)
    }

    /// Takes, renews or gives back the lease of `east`; its term after that.
    fn take(&mut self, holder: u64) -> u64 {
        let before = self.state.lease("east").map_or(0, |lease| lease.granted);
        let taken = self.next(TakeLease {
            nats_cluster: "east".to_owned(),
            holder,
            before,
        });
        assert_eq!(taken, Outcome::Lease(Some(self.last)));
        self.state.lease("east").expect("just taken").term
    }

    fn update(&mut self, update: UpdateRoster) -> bool {
        self.next(update) == Outcome::Roster(true)
    }

    fn forget(&mut self, id: &str) -> bool {
        let (nats_cluster, id) = ("east".to_owned(), id.to_owned());
        self.next(ForgetServer { nats_cluster, id }) == Outcome::Roster(true)
    }

    fn ids(&self) -> Vec<String> {
        self.state.servers("east").into_iter().map(|server| server.id).collect()
    }
}

/// An update of `east` at position 0.
fn update(term: u64, seen: Vec<Server>, gone: &[&str]) -> UpdateRoster {
    UpdateRoster {
        nats_cluster: "east".to_owned(),
        term,
        position: 0,
        seen,
        gone: gone.iter().map(|id| (*id).to_owned()).collect(),
    }
}

#[test]
fn a_roster_is_changed_only_in_the_term_that_is_current() {
    let mut log = Log::new();
    let seen = |id: &str| vec![server(id, None)];
    assert!(log.update(update(0, seen("NA"), &[])), "no node has the lease");
    assert!(!log.update(update(1, seen("NX"), &[])), "a term that there is not");
    let first = log.take(7);
    assert_eq!(first, log.last);
    assert!(!log.update(update(0, seen("NX"), &[])), "from before the lease");
    assert!(log.update(update(first, seen("NB"), &[])));
    assert_eq!(log.take(7), first, "a renewal goes on with it");
    assert!(log.update(update(first, seen("NC"), &[])));
    let second = log.take(8);
    assert!(second > first);
    let late = UpdateRoster {
        position: 3,
        ..update(first, seen("NX"), &["NA"])
    };
    assert!(!log.update(late), "another node has the lease");
    assert_eq!(log.state.position("east"), 0, "nothing of it is applied");
    assert!(log.update(update(second, seen("ND"), &[])));
    assert_eq!(log.take(0), 0, "given back");
    assert!(!log.update(update(second, seen("NX"), &[])), "its term has ended");
    assert!(log.update(update(0, seen("NE"), &[])), "the node is alone again");
    let third = log.take(8);
    assert_eq!(third, log.last, "taken again it is another term");
    assert!(!log.update(update(second, seen("NX"), &[])));
    assert_eq!(log.ids(), ["NA", "NB", "NC", "ND", "NE"]);
    assert_eq!(log.state.servers("west"), [], "each NATS cluster has its own");
}

/// Its publisher did not learn what became of it, and has had more agreed since: the server misses a change.
#[test]
fn g5_a_late_update_of_the_same_term_does_not_take_a_servers_mark_away() {
    let mut log = Log::new();
    let term = log.take(7);
    let names = |log: &Log, behind| UpdateRosterIf {
        update: update(term, vec![server("NA", behind)], &[]),
        present: log.state.roster_revision("east"),
    };
    let first = names(&log, None);
    assert_eq!(log.next(first.clone()), Outcome::Roster(true));
    assert_eq!(log.next(first), Outcome::Roster(false), "it was proposed twice");
    let late = names(&log, None);
    let newer = names(&log, Some(3));
    assert_eq!(log.next(newer), Outcome::Roster(true));
    for flushed in [false, true] {
        if flushed {
            flush(&log.state);
        }
        assert_eq!(log.next(late.clone()), Outcome::Roster(false), "flushed {flushed}");
        assert_eq!(log.state.servers("east"), [server("NA", Some(3))]);
    }
    let revision = log.state.roster_revision("east");
    let stale = UpdateRosterIf {
        update: update(term + 1, vec![server("NA", None)], &[]),
        present: revision,
    };
    assert_eq!(log.next(stale), Outcome::Roster(false), "the term still counts");
    assert_eq!(log.state.roster_revision("east"), revision);
    assert_eq!(log.state.roster_revision("west"), 0);
    let next = names(&log, None);
    assert_eq!(log.next(next), Outcome::Roster(true), "it is up to date again");
    assert_eq!(log.state.servers("east"), [server("NA", None)]);
}

#[test]
fn an_update_sets_rows_and_position_together_and_may_be_repeated() {
    let mut log = Log::new();
    let at = |position, seen, gone: &[&str]| UpdateRoster {
        position,
        ..update(0, seen, gone)
    };
    assert!(log.update(at(5, vec![server("NB", Some(3)), server("NA", None)], &[])));
    assert_eq!(log.state.servers("east"), [server("NA", None), server("NB", Some(3))]);
    let next = at(4, vec![server("NB", Some(4)), server("NC", None)], &["NA", "NZ"]);
    for _ in 0..2 {
        assert!(log.update(next.clone()));
        assert_eq!(log.state.servers("east"), [server("NB", Some(4)), server("NC", None)]);
        assert_eq!(log.state.position("east"), 5, "a position never goes back");
    }
    // Of an id that comes twice the later row counts; one that is also gone is gone.
    let twice = vec![server("NB", Some(4)), server("ND", None), server("NB", None)];
    assert!(log.update(at(6, twice, &["ND"])));
    assert_eq!(log.state.servers("east"), [server("NB", None), server("NC", None)]);
    assert_eq!(log.state.position("east"), 6);
    flush(&log.state);
    let rosters = log.state.snapshot().expect("a view").rosters().expect("sound");
    assert_eq!(
        rosters["east"].values().cloned().collect::<Vec<_>>(),
        log.state.servers("east")
    );
}

#[test]
fn g12_a_nats_cluster_has_no_more_servers_than_allowed_and_those_can_still_change() {
    let mut log = Log::new();
    let name = |n: usize| format!("N{n:05}");
    let all: Vec<_> = (0..MAX_SERVERS - 1).map(|n| server(&name(n), None)).collect();
    for seen in all.chunks(MAX_SERVERS_OF_A_COMMAND) {
        assert!(log.update(update(0, seen.to_vec(), &[])));
    }
    // One more has room, the next has not; a known one changes all the same.
    let more = ["X1", "X2"].map(|id| server(id, None));
    let known = server(&name(0), Some(1));
    assert!(log.update(update(0, [&more[..], std::slice::from_ref(&known)].concat(), &[])));
    let servers = log.state.servers("east");
    assert_eq!(servers.len(), MAX_SERVERS);
    assert_eq!((&servers[0], &servers[MAX_SERVERS - 1]), (&known, &more[0]));
    // What goes makes room for what comes in the same update.
    assert!(log.update(update(0, vec![server("X2", None)], &["X1"])));
    assert_eq!(log.state.servers("east").last(), Some(&more[1]));
    assert_eq!(log.state.servers("east").len(), MAX_SERVERS);
    let elsewhere = UpdateRoster {
        nats_cluster: "west".to_owned(),
        ..update(0, vec![server("X1", None)], &[])
    };
    assert!(log.update(elsewhere));
    assert_eq!(
        log.state.servers("west").len(),
        1,
        "another NATS cluster has room of its own"
    );
    flush(&log.state);
    let rosters = log.state.snapshot().expect("a view").rosters().expect("sound");
    assert_eq!((rosters["east"].len(), rosters["west"].len()), (MAX_SERVERS, 1));
}

#[test]
fn g12_a_server_with_a_text_that_is_too_long_is_not_stored() {
    let longest = Server {
        id: "N".repeat(64),
        name: "n".repeat(256),
        cluster: "c".repeat(256),
        version: "2".repeat(64),
        behind: Some(u64::MAX),
    };
    let mut log = Log::new();
    assert!(log.update(update(0, vec![longest.clone(), server("NA", None)], &[])));
    let longer = |text: &String| format!("{text}x");
    let too_long = vec![
        Server {
            id: longer(&longest.id),
            ..longest.clone()
        },
        Server {
            name: longer(&longest.name),
            behind: None,
            ..longest.clone()
        },
        Server {
            cluster: longer(&longest.cluster),
            behind: None,
            ..longest.clone()
        },
        Server {
            version: longer(&longest.version),
            behind: None,
            ..longest.clone()
        },
    ];
    assert!(log.update(update(0, too_long, &[])), "the rest of the update counts");
    assert_eq!(log.state.servers("east"), [server("NA", None), longest]);
}

#[test]
fn a_server_is_forgotten_in_any_term_and_the_publisher_can_notice() {
    let mut log = Log::new();
    let term = log.take(7);
    assert!(log.update(update(term, vec![server("NA", Some(1)), server("NB", None)], &[])));
    assert_eq!(log.state.forgotten("east"), 0);
    assert!(log.forget("NA"));
    let revision = log.last;
    assert_eq!(
        (log.ids(), log.state.forgotten("east")),
        (vec!["NB".to_owned()], revision)
    );
    assert!(!log.forget("NA"), "it is gone");
    assert_eq!(log.state.forgotten("east"), revision, "nothing was forgotten since");
    assert_eq!(log.state.forgotten("west"), 0);
    assert_eq!(log.take(7), term, "it ends no term");
    assert!(
        log.update(update(term, vec![server("NA", None)], &[])),
        "a server that lives is seen again"
    );
    assert_eq!(log.ids(), ["NA", "NB"]);
}

const SERVERS: TableDefinition<&str, &[u8]> = TableDefinition::new("servers_v1");

#[test]
fn a_roster_outlives_a_restart_and_a_damaged_row_of_it_is_a_fault_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let state = State::open_file(&path, options()).expect("a new state");
    let rows = vec![server("NA", Some(300)), server("NB", None)];
    apply(&state, 1, &update(0, rows.clone(), &[]).into());
    flush(&state);
    state.checkpoint().expect("durable");
    drop(state);
    let state = State::open_file(&path, options()).expect("opens");
    assert_eq!(state.servers("east"), rows);
    drop(state);
    let database = Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    writing
        .open_table(SERVERS)
        .unwrap()
        .insert("east/NB", &[9, 9][..])
        .unwrap();
    writing.commit().unwrap();
    drop(database);
    let fault = State::open_file(&path, options()).expect_err("no server has version 9");
    assert!(matches!(fault, Fault::Damaged { .. }), "{fault}");
    assert!(fault.to_string().contains(r#"servers_v1, "east/NB""#), "{fault}");
}

/// What an earlier version of this format wrote, in every way that a state is opened, copied and continued.
#[test]
fn a_state_file_without_the_table_of_servers_has_none_and_gets_it_with_the_next_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(State::open_file(&path, options()).expect("a new state"));
    let database = Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    assert!(writing.delete_table(SERVERS).unwrap());
    writing.commit().unwrap();
    drop(database);
    let state = State::open_file(&path, options()).expect("opens");
    assert_eq!(state.servers("east"), []);
    let in_memory = || State::open_backend(InMemoryBackend::new(), options()).expect("a new state");
    let (copy, empty) = (in_memory(), in_memory().digest().unwrap());
    assert_eq!(
        state.digest().unwrap(),
        empty,
        "the same state as one with an empty table"
    );
    copy.install(state.snapshot().unwrap()).expect("installs");
    assert_eq!(copy.digest().unwrap(), empty);
    let mut export = state.snapshot().unwrap().export();
    assert!(export.next_piece().expect("readable").is_some());
    state.apply(mark(1), Effect::Blank).expect("applies");
    flush(&state);
    apply(&state, 2, &update(0, vec![server("NA", None)], &[]).into());
    flush(&state);
    assert_eq!(state.snapshot().unwrap().rosters().unwrap()["east"].len(), 1);
}
