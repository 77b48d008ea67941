//! `account pull`: writes accounts' tokens to stdout or to files, and reports the outcome of each.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::named::{NameError, Named};
use super::pages::Pages;
use super::tally::Tally;
use crate::api::Account;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{JsonArray, Progress, plain, to_stderr};
use crate::cli::target::Target;
use crate::client::{AdminClient, ClientError};
use crate::jwt::AccountKey;

#[derive(Debug, Args)]
#[group(id = "which", required = true, args = ["accounts", "all"])]
pub(in crate::cli) struct Pull {
    /// The accounts' public keys or names
    #[arg(value_name = "ACCOUNT")]
    accounts: Vec<Named>,
    /// Every account
    #[arg(short = 'A', long, conflicts_with = "accounts")]
    all: bool,
    /// Write each token to DIR/ACCOUNT.jwt instead of stdout
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Print a JSON array instead of the tokens
    #[arg(long)]
    json: bool,
}

/// An account that was pulled to stdout.
#[derive(Serialize)]
struct Printed<'a> {
    outcome: &'static str,
    #[serde(flatten)]
    account: &'a Account,
}

/// An account that was pulled to a file.
#[derive(Serialize)]
struct Written<'a> {
    outcome: &'static str,
    account: &'a str,
    file: String,
}

/// An account that was not pulled.
#[derive(Debug, Serialize)]
struct NotPulled {
    outcome: &'static str,
    account: String,
    code: String,
    detail: String,
    #[serde(skip)]
    exit: Exit,
}

const PULLED: &str = "pulled";

impl NotPulled {
    fn new(account: impl ToString, exit: Exit, code: &str, detail: impl Into<String>) -> Self {
        Self {
            outcome: "failed",
            account: account.to_string(),
            code: code.to_owned(),
            detail: plain(&detail.into()),
            exit,
        }
    }
}

impl Pull {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        if let Some(dir) = &self.dir {
            std::fs::create_dir_all(dir).map_err(|error| Failure::new(Exit::Failed, unwritable(dir, &error)))?;
        }
        let mut array = JsonArray::default();
        let mut tally = Tally::default();
        if self.all {
            self.pull_all(&client, out, &mut array, &mut tally).await?;
        } else {
            for named in &self.accounts {
                match ask(&client, named, &mut tally).await {
                    Ok(account) => self.emit(out, &account, &mut array, &mut tally)?,
                    Err(not_pulled) => self.report(out, &not_pulled, &mut array, &mut tally)?,
                }
            }
        }
        if self.json {
            array.end(out)?;
        } else if self.all || self.accounts.len() > 1 {
            // To stderr: stdout has only the tokens or the names of files.
            out.flush()?;
            to_stderr(&tally.line());
        }
        tally.end()
    }

    async fn pull_all(
        &self,
        client: &AdminClient,
        out: &mut impl Write,
        array: &mut JsonArray,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let mut pages = Pages::new(client, true);
        let mut progress = Progress::of(PULLED);
        let mut count = 0;
        loop {
            let page = match pages.next().await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(error) => {
                    tally.give_up(error.into());
                    break;
                }
            };
            for account in &page {
                self.emit(out, account, array, tally)?;
            }
            count += page.len() as u64;
            progress.at(count);
        }
        progress.end();
        Ok(())
    }

    /// Prints the account, or writes its file.
    fn emit(
        &self,
        out: &mut impl Write,
        account: &Account,
        array: &mut JsonArray,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        if let Some(damage) = &account.damage {
            let not_pulled = NotPulled::new(plain(&account.account), Exit::Failed, "damaged", damage.clone());
            return self.report(out, &not_pulled, array, tally);
        }
        let token = account.token.as_deref().unwrap_or_default();
        let outcome = PULLED;
        match &self.dir {
            None if self.json => array.item(out, &Printed { outcome, account })?,
            None => writeln!(out, "{token}")?,
            Some(dir) => match write_token(dir, &account.account, token) {
                Ok(file) if self.json => {
                    let (account, file) = (account.account.as_str(), plain(&file.display().to_string()));
                    array.item(out, &Written { outcome, account, file })?;
                }
                Ok(file) => writeln!(out, "{}", plain(&file.display().to_string()))?,
                Err(not_pulled) => return self.report(out, &not_pulled, array, tally),
            },
        }
        tally.add(outcome, Exit::Done);
        Ok(())
    }

    /// Reports an account that was not pulled; as text to stderr, because stdout has only tokens or names of files.
    fn report(
        &self,
        out: &mut impl Write,
        not_pulled: &NotPulled,
        array: &mut JsonArray,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        tally.add(not_pulled.outcome, not_pulled.exit);
        if self.json {
            array.item(out, not_pulled)?;
        } else {
            let NotPulled {
                outcome,
                account,
                code,
                detail,
                ..
            } = not_pulled;
            to_stderr(&format!("{outcome:<9}  {account:<56}  {code}: {detail}"));
        }
        Ok(())
    }
}

async fn ask(client: &AdminClient, named: &Named, tally: &mut Tally) -> Result<Account, NotPulled> {
    if let Some(gone) = &tally.gone {
        let detail = "not requested, because the node no longer answers";
        return Err(NotPulled::new(named, gone.exit, "not-asked", detail));
    }
    let account = match named.key(client).await {
        Ok(key) => client.account(key).await,
        Err(NameError::NoAnswer(error)) => Err(error),
        Err(NameError::Unusable(failure)) => {
            let code = if failure.exit == Exit::NotFound {
                "not-found"
            } else {
                "ambiguous"
            };
            return Err(NotPulled::new(named, failure.exit, code, failure.message));
        }
    };
    account.map_err(|error| {
        let failure = match error {
            ClientError::Problem(problem) => {
                let exit = Failure::from(ClientError::Problem(problem.clone())).exit;
                return NotPulled::new(named, exit, &problem.code, problem.detail);
            }
            error => Failure::from(error),
        };
        let not_pulled = NotPulled::new(named, failure.exit, "no-answer", failure.message.clone());
        tally.give_up(failure);
        not_pulled
    })
}

fn write_token(dir: &Path, account: &str, token: &str) -> Result<PathBuf, NotPulled> {
    let failed = |code: &str, detail: String| NotPulled::new(plain(account), Exit::Failed, code, detail);
    // Only a valid key becomes the name of a file, whatever the node returned.
    let key: AccountKey = account
        .parse()
        .map_err(|error| failed("damaged", format!("the node's listing is damaged: {error}")))?;
    let file = dir.join(format!("{key}.jwt"));
    match write_whole(&file, token.as_bytes()) {
        Ok(()) => Ok(file),
        Err(error) => Err(failed("unwritable", unwritable(&file, &error))),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// Replaces the file in one step, so that an interruption leaves the old file or the complete new one.
/// nats-account-server left empty files behind when it was interrupted while writing.
fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let beside = file.with_file_name(name);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&beside)
        .and_then(|mut open| {
            open.write_all(bytes)?;
            open.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, file));
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("A.jwt");
        for text in ["long text", "short"] {
            write_whole(&file, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = folder.path().join("none/A.jwt");
        assert!(write_whole(&nowhere, b"x").is_err());
    }
}
