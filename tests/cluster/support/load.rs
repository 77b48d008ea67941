//! Clients that upload to every node and read from every node while something is done to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::history::{History, Outcome};
use super::http::{Answer, Connection};
use super::mint::{Account, Operator, claims, now};
use super::nats_user::NatsUser;
use super::node::Node;
use super::process::{PATIENCE, eventually};

/// Accounts that everybody uploads.
const CONTENDED: usize = 4;

/// The clients.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    operator: Operator,
    /// One account for each node that it is uploaded through.
    accounts: Vec<Account>,
    /// Accounts that clients of all nodes upload and read, the issue time of the next upload of any, and what they saw.
    contended: Vec<Account>,
    next: AtomicI64,
    history: History,
    /// The newest issue time that was acknowledged of each of them.
    acknowledged: Mutex<BTreeMap<String, i64>>,
    /// Accounts that were uploaded once and acknowledged, with their tokens: no later upload hides that one was lost.
    once: Mutex<Vec<(String, String)>>,
    /// How often each node was started: a new life may begin a little before where the last one ended.
    lives: Vec<AtomicU32>,
    /// Of which nodes no answer is expected now.
    down: Vec<AtomicBool>,
    /// Where the nodes are, and how many revoked users were cut off.
    addresses: Vec<SocketAddr>,
    revoked: AtomicU32,
    defects: Mutex<Vec<String>>,
}

impl Load {
    pub(crate) fn start(operator: Operator, addresses: &[SocketAddr]) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            operator,
            accounts: (0..addresses.len()).map(|n| Account::new(&format!("A{n}"))).collect(),
            contended: (0..CONTENDED).map(|n| Account::new(&format!("C{n}"))).collect(),
            next: AtomicI64::new(now() - 100_000),
            history: History::new(),
            acknowledged: Mutex::default(),
            once: Mutex::default(),
            lives: addresses.iter().map(|_| AtomicU32::new(0)).collect(),
            down: addresses.iter().map(|_| AtomicBool::new(false)).collect(),
            addresses: addresses.to_vec(),
            revoked: AtomicU32::new(0),
            defects: Mutex::default(),
        });
        let mut threads = Vec::new();
        for (node, address) in addresses.iter().copied().enumerate() {
            let (writing, reading) = (shared.clone(), shared.clone());
            threads.push(std::thread::spawn(move || writing.upload(node, address)));
            threads.push(std::thread::spawn(move || reading.look(node, address)));
            let (contending, watching) = (shared.clone(), shared.clone());
            threads.push(std::thread::spawn(move || contending.contend(address)));
            threads.push(std::thread::spawn(move || watching.watch(address)));
        }
        Self { shared, threads }
    }

    /// Has users of one more account log in to `server` and revokes each of them, through one node after the other.
    pub(crate) fn revoke(&mut self, server: SocketAddr) {
        let revoking = self.shared.clone();
        self.threads.push(std::thread::spawn(move || revoking.revoke(server)));
    }

    /// How many users were cut off.
    pub(crate) fn revoked(&self) -> u32 {
        self.shared.revoked.load(Ordering::SeqCst)
    }

    /// Kills a node.
    pub(crate) fn kill(&self, nodes: &mut [Node], node: usize) {
        self.takes_down(node);
        nodes[node].kill();
    }

    /// From now on a node need not answer. Any other has to answer every lookup.
    pub(crate) fn takes_down(&self, node: usize) {
        self.shared.down[node].store(true, Ordering::SeqCst);
    }

    /// From now on it has to again.
    pub(crate) fn brings_back(&self, node: usize) {
        self.shared.down[node].store(false, Ordering::SeqCst);
    }

    /// Starts a node again.
    #[track_caller]
    pub(crate) fn start_again(&self, nodes: &mut [Node], node: usize) {
        self.shared.lives[node].fetch_add(1, Ordering::SeqCst);
        nodes[node].start_again();
        self.brings_back(node);
    }

    /// Waits until uploads through these nodes are acknowledged again.
    #[track_caller]
    pub(crate) fn wait_for_uploads(&self, nodes: &[usize]) {
        let acknowledged = |node: usize| {
            let account = self.shared.accounts[node].id();
            self.shared.acknowledged.lock().unwrap().get(&account).copied()
        };
        for node in nodes {
            let before = acknowledged(*node);
            eventually(&format!("uploads through node {node} are acknowledged"), || {
                (acknowledged(*node) > before.map(|issued| issued + 5)).then_some(())
            });
        }
    }

    /// Ends the clients, and checks that every node has everything, and that there were at least this many new accounts.
    #[track_caller]
    pub(crate) fn end(self, nodes: &[Node], at_least: usize) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        let acknowledged = self.shared.acknowledged.lock().unwrap();
        assert_eq!(acknowledged.len(), nodes.len());
        println!("{acknowledged:?}");
        for (account, issued) in acknowledged.iter() {
            let stored = nodes.iter().map(|node| {
                eventually("every node has what was acknowledged", || {
                    let token = node.get_account(account).text();
                    let stored = claims(&token)["iat"].as_i64()?;
                    (stored >= *issued).then_some(token)
                })
            });
            let stored: Vec<String> = stored.collect();
            eventually("every node has the same", || {
                let now: Vec<String> = nodes.iter().map(|node| node.get_account(account).text()).collect();
                now.iter().all(|token| *token == now[0]).then_some(())
            });
            assert!(!stored.is_empty());
        }
        let once = self.shared.once.lock().unwrap();
        println!("{} accounts uploaded once", once.len());
        assert!(once.len() > at_least);
        for (account, token) in once.iter() {
            for node in nodes {
                assert_eq!(node.get_account(account).text(), *token, "{account} was acknowledged");
            }
        }
        let checked = self
            .shared
            .history
            .check()
            .unwrap_or_else(|violation| panic!("{violation}"));
        println!("{checked:?}");
        assert!(checked.operations > at_least * CONTENDED, "{checked:?}");
        assert!(
            self.shared.defects.lock().unwrap().is_empty(),
            "{:?}",
            self.shared.defects
        );
    }
}

impl Shared {
    /// Uploads newer tokens of one account and, between them, new accounts.
    fn upload(&self, node: usize, address: SocketAddr) {
        let mut issued = now() - 10_000_000;
        while !self.stop.load(Ordering::Relaxed) {
            issued += 1;
            let new = (issued % 2 == 0).then(|| Account::new("once"));
            let account = new.as_ref().unwrap_or(&self.accounts[node]);
            let token = self.operator.account_at(account, issued);
            let path = format!("/jwt/v1/accounts/{}", account.id());
            let answer = Connection::plain(address)
                .and_then(|mut connection| connection.request("POST", &path, &[], token.as_bytes()));
            match answer {
                Ok(answer) if answer.status == 200 && new.is_some() => {
                    self.once.lock().unwrap().push((account.id(), token));
                }
                Ok(answer) if answer.status == 200 => {
                    self.acknowledged.lock().unwrap().insert(account.id(), issued);
                }
                // Nothing was stored, or it is not known.
                Ok(answer) if [503, 504, 429].contains(&answer.status) => {}
                Ok(answer) => self.defect(format!("node {node}: {} {}", answer.status, answer.text())),
                // It is down.
                Err(_) => pause(),
            }
        }
    }

    /// Uploads accounts that other clients upload at the same time, through other nodes.
    fn contend(&self, address: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(mut connection) = Connection::plain(address) else {
                pause();
                continue;
            };
            let issued = self.next.fetch_add(1, Ordering::SeqCst);
            let account = &self.contended[usize::try_from(issued).expect("after 1970") % CONTENDED];
            let token = self.operator.account_at(account, issued);
            let path = format!("/jwt/v1/accounts/{}", account.id());
            let call = self.history.call(&account.id());
            let outcome = match connection.request("POST", &path, &[], token.as_bytes()) {
                Ok(Answer { status: 200, .. }) => Outcome::Stored,
                Ok(Answer { status: 409, .. }) => Outcome::Superseded,
                Ok(Answer { status: 503 | 429, .. }) => Outcome::NotStored,
                Ok(Answer { status: 504, .. }) | Err(_) => Outcome::Unknown,
                Ok(answer) => {
                    self.defect(format!("an upload: {} {}", answer.status, answer.text()));
                    Outcome::Unknown
                }
            };
            self.history.upload(call, issued, outcome);
        }
    }

    /// Reads the same accounts, and asks for what is newest anywhere.
    fn watch(&self, address: SocketAddr) {
        for account in self.contended.iter().cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let path = format!("/jwt/v1/accounts/{}", account.id());
            let Ok(mut connection) = Connection::plain(address) else {
                pause();
                continue;
            };
            let call = self.history.call(&account.id());
            match connection.request("GET", &path, &[("jwtmesh-min-revision", "newest")], b"") {
                Ok(answer) if answer.status == 200 => {
                    self.history.read(call, claims(&answer.text())["iat"].as_i64());
                }
                Ok(answer) if answer.status == 404 => self.history.read(call, None),
                // It cannot know, or it is down.
                Ok(answer) if answer.status == 503 => {}
                Ok(answer) => self.defect(format!("a strong read: {} {}", answer.status, answer.text())),
                Err(_) => {}
            }
        }
    }

    fn look(&self, node: usize, address: SocketAddr) {
        let mut seen: BTreeMap<(u32, String), i64> = BTreeMap::new();
        while !self.stop.load(Ordering::Relaxed) {
            for account in &self.accounts {
                let life = self.lives[node].load(Ordering::SeqCst);
                let is_down = || self.down[node].load(Ordering::SeqCst);
                let was_down = is_down();
                let path = format!("/jwt/v1/accounts/{}", account.id());
                let answer =
                    Connection::plain(address).and_then(|mut connection| connection.request("GET", &path, &[], b""));
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(error) => {
                        let is_same = life == self.lives[node].load(Ordering::SeqCst);
                        if is_same && !was_down && !is_down() {
                            self.defect(format!("node {node} did not answer a lookup: {error}"));
                        }
                        pause();
                        continue;
                    }
                };
                // It was started again meanwhile.
                if life != self.lives[node].load(Ordering::SeqCst) {
                    continue;
                }
                let newest = seen.entry((life, account.id())).or_default();
                match answer.status {
                    200 => {
                        let issued = claims(&answer.text())["iat"].as_i64().unwrap_or_default();
                        if issued < *newest {
                            self.defect(format!("node {node} went back from {newest} to {issued}"));
                        }
                        *newest = issued;
                    }
                    404 if *newest == 0 => {}
                    status => self.defect(format!("node {node}: {status} {}", answer.text())),
                }
            }
        }
    }

    fn revoke(&self, server: SocketAddr) {
        let account = Account::new("revoked");
        let mut issued = now() - 100_000;
        while !self.stop.load(Ordering::Relaxed) {
            let user = account.user();
            issued += 1;
            self.store_somewhere(&account, &self.operator.account_at(&account, issued));
            // Until the NATS cluster has heard of the account.
            let Ok(mut connection) = NatsUser::connect(server, &user) else {
                continue;
            };
            issued += 1;
            self.store_somewhere(&account, &self.operator.revoking(&account, &[&user], issued));
            match connection.disconnected(PATIENCE).as_deref() {
                Some("User Authentication Revoked") => drop(self.revoked.fetch_add(1, Ordering::SeqCst)),
                other => self.defect(format!("a user was revoked and goes on: {other:?}")),
            }
        }
    }

    /// Uploads `token` until some node has stored it.
    fn store_somewhere(&self, account: &Account, token: &str) {
        let path = format!("/jwt/v1/accounts/{}", account.id());
        for address in self.addresses.iter().cycle() {
            let answer = Connection::plain(*address)
                .and_then(|mut connection| connection.request("POST", &path, &[], token.as_bytes()));
            if answer.is_ok_and(|answer| answer.status == 200) || self.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn defect(&self, what: String) {
        self.defects.lock().unwrap().push(what);
    }
}

/// One upload after another through each node, of accounts that all of them upload, until this is dropped.
pub(crate) struct Uploads {
    shared: Arc<Uploading>,
    threads: Vec<JoinHandle<()>>,
}

struct Uploading {
    stop: AtomicBool,
    operator: Arc<Operator>,
    accounts: Vec<Account>,
    /// The issue time of the next upload of any.
    next: AtomicI64,
    /// How many were stored through each node.
    stored: Vec<AtomicU32>,
}

impl Uploads {
    pub(crate) fn begin(operator: &Arc<Operator>, nodes: &[Node]) -> Self {
        let shared = Arc::new(Uploading {
            stop: AtomicBool::new(false),
            operator: operator.clone(),
            accounts: (0..CONTENDED).map(|n| Account::new(&format!("C{n}"))).collect(),
            next: AtomicI64::new(now() - 100_000),
            stored: nodes.iter().map(|_| AtomicU32::new(0)).collect(),
        });
        let begin = |(node, address)| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.run(node, address))
        };
        let threads = nodes.iter().map(Node::address).enumerate().map(begin).collect();
        Self { shared, threads }
    }

    /// Waits until something more is stored through each of these nodes.
    #[track_caller]
    pub(crate) fn wait_for(&self, nodes: &[usize]) {
        for node in nodes {
            let stored = || self.shared.stored[*node].load(Ordering::Relaxed);
            let before = stored();
            eventually(&format!("uploads through node {node} are stored"), || {
                (stored() > before + 1).then_some(())
            });
        }
    }

    /// What is uploaded.
    pub(crate) fn accounts(&self) -> &[Account] {
        &self.shared.accounts
    }

    /// From now on nothing is.
    pub(crate) fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.end();
    }
}

impl Uploading {
    fn run(&self, node: usize, address: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            let issued = self.next.fetch_add(1, Ordering::Relaxed);
            let account = &self.accounts[usize::try_from(issued).expect("after 1970") % CONTENDED];
            let token = self.operator.account_at(account, issued);
            let path = format!("/jwt/v1/accounts/{}", account.id());
            let answer = Connection::plain(address)
                .and_then(|mut connection| connection.request("POST", &path, &[], token.as_bytes()));
            match answer {
                Ok(answer) if answer.status == 200 => drop(self.stored[node].fetch_add(1, Ordering::Relaxed)),
                // Another thread was faster, or nothing can be agreed now.
                Ok(_) => {}
                Err(_) => pause(),
            }
        }
    }
}

/// A node that is down leaves the processor to the others.
fn pause() {
    std::thread::sleep(Duration::from_millis(3));
}
