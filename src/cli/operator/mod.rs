//! `operator`: the operators that the mesh trusts.

mod show;

use std::io::Write;

use clap::Subcommand;

use super::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum OperatorCommand {
    /// Show the agreed operators: keys, strictness, system account
    Show(show::Show),
}

impl OperatorCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        match self {
            Self::Show(show) => show.run(out).await,
        }
    }
}
