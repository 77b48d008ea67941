//! `account delete`: deletes accounts by a request that their operator has signed, or that is signed here.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;

use super::consent::Consent;
use super::named::Named;
use crate::api::Deleted;
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{read_beside, text_of};
use crate::cli::key::operator_key;
use crate::cli::output::{json, plain};
use crate::cli::target::Target;
use crate::client::ClientError;
use crate::clock::Clock;
use crate::jwt::Token;
use crate::sign::Claims;

/// Deletes accounts, all of them or none, by a request that a key of their operator has signed.
///
/// A deleted account comes back only with a JWT that was issued later than the request. Its closing JWT, if one is kept, is
/// sent to the nats-servers; without one, servers with a URL resolver that have loaded the account go on with it until they are
/// restarted.
#[derive(Debug, Args)]
pub(in crate::cli) struct Delete {
    /// The accounts' public keys, or their names
    #[arg(value_name = "ACCOUNT", required = true)]
    accounts: Vec<Named>,
    /// The signed request, which names these accounts and no others; "-" is standard input
    #[arg(long, value_name = "FILE", required_unless_present = "key", conflicts_with = "key")]
    claim: Option<PathBuf>,
    /// The seed of the operator's identity key or of one of its signing keys: the request is signed with it here, and the
    /// node never sees it
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    target: Target,
}

impl Delete {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        if self.claim.as_deref() == Some(Path::new("-")) && self.consent.is_asked() {
            let why = "the request is read from standard input, where no question can be answered then: add --yes, or --dry-run";
            return Err(Failure::new(Exit::Usage, why));
        }
        let (mut accounts, mut newest) = (BTreeSet::new(), 0);
        for named in &self.accounts {
            let key = named.key(&client).await?;
            accounts.insert(key.to_string());
            match client.account_or_tombstone(key).await {
                Ok(account) => newest = newest.max(account.opens_after.unwrap_or(account.issued_at)),
                // It is no error to delete what is not there.
                Err(ClientError::Problem(problem)) if problem.status == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The clock of this machine may be behind the one that signed the accounts.
        let request = self.request(&accounts, Clock::system().now().max(newest))?;
        let planned = client.delete(request.clone(), true).await?;
        let mut said = Vec::new();
        if self.consent.shows_text() {
            print(&mut said, &planned)?;
        }
        if !self.consent.given(out, &planned, &said, &phrase(accounts.len()))? {
            return Ok(Exit::Done);
        }
        let deleted = client.delete(request, false).await?;
        if self.consent.json {
            json(out, &deleted)?;
        } else {
            print(out, &deleted)?;
        }
        Ok(Exit::Done)
    }

    /// The request: the one given, or one that is signed with the key given.
    fn request(&self, accounts: &BTreeSet<String>, now: i64) -> Result<Bytes, Failure> {
        if let Some(key) = &self.key {
            let key = operator_key(key)?;
            let accounts: Vec<String> = accounts.iter().cloned().collect();
            let signed = Claims::delete(&key, &accounts).sign(&key, now);
            let signed = signed.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            return Ok(signed.into());
        }
        let file = self
            .claim
            .as_ref()
            .ok_or_else(|| Failure::new(Exit::Usage, "give --claim or --key"))?;
        let refused = |detail: String| Failure::new(Exit::Refused, format!("{}: {detail}", file.display()));
        let token =
            Token::from_file_text(&text_of(&read_beside(file)?)).map_err(|rejection| refused(rejection.to_string()))?;
        let claims = token.unverified_claims().unwrap_or_default();
        let named = claims["nats"]["accounts"].as_array().into_iter().flatten();
        let named: BTreeSet<String> = named.filter_map(|key| key.as_str().map(str::to_owned)).collect();
        if named != *accounts {
            let others: Vec<&str> = named
                .symmetric_difference(accounts)
                .take(3)
                .map(String::as_str)
                .collect();
            return Err(refused(format!(
                "the request does not name the same accounts as the command line: the difference begins with {}",
                plain(&others.join(", "))
            )));
        }
        Ok(token.bytes().clone())
    }
}

/// What has to be typed.
fn phrase(count: usize) -> String {
    format!("delete {count} account{}", if count == 1 { "" } else { "s" })
}

fn print(out: &mut impl Write, deleted: &Deleted) -> std::io::Result<()> {
    let is_done = deleted.revision.is_some();
    writeln!(out, "operator  {}", deleted.operator)?;
    for account in &deleted.accounts {
        let what = match (account.outcome.as_str(), is_done, account.closing) {
            ("deleted", false, true) => "will be deleted, and its closing JWT sent to the NATS clusters",
            ("deleted", false, false) => "will be deleted; it has no valid closing JWT",
            ("deleted", true, true) => "deleted; its closing JWT is sent to the NATS clusters",
            ("deleted", true, false) => "deleted",
            _ => "is not there",
        };
        writeln!(out, "{}  {}  {what}", account.account, plain(&account.name))?;
    }
    for warning in &deleted.warnings {
        writeln!(out, "warning   {}", plain(warning))?;
    }
    match deleted.revision {
        Some(revision) => writeln!(out, "done at revision {revision}"),
        None => Ok(()),
    }
}
