//! `member bootstrap`: forms the mesh.

use std::io::Write;

use clap::Args;

use super::list::table;
use crate::api;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::json;
use crate::cli::target::Target;

/// Forms the mesh of all nodes in cluster.toml.
///
/// All of them must run. The node that is asked becomes the first member, with the accounts that it has, and admits the
/// others, which must be empty. It can be repeated: "already formed", exit code 0.
#[derive(Debug, Args)]
pub(in crate::cli) struct Bootstrap {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Bootstrap {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let nodes = self.target.peers()?.map(|nodes| api::Bootstrap { nodes });
        let formed = self.target.client()?.bootstrap(nodes).await?;
        if self.json {
            json(out, &formed)?;
        } else {
            writeln!(out, "{}", formed.outcome)?;
            table(out, &formed.items)?;
        }
        Ok(Exit::Done)
    }
}
