//! `account`: list, show, push, pull.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{JsonArray, expiry, json, plain, time};
use super::target::Target;
use super::{Exit, Failure, inspect, operator};
use crate::api::{Account, Operators};
use crate::client::{AdminClient, ClientError, PAGE};
use crate::clock::Clock;
use crate::jwt::{AccountKey, MAX_TOKEN_BYTES};

mod pull;
mod push;

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// List the accounts in the order of their keys
    List(List),
    /// Show one account and explain its claims
    Show(Show),
    /// Submit tokens; each gets its verdict. An older token never replaces a newer one
    Push(push::Push),
    /// Write accounts' tokens to stdout or to files
    Pull(pull::Pull),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    target: Target,
    /// Print a JSON array, one account a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The account's public key
    #[arg(value_name = "ACCOUNT")]
    account: AccountKey,
    #[command(flatten)]
    target: Target,
    /// Print JSON, with the token
    #[arg(long)]
    json: bool,
}

impl AccountCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.run(out).await,
            Self::Show(show) => show.run(out).await,
            Self::Push(push) => push.run(out).await,
            Self::Pull(pull) => pull.run(out).await,
        }
    }
}

/// Reads every account, a page at a time.
pub(super) struct Pages<'c> {
    client: &'c AdminClient,
    with_tokens: bool,
    after: Option<String>,
    ended: bool,
}

impl<'c> Pages<'c> {
    /// From the first account on.
    pub(super) fn new(client: &'c AdminClient, with_tokens: bool) -> Self {
        Self {
            client,
            with_tokens,
            after: None,
            ended: false,
        }
    }

    /// The next page; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Account>>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let page = self
            .client
            .accounts(self.after.as_deref(), PAGE, self.with_tokens)
            .await?;
        // A node that names the same place again would keep us here for ever.
        self.ended = page.next.is_none() || page.next == self.after;
        self.after = page.next;
        Ok(Some(page.items))
    }
}

impl List {
    async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let mut pages = Pages::new(&client, false);
        if self.json {
            let mut array = JsonArray::default();
            while let Some(page) = pages.next().await? {
                for account in &page {
                    array.item(out, account)?;
                }
            }
            array.end(out)?;
            return Ok(Exit::Done);
        }
        let operators = client.operators().await?;
        let mut table = None;
        while let Some(page) = pages.next().await? {
            if table.is_none() {
                let fitted = Table::fitted(&page, &operators);
                fitted.head(out)?;
                table = Some(fitted);
            }
            if let Some(table) = &table {
                for account in &page {
                    table.row(out, account, &operators)?;
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// Widths that fit the first page; a longer name further down moves its own line only.
struct Table {
    name: usize,
    operator: usize,
}

impl Table {
    fn fitted(page: &[Account], operators: &Operators) -> Self {
        let longest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0).clamp(8, 56);
        Self {
            name: longest(&mut page.iter().map(|account| account.name.chars().count())),
            operator: longest(
                &mut page
                    .iter()
                    .map(|account| operator_name(account, operators).chars().count()),
            ),
        }
    }

    fn head(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "{:<name$}  {:<56}  {:<operator$}  {:<20}  {:<20}  REVISION",
            "NAME",
            "ACCOUNT",
            "OPERATOR",
            "ISSUED",
            "EXPIRES",
            name = self.name,
            operator = self.operator
        )
    }

    fn row(&self, out: &mut impl Write, account: &Account, operators: &Operators) -> std::io::Result<()> {
        writeln!(
            out,
            "{:<name$}  {:<56}  {:<operator$}  {:<20}  {:<20}  {}",
            plain(&account.name),
            account.account,
            operator_name(account, operators),
            time(account.issued_at),
            expiry(account.expires_at),
            account.revision,
            name = self.name,
            operator = self.operator
        )
    }
}

/// A person knows operators by name; one that the mesh no longer trusts has only its key.
fn operator_name(account: &Account, operators: &Operators) -> String {
    operators
        .items
        .iter()
        .find(|operator| operator.operator == account.operator)
        .map_or_else(|| account.operator.clone(), |operator| plain(&operator.name))
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    account: &'a Account,
    explanation: &'a crate::jwt::Explanation,
}

impl Show {
    async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let account = client.account(self.account).await?;
        let trusted = operator::trusted(&client.operators().await?)?;
        let token = account.token.as_deref().unwrap_or_default();
        let explanation = crate::jwt::explain(token.as_bytes(), Some(&trusted), Clock::system().now());
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
            inspect::print(out, &explanation)?;
        }
        Ok(Exit::Done)
    }
}

/// What became of everything that was asked for: one bad item does not keep the others from theirs.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<&'static str, u64>,
    exit: Exit,
    /// Why the node no longer answers, once it does not.
    gone: Option<Failure>,
}

impl Tally {
    /// Counts one item with its outcome. Of several exit codes the highest is the command's.
    fn add(&mut self, outcome: &'static str, exit: Exit) {
        *self.counts.entry(outcome).or_default() += 1;
        self.exit = self.exit.max(exit);
    }

    /// From here on no item is asked for: a node that is gone would say the same of each, a silent one half a minute
    /// later each time.
    fn give_up(&mut self, failure: Failure) {
        self.exit = self.exit.max(failure.exit);
        self.gone = Some(failure);
    }

    /// How many had which outcome.
    fn line(&self) -> String {
        let counted: Vec<_> = self
            .counts
            .iter()
            .map(|(outcome, count)| format!("{count} {outcome}"))
            .collect();
        counted.join(", ")
    }

    fn end(self) -> Result<Exit, Failure> {
        match self.gone {
            Some(failure) => Err(Failure::new(self.exit, failure.said)),
            None => Ok(self.exit),
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::NotFound {
        Exit::NotFound
    } else {
        Exit::Failed
    };
    Failure::new(exit, format!("cannot read {}: {error}", path.display()))
}

/// Reads a file, or stdin for `-`, up to a little more than the largest token in its decoration.
pub(super) fn read(from: &Path) -> Result<Vec<u8>, Failure> {
    // The decoration of a creds file is below 1 KiB; what is longer is refused by size anyway.
    let limit = MAX_TOKEN_BYTES as u64 + 4096;
    let mut bytes = Vec::new();
    let read = if from == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(from).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| unreadable(from, &error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_exit_codes_the_highest_counts() {
        let mut tally = Tally::default();
        assert_eq!(tally.exit, Exit::Done);
        for (outcome, exit, so_far) in [
            ("stored", Exit::Done, Exit::Done),
            ("failed", Exit::Failed, Exit::Failed),
            ("refused", Exit::Refused, Exit::Refused),
            ("failed", Exit::NotFound, Exit::Refused),
        ] {
            tally.add(outcome, exit);
            assert_eq!(tally.exit, so_far, "after {outcome}");
        }
        assert_eq!(tally.line(), "2 failed, 1 refused, 1 stored");
        tally.give_up(Failure::new(Exit::Unreachable, "nobody there"));
        let failure = tally.end().expect_err("the node is gone");
        assert_eq!(
            (failure.exit, failure.said.as_str()),
            (Exit::Unreachable, "nobody there")
        );
    }

    #[test]
    fn the_table_keeps_its_columns_below_their_heads() {
        let account = |name: &str| Account {
            account: AccountKey::from_bytes([7; 32]).to_string(),
            name: name.to_owned(),
            operator: "O".to_owned(),
            issued_at: 1_700_000_000,
            expires_at: 0,
            revision: 17,
            token: None,
        };
        let operators = Operators {
            trust_epoch: 0,
            items: Vec::new(),
        };
        let page = [account("payments-europe"), account("a")];
        let table = Table::fitted(&page, &operators);
        let mut text = Vec::new();
        table.head(&mut text).unwrap();
        for account in &page {
            table.row(&mut text, account, &operators).unwrap();
        }
        let text = String::from_utf8(text).unwrap();
        let at = |line: &str, word: &str| line.find(word).unwrap_or_else(|| panic!("{word} in {line}"));
        let lines: Vec<_> = text.lines().collect();
        for line in &lines[1..] {
            assert_eq!(at(lines[0], "EXPIRES"), at(line, "never"));
            assert!(line[at(lines[0], "REVISION")..].starts_with("17"), "{line}");
            assert_eq!(at(lines[0], "ACCOUNT"), at(line, &page[0].account));
        }
    }
}
