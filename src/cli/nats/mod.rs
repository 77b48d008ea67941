//! `nats`: the configuration that nats-servers and nsc need to use this mesh.

mod config;
mod pointing;

use std::io::Write;

use clap::Subcommand;

pub(super) use pointing::{BaseUrl, Pointing, ResolverTls};

use super::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum NatsCommand {
    /// Print the nats-server configuration for this mesh, and the nsc command
    Config(config::ConfigCommand),
}

impl NatsCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        match self {
            Self::Config(command) => command.run(out).await,
        }
    }
}
