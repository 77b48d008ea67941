//! `operator replace`: trusts an operator in the place of another one, and lists the accounts that it has not signed yet.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::named::find;
use crate::api::{Account, Operator, Operators};
use crate::cli::account::Pages;
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{operator_file, trusted};
use crate::cli::output::{JsonArray, plain, to_stderr};
use crate::cli::target::Target;
use crate::client::AdminClient;
use crate::jwt::{OperatorClaims, Token, TrustedKeys, Verified};

/// Trusts the operator of FILE in the place of OLD, whose accounts are its own from then on.
///
/// An account keeps its JWT, and nats-servers that trust the new operator refuse it, until the new operator's JWT for it
/// is pushed. The accounts for which that is still to be done are listed.
#[derive(Debug, Args)]
pub(in crate::cli) struct Replace {
    /// The trusted operator that goes, by name or key
    #[arg(value_name = "OLD")]
    old: String,
    /// The JWT of the operator that comes, as `nsc describe operator --raw` prints it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Accounts that are named before the question; all are listed afterwards.
const SHOWN: usize = 20;

/// An account that no key of a trusted operator has signed.
#[derive(Serialize)]
struct Unsigned<'a> {
    account: &'a str,
    name: &'a str,
}

impl Replace {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let new = operator_file(&self.file)?;
        let client = self.target.client()?;
        let operators = client.operators().await?;
        let replaced = self.replaced(&client, &operators, &new).await?;
        let old = replaced.parse();
        let old = old.map_err(|error: crate::jwt::KeyError| Failure::new(Exit::Usage, error.to_string()))?;
        let submitted = client.replace_operator(old, new.token().bytes().clone()).await?;
        let trusted = trusted(&client.operators().await?)?;
        if self.json {
            write!(
                out,
                "{{\"outcome\":\"{}\",\"revision\":{},\"unsigned\":",
                submitted.outcome, submitted.revision
            )?;
            let mut array = JsonArray::default();
            each_unsigned(&client, &trusted, |account| array.item(&mut *out, &unsigned(account))).await?;
            array.close(out)?;
            writeln!(out, "}}")?;
            return Ok(Exit::Done);
        }
        let name = plain(&new.claims().name);
        let new = new.claims().operator;
        writeln!(
            out,
            "{}  {new}  {name}: revision {}",
            submitted.outcome, submitted.revision
        )?;
        let mut count = 0_u64;
        each_unsigned(&client, &trusted, |account| {
            if count == 0 {
                writeln!(out, "accounts that no key of a trusted operator has signed yet:")?;
            }
            count += 1;
            writeln!(out, "  {}  {}", account.account, plain(&account.name))
        })
        .await?;
        if count == 0 {
            writeln!(out, "every account is signed by a key of a trusted operator")?;
        } else {
            writeln!(
                out,
                "{count} in all: push them from the store of the new operator (`nsc push --all`); until then nats-servers that trust it \
                 refuse them"
            )?;
        }
        writeln!(
            out,
            "restart the nats-servers with what `jwtmesh nats config` prints: until then they trust the old operator, and refuse what the \
             new one signs, revocations included"
        )?;
        Ok(Exit::Done)
    }

    /// The key of the operator that goes, once it is confirmed.
    async fn replaced(
        &self,
        client: &AdminClient,
        operators: &Operators,
        new: &Verified<OperatorClaims>,
    ) -> Result<String, Failure> {
        match find(operators, &self.old) {
            Ok(old) if old.operator == new.claims().operator.to_string() => Err(Failure::new(
                Exit::Refused,
                format!(
                    "{} holds the operator that is trusted already, {} ({}), so nothing was changed: give the JWT of the one that takes \
                         its place (`nsc describe operator --raw`). A newer JWT of the same operator is for `jwtmesh operator update`",
                    self.file.display(),
                    plain(&old.name),
                    old.operator
                ),
            )),
            Ok(old) => {
                self.confirm(client, operators, old, new).await?;
                Ok(old.operator.clone())
            }
            // It may be replaced already: the node knows, and repeating is safe.
            Err(_) if self.old.starts_with('O') => Ok(self.old.clone()),
            Err(failure) => Err(failure),
        }
    }

    /// Says what the replacement means and asks whether it is wanted.
    async fn confirm(
        &self,
        client: &AdminClient,
        operators: &Operators,
        old: &Operator,
        new: &Verified<OperatorClaims>,
    ) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(
                Exit::Usage,
                "this changes whom the mesh trusts, and no terminal is there to ask: give --yes",
            ));
        }
        let name = plain(&old.name);
        let mut staying = operators.clone();
        staying.items.retain(|operator| operator.operator != old.operator);
        let staying = trusted(&staying)?;
        let after = TrustedKeys::new(staying.operators().iter().chain([new]).cloned());
        let mut unsigned = Vec::new();
        let mut count = 0_usize;
        each_unsigned(client, &after, |account| {
            count += 1;
            if unsigned.len() < SHOWN {
                unsigned.push(format!("  {}  {}\n", account.account, plain(&account.name)));
            }
            Ok(())
        })
        .await?;
        if count > unsigned.len() {
            unsigned.push(format!("  and {} more\n", count - unsigned.len()));
        }
        let accounts = match count {
            0 => "Every account is signed by one of its keys already.\n".to_owned(),
            _ => format!(
                "These it has not signed yet; they are served as they are until they are pushed again:\n{}",
                unsigned.concat()
            ),
        };
        to_stderr(&format!(
            "Operator {name} ({}) will no longer be trusted.\nIts accounts will belong to operator {} ({}).\n{accounts}Type the name of the \
             operator that goes to continue:",
            old.operator,
            plain(&new.claims().name),
            new.claims().operator
        ));
        let mut typed = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut typed)
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot read the answer: {error}")))?;
        if typed.trim() == name {
            Ok(())
        } else {
            Err(Failure::new(Exit::Usage, "that is not its name; nothing was changed"))
        }
    }
}

fn unsigned(account: &Account) -> Unsigned<'_> {
    Unsigned {
        account: &account.account,
        name: &account.name,
    }
}

/// Calls `each` for every stored account whose issuer is no key of a trusted operator.
async fn each_unsigned(
    client: &AdminClient,
    trusted: &TrustedKeys,
    mut each: impl FnMut(&Account) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let mut pages = Pages::new(client, true);
    while let Some(page) = pages.next().await? {
        for account in page.iter().filter(|account| !is_signed(account, trusted)) {
            each(account)?;
        }
    }
    Ok(())
}

fn is_signed(account: &Account, trusted: &TrustedKeys) -> bool {
    let token = account.token.as_deref().unwrap_or_default();
    let claims = Token::parse(token.as_bytes())
        .ok()
        .and_then(|token| token.unverified_claims());
    // The node verified the signature when it stored the token.
    let issuer = claims
        .as_ref()
        .and_then(|claims| claims.get("iss")?.as_str()?.parse().ok());
    issuer.is_some_and(|issuer| trusted.may_issue(issuer))
}
