//! `status`: the mesh as one node knows it.

use std::io::Write;

use clap::Args;

use super::exit::{Exit, Failure};
use super::member::table;
use super::output::{json, plain};
use super::target::Target;
use crate::api;

/// Shows the node, the mesh as it knows it, and what is not as it should be.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let status = self.target.client()?.status().await?;
        if self.json {
            json(out, &status)?;
        } else {
            print(out, &status)?;
        }
        Ok(Exit::Done)
    }
}

fn print(out: &mut impl Write, status: &api::Status) -> std::io::Result<()> {
    let yes_or_no = |yes| if yes { "yes" } else { "no" };
    let leader = match (&status.leader, status.leader_age_ms) {
        (None, None) => "none known".to_owned(),
        (None, Some(age)) => format!("none known; the last one was acknowledged by a quorum {age} ms ago"),
        (Some(leader), None) => format!("{}, not heard yet", plain(leader)),
        (Some(leader), Some(age)) => format!("{}, acknowledged by a quorum {age} ms ago", plain(leader)),
    };
    writeln!(
        out,
        "node      {} (version {})",
        plain(&status.node),
        plain(&status.version)
    )?;
    writeln!(
        out,
        "mesh      {} ({})",
        plain(&status.cluster),
        status.cluster_id.as_deref().unwrap_or("not formed yet")
    )?;
    writeln!(out, "lookups   {}", yes_or_no(status.ready))?;
    writeln!(out, "uploads   {}", yes_or_no(status.writable))?;
    writeln!(out, "revision  {}", status.revision)?;
    writeln!(out, "leader    {leader}")?;
    for problem in &status.problems {
        writeln!(out, "problem   {}", plain(problem))?;
    }
    if !status.members.is_empty() {
        writeln!(out)?;
        table(out, &status.members)?;
    }
    Ok(())
}
