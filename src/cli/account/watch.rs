//! `account watch`: waits until an account's JWT is in force at every nats-server.

use std::io::Write;
use std::time::Instant;

use clap::Args;

use super::named::Named;
use crate::api::Propagation;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::json;
use crate::cli::proof::{print_open, where_in_force};
use crate::cli::target::Target;

/// The longest that one request waits; a longer time is made of several.
const SLICE: u64 = 20;

/// Waits until the account's present JWT is in force at every server of every NATS cluster, and says where it is.
///
/// Exit code 0 if it is in force everywhere, 1 if it is not after the time-out; then each server that has not confirmed it
/// is named.
#[derive(Debug, Args)]
pub(in crate::cli) struct Watch {
    /// The account's public key, or its name
    #[arg(value_name = "ACCOUNT")]
    account: Named,
    /// How long to wait at most, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    #[command(flatten)]
    target: Target,
    /// Print JSON, with every server
    #[arg(long)]
    json: bool,
}

impl Watch {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let account = self.account.key(&client).await?;
        let begun = Instant::now();
        let found = loop {
            let left = self.timeout.saturating_sub(begun.elapsed().as_secs());
            let found = client.propagation(account, left.min(SLICE)).await?;
            if found.confirmed || left <= SLICE {
                break found;
            }
        };
        if self.json {
            json(out, &found)?;
        } else {
            print(out, &found)?;
        }
        Ok(if found.confirmed { Exit::Done } else { Exit::Failed })
    }
}

fn print(out: &mut impl Write, found: &Propagation) -> std::io::Result<()> {
    let places = where_in_force(found);
    writeln!(
        out,
        "revision {} of {} is in force on {places}",
        found.revision, found.account
    )?;
    print_open(out, found)
}
