//! A nats-server of a given version, alone or three of them as one cluster.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{PATIENCE, Program, free_port, within};
use super::tools::tool;

/// A running nats-server and its folder.
pub(crate) struct NatsServer {
    version: String,
    name: String,
    port: u16,
    environment: Vec<(String, String)>,
    // Dropped before its folder, so that its last output can still be read.
    program: Program,
    folder: TempDir,
}

impl NatsServer {
    /// Starts one with `config` (its listener and name are added here); fails the test if it does not come up.
    #[track_caller]
    pub(crate) fn start(version: &str, config: &str) -> Self {
        Self::try_start(version, config, &[]).unwrap_or_else(|log| panic!("nats-server {version} ended:\n{log}"))
    }

    /// The same on a port chosen in advance.
    #[track_caller]
    pub(crate) fn start_on_port(version: &str, port: u16, config: &str) -> Self {
        Self::start_named(version, "alone", port, config)
    }

    /// The same under a name of its own.
    #[track_caller]
    pub(crate) fn start_named(version: &str, name: &str, port: u16, config: &str) -> Self {
        Self::start_on(version, name, port, config, Vec::new())
            .unwrap_or_else(|log| panic!("nats-server {version} {name} ended:\n{log}"))
    }

    /// Starts one; gives its log if it ends instead of coming up.
    pub(crate) fn try_start(version: &str, config: &str, environment: &[(&str, &Path)]) -> Result<Self, String> {
        let environment = environment
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.display().to_string()));
        Self::start_on(version, "alone", free_port(), config, environment.collect())
    }

    fn start_on(
        version: &str,
        name: &str,
        port: u16,
        config: &str,
        environment: Vec<(String, String)>,
    ) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("nats-")
            .tempdir()
            .expect("a temporary folder");
        let text = format!("server_name: {name}\nlisten: \"127.0.0.1:{port}\"\n{config}\n");
        fs::write(folder.path().join("nats.conf"), text).expect("the test's own folder is writable");
        let program = launch(version, folder.path(), &environment);
        let mut server = Self {
            folder,
            version: version.to_owned(),
            name: name.to_owned(),
            port,
            environment,
            program,
        };
        server.wait_until_ready().map(|()| server)
    }

    /// A server greets every connection with an INFO line, once it is ready to take logins. One that begins with TLS
    /// greets no client that does not; its log has to do.
    fn wait_until_ready(&mut self) -> Result<(), String> {
        let config = fs::read_to_string(self.folder.path().join("nats.conf")).expect("written before");
        let is_silent = config.contains("handshake_first");
        let ready = within(PATIENCE, || {
            if self.program.ended().is_some() {
                return Some(false);
            }
            if is_silent {
                return self.program.stderr().contains("Server is ready").then_some(true);
            }
            let mut stream = TcpStream::connect(self.address()).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            let mut greeting = [0; 5];
            stream.read_exact(&mut greeting).ok()?;
            (&greeting == b"INFO ").then_some(true)
        });
        if ready == Some(true) {
            Ok(())
        } else {
            Err(self.program.stderr())
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, where relative paths of its configuration begin.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self) -> String {
        self.program.stderr()
    }

    /// Sends a signal; after STOP the server hangs, and its connections stay open.
    pub(crate) fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Kills it and starts it again on the same port, after which it has no account in memory.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.program.kill();
        self.program = launch(&self.version, self.folder.path(), &self.environment);
        if let Err(log) = self.wait_until_ready() {
            panic!("nats-server {} did not start again:\n{log}", self.version);
        }
    }
}

fn launch(version: &str, folder: &Path, environment: &[(String, String)]) -> Program {
    let mut command = Command::new(tool(&format!("nats-server-{version}")));
    command.arg("-c").arg(folder.join("nats.conf")).current_dir(folder);
    // A setting of this variable on the machine would change which certificates are trusted; only a test may set it.
    command.env_remove("SSL_CERT_FILE");
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    Program::start(command, folder, "nats-server")
}

/// The part of a configuration that names the operator and where to ask for accounts.
pub(crate) fn resolver_config(operator_token: &str, accounts_url: &str) -> String {
    format!("operator: {operator_token}\nresolver: URL(\"{accounts_url}\")\n")
}

/// Several servers that form one NATS cluster, on ports chosen in advance: one for clients and one for routes each.
#[track_caller]
pub(crate) fn cluster(version: &str, names: &[&str], ports: &[(u16, u16)], config: &str) -> Vec<NatsServer> {
    let routes: Vec<String> = ports
        .iter()
        .map(|(_, route)| format!("\"nats://127.0.0.1:{route}\""))
        .collect();
    let start = |(name, (client, route)): (&&str, &(u16, u16))| {
        let config = format!(
            "{config}\ncluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
            routes.join(", ")
        );
        NatsServer::start_named(version, name, *client, &config)
    };
    names.iter().zip(ports).map(start).collect()
}
