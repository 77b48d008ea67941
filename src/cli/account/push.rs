//! `account push`: submits tokens, and reports the outcome of each.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::tally::Tally;
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{read, unreadable};
use crate::cli::output::{JsonArray, Progress, plain};
use crate::cli::target::Target;
use crate::client::{AdminClient, ClientError};
use crate::jwt::{AccountKey, Token, without_seeds};

#[derive(Debug, Args)]
pub(in crate::cli) struct Push {
    /// Files with account JWTs, folders with *.jwt files, or - for stdin
    #[arg(value_name = "FILE", required = true)]
    from: Vec<PathBuf>,
    /// Store the tokens even where a newer one is stored, such as one that a wrong clock has dated. The node logs it
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    target: Target,
    /// Print a JSON array of verdicts
    #[arg(long)]
    json: bool,
}

/// The outcome of one submitted file.
#[derive(Debug, Serialize)]
struct Verdict {
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    /// `stored`, `unchanged`, `refused` or `failed`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

impl Verdict {
    fn not_stored(from: &Path, exit: Exit, code: &str, detail: String) -> Self {
        Self {
            from: shown(from),
            account: None,
            outcome: if exit == Exit::Refused { "refused" } else { "failed" },
            revision: None,
            code: Some(code.to_owned()),
            detail: Some(without_seeds(&detail).into_owned()),
            exit,
        }
    }

    fn unreadable(from: &Path, failure: Failure) -> Self {
        let code = if failure.exit == Exit::NotFound {
            "not-found"
        } else {
            "unreadable"
        };
        Self::not_stored(from, failure.exit, code, failure.message)
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let account = self.account.as_deref().unwrap_or("-");
        write!(out, "{:<9}  {account:<56}  ", self.outcome)?;
        match (&self.code, &self.detail, self.revision) {
            (Some(code), Some(detail), _) => writeln!(out, "{}: {code}: {}", self.from, plain(detail)),
            (.., Some(revision)) => writeln!(out, "{}: revision {revision}", self.from),
            _ => writeln!(out, "{}", self.from),
        }
    }
}

impl Push {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let mut array = JsonArray::default();
        let mut progress = Progress::of("pushed");
        let mut tally = Tally::default();
        for (done, from) in (1u64..).zip(expand(&self.from)) {
            let verdict = match from {
                Ok(from) => one(&client, &from, self.replace, &mut tally).await,
                Err(verdict) => verdict,
            };
            tally.add(verdict.outcome, verdict.exit);
            if self.json {
                array.item(out, &verdict)?;
                progress.at(done);
            } else {
                verdict.print(out)?;
            }
        }
        progress.end();
        if self.json {
            array.end(out)?;
        } else {
            writeln!(out, "{}", tally.line())?;
        }
        tally.end()
    }
}

/// A file's name for the verdict.
fn shown(from: &Path) -> String {
    without_seeds(&from.display().to_string()).into_owned()
}

/// Replaces each folder with its *.jwt files, sorted by name. A folder without one, or an unreadable one, is a verdict.
fn expand(from: &[PathBuf]) -> Vec<Result<PathBuf, Verdict>> {
    let mut files = Vec::new();
    for path in from {
        if !path.is_dir() {
            files.push(Ok(path.clone()));
            continue;
        }
        match tokens_in(path) {
            Ok(inside) if inside.is_empty() => {
                let detail = format!("there is no *.jwt file in {}", path.display());
                files.push(Err(Verdict::not_stored(path, Exit::NotFound, "not-found", detail)));
            }
            Ok(inside) => files.extend(inside.into_iter().map(Ok)),
            Err(error) => files.push(Err(Verdict::unreadable(path, unreadable(path, &error)))),
        }
    }
    files
}

fn tokens_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?;
    let mut inside: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    inside.retain(|file| file.extension().is_some_and(|extension| extension == "jwt"));
    inside.sort();
    Ok(inside)
}

async fn one(client: &AdminClient, from: &Path, replace: bool, tally: &mut Tally) -> Verdict {
    if let Some(gone) = &tally.gone {
        let detail = "not sent, because the node no longer answers".to_owned();
        return Verdict::not_stored(from, gone.exit, "not-sent", detail);
    }
    match submit(client, from, replace).await {
        Ok(verdict) => verdict,
        Err(error) => {
            let failure = Failure::from(error);
            let verdict = Verdict::not_stored(from, failure.exit, "no-answer", failure.message.clone());
            tally.give_up(failure);
            verdict
        }
    }
}

/// Submits one file. A defect of the file is a verdict; an error means that the node gave no answer.
async fn submit(client: &AdminClient, from: &Path, replace: bool) -> Result<Verdict, ClientError> {
    let text = match read(from) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(failure) => return Ok(Verdict::unreadable(from, failure)),
    };
    let refused = |code: &str, detail: String| Ok(Verdict::not_stored(from, Exit::Refused, code, detail));
    let token = match Token::from_file_text(&text) {
        Ok(token) => token,
        Err(rejection) => return refused(rejection.code(), rejection.to_string()),
    };
    let Some(account) = subject(&token) else {
        let detail = "this is not an account JWT, because its subject is not an account key: push account JWTs only";
        return refused("not-an-account", detail.to_owned());
    };
    let verdict = match client.submit(account, token.bytes().clone(), replace).await {
        Ok(submitted) => Verdict {
            from: shown(from),
            account: None,
            outcome: if submitted.outcome == "unchanged" {
                "unchanged"
            } else {
                "stored"
            },
            revision: Some(submitted.revision),
            code: None,
            detail: None,
            exit: Exit::Done,
        },
        Err(ClientError::Problem(problem)) => {
            let exit = Failure::from(ClientError::Problem(problem.clone())).exit;
            Verdict::not_stored(from, exit, &problem.code, problem.detail)
        }
        Err(error) => return Err(error),
    };
    Ok(Verdict {
        account: Some(account.to_string()),
        ..verdict
    })
}

/// The account that an unverified token names as its subject. Used only for the path of the request; the node verifies.
fn subject(token: &Token) -> Option<AccountKey> {
    let claims = token.unverified_claims()?;
    claims.get("sub")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_means_its_jwt_files_in_order_and_an_empty_one_is_a_verdict() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jwt", "a.jwt", "c.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        let files = expand(&[folder.path().to_owned(), empty.clone(), PathBuf::from("-")]);
        let files: Vec<_> = files
            .into_iter()
            .map(|file| file.map_err(|verdict| (verdict.from, verdict.outcome, verdict.exit)))
            .collect();
        assert_eq!(
            files,
            [
                Ok(folder.path().join("a.jwt")),
                Ok(folder.path().join("b.jwt")),
                Err((empty.display().to_string(), "failed", Exit::NotFound)),
                Ok(PathBuf::from("-"))
            ]
        );
    }

    #[tokio::test]
    async fn without_a_node_every_file_still_has_its_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let token = include_str!("../../../tests/vectors/accept/exp-zero.jwt");
        let file = folder.path().join("a.jwt");
        std::fs::write(&file, token).unwrap();
        let client = AdminClient::new(folder.path().join("admin.sock"));
        let mut tally = Tally::default();
        for code in ["no-answer", "not-sent", "not-sent"] {
            let verdict = one(&client, &file, false, &mut tally).await;
            assert_eq!((verdict.outcome, verdict.exit), ("failed", Exit::Unreachable));
            assert_eq!(verdict.code.as_deref(), Some(code));
        }
        assert_eq!(tally.end().map_err(|failure| failure.exit), Err(Exit::Unreachable));
    }
}
