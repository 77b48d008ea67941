//! `account list`: every account, in the order of the keys.

use std::io::Write;

use clap::Args;

use super::pages::Pages;
use crate::api::{Account, Operators};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{JsonArray, expiry, plain, time};
use crate::cli::target::Target;

/// Lists every account, in the order of the keys' bytes.
///
/// Exit code 1 if the node cannot read one of them.
#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    target: Target,
    /// Print a JSON array, one account a line
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let mut pages = Pages::new(&client, false);
        let mut exit = Exit::Done;
        if self.json {
            let mut array = JsonArray::default();
            while let Some(page) = pages.next().await? {
                for account in &page {
                    exit = exit.or_worse(ending(account));
                    array.item(out, account)?;
                }
            }
            array.end(out)?;
            return Ok(exit);
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
                    exit = exit.or_worse(ending(account));
                    table.row(out, account, &operators)?;
                }
            }
        }
        Ok(exit)
    }
}

/// One account that the node cannot read makes the listing incomplete.
fn ending(account: &Account) -> Exit {
    match account.damage {
        None => Exit::Done,
        Some(_) => Exit::Failed,
    }
}

/// Column widths that fit the first page. A longer name on a later page shifts only its own line.
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
            "{:<name$}  {:<56}  {:<operator$}  {:<20}  {:<20}  {:<8}  STATE",
            "NAME",
            "ACCOUNT",
            "OPERATOR",
            "ISSUED",
            "EXPIRES",
            "REVISION",
            name = self.name,
            operator = self.operator
        )
    }

    fn row(&self, out: &mut impl Write, account: &Account, operators: &Operators) -> std::io::Result<()> {
        if let Some(damage) = &account.damage {
            return writeln!(
                out,
                "{:<name$}  {:<56}  {}",
                "(damaged)",
                account.account,
                plain(damage),
                name = self.name
            );
        }
        // In the words of `account show`.
        let state = match account.state.as_deref() {
            Some("closing") => "shut",
            _ => "",
        };
        let line = format!(
            "{:<name$}  {:<56}  {:<operator$}  {:<20}  {:<20}  {:<8}  {state}",
            plain(&account.name),
            account.account,
            operator_name(account, operators),
            time(account.issued_at),
            expiry(account.expires_at),
            account.revision,
            name = self.name,
            operator = self.operator
        );
        writeln!(out, "{}", line.trim_end())
    }
}

/// The operator's name, or its key if the mesh no longer trusts it.
fn operator_name(account: &Account, operators: &Operators) -> String {
    operators
        .items
        .iter()
        .find(|operator| operator.operator == account.operator)
        .map_or_else(|| account.operator.clone(), |operator| plain(&operator.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::AccountKey;

    #[test]
    fn the_table_keeps_its_columns_below_their_heads() {
        let account = |name: &str| Account {
            account: AccountKey::from_bytes([7; 32]).to_string(),
            name: name.to_owned(),
            operator: "O".to_owned(),
            issued_at: 1_700_000_000,
            expires_at: 0,
            revision: 17,
            etag: String::new(),
            token: None,
            opens_after: None,
            state: None,
            damage: None,
        };
        let operators = Operators {
            candidates: Vec::new(),
            trust_epoch: 0,
            items: Vec::new(),
        };
        let shut = Account {
            state: Some("closing".to_owned()),
            ..account("shut-one")
        };
        let page = [account("payments-europe"), account("a"), shut];
        let damaged = Account {
            damage: Some("why".to_owned()),
            ..account("")
        };
        assert_eq!((ending(&page[0]), ending(&damaged)), (Exit::Done, Exit::Failed));
        let table = Table::fitted(&page, &operators);
        let mut line = Vec::new();
        table.row(&mut line, &damaged, &operators).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains(&damaged.account) && line.ends_with("why\n"), "{line}");
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
            assert_eq!(line.ends_with("shut"), line.starts_with("shut-one"), "{line}");
        }
        assert_eq!(at(lines[0], "STATE"), at(lines[3], "  shut") + 2);
    }
}
