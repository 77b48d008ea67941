//! A simulated world around [`Propagation`]: a log of changes, servers that hold tokens, and a network that loses
//! messages, replies and connections.

use std::collections::{BTreeMap, VecDeque};

use super::propagation::Propagation;
use super::step::{Step, Summary};
use crate::jwt::AccountKey;
use crate::nats::subjects::Verdict;

pub(super) const UPDATED: Verdict = Verdict::Updated;
pub(super) const SKIPPED: Verdict = Verdict::Skipped;

pub(super) fn refused() -> Verdict {
    Verdict::Refused("no".to_owned())
}

pub(super) fn account(n: u8) -> AccountKey {
    AccountKey::from_bytes([n; 32])
}

pub(super) struct World {
    // This node, and what the mesh has agreed.
    pub(super) now: u64,
    pub(super) revision: u64,
    pub(super) rows: BTreeMap<AccountKey, u64>,
    pub(super) agreed: u64,
    pub(super) propagation: Propagation,

    // The connection, and what is on its way.
    pub(super) connected: bool,
    /// The server we are connected to hangs: it takes nothing and sends nothing.
    pub(super) hung: bool,
    /// Bytes received on the connection.
    pub(super) received: u64,
    /// Connections that were given up because their server hung.
    pub(super) left: usize,
    /// Published, and on its way to the servers.
    pub(super) messages: VecDeque<(AccountKey, u64)>,
    pub(super) replies: VecDeque<(AccountKey, u64, String, Verdict)>,

    // The NATS cluster.
    /// The names of the servers that receive our messages.
    pub(super) servers: Vec<String>,
    pub(super) held: BTreeMap<AccountKey, u64>,
    pub(super) verdict: Verdict,

    // What the tests look at.
    /// The newest revision of each account whose answer reached us.
    pub(super) answered: BTreeMap<AccountKey, u64>,
    pub(super) marks: VecDeque<u64>,
    pub(super) concluded: Vec<Summary>,
    pub(super) sends: usize,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            revision: 0,
            rows: BTreeMap::new(),
            agreed: 0,
            propagation: Propagation::new(0),
            connected: false,
            hung: false,
            received: 0,
            left: 0,
            messages: VecDeque::new(),
            replies: VecDeque::new(),
            servers: vec!["n1".to_owned()],
            held: BTreeMap::new(),
            answered: BTreeMap::new(),
            marks: VecDeque::new(),
            verdict: UPDATED,
            concluded: Vec::new(),
            sends: 0,
        }
    }

    /// A connected world in which account 1 has been propagated and is finished.
    pub(super) fn quiet() -> Self {
        let mut world = Self::new();
        world.change(&[1]);
        world.connect();
        world.settle();
        world.sends = 0;
        world.concluded.clear();
        world
    }

    /// From now on these servers receive our messages, and no others.
    pub(super) fn heard_by(&mut self, servers: &[&str]) {
        self.servers = servers.iter().map(|server| (*server).to_owned()).collect();
    }

    pub(super) fn change(&mut self, accounts: &[u8]) -> u64 {
        self.change_keys(accounts.iter().map(|n| account(*n)))
    }

    pub(super) fn change_keys(&mut self, accounts: impl Iterator<Item = AccountKey>) -> u64 {
        self.revision += 1;
        self.rows.extend(accounts.map(|account| (account, self.revision)));
        self.propagation.newest(self.revision);
        self.pump();
        self.revision
    }

    pub(super) fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.propagation.newest(self.revision);
            self.propagation.connected(self.now);
            self.pump();
        }
    }

    /// Messages and replies on their way are lost with the connection.
    pub(super) fn disconnect(&mut self) {
        if self.connected {
            self.connected = false;
            self.hung = false;
            self.messages.clear();
            self.replies.clear();
            self.propagation.disconnected(self.now);
            self.pump();
        }
    }

    /// The process ends, and a new one begins at the agreed position.
    pub(super) fn restart(&mut self) {
        self.disconnect();
        self.marks.clear();
        self.propagation = Propagation::new(self.agreed);
        self.propagation.newest(self.revision);
    }

    pub(super) fn deliver(&mut self) {
        if self.hung {
            return;
        }
        if let Some((account, revision)) = self.messages.pop_front() {
            let held = self.held.insert(account, revision).unwrap_or(0);
            assert!(
                held <= revision,
                "revision {held} of {account} was followed by {revision}"
            );
            for server in &self.servers {
                self.replies
                    .push_back((account, revision, server.clone(), self.verdict.clone()));
            }
        }
    }

    pub(super) fn reply(&mut self) {
        if self.hung {
            return;
        }
        if let Some((account, revision, server, verdict)) = self.replies.pop_front() {
            let answered = self.answered.entry(account).or_default();
            *answered = revision.max(*answered);
            self.receive();
            self.propagation
                .answered(account, revision, &server, &verdict, self.now);
            self.pump();
        }
    }

    fn receive(&mut self) {
        self.received += u64::from(!self.hung);
        self.propagation.received(self.received);
    }

    pub(super) fn answer_all(&mut self) {
        let is_quiet = |world: &Self| world.messages.is_empty() && world.replies.is_empty();
        while !self.hung && !is_quiet(self) {
            self.deliver();
            self.reply();
        }
    }

    pub(super) fn mark(&mut self, agreed: bool) {
        if let Some(position) = self.marks.pop_front() {
            if agreed {
                self.agreed = self.agreed.max(position);
                // Agreeing on a position is an entry of the log like any other.
                self.revision += 1;
                self.propagation.newest(self.revision);
            }
            self.propagation.marked(position, agreed, self.now);
            self.pump();
        }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now += ms;
        // A server that has nothing to send answers pings.
        self.receive();
        self.pump();
    }

    pub(super) fn changes(&self, after: u64, limit: usize) -> (Vec<(AccountKey, u64)>, u64) {
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .map(|(a, r)| (*a, *r))
            .filter(|(_, r)| *r > after)
            .collect();
        rows.sort_by_key(|(account, revision)| (*revision, *account));
        let Some((_, cut)) = rows.get(limit).copied() else {
            return (rows, self.revision);
        };
        let whole: Vec<_> = rows.iter().copied().filter(|(_, revision)| *revision < cut).collect();
        // A revision with more accounts than the limit is given whole: half a revision has no position.
        if whole.is_empty() {
            return (rows.into_iter().filter(|(_, revision)| *revision == cut).collect(), cut);
        }
        (whole, cut - 1)
    }

    pub(super) fn pump(&mut self) {
        for _ in 0..10_000 {
            match self.propagation.next(self.now) {
                Step::Read { lane, after, limit } => {
                    let (rows, position) = self.changes(after, limit);
                    self.propagation.listed(lane, &rows, position, self.now);
                }
                Step::Send(account) => {
                    assert!(self.connected, "sent without a connection");
                    let revision = self.rows[&account];
                    self.sends += 1;
                    self.messages.push_back((account, revision));
                    self.propagation.sent(account, revision, self.now);
                }
                Step::Concluded(summary) => self.concluded.push(summary),
                Step::Mark(position) => self.marks.push_back(position),
                Step::Leave => {
                    assert!(self.hung, "left a server that answers");
                    self.left += 1;
                    return self.disconnect();
                }
                Step::Wait(until) => {
                    assert!(
                        until.is_none_or(|until| until > self.now),
                        "waits for a time that has passed"
                    );
                    return self.check();
                }
            }
        }
        panic!("never comes to rest");
    }

    pub(super) fn check(&self) {
        let updated_to = self.propagation.updated_to();
        assert!(
            self.agreed <= updated_to,
            "agreed {}, updated only to {updated_to}",
            self.agreed
        );
        for (account, revision) in &self.rows {
            let answered = self.answered.get(account).copied().unwrap_or(0);
            assert!(
                *revision > updated_to || answered >= *revision,
                "position {updated_to} passed revision {revision} of {account}, answered {answered}"
            );
        }
    }

    /// Everything works again, for longer than any repetition takes: then every change must be propagated and agreed.
    pub(super) fn settle(&mut self) {
        self.verdict = UPDATED;
        if self.hung {
            self.disconnect();
        }
        self.connect();
        // Longer than it takes to go back once more after a lost connection, and to forget a missing server.
        for _ in 0..900 {
            self.answer_all();
            self.mark(true);
            self.pass(1_000);
        }
        self.answer_all();
        assert_eq!(
            self.propagation.updated_to(),
            self.revision,
            "the position reaches the end"
        );
        assert_eq!(self.held, self.rows, "the servers hold every current token");
        let last = self.rows.values().copied().max().unwrap_or(0);
        assert!(self.agreed >= last, "agreed {}, last change {last}", self.agreed);
        assert!(self.propagation.is_drained());
        let (sends, agreed) = (self.sends, self.agreed);
        self.pass(3_600_000);
        self.mark(true);
        assert_eq!(
            (self.sends, self.agreed),
            (sends, agreed),
            "nothing is sent in an hour without changes"
        );
    }
}
