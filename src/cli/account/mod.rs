//! `account`: list, show, push, pull, watch, delete, closing, kill.
//!
//! Each verb is a file. `push` and `pull` handle many accounts: each account has an outcome of its own, printed as soon
//! as it is known, and the tally turns all outcomes into one exit code. Listings are read a page at a time, so that a
//! million accounts need no more memory than one page.

mod closing;
mod consent;
mod delete;
mod list;
mod named;
mod pages;
mod pull;
mod push;
mod show;
mod tally;
mod watch;

use std::io::Write;

use clap::Subcommand;

pub(super) use named::Named;
pub(super) use pages::Pages;

use super::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// List the accounts in the order of their keys
    List(list::List),
    /// Show one account and explain its claims
    Show(show::Show),
    /// Submit tokens and report the outcome of each. An older token never replaces a newer one
    Push(push::Push),
    /// Write accounts' tokens to stdout or to files
    Pull(pull::Pull),
    /// Wait until an account's JWT is in force at every nats-server
    Watch(watch::Watch),
    /// Delete accounts by a request that their operator has signed
    Delete(delete::Delete),
    /// The JWT with which an account can be shut: keep one, show it, remove it
    #[command(subcommand)]
    Closing(closing::Closing),
    /// Shut an account with its closing JWT: all of its clients are disconnected
    Kill(closing::Kill),
}

impl AccountCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.run(out).await,
            Self::Show(show) => show.run(out).await,
            Self::Push(push) => push.run(out).await,
            Self::Pull(pull) => pull.run(out).await,
            Self::Watch(watch) => watch.run(out).await,
            Self::Delete(delete) => delete.run(out).await,
            Self::Closing(closing) => closing.run(out).await,
            Self::Kill(kill) => kill.run(out).await,
        }
    }
}
