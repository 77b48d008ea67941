//! THE DEMO: everything jwtmesh is about, in one folder and one command. The only code that signs.
//!
//! The node it starts is told nothing but its `cluster.toml`; no seed of an operator or an account reaches it.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::{Exit, Failure};

mod certificates;
mod folder;
mod guide;
mod keys;
mod server;
mod show;
mod story;

/// async-nats reports what the show provokes: a client that is cut off and refused.
const DEFAULT_LOG: &str = "off,jwtmesh=error,openraft=error";

/// Makes an operator, accounts, creds, certificates and a cluster.toml in a folder, and runs a node on it.
///
/// Where a nats-server is found it starts one too, connects a client, revokes its user and tells how soon the
/// client is cut off. Then it prints what to try next and serves until Ctrl-C. Run again, it continues.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The folder; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "jwtmesh-demo")]
    dir: PathBuf,
    /// The nats-server to start [default: the one in PATH, if any]
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Stop after the show instead of serving until Ctrl-C
    #[arg(long)]
    exit: bool,
    /// What is logged on stderr
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = DEFAULT_LOG)]
    log: String,
}

impl Demo {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        super::serve::start_log(&self.log, super::serve::LogFormat::Text)?;
        let runtime = super::serve::node_runtime()?;
        let exit = runtime.block_on(story::run(&self, out));
        runtime.shutdown_background();
        exit
    }
}
