//! `member`: the members of the mesh: list, bootstrap.

mod bootstrap;
mod list;

use std::io::Write;

use clap::Subcommand;

pub(super) use list::table;

use super::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// List the agreed members, and whether they answer
    List(list::List),
    /// Form the mesh of all nodes in cluster.toml: once in its life, while all of them run
    Bootstrap(bootstrap::Bootstrap),
}

impl MemberCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.run(out).await,
            Self::Bootstrap(bootstrap) => bootstrap.run(out).await,
        }
    }
}
