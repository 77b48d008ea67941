//! THE COMMAND LINE: one file a verb; this one has the grammar and the dispatch.
//!
//! There are four kinds of verbs:
//!
//! - `serve` and `demo` run a node in this process; with several nodes, `demo` starts processes.
//! - `inspect` works offline.
//! - `revoke` signs on the administrator's machine, and asks a node over its public port or its admin socket.
//! - Every other verb asks a running node over its admin socket, which `target.rs` finds.
//!
//! A command passes through here in one direction. clap parses the arguments into a `Cli`. `dispatch` runs the verb, on
//! a runtime if it needs one. The verb prints its result to stdout, as text for people or as JSON for scripts
//! (`output.rs`), and returns an `Exit` or a `Failure`. [`run`] prints a failure's message to stderr and returns the
//! exit code.
//!
//! Two things are interfaces that scripts rely on: the exit codes (`exit.rs`), and stdout, which has results only. Logs,
//! warnings, progress and errors go to stderr.
//!
//! The command line never opens the stores of a node. It starts a node through the room `node`, asks one through
//! `client`, and never names `http`, `nats`, `resolver`, `raft` or `state` (`tests/tidy.rs`).

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::{EXIT_CODES, Exit, Failure};

mod account;
mod demo;
mod exit;
mod input;
mod inspect;
mod key;
mod member;
mod nats;
mod operator;
mod output;
mod proof;
mod ready;
mod revoke;
mod serve;
mod status;
mod target;
mod verify;

/// A full-mesh account resolver for NATS: account JWTs agreed by Raft, served to nats-server, pushed on change.
#[derive(Debug, Parser)]
#[command(name = "jwtmesh", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until a signal stops it
    Serve(serve::Serve),
    /// Try everything in one folder: keys, certificates, nodes, a nats-server, a revocation, a failover
    Demo(demo::Demo),
    /// Accounts: list, show, push, pull, watch, delete, closing, kill
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Revoke users of an account, with proof: signs here, with a key that no node has
    Revoke(revoke::Revoke),
    /// The operators the mesh trusts
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// The mesh as one node knows it: members, leader, what is wrong
    Status(status::Status),
    /// The members of the mesh
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// NATS: the configuration for nats-server and nsc, the NATS clusters and their servers
    #[command(subcommand)]
    Nats(nats::NatsCommand),
    /// Verify every stored token again, without relying on the node
    Verify(verify::Verify),
    /// Whether a node serves lookups, or takes uploads: exit code 0 or 5
    Ready(ready::Ready),
    /// Explain any token, offline
    Inspect(inspect::Inspect),
}

/// Parses the command line, runs the command and returns its exit code.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // clap returns help and version as errors too, for stdout. A failure to print is ignored: the reader is gone.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return Exit::Done.into();
        }
        Err(error) => {
            output::usage_error(&error);
            return Exit::Usage.into();
        }
    };
    // Line-buffered only on a terminal, so that listing a million accounts does not take a million writes.
    let mut out = output::stdout();
    let exit = dispatch(cli.command, &mut out).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match exit {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // Flushed first, so that the reason comes after what was printed before it.
            let _ = out.flush();
            if !failure.message.is_empty() {
                output::to_stderr(&format!("jwtmesh: {}", failure.message));
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
        Command::Revoke(revoke) => client_runtime()?.block_on(revoke.run(out)),
        Command::Operator(command) => client_runtime()?.block_on(command.run(out)),
        Command::Status(status) => client_runtime()?.block_on(status.run(out)),
        Command::Member(command) => client_runtime()?.block_on(command.run(out)),
        Command::Nats(command) => client_runtime()?.block_on(command.run(out)),
        Command::Ready(ready) => client_runtime()?.block_on(ready.run(out)),
        Command::Verify(verify) => client_runtime()?.block_on(verify.run(out)),
    }
}

/// A runtime with one thread, which is enough for a client.
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
    fn commands_as_people_type_them() {
        let key = crate::jwt::AccountKey::from_bytes([7; 32]).to_string();
        let user = "UCJQORK6QRVLF56CYDJXXK2GA2I5R5ALRERL5BBWJFO2N62THNS6N4ER";
        for line in [
            "serve",
            "serve --config cluster.toml",
            "serve --config cluster.toml --node fra-1 --log-format json --log debug",
            "demo --dir /tmp/d --nats-server /usr/bin/nats-server --exit",
            "demo --nodes 3",
            "account list --json --socket data/admin.sock",
            "account show KEY --config cluster.toml",
            "account show payments",
            "account pull payments KEY",
            "account push --replace a.jwt",
            "revoke KEY USER --key o.nk",
            "revoke KEY USER USER --key o.nk --url https://h:9090 --url https://i:9090 --ca ca.pem --timeout 5 --json",
            "revoke payments --all --key o.nk --config cluster.toml",
            "operator update operator.jwt",
            "operator replace O operator.jwt --yes",
            "account push a.jwt b.jwt jwts/ -",
            "account pull -A --dir out",
            "account pull KEY KEY",
            "operator show --json",
            "nats config --url https://h:9090 --ca ca.pem",
            "verify",
            "ready --write --config cluster.toml",
            "status --json --config cluster.toml --node fra-1",
            "member list --json",
            "member bootstrap --config cluster.toml",
            "inspect token.jwt --operator operator.jwt --json",
        ] {
            let line = line.replace("KEY", &key).replace("USER", user);
            let words = std::iter::once("jwtmesh").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "demo --nodes 2",
            "account pull",
            "account pull KEY -A",
            "account push",
            "nats config --client-cert c.pem",
            "revoke KEY --key o.nk",
            "revoke KEY USER --all --key o.nk",
            "revoke KEY KEY --key o.nk",
            "revoke KEY USER --key o.nk --url https://h --config c.toml",
            "revoke KEY USER --key o.nk --ca ca.pem",
        ] {
            let line = line.replace("KEY", &key).replace("USER", user);
            let words = std::iter::once("jwtmesh").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
