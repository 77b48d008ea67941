//! THE ADMINISTRATOR'S HANDS: one verb a file; this one has the grammar, the dispatch and the exit codes.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::client::ClientError;
use crate::config::ConfigError;
use crate::node::StartError;

mod accounts;
mod demo;
mod inspect;
mod nats;
mod operator;
mod output;
mod serve;
mod target;
mod verify;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a fault, or something asked for failed
  2  the command line or the configuration is wrong
  3  not found
  4  a token was refused (rejected or superseded)
  5  no node answers
Where several things were asked for and ended differently, the highest of their codes.
`serve` ended by a second signal: 128 + the signal's number";

/// A full-mesh account resolver for NATS: account JWTs agreed by Raft, served to nats-server, pushed on change.
#[derive(Debug, Parser)]
#[command(name = "jwtmesh", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until a signal ends it
    Serve(serve::Serve),
    /// Try everything in one folder: keys, certificates, a node, a nats-server, a revocation
    Demo(demo::Demo),
    /// Accounts: list, show, push, pull
    #[command(subcommand)]
    Account(accounts::AccountCommand),
    /// The operators the mesh trusts
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// How nats-server and nsc are pointed here
    #[command(subcommand)]
    Nats(nats::NatsCommand),
    /// Read every stored token and verify it again, on this side
    Verify(verify::Verify),
    /// Explain any token, offline
    Inspect(inspect::Inspect),
}

/// How the program ends, in the order of the numbers. These are an interface: scripts compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Exit {
    /// All is done.
    #[default]
    Done,
    /// A fault, or something that was asked for failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// What was asked for does not exist.
    NotFound,
    /// A token was rejected or superseded.
    Refused,
    /// No node answers.
    Unreachable,
    /// A second signal did not wait for a graceful end.
    Signal(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Refused => 4,
            Exit::Unreachable => 5,
            Exit::Signal(number) => 128 + number,
        })
    }
}

/// Why a command ends early: the exit code and the last line on stderr.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    said: String,
}

impl Failure {
    fn new(exit: Exit, said: impl Into<String>) -> Self {
        Self {
            exit,
            said: said.into(),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Unreachable { .. } => Exit::Unreachable,
            ClientError::Problem(problem) => match problem.status {
                404 => Exit::NotFound,
                400..=403 | 409 | 413 | 422 => Exit::Refused,
                _ => Exit::Failed,
            },
            ClientError::Broken { .. } => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Configuration(_) => Exit::Usage,
            StartError::Failed(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}

/// For what is printed; files say their own name.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // `jwtmesh account list | head` is no failure of ours, and nobody is left to tell.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Done, "");
        }
        Self::new(Exit::Failed, format!("cannot print: {error}"))
    }
}

/// Reads the command line, does what it says, and tells how it went.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too, for stdout; whoever closed that needs no answer.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    // Buffered by the line only on a terminal: a million accounts are not a million writes.
    let mut out = output::stdout();
    let exit = dispatch(cli.command, &mut out).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match exit {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // What was already printed stands before the reason.
            let _ = out.flush();
            if !failure.said.is_empty() {
                output::to_stderr(&format!("jwtmesh: {}", failure.said));
            }
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command, out: &mut impl Write) -> Result<Exit, Failure> {
    match command {
        Command::Serve(serve) => serve.run(),
        Command::Demo(demo) => demo.run(out),
        Command::Inspect(inspect) => inspect.run(out),
        Command::Account(command) => client_runtime()?.block_on(command.run(out)),
        Command::Operator(command) => client_runtime()?.block_on(command.run(out)),
        Command::Nats(command) => client_runtime()?.block_on(command.run(out)),
        Command::Verify(verify) => client_runtime()?.block_on(verify.run(out)),
    }
}

/// One thread is enough for a client.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start a runtime: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::api::Problem;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for code in 0..=5 {
            assert!(help.contains(&format!("\n  {code}  ")), "{code} is missing in {help}");
        }
    }

    #[test]
    fn a_refused_token_a_missing_account_and_a_busy_node_end_differently() {
        let problem = |status| {
            Failure::from(ClientError::Problem(Problem {
                code: "x".to_owned(),
                status,
                title: String::new(),
                detail: "why".to_owned(),
            }))
        };
        for (status, exit) in [
            (400, Exit::Refused),
            (403, Exit::Refused),
            (404, Exit::NotFound),
            (409, Exit::Refused),
            (413, Exit::Refused),
            (429, Exit::Failed),
            (500, Exit::Failed),
            (503, Exit::Failed),
        ] {
            assert_eq!(problem(status).exit, exit, "{status}");
            assert_eq!(problem(status).said, "why");
        }
    }

    #[test]
    fn commands_as_people_type_them() {
        let key = crate::jwt::AccountKey::from_bytes([7; 32]).to_string();
        for line in [
            "serve",
            "serve --config cluster.toml",
            "serve --config cluster.toml --node fra-1 --log-format json --log debug",
            "demo --dir /tmp/d --nats-server /usr/bin/nats-server --exit",
            "account list --json --socket data/admin.sock",
            "account show KEY --config cluster.toml",
            "account push a.jwt b.jwt jwts/ -",
            "account pull -A --dir out",
            "account pull KEY KEY",
            "operator show --json",
            "nats config --url https://h:9090 --ca ca.pem",
            "verify",
            "inspect token.jwt --operator operator.jwt --json",
        ] {
            let line = line.replace("KEY", &key);
            let words = std::iter::once("jwtmesh").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "account pull",
            "account show ABC",
            "account pull KEY -A",
            "account push",
            "nats config --client-cert c.pem",
        ] {
            let line = line.replace("KEY", &key);
            let words = std::iter::once("jwtmesh").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
