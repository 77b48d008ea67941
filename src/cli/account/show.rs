//! `account show`: one account, and the explanation of its token.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::named::Named;
use crate::api::Account;
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::trusted;
use crate::cli::inspect;
use crate::cli::output::{json, plain};
use crate::cli::target::Target;
use crate::clock::Clock;
use crate::jwt::{Explanation, explain, time};

/// Shows one account and explains its token.
///
/// Exit code 0 if the token is valid now, 4 if it would be refused now, such as one that has expired, and 3 if the account was
/// deleted.
#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    /// The account's public key, or its name
    #[arg(value_name = "ACCOUNT")]
    account: Named,
    #[command(flatten)]
    target: Target,
    /// Print JSON, with the token
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    account: &'a Account,
    explanation: &'a Explanation,
}

impl Show {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let account = client.account_or_tombstone(self.account.key(&client).await?).await?;
        if account.state.as_deref() == Some("deleted") {
            return deleted(out, &account, self.json);
        }
        let trusted = trusted(&client.operators().await?)?;
        let token = account.token.as_deref().unwrap_or_default();
        let explanation = explain(token.as_bytes(), Some(&trusted), Clock::system().now());
        if self.json {
            json(
                out,
                &Shown {
                    account: &account,
                    explanation: &explanation,
                },
            )?;
        } else {
            writeln!(out, "revision    {}", account.revision)?;
            if account.state.as_deref() == Some("closing") {
                let after = account.opens_after.unwrap_or(account.issued_at);
                writeln!(
                    out,
                    "shut        this is its closing JWT; only one issued after {} opens it again",
                    time(after)
                )?;
            }
            inspect::print(out, &explanation)?;
        }
        Ok(inspect::exit(&explanation))
    }
}

/// Says of an account that it was deleted.
fn deleted(out: &mut impl Write, account: &Account, as_json: bool) -> Result<Exit, Failure> {
    if as_json {
        json(out, account)?;
    } else {
        writeln!(out, "account     {}", account.account)?;
        writeln!(out, "name        {}", plain(&account.name))?;
        writeln!(out, "operator    {}", account.operator)?;
        writeln!(
            out,
            "deleted     at revision {}; a JWT issued after {} creates it again",
            account.revision,
            time(account.issued_at)
        )?;
    }
    Ok(Exit::NotFound)
}
