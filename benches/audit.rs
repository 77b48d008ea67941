//! What it costs a node to look, again and again, at the JWT that each of many nats-servers holds of each account: 100
//! servers with 10,000 accounts each.
//!
//! One nats-server is real. The others are stand-ins: a client of the system account that reports and answers in their
//! names, with the words of the real one, which is asked first.
//!
//! `cargo bench --bench audit [-- --servers 100 --accounts 10000 --seconds 120]`; needs nats-server:
//! `tests/tools/fetch nats-server`, and some minutes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_nats::{AuthError, Client, ConnectOptions, Message};
use futures::StreamExt;
use futures::stream::SelectAll;
use nkeys::KeyPair;
use serde_json::{Value, json};
use support::arguments::argument;
use support::mint::{Minted, Operator, User, user};
use support::nats::{Accounts, Connection, NatsServer};
use support::node::{Node, Settings, binary};
use support::process::{clean_up_when_interrupted, free_port, work_folder};
use support::table::{Aim, Table};
use support::upload::one_thread;

#[expect(dead_code, reason = "each bench uses its own part of what they share")]
mod support;

/// How often a server reports by itself (nats-server `server/events.go`, `statsHBInterval`).
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// How long the node is measured without looks. The kernel counts in hundredths of a second, which are 0.02 % of a core
/// then.
const REST: Duration = Duration::from_secs(60);

/// A node that begins to publish looks faster than later, when there are fewer looks a second than this.
const QUIET: f64 = 500.0;

/// How long looks are counted before they are compared with that.
const WINDOW: Duration = Duration::from_secs(5);

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Shares of a core are printed in percent.
const PERCENT: f64 = 100.0;

fn main() {
    clean_up_when_interrupted();
    let (servers, accounts): (usize, usize) = (argument("servers", 100), argument("accounts", 10_000));
    let measured = Duration::from_secs(argument("seconds", 120));
    let folder = work_folder("audit");
    let operator = Operator::new();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings {
        nats: Some((format!("nats://{address}"), operator.system_user().creds())),
        ..Settings::default()
    };
    let node = Node::start(folder.path(), &operator, &settings);
    let sample = KeyPair::new_account();
    let own = [(&operator.system, "SYS"), (&sample, "sample")].map(|(key, name)| {
        let id = key.public_key();
        let token = operator.account(&id, name, None);
        Minted { id, token }
    });
    node.load(&own);
    let resolver = [node.address];
    let broker = NatsServer::cluster(folder.path(), &[address], &operator, &Accounts::Nodes(&resolver)).remove(0);
    let minted = operator.accounts(accounts);
    node.load(&minted);
    until_enforced(folder.path(), 1);

    let table = Table::begin(
        &format!("Looking at {servers} servers with {accounts} accounts each, one node"),
        "",
    );
    let stand_ins = StandIns::start(&broker, &operator, (&sample, &own[1]), &minted, servers);
    let (begun, before) = (Instant::now(), node.program.processor_seconds());
    until_enforced(folder.path(), servers + 1);
    let (seconds, processor) = (begun.elapsed().as_secs_f64(), node.program.processor_seconds() - before);
    let looks = stand_ins.looks() as f64;
    table.show("until all are known to be up to date, s", seconds, Aim::Shown);
    table.show("looks meanwhile", looks, Aim::Shown);
    table.show("processor time meanwhile, s", processor, Aim::Shown);
    table.show("the same for each look, us", processor / looks * 1e6, Aim::Shown);

    stand_ins.until_looked_at(|pace| pace > 0.0 && pace < QUIET);
    let (begun, looks) = (Instant::now(), stand_ins.looks());
    let share = spent(&node, measured);
    let pace = (stand_ins.looks() - looks) as f64 / begun.elapsed().as_secs_f64();
    let memory = node.program.memory("VmRSS:") / 1e6;
    table.show("then looks a second", pace, Aim::Shown);
    table.show("the node meanwhile, % of a core", share * PERCENT, Aim::Shown);
    stand_ins.unload();
    stand_ins.until_looked_at(|pace| pace == 0.0);
    let rest = spent(&node, REST);
    table.show("the same when nothing is loaded there", rest * PERCENT, Aim::Shown);
    let sweep = share - rest;
    table.show("so for looks alone", sweep * PERCENT, Aim::AtMost(1.0));
    table.show("the same for each look, us", sweep / pace * 1e6, Aim::Shown);
    let all = (servers * accounts) as f64;
    table.show("every account at every server, minutes", all / pace / 60.0, Aim::Shown);
    table.show("memory of the node, MB", memory, Aim::Shown);
}

/// Which share of a core the node takes in this time.
fn spent(node: &Node, time: Duration) -> f64 {
    let (begun, before) = (Instant::now(), node.program.processor_seconds());
    thread::sleep(time);
    (node.program.processor_seconds() - before) / begun.elapsed().as_secs_f64()
}

/// Waits until the node knows so many servers, and that all of them enforce everything.
fn until_enforced(folder: &Path, servers: usize) {
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut command = Command::new(binary());
        command.args(["nats", "servers", "--json", "--config"]);
        command.arg(folder.join("cluster.toml")).current_dir(folder);
        let said = command.output().expect("the program runs");
        let said: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        let known = said["items"].as_array().map_or(&[][..], Vec::as_slice);
        let is_enforced = |server: &&Value| server["behind"].is_null() && server["state"] == "up-to-date";
        let enforced = known.iter().filter(is_enforced).count();
        if known.len() == servers && enforced == servers {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "only {enforced} of {} servers enforce everything, of {servers} that there are",
            known.len()
        );
        thread::sleep(LOOK_EVERY);
    }
}

/// Many nats-servers that enforce the current JWT of every account, as a client of the system account sees them.
struct StandIns {
    /// How each introduces itself, in turn as they report.
    servers: Vec<Value>,
    /// The same as text, by the id.
    heads: HashMap<String, String>,
    /// What a server reports beside that.
    report: String,
    /// The accounts that each has loaded.
    loaded: String,
    /// What each holds of an account, by the account.
    held: HashMap<String, String>,
    /// How often one was asked for that.
    looks: AtomicUsize,
    /// Whether they have nothing loaded any more.
    is_empty: AtomicBool,
}

impl StandIns {
    /// From now on `count` of them report and answer over `broker`. `sample` is an account of which the broker is asked what
    /// it holds.
    fn start(
        broker: &NatsServer,
        operator: &Operator,
        (key, sample): (&KeyPair, &Minted),
        accounts: &[Minted],
        count: usize,
    ) -> Arc<Self> {
        let runtime = one_thread();
        let client = runtime.block_on(connect(broker, operator.system_user()));
        runtime.block_on(until_told(&client));
        // A client's login has it loaded.
        let _user = Connection::open(broker.address, &user(key));
        let report = runtime.block_on(ask(&client, "$SYS.REQ.SERVER.PING", ""));
        let id = report["server"]["id"].as_str().expect("a server has an id");
        let subject = format!("$SYS.REQ.SERVER.{id}.ACCOUNTZ");
        let whole = runtime.block_on(ask(&client, &subject, &json!({ "account": sample.id }).to_string()));
        let held = whole["data"].to_string();
        assert!(held.contains(&sample.token), "the server holds the JWT: {held}");
        let server = |number: usize| {
            let mut server = report["server"].clone();
            server["id"] = json!(KeyPair::new_server().public_key());
            server["name"] = json!(format!("stand-in-{number:04}"));
            server
        };
        let servers: Vec<Value> = (0..count).map(server).collect();
        let head = |server: &Value| (server["id"].as_str().unwrap_or_default().to_owned(), server.to_string());
        // The claims beside it stay those of the sample, which are as long.
        let held_of = |account: &Minted| {
            let text = held.replace(&sample.token, &account.token);
            (account.id.clone(), text.replace(&sample.id, &account.id))
        };
        let ids: Vec<&str> = accounts.iter().map(|account| account.id.as_str()).collect();
        let stand_ins = Arc::new(Self {
            heads: servers.iter().map(head).collect(),
            servers,
            report: report["statsz"].to_string(),
            loaded: json!({ "accounts": ids, "system_account": operator.system.public_key() }).to_string(),
            held: accounts.iter().map(held_of).collect(),
            looks: AtomicUsize::new(0),
            is_empty: AtomicBool::new(false),
        });
        let own = Arc::clone(&stand_ins);
        thread::spawn(move || runtime.block_on(own.serve(&client)));
        stand_ins
    }

    /// How often they were asked so far what they hold of an account.
    fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Waits until they are looked at so often a second.
    fn until_looked_at(&self, is_so: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.looks();
            thread::sleep(WINDOW);
            let pace = (self.looks() - before) as f64 / WINDOW.as_secs_f64();
            if is_so(pace) {
                return;
            }
            assert!(Instant::now() < deadline, "{pace} looks a second, all the time");
        }
    }

    /// From now on they have no accounts loaded.
    fn unload(&self) {
        self.is_empty.store(true, Ordering::Relaxed);
    }

    async fn serve(&self, client: &Client) {
        let mut requests = SelectAll::new();
        for subject in [
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.SERVER.*.ACCOUNTZ",
            "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE",
        ] {
            requests.push(client.subscribe(subject).await.expect("the system account is open"));
        }
        // Servers are not started together, and so do not report together.
        let mut turns = tokio::time::interval(REPORT_EVERY / u32::try_from(self.servers.len()).expect("few servers"));
        let mut reporters = self.servers.iter().cycle();
        loop {
            tokio::select! {
                Some(request) = requests.next() => self.answer(client, request).await,
                _ = turns.tick() => {
                    let server = reporters.next().expect("there is one at least");
                    let subject = format!("$SYS.SERVER.{}.STATSZ", server["id"].as_str().unwrap_or_default());
                    publish(client, subject, self.reported(server)).await;
                }
            }
        }
    }

    fn reported(&self, server: &Value) -> String {
        format!(r#"{{"server":{server},"statsz":{}}}"#, self.report)
    }

    async fn answer(&self, client: &Client, request: Message) {
        let Some(reply) = request.reply else { return };
        let subject = request.subject.as_str();
        if let Some(account) = subject.strip_prefix("$SYS.REQ.ACCOUNT.") {
            let account = account.split('.').next().unwrap_or_default();
            for server in &self.servers {
                let mut server = server.clone();
                server["time"] = json!(jiff::Timestamp::now().to_string());
                let data = json!({ "account": account, "code": 200, "message": "jwt updated" });
                let said = json!({ "server": server, "data": data });
                publish(client, reply.to_string(), said.to_string()).await;
            }
        } else if subject == "$SYS.REQ.SERVER.PING" {
            for server in &self.servers {
                publish(client, reply.to_string(), self.reported(server)).await;
            }
        } else if subject == "$SYS.REQ.SERVER.PING.ACCOUNTZ" {
            for head in self.heads.values() {
                publish(client, reply.to_string(), self.told(head, &request.payload)).await;
            }
        } else if let Some(head) = subject.split('.').nth(3).and_then(|id| self.heads.get(id)) {
            publish(client, reply.to_string(), self.told(head, &request.payload)).await;
        }
    }

    /// What the server that introduces itself so answers about accounts.
    fn told(&self, head: &str, asked: &[u8]) -> String {
        if asked.is_empty() && self.is_empty.load(Ordering::Relaxed) {
            return format!(r#"{{"server":{head},"data":{{"accounts":[]}}}}"#);
        }
        if asked.is_empty() {
            return format!(r#"{{"server":{head},"data":{}}}"#, self.loaded);
        }
        let asked: Value = serde_json::from_slice(asked).expect("a request is JSON");
        match self.held.get(asked["account"].as_str().unwrap_or_default()) {
            Some(held) => {
                self.looks.fetch_add(1, Ordering::Relaxed);
                format!(r#"{{"server":{head},"data":{held}}}"#)
            }
            None => {
                let error = json!({ "code": 500, "description": "Account does not exist" });
                format!(r#"{{"server":{head},"data":null,"error":{error}}}"#)
            }
        }
    }
}

async fn connect(broker: &NatsServer, user: User) -> Client {
    let User { key, token } = user;
    let key = Arc::new(key);
    let options = ConnectOptions::with_jwt(token, move |nonce| {
        let key = Arc::clone(&key);
        async move { key.sign(&nonce).map_err(AuthError::new) }
    });
    let client = options.connect(format!("nats://{}", broker.address)).await;
    client.expect("a user of the system account may connect")
}

/// Waits until the servers are told no more of new accounts. Each is told three times, three seconds apart.
async fn until_told(client: &Client) {
    let updates = client.subscribe("$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE").await;
    let mut updates = updates.expect("the system account is open");
    while tokio::time::timeout(WINDOW, updates.next()).await.is_ok() {}
}

async fn ask(client: &Client, subject: &str, request: &str) -> Value {
    let answer = client.request(subject.to_owned(), request.to_owned().into()).await;
    let answer = answer.expect("the nats-server answers");
    serde_json::from_slice(&answer.payload).expect("an answer is JSON")
}

async fn publish(client: &Client, subject: String, message: String) {
    let sent = client.publish(subject, message.into()).await;
    sent.expect("the connection lasts as long as the bench");
}
