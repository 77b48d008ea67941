//! A simulated world around [`Propagation`]: a log of changes, servers that hold tokens, and a network that loses
//! messages, replies and connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::jwt::AccountKey;
use crate::nats::publish::propagation::Propagation;
use crate::nats::publish::step::{Agreement, Changed, Lane, News, Question, Step, Summary};
use crate::nats::subjects::{ServerInfo, Verdict};
use crate::resolver::Server;

pub(super) const UPDATED: Verdict = Verdict::Updated;
pub(super) const SKIPPED: Verdict = Verdict::Skipped;

pub(super) fn refused() -> Verdict {
    Verdict::Refused("no".to_owned())
}

pub(super) fn account(n: u8) -> AccountKey {
    AccountKey::from_bytes([n; 32])
}

/// A server whose id is `id`, without a name of its own.
pub(super) fn server(id: &str) -> ServerInfo {
    ServerInfo {
        id: id.to_owned(),
        name: id.to_owned(),
        cluster: String::new(),
        version: "2.15.1".to_owned(),
    }
}

pub(super) struct World {
    // This node, and what the mesh has agreed.
    pub(super) now: u64,
    pub(super) revision: u64,
    pub(super) rows: BTreeMap<AccountKey, u64>,
    /// The token that was stored at each revision; later is newer. Without an older copy it is the revision.
    pub(super) tokens: BTreeMap<u64, u64>,
    /// When the token of each revision was issued, unless that was long ago.
    pub(super) issued: BTreeMap<u64, u64>,
    /// Whether an older copy of what the mesh had agreed was put back.
    pub(super) is_older: bool,
    /// The same in the order of their revisions, and those of them whose answer has not reached us.
    pub(super) log: BTreeSet<(u64, AccountKey)>,
    pub(super) open: BTreeSet<(u64, AccountKey)>,
    /// Accounts that have changed since their first revision.
    pub(super) changed: BTreeSet<AccountKey>,
    pub(super) agreed: u64,
    pub(super) roster: BTreeMap<String, Server>,
    pub(super) propagation: Propagation,
    /// A read of earlier changes takes until [`World::finish_read`].
    pub(super) reads_slowly: bool,
    /// What such a read has found.
    reading: Option<(Lane, Vec<Changed>, u64)>,

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
    /// The servers that were read before each of them was sent, and of each account those that were read last.
    readers: VecDeque<BTreeSet<String>>,
    pub(super) read_by: BTreeMap<AccountKey, BTreeSet<String>>,
    pub(super) replies: VecDeque<(AccountKey, u64, String, Verdict)>,
    /// Whether our user may ask servers, and whether they answer only in [`World::answer_questions`].
    pub(super) may_ask: bool,
    pub(super) asks_slowly: bool,
    pub(super) questions: VecDeque<Question>,

    // The NATS cluster.
    /// The names of the servers that receive our messages.
    pub(super) servers: Vec<String>,
    /// Those that ever did.
    ever: BTreeSet<String>,
    /// What each server holds.
    pub(super) held: BTreeMap<String, BTreeMap<AccountKey, u64>>,
    /// A server that answers "updated" and takes nothing.
    pub(super) ignores: Option<&'static str>,
    /// A server that receives nothing that is sent, and answers questions.
    pub(super) deaf: Option<&'static str>,
    /// What was delivered last of each account.
    pub(super) delivered: BTreeMap<AccountKey, u64>,
    /// Something older reached a server behind our back.
    pub(super) is_undone: bool,
    pub(super) verdict: Verdict,

    // What the tests look at.
    /// The newest revision of each account whose answer reached us.
    pub(super) answered: BTreeMap<AccountKey, u64>,
    pub(super) marks: VecDeque<Agreement>,
    pub(super) concluded: Vec<Summary>,
    pub(super) news: Vec<News>,
    /// Questions to single servers, and to each of them.
    pub(super) asked: usize,
    pub(super) asked_of: BTreeMap<String, usize>,
    /// Questions to all servers about one account.
    pub(super) reads: usize,
    pub(super) sends: usize,
    /// Accounts whose token was taken over from a server, and whether none can be stored now.
    pub(super) adopted: Vec<AccountKey>,
    pub(super) is_undecided: bool,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            revision: 0,
            rows: BTreeMap::new(),
            tokens: BTreeMap::new(),
            issued: BTreeMap::new(),
            is_older: false,
            log: BTreeSet::new(),
            open: BTreeSet::new(),
            changed: BTreeSet::new(),
            agreed: 0,
            roster: BTreeMap::new(),
            propagation: Propagation::new(0, Vec::new()),
            reads_slowly: false,
            reading: None,
            connected: false,
            hung: false,
            received: 0,
            left: 0,
            messages: VecDeque::new(),
            readers: VecDeque::new(),
            read_by: BTreeMap::new(),
            replies: VecDeque::new(),
            may_ask: true,
            asks_slowly: false,
            questions: VecDeque::new(),
            servers: vec!["n1".to_owned()],
            ever: BTreeSet::new(),
            held: BTreeMap::new(),
            ignores: None,
            deaf: None,
            delivered: BTreeMap::new(),
            is_undone: false,
            answered: BTreeMap::new(),
            marks: VecDeque::new(),
            verdict: UPDATED,
            concluded: Vec::new(),
            news: Vec::new(),
            asked: 0,
            asked_of: BTreeMap::new(),
            reads: 0,
            sends: 0,
            adopted: Vec::new(),
            is_undecided: false,
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
        self.ever.extend(self.servers.iter().cloned());
    }

    pub(super) fn change(&mut self, accounts: &[u8]) -> u64 {
        self.change_keys(accounts.iter().map(|n| account(*n)))
    }

    pub(super) fn change_keys(&mut self, accounts: impl Iterator<Item = AccountKey>) -> u64 {
        let newest = self.held.values().flat_map(BTreeMap::values).max();
        let newest = self.tokens.values().max().max(newest).copied().unwrap_or(0);
        self.issued.insert(self.revision + 1, self.now);
        self.store(accounts, (newest + 1).max(self.revision + 1));
        self.pump();
        self.revision
    }

    /// `token` is stored for each of `accounts`.
    pub(super) fn store(&mut self, accounts: impl Iterator<Item = AccountKey>, token: u64) {
        self.revision += 1;
        self.tokens.insert(self.revision, token);
        for account in accounts {
            if let Some(before) = self.rows.insert(account, self.revision) {
                self.changed.insert(account);
                self.log.remove(&(before, account));
                self.open.remove(&(before, account));
            }
            self.log.insert((self.revision, account));
            self.open.insert((self.revision, account));
        }
        self.propagation.newest(self.revision);
    }

    /// The current token of `account`.
    pub(super) fn token(&self, account: &AccountKey) -> u64 {
        self.tokens[&self.rows[account]]
    }

    pub(super) fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.propagation.newest(self.revision);
            self.propagation.connected(self.now);
            self.pump();
            // Servers report before anything is sent.
            let until = self.propagation.greets_until();
            if until > self.now {
                self.pass(until - self.now);
            }
        }
    }

    /// Messages and replies on their way are lost with the connection.
    pub(super) fn disconnect(&mut self) {
        if self.connected {
            self.connected = false;
            self.hung = false;
            self.messages.clear();
            self.readers.clear();
            self.read_by.clear();
            self.replies.clear();
            self.questions.clear();
            self.reading = None;
            self.propagation.disconnected(self.now);
            self.pump();
        }
    }

    /// The process ends, and a new one begins at the agreed position.
    pub(super) fn restart(&mut self) {
        self.disconnect();
        self.marks.clear();
        let servers = self.roster.values().cloned().collect();
        self.propagation = Propagation::new(self.agreed, servers);
        self.propagation.newest(self.revision);
    }

    pub(super) fn lose_message(&mut self) {
        self.messages.pop_front();
        self.readers.pop_front();
    }

    pub(super) fn deliver(&mut self) {
        if self.hung {
            return;
        }
        if let Some((account, revision)) = self.messages.pop_front() {
            let readers = self.readers.pop_front().unwrap_or_default();
            self.delivered.insert(account, revision);
            let takes = !matches!(self.verdict, Verdict::Refused(_));
            let hears = |server: &&String| self.deaf != Some(server.as_str());
            let takes = |server: &&String| takes && hears(server) && self.ignores != Some(server.as_str());
            let revision_sent = revision;
            let revision = self.tokens[&revision];
            for server in self.servers.iter().filter(takes) {
                let held = self.held.entry(server.clone()).or_default();
                let held = held.insert(account, revision).unwrap_or(0);
                let is_unread = self.is_older && !readers.contains(server);
                assert!(
                    held <= revision || is_unread,
                    "{server}: token {held} of {account} was followed by {revision}"
                );
            }
            let revision = revision_sent;
            for server in self.servers.iter().filter(hears) {
                self.replies
                    .push_back((account, revision, server.clone(), self.verdict.clone()));
            }
        }
    }

    pub(super) fn reply(&mut self) {
        if self.hung {
            return;
        }
        if let Some((account, revision, name, verdict)) = self.replies.pop_front() {
            let answered = self.answered.entry(account).or_default();
            *answered = revision.max(*answered);
            self.open.remove(&(revision, account));
            self.receive();
            self.propagation
                .answered(account, revision, &server(&name), &verdict, self.now);
            if verdict == SKIPPED {
                self.propagation.believe(&server(&name));
            }
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
        if let Some(Agreement { position, seen, gone }) = self.marks.pop_front() {
            if agreed {
                self.agree(position, seen, &gone);
                // Agreeing on a position is an entry of the log like any other.
                self.revision += 1;
                self.propagation.newest(self.revision);
            }
            self.propagation.marked(position, agreed, self.now);
            self.pump();
        }
    }

    /// The mesh agrees on what is asked of it, and nobody hears of it.
    pub(super) fn agree_unheard(&mut self) {
        if let Some(Agreement { position, seen, gone }) = self.marks.pop_front() {
            self.agree(position, seen, &gone);
        }
    }

    fn agree(&mut self, position: u64, seen: Vec<Server>, gone: &[String]) {
        self.agreed = self.agreed.max(position);
        self.roster
            .extend(seen.into_iter().map(|server| (server.id.clone(), server)));
        self.roster.retain(|id, _| !gone.contains(id));
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now += ms;
        // A server that has nothing to send answers pings.
        self.receive();
        if self.connected && !self.hung && self.may_ask {
            for name in &self.servers {
                self.propagation.heard(&server(name), self.now);
            }
        }
        self.pump();
    }

    /// So many seconds in which everything is answered; gives how often anything was sent until then.
    pub(super) fn idle(&mut self, seconds: u32) -> usize {
        for _ in 0..seconds {
            self.answer_all();
            self.mark(true);
            self.pass(1_000);
        }
        self.sends
    }

    /// Changes after `after`, about `limit` of them, and how far they reach.
    fn changes(&self, after: u64, limit: usize) -> (Vec<Changed>, u64) {
        let mut rows: Vec<Changed> = Vec::new();
        for (revision, account) in self.log.range((after + 1, account(0))..) {
            // A revision is never split, as it has no position of its own inside.
            if rows.len() >= limit && rows.last().is_some_and(|last| last.revision != *revision) {
                return (rows, revision - 1);
            }
            rows.push(Changed {
                account: *account,
                revision: *revision,
                first: !self.changed.contains(account),
                issued: self
                    .issued
                    .get(revision)
                    .map_or(-1_000_000, |at| i64::try_from(*at).unwrap_or(i64::MAX)),
            });
        }
        (rows, self.revision)
    }

    /// The read that is under way ends with what it found when it began.
    pub(super) fn finish_read(&mut self) {
        if let Some((lane, rows, position)) = self.reading.take() {
            self.propagation.listed(lane, &rows, position, self.now);
            self.pump();
        }
    }

    pub(super) fn pump(&mut self) {
        for _ in 0..100_000 {
            match self.propagation.next(self.now) {
                Step::Read { lane, after, limit } => {
                    let (rows, position) = self.changes(after, limit);
                    if self.reads_slowly && lane != Lane::Fresh {
                        assert!(self.reading.is_none(), "one read at a time");
                        self.reading = Some((lane, rows, position));
                    } else {
                        self.propagation.listed(lane, &rows, position, self.now);
                    }
                }
                Step::Send(account) => {
                    assert!(self.connected, "sent without a connection");
                    let revision = self.rows[&account];
                    self.sends += 1;
                    self.messages.push_back((account, revision));
                    let known = || self.propagation.known().into_iter().collect();
                    let readers = self.read_by.remove(&account).unwrap_or_else(known);
                    self.readers.push_back(readers);
                    self.propagation.sent(account, revision, self.now);
                }
                Step::Concluded(summary) => self.concluded.push(summary),
                Step::Mark(agreement) => self.marks.push_back(agreement),
                Step::Ask(question) => self.ask(question),
                Step::News(news) => self.news.push(news),
                Step::Leave => {
                    assert!(self.hung, "left a server that answers");
                    self.left += 1;
                    self.propagation.left("n1", self.now);
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
        for (revision, account) in self.open.range(..=(updated_to, AccountKey::from_bytes([0xFF; 32]))) {
            let answered = self.answered.get(account).copied().unwrap_or(0);
            assert!(
                answered >= *revision,
                "position {updated_to} passed revision {revision} of {account}, answered {answered}"
            );
        }
        // An import of 40,000 would be looked at 40,000 times.
        if self.rows.len() > 1_000 || self.is_undone || self.is_older {
            return;
        }
        // Whoever continues from what is agreed knows of every server that enforces something older.
        for (id, server) in &self.roster {
            for (account, held) in self.held.get(id).into_iter().flatten() {
                let Some(current) = self.rows.get(account).copied() else {
                    continue;
                };
                assert!(
                    *held >= self.token(account)
                        || current > self.agreed
                        || server.behind.is_some_and(|behind| behind < current),
                    "{server:?} holds revision {held} of {account}, current is {current}, agreed {}",
                    self.agreed
                );
            }
        }
    }

    /// Everything works again, for longer than any repetition takes: then every change must be propagated and agreed.
    pub(super) fn settle(&mut self) {
        self.verdict = UPDATED;
        self.is_undecided = false;
        self.reads_slowly = false;
        self.finish_read();
        self.asks_slowly = false;
        self.answer_questions();
        self.servers = self.ever.iter().cloned().chain(["n1".to_owned()]).collect();
        self.servers.sort();
        self.servers.dedup();
        if self.hung {
            self.disconnect();
        }
        self.connect();
        // Longer than it takes to go back once more after a lost connection, and to forget a missing server.
        for _ in 0..900 {
            // First revisions are sent at a pace.
            let steps = if self.propagation.has_firsts() { 100 } else { 1 };
            for _ in 0..steps {
                self.answer_all();
                self.mark(true);
                self.pass(1_000 / steps);
            }
        }
        self.answer_all();
        assert_eq!(
            self.propagation.updated_to(),
            self.revision,
            "the position reaches the end"
        );
        for (server, held) in &self.held {
            for (account, revision) in held {
                assert_eq!(
                    *revision,
                    self.token(account),
                    "{server} holds the current token of {account}"
                );
            }
        }
        if !self.is_older {
            assert_eq!(self.delivered, self.rows, "every current token was sent");
        }
        let is_behind = |server: &&Server| server.behind.is_some() && self.ever.contains(&server.id);
        let behind: Vec<_> = self.roster.values().filter(is_behind).collect();
        assert!(behind.is_empty(), "{behind:?}");
        let last = self.rows.values().copied().max().unwrap_or(0);
        assert!(self.agreed >= last, "agreed {}, last change {last}", self.agreed);
        assert!(self.propagation.is_drained());
        let (sends, agreed) = (self.sends, self.agreed);
        for _ in 0..360 {
            self.pass(10_000);
            self.mark(true);
        }
        assert_eq!(
            (self.sends, self.agreed),
            (sends, agreed),
            "nothing is sent in an hour without changes"
        );
    }
}
