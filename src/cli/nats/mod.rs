//! `nats`: the configuration that nats-servers and nsc need to use this mesh, and the NATS clusters that it updates.

mod config;
mod pointing;
mod servers;

use std::io::Write;

use clap::Subcommand;

pub(super) use pointing::{BaseUrl, Pointing, ResolverTls};

use super::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum NatsCommand {
    /// Print the nats-server configuration for this mesh, and the nsc command
    Config(config::ConfigCommand),
    /// List the NATS clusters, and who publishes to each
    List(servers::List),
    /// List the nats-servers, and which of them may enforce older JWTs
    Servers(servers::Servers),
    /// Forget a server that was shut down for good
    Forget(servers::Forget),
}

impl NatsCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        match self {
            Self::Config(command) => command.run(out).await,
            Self::List(list) => list.run(out).await,
            Self::Servers(servers) => servers.run(out).await,
            Self::Forget(forget) => forget.run(out).await,
        }
    }
}
