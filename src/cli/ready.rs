//! `ready`: whether a node serves, for containers and scripts.

use std::io::Write;

use clap::Args;

use super::exit::{Exit, Failure};
use super::output::json;
use super::target::Target;

/// Asks the node whether it serves lookups; with --write, whether it takes uploads too.
///
/// Exit code 0 if it does, 5 if it does not or if no node answers.
#[derive(Debug, Args)]
pub(super) struct Ready {
    /// Ask whether the node takes uploads too
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    target: Target,
    /// Print the node's status as JSON
    #[arg(long)]
    json: bool,
}

impl Ready {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let status = self.target.client()?.status().await.map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(Exit::Unreachable, failure.message)
        })?;
        if self.json {
            json(out, &status)?;
        }
        let name = &status.node;
        if !status.ready {
            let why = match &status.problems[..] {
                [] => "it is starting or shutting down".to_owned(),
                problems => problems.join("; "),
            };
            let sentence = format!("node {name} does not serve lookups: {why}");
            return Err(Failure::new(Exit::Unreachable, sentence));
        }
        if self.write && !status.writable {
            let why = status.problems.join("; ");
            let sentence = format!("node {name} serves lookups, but takes no uploads: {why}");
            return Err(Failure::new(Exit::Unreachable, sentence));
        }
        if !self.json {
            let what = if self.write {
                "lookups and takes uploads"
            } else {
                "lookups"
            };
            writeln!(out, "node {name} serves {what}")?;
        }
        Ok(Exit::Done)
    }
}
