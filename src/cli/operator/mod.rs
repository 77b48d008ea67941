//! `operator`: the operators that the mesh trusts: show, update, replace.

mod named;
mod replace;
mod show;
mod update;

use std::io::Write;

use clap::Subcommand;

pub(super) use named::find;

use super::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum OperatorCommand {
    /// Show the agreed operators: keys, strictness, system account
    Show(show::Show),
    /// Take a newer JWT of a trusted operator, such as one with another signing key
    Update(update::Update),
    /// Trust an operator in the place of another one, as after `nsc reissue operator`
    Replace(replace::Replace),
}

impl OperatorCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        match self {
            Self::Show(show) => show.run(out).await,
            Self::Update(update) => update.run(out).await,
            Self::Replace(replace) => replace.run(out).await,
        }
    }
}
