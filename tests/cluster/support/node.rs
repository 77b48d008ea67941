//! One node: the real program with its real configuration, folder and ports.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;

use super::disks::SmallDisk;
use super::http::{Answer, Connection};
use super::mint::{Account, Operator};
use super::process::{PATIENCE, Program, free_port, within};
use super::tls::{Authority, Identity};

/// The program under test.
pub(crate) fn jwtmesh() -> Command {
    Command::new(env!("CARGO_BIN_EXE_jwtmesh"))
}

/// How the public port is encrypted, and how a test speaks to it.
pub(crate) struct NodeTls {
    pub(crate) identity: Identity,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) client_required: bool,
    pub(crate) client: Arc<ClientConfig>,
}

impl NodeTls {
    /// With certificates of `authority`. If a client's is given, the port requires one, and the test shows it.
    pub(crate) fn of(authority: &Authority, client: Option<&Identity>) -> Self {
        Self {
            identity: authority.issue("server"),
            client_ca: client.map(|_| authority.cert()),
            client_required: client.is_some(),
            client: authority.client(client, &[]),
        }
    }
}

/// A NATS cluster that the node connects to.
pub(crate) struct NatsLink {
    pub(crate) name: String,
    pub(crate) servers: Vec<String>,
    pub(crate) creds: String,
    /// The authority that its servers' certificates are verified with.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate that its servers are shown.
    pub(crate) client: Option<Identity>,
    pub(crate) tls_first: bool,
    /// Whether the node answers requests over it.
    pub(crate) respond: bool,
}

impl NatsLink {
    /// A link to these servers without TLS, as the user of these creds.
    pub(crate) fn plain(servers: Vec<String>, creds: String) -> Self {
        Self {
            name: "test".to_owned(),
            servers,
            creds,
            ca: None,
            client: None,
            tls_first: false,
            respond: true,
        }
    }
}

/// How a node is started.
#[derive(Default)]
pub(crate) struct Options {
    /// The port that it listens on; a free one if 0. Chosen in advance where an operator token names the URL.
    pub(crate) port: u16,
    pub(crate) tls: Option<NodeTls>,
    pub(crate) nats: Vec<NatsLink>,
    /// The token of a second operator to trust.
    pub(crate) also_trusted: Option<String>,
    /// More under `[cluster]`.
    pub(crate) settings: &'static str,
    /// What `--log` is given.
    pub(crate) log: Option<&'static str>,
}

/// A node and its folder.
pub(crate) struct Node {
    port: u16,
    tls: Option<NodeTls>,
    // Dropped before its folder, so that its last output can still be read.
    program: Program,
    folder: Arc<TempDir>,
    /// Its cluster.toml, in the folder.
    config: String,
    /// Its name, where several nodes share the folder.
    name: Option<String>,
    log: Option<&'static str>,
    /// What its data folder is on, if not the disk of the others.
    disk: Option<Arc<SmallDisk>>,
    starts: u32,
}

impl Node {
    /// A node on plain HTTP that trusts `operator_token`, without a NATS cluster.
    #[track_caller]
    pub(crate) fn plain(operator_token: &str) -> Self {
        Self::start(operator_token, Options::default())
    }

    /// A node on plain HTTP that trusts `operator` and holds its system account.
    #[track_caller]
    pub(crate) fn of(operator: &Operator) -> Self {
        let node = Self::plain(&operator.token());
        node.put(&operator.system, &operator.system_token());
        node
    }

    /// A node with a certificate of `authority` that trusts `operator_token`.
    #[track_caller]
    pub(crate) fn encrypted(operator_token: &str, authority: &Authority) -> Self {
        let options = Options {
            tls: Some(NodeTls::of(authority, None)),
            ..Options::default()
        };
        Self::start(operator_token, options)
    }

    /// A node on plain HTTP that trusts both operators.
    #[track_caller]
    pub(crate) fn of_both(operator: &Operator, other: &Operator) -> Self {
        let options = Options {
            also_trusted: Some(other.token()),
            ..Options::default()
        };
        Self::start(&operator.token(), options)
    }

    /// Starts a node and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn start(operator_token: &str, options: Options) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("jwtmesh-")
            .tempdir()
            .expect("a temporary folder");
        let port = if options.port == 0 { free_port() } else { options.port };
        fs::write(folder.path().join("operator.jwt"), operator_token).expect("the test's own folder is writable");
        let mut operators = vec!["operator.jwt"];
        if let Some(token) = &options.also_trusted {
            fs::write(folder.path().join("another.jwt"), token).expect("the test's own folder is writable");
            operators.push("another.jwt");
        }
        let mut text = format!(
            "[cluster]\nname = \"test\"\noperators = {operators:?}\n{}\n",
            options.settings
        );
        if let Some(tls) = &options.tls {
            let (cert, key) = (tls.identity.cert.display(), tls.identity.key.display());
            write!(text, "[public]\ntls = {{ cert = \"{cert}\", key = \"{key}\"").expect("text grows");
            if let Some(ca) = &tls.client_ca {
                write!(text, ", client_ca = \"{}\"", ca.display()).expect("text grows");
            }
            if tls.client_required {
                text.push_str(", client_required = true");
            }
            text.push_str(" }\n\n");
        }
        write!(
            text,
            "[[node]]\nname = \"one\"\ndata = \"data\"\npublic = \"127.0.0.1:{port}\"\n"
        )
        .expect("text grows");
        for link in &options.nats {
            let creds = format!("{}.creds", link.name);
            fs::write(folder.path().join(&creds), &link.creds).expect("the test's own folder is writable");
            write!(
                text,
                "\n[[nats]]\nname = \"{}\"\nservers = {:?}\ncreds = \"{creds}\"\n",
                link.name, link.servers
            )
            .expect("text grows");
            if let Some(ca) = &link.ca {
                writeln!(text, "ca = \"{}\"", ca.display()).expect("text grows");
            }
            if let Some(client) = &link.client {
                let (cert, key) = (client.cert.display(), client.key.display());
                writeln!(text, "cert = \"{cert}\"\nkey = \"{key}\"").expect("text grows");
            }
            if link.tls_first {
                text.push_str("tls_first = true\n");
            }
            if !link.respond {
                text.push_str("respond = false\n");
            }
        }
        fs::write(folder.path().join("cluster.toml"), text).expect("the test's own folder is writable");
        let config = "cluster.toml".to_owned();
        let program = launch(jwtmesh(), folder.path(), &config, None, options.log, 1);
        let mut node = Self {
            folder: Arc::new(folder),
            config,
            name: None,
            port,
            tls: options.tls,
            log: options.log,
            disk: None,
            program,
            starts: 1,
        };
        node.wait_until_started();
        node
    }

    /// Starts the node called `name` of the file `config` in `folder`, whose public port is `port`, on `disk` if that is
    /// given.
    pub(crate) fn member(
        folder: Arc<TempDir>,
        config: &str,
        name: &str,
        port: u16,
        disk: Option<Arc<SmallDisk>>,
    ) -> Self {
        let command = program_on(disk.as_deref());
        Self {
            program: launch(command, folder.path(), config, Some(name), None, 1),
            disk,
            folder,
            config: config.to_owned(),
            name: Some(name.to_owned()),
            port,
            tls: None,
            log: None,
            starts: 1,
        }
    }

    #[track_caller]
    pub(crate) fn wait_until_started(&mut self) {
        let ready = within(PATIENCE, || {
            if self
                .program
                .stdout()
                .lines()
                .any(|line| line.starts_with("jwtmesh ready: ") || line.starts_with("jwtmesh started: "))
            {
                return Some(true);
            }
            self.program.ended().map(|_| false)
        });
        assert_eq!(
            ready,
            Some(true),
            "the node did not get ready:\n{}",
            self.program.stderr()
        );
    }

    /// Sends SIGKILL; the program has ended when this returns.
    pub(crate) fn kill(&mut self) {
        self.program.kill();
    }

    /// Sends SIGKILL while other threads still use the node. The next start waits until the program has ended.
    pub(crate) fn kill_only(&self) {
        self.program.signal(Signal::KILL);
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Sends SIGTERM and waits; gives how the program ended.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.program.signal(Signal::TERM);
        self.program.wait()
    }

    /// Starts the same node again, on the same port and data, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        self.launch_again();
        self.wait_until_started();
    }

    fn launch_again(&mut self) {
        // It must have ended before the next one asks for its port and folder.
        self.program.kill();
        self.starts += 1;
        self.program = launch(
            program_on(self.disk.as_deref()),
            self.folder.path(),
            &self.config,
            self.name.as_deref(),
            self.log,
            self.starts,
        );
    }

    /// Starts the same node again, which ends by itself; gives what it says.
    #[track_caller]
    pub(crate) fn refused_start(&mut self) -> String {
        self.launch_again();
        assert!(!self.program.wait().success());
        self.program.stderr()
    }

    pub(crate) fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// The log since its last start.
    pub(crate) fn log(&self) -> String {
        self.program.stderr()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The URL up to `/jwt/v1`, as in an operator's `account_server_url`.
    pub(crate) fn base(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/jwt/v1", self.port)
    }

    /// The URL for nats-server's `URL(...)`.
    pub(crate) fn accounts_url(&self) -> String {
        format!("{}/accounts/", self.base())
    }

    /// A new connection to the public port.
    #[track_caller]
    pub(crate) fn connect(&self) -> Connection {
        let connected = match &self.tls {
            None => Connection::plain(self.address()),
            Some(tls) => Connection::tls(self.address(), tls.client.clone()).map(|(connection, _)| connection),
        };
        connected.expect("a running node takes connections")
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        let answer = self.connect().request("GET", path, &[], b"");
        answer.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Answer {
        let answer = self
            .connect()
            .request("POST", path, &[("Content-Type", "application/jwt")], body);
        answer.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn get_account(&self, account: &str) -> Answer {
        self.get(&format!("/jwt/v1/accounts/{account}"))
    }

    #[track_caller]
    pub(crate) fn post_account(&self, account: &str, token: &str) -> Answer {
        self.post(&format!("/jwt/v1/accounts/{account}"), token.as_bytes())
    }

    /// Where the answers go to an update of `account` that a node of this node's mesh publishes.
    #[track_caller]
    pub(crate) fn publishers_inbox(&self, account: &Account) -> String {
        let status = self.cli_json(&["status"]);
        let mesh = status["cluster_id"].as_str().expect("it is a member");
        format!("_INBOX.jwtmesh.one.x.{}-1-{mesh}", account.id())
    }

    /// Uploads a token that must be stored or unchanged; gives the answer.
    #[track_caller]
    pub(crate) fn put(&self, account: &Account, token: &str) -> Answer {
        let answer = self.post_account(&account.id(), token);
        assert_eq!((answer.status, answer.text()), (200, String::new()));
        answer
    }

    /// `jwtmesh ARGS... --config <this node's>`, run to its end.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        let config = self.folder.path().join(&self.config);
        let mut command = program_on(self.disk.as_deref());
        command.args(args).arg("--config").arg(config);
        if let Some(name) = &self.name {
            command.args(["--node", name]);
        }
        let done = command.output();
        done.expect("the program can be started")
    }

    /// Runs `jwtmesh ARGS... --json`, which must succeed; gives the JSON that it prints.
    #[track_caller]
    pub(crate) fn cli_json(&self, args: &[&str]) -> Value {
        let done = self.cli(&[args, &["--json"]].concat());
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success(),
            "{args:?}: {text}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?} --json: {error}: {text}"))
    }
}

/// The program under test, where it sees `disk`.
fn program_on(disk: Option<&SmallDisk>) -> Command {
    disk.map_or_else(jwtmesh, |disk| disk.command(env!("CARGO_BIN_EXE_jwtmesh")))
}

fn launch(
    mut command: Command,
    folder: &Path,
    config: &str,
    name: Option<&str>,
    log: Option<&str>,
    start: u32,
) -> Program {
    command.arg("serve").arg("--config").arg(folder.join(config));
    if let Some(name) = name {
        command.args(["--node", name]);
    }
    if let Some(log) = log {
        command.args(["--log", log]);
    }
    Program::start(command, folder, &format!("node-{}{start}", name.unwrap_or_default()))
}
