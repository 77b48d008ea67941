//! `operator update`: submits newer tokens of trusted operators.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::api::Submitted;
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::operator_file;
use crate::cli::output::{json, plain};
use crate::cli::target::Target;
use crate::client::ClientError;

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

#[derive(Serialize)]
struct Updated<'a> {
    operator: String,
    name: &'a str,
    #[serde(flatten)]
    submitted: &'a Submitted,
}

impl Update {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let offered = operator_file(&self.file)?;
        let claims = offered.claims();
        let client = self.target.client()?;
        let submitted = client
            .update_operator(claims.operator, offered.token().bytes().clone())
            .await
            .map_err(failure)?;
        if self.json {
            let operator = claims.operator.to_string();
            let name = &claims.name;
            let submitted = &submitted;
            json(
                out,
                &Updated {
                    operator,
                    name,
                    submitted,
                },
            )?;
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

/// A JWT of an operator that is not trusted was refused: nothing was looked for that is missing.
fn failure(error: ClientError) -> Failure {
    let untrusted = matches!(&error, ClientError::Problem(problem) if problem.code == "unknown-operator");
    let failure = Failure::from(error);
    Failure {
        exit: if untrusted { Exit::Refused } else { failure.exit },
        ..failure
    }
}
