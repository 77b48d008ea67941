//! `member list`: who the members are.

use std::io::Write;

use clap::Args;

use crate::api::Member;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{json, plain};
use crate::cli::target::Target;

#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let members = self.target.client()?.members().await?;
        if self.json {
            json(out, &members)?;
        } else {
            table(out, &members.items)?;
        }
        Ok(Exit::Done)
    }
}

/// A line for each member.
pub(in crate::cli) fn table(out: &mut impl Write, members: &[Member]) -> std::io::Result<()> {
    let width = members.iter().map(|member| member.name.len()).max().unwrap_or(0).max(4);
    writeln!(
        out,
        "{:<width$}  ID        ROLE     STATE        APPLIED     LAG       PEER",
        "NAME"
    )?;
    for member in members {
        let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let state = match (member.reachable, member.leader) {
            (false, _) if member.lost_store => "lost data",
            (false, _) => "unreachable",
            (true, true) => "leader",
            (true, false) => "follower",
        };
        writeln!(
            out,
            "{:<width$}  {:<8}  {:<7}  {state:<11}  {:<10}  {:<8}  {}",
            plain(&member.name),
            member.id,
            member.role,
            known(member.applied),
            known(member.lag),
            plain(&member.peer)
        )?;
    }
    Ok(())
}
