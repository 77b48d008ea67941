//! `verify`: reads every stored token from a node, closing JWTs too, and verifies it again, in this process.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::account::Pages;
use super::exit::{Exit, Failure};
use super::input::{trusted, trusted_files};
use super::output::{JsonArray, Progress, plain};
use super::target::Target;
use crate::api::{Account, Closing};
use crate::clock::Clock;
use crate::jwt::{AccountClaims, Token, TrustedKeys, Verified};

/// Reads every stored token from the node, a page at a time, and verifies it without relying on the node: the JWT of each account,
/// and the closing JWT that is kept for it.
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

/// An account whose token, or whose closing JWT, does not verify or has expired.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// `failed` or `expired`.
    kind: &'static str,
    /// Whether it is the closing JWT.
    closing: bool,
    account: String,
    name: String,
    code: String,
    detail: String,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    accounts: u64,
    closings: u64,
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
                counts.accounts += 1;
                counts.count(finding.as_ref());
                self.report(out, &mut findings, finding)?;
            }
            progress.at(counts.accounts);
        }
        let mut after = None;
        loop {
            let page = client.closings(after.as_deref()).await?;
            for closing in &page.items {
                let finding = verify_closing(closing, &trusted, now);
                counts.closings += 1;
                counts.count(finding.as_ref());
                self.report(out, &mut findings, finding)?;
            }
            progress.at(counts.accounts + counts.closings);
            // A node that returned the same `next` again would keep the caller in an endless loop.
            if page.next.is_none() || page.next == after {
                break;
            }
            after = page.next;
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

    fn report(&self, out: &mut impl Write, findings: &mut JsonArray, finding: Option<Finding>) -> std::io::Result<()> {
        match finding {
            Some(finding) if self.json => findings.item(out, &finding),
            Some(finding) => finding.print(out),
            None => Ok(()),
        }
    }
}

impl Counts {
    fn count(&mut self, finding: Option<&Finding>) {
        match finding {
            None => self.good += 1,
            Some(Finding { kind: "expired", .. }) => self.expired += 1,
            Some(_) => self.failed += 1,
        }
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self {
            accounts,
            closings,
            good,
            expired,
            failed,
            operators,
        } = self;
        writeln!(
            out,
            "accounts verified: {accounts}, closing JWTs: {closings}, with operators: {operators}; {good} good, {expired} expired, {failed} failed"
        )
    }
}

impl Finding {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self {
            kind,
            closing,
            account,
            name,
            code,
            detail,
        } = self;
        let which = if *closing { "closing JWT: " } else { "" };
        writeln!(
            out,
            "{kind:<7}  {account}  {}: {which}{code}: {}",
            plain(name),
            plain(detail)
        )
    }
}

fn verify_account(account: &Account, trusted: &TrustedKeys, now: i64) -> Option<Finding> {
    let Account {
        account,
        name,
        token,
        damage,
        ..
    } = account;
    let missing = ("token-missing", "the node lists the account without its token");
    let judged = match (damage, token) {
        (Some(damage), _) => Err(("failed", "damaged".to_owned(), damage.clone())),
        (None, Some(token)) => judge(account, token, trusted, now).map(drop),
        (None, None) => Err(("failed", missing.0.to_owned(), missing.1.to_owned())),
    };
    finding(false, account, name, judged.err()?)
}

/// A closing JWT must be valid, and shut its account.
fn verify_closing(closing: &Closing, trusted: &TrustedKeys, now: i64) -> Option<Finding> {
    let Closing { account, name, .. } = closing;
    let judged = match &closing.damage {
        Some(damage) => Err(("failed", "damaged".to_owned(), damage.clone())),
        None => {
            judge(account, &closing.token, trusted, now).and_then(|claims| match claims.why_not_closing(now, true) {
                Some(reason) => Err(("failed", "not-closing".to_owned(), reason)),
                None => Ok(()),
            })
        }
    };
    finding(true, account, name, judged.err()?)
}

/// The kind, the code and the detail of a finding.
type Defect = (&'static str, String, String);

fn finding(closing: bool, account: &str, name: &str, (kind, code, detail): Defect) -> Option<Finding> {
    Some(Finding {
        kind,
        closing,
        account: account.to_owned(),
        name: name.to_owned(),
        code,
        detail,
    })
}

/// The claims of `token`, if it is a valid one of `account`.
fn judge(account: &str, token: &str, trusted: &TrustedKeys, now: i64) -> Result<AccountClaims, Defect> {
    let verified =
        Token::parse(token.as_bytes()).and_then(|token| Verified::<AccountClaims>::verify(token, trusted, now));
    let verified = verified.map_err(|rejection| {
        let is_expired = rejection.code() == "expired";
        let kind = if is_expired { "expired" } else { "failed" };
        (kind, rejection.code().to_owned(), rejection.to_string())
    })?;
    let claims = verified.claims();
    if claims.account.to_string() != account {
        let detail = format!("the token stored for this account belongs to {}", claims.account);
        return Err(("failed", "wrong-account".to_owned(), detail));
    }
    Ok(claims.clone())
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
            opens_after: None,
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
        assert_eq!((counts.good, counts.failed), (1, 4));
    }
}
