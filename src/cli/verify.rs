//! `verify`: reads every stored token from a node and verifies it again, in this process.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::account::Pages;
use super::exit::{Exit, Failure};
use super::input::{trusted, trusted_files};
use super::output::{JsonArray, Progress, plain};
use super::target::Target;
use crate::api::Account;
use crate::clock::Clock;
use crate::jwt::{AccountClaims, Token, TrustedKeys, Verified};

/// Reads every stored token from the node, a page at a time, and verifies it without relying on the node.
///
/// Exit code 1 if one fails. Expired tokens are reported but not counted as failed: they were valid when they were
/// stored.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    target: Target,
    /// Trust these operator JWTs instead of those that the node lists
    #[arg(long, value_name = "FILE")]
    operator: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An account whose token does not verify or has expired.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// `failed` or `expired`.
    kind: &'static str,
    account: String,
    name: String,
    code: String,
    detail: String,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    accounts: u64,
    good: u64,
    expired: u64,
    failed: u64,
    operators: usize,
}

impl Verify {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let trusted = if self.operator.is_empty() {
            trusted(&client.operators().await?)?
        } else {
            trusted_files(&self.operator)?
        };
        let now = Clock::system().now();
        let mut counts = Counts {
            operators: trusted.operators().len(),
            ..Counts::default()
        };
        let mut findings = JsonArray::default();
        let mut progress = Progress::of("verified");
        let mut pages = Pages::new(&client, true);
        if self.json {
            write!(out, "{{\"findings\":")?;
        }
        while let Some(page) = pages.next().await? {
            for account in &page {
                let finding = verify_account(account, &trusted, now);
                counts.count(finding.as_ref());
                match finding {
                    Some(finding) if self.json => findings.item(out, &finding)?,
                    Some(finding) => finding.print(out)?,
                    None => {}
                }
            }
            progress.at(counts.accounts);
        }
        progress.end();
        if self.json {
            findings.close(out)?;
            write!(out, ",\n \"counts\":")?;
            serde_json::to_writer(&mut *out, &counts).map_err(std::io::Error::from)?;
            writeln!(out, "}}")?;
        } else {
            counts.print(out)?;
        }
        Ok(if counts.failed == 0 { Exit::Done } else { Exit::Failed })
    }
}

impl Counts {
    fn count(&mut self, finding: Option<&Finding>) {
        self.accounts += 1;
        match finding {
            None => self.good += 1,
            Some(Finding { kind: "expired", .. }) => self.expired += 1,
            Some(_) => self.failed += 1,
        }
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self {
            accounts,
            good,
            expired,
            failed,
            operators,
        } = self;
        writeln!(
            out,
            "accounts verified: {accounts}, with operators: {operators}; {good} good, {expired} expired, {failed} failed"
        )
    }
}

impl Finding {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self {
            kind,
            account,
            name,
            code,
            detail,
        } = self;
        writeln!(out, "{kind:<7}  {account}  {}: {code}: {}", plain(name), plain(detail))
    }
}

fn verify_account(account: &Account, trusted: &TrustedKeys, now: i64) -> Option<Finding> {
    let finding = |kind, code: &str, detail: String| {
        Some(Finding {
            kind,
            account: account.account.clone(),
            name: account.name.clone(),
            code: code.to_owned(),
            detail,
        })
    };
    if let Some(damage) = &account.damage {
        return finding("failed", "damaged", damage.clone());
    }
    let Some(token) = &account.token else {
        return finding(
            "failed",
            "token-missing",
            "the node lists the account without its token".to_owned(),
        );
    };
    let verified =
        Token::parse(token.as_bytes()).and_then(|token| Verified::<AccountClaims>::verify(token, trusted, now));
    match verified {
        Ok(verified) if verified.claims().account.to_string() == account.account => None,
        Ok(verified) => finding(
            "failed",
            "wrong-account",
            format!(
                "the token stored for this account belongs to {}",
                verified.claims().account
            ),
        ),
        Err(rejection) if rejection.code() == "expired" => finding("expired", rejection.code(), rejection.to_string()),
        Err(rejection) => finding("failed", rejection.code(), rejection.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::AccountKey;

    fn account(token: Option<&str>) -> Account {
        Account {
            account: AccountKey::from_bytes([7; 32]).to_string(),
            name: "APP".to_owned(),
            operator: "O".to_owned(),
            issued_at: 0,
            expires_at: 0,
            revision: 1,
            etag: String::new(),
            token: token.map(str::to_owned),
            state: None,
            damage: None,
        }
    }

    #[test]
    fn g3_a_token_that_does_not_verify_here_fails_whatever_the_node_says() {
        let mut counts = Counts::default();
        for (token, code) in [
            (None, "token-missing"),
            (Some("e30.e30"), "chunks"),
            (Some(""), "empty"),
        ] {
            let finding = verify_account(&account(token), &TrustedKeys::default(), 0).expect("it is not good");
            assert_eq!((finding.kind, finding.code.as_str()), ("failed", code));
            counts.count(Some(&finding));
        }
        let damaged = Account {
            damage: Some("the stored row is damaged".to_owned()),
            ..account(None)
        };
        let finding = verify_account(&damaged, &TrustedKeys::default(), 0).expect("it is not good");
        assert_eq!(
            (finding.code.as_str(), finding.detail.as_str()),
            ("damaged", "the stored row is damaged")
        );
        counts.count(Some(&finding));
        counts.count(None);
        assert_eq!((counts.accounts, counts.good, counts.failed), (5, 1, 4));
    }
}
