//! `operator update`: submits newer tokens of trusted operators.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::{Exit, Failure};
use crate::cli::input::operator_file;
use crate::cli::output::{json, plain};
use crate::cli::target::Target;

#[derive(Debug, Args)]
pub(in crate::cli) struct Update {
    /// The operator's JWT, as `nsc describe operator --raw` prints it, or - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Update {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let offered = operator_file(&self.file)?;
        let claims = offered.claims();
        let client = self.target.client()?;
        let submitted = client
            .update_operator(claims.operator, offered.token().bytes().clone())
            .await?;
        if self.json {
            json(out, &submitted)?;
        } else {
            let name = plain(&claims.name);
            writeln!(
                out,
                "{}  {}  {name}: revision {}",
                submitted.outcome, claims.operator, submitted.revision
            )?;
        }
        Ok(Exit::Done)
    }
}
