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
use crate::clock::Clock;
use crate::jwt::{AccountKey, Issue, Token, explain, without_seeds};

#[derive(Debug, Args)]
pub(in crate::cli) struct Push {
    /// Files with account JWTs, folders with *.jwt files in them or below, such as an nsc store, or - for stdin
    #[arg(value_name = "FILE", required = true)]
    from: Vec<PathBuf>,
    /// Store the tokens even where a newer one is stored, such as one that a wrong clock has dated. The node logs it.
    /// A deleted account takes a newer one all the same
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
    /// `stored`, `unchanged`, `skipped`, `refused` or `failed`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// What is doubtful about a token that the node took.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Issue>,
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
            warnings: Vec::new(),
            exit,
        }
    }

    fn skipped(from: &Path) -> Self {
        let detail = "this JWT is an operator's or a user's, which no account server stores".to_owned();
        Self {
            outcome: "skipped",
            ..Self::not_stored(from, Exit::Done, "not-an-account", detail)
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
        }?;
        for Issue { code, detail } in &self.warnings {
            writeln!(
                out,
                "{:<9}  {account:<56}  {}: {code}: {}",
                "warning",
                self.from,
                plain(detail)
            )?;
        }
        Ok(())
    }
}

impl Push {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let mut array = JsonArray::default();
        let mut progress = Progress::of("pushed");
        let mut tally = Tally::default();
        for (done, found) in (1u64..).zip(expand(&self.from)) {
            let verdict = match found {
                Ok(found) => one(&client, &found, self.replace, &mut tally).await,
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

/// A file to push.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    path: PathBuf,
    /// Whether it was found in a folder. An nsc store also has the JWTs of the operator and of users.
    in_folder: bool,
}

/// Replaces each folder with the *.jwt files in it and below, sorted by path. A folder without one, or an unreadable
/// one, is a verdict.
fn expand(from: &[PathBuf]) -> Vec<Result<Found, Verdict>> {
    let mut files = Vec::new();
    for path in from {
        if !path.is_dir() {
            files.push(Ok(Found {
                path: path.clone(),
                in_folder: false,
            }));
            continue;
        }
        let before = files.len();
        tokens_below(path, FOLDER_DEPTH, &mut files);
        if files.len() == before {
            let detail = format!("there is no *.jwt file in {} or below", path.display());
            files.push(Err(Verdict::not_stored(path, Exit::NotFound, "not-found", detail)));
        }
    }
    files
}

/// Folders below folders; an nsc store has four.
const FOLDER_DEPTH: usize = 16;

/// Adds the *.jwt files in `folder` and below. Names that begin with a dot are not looked at, and links to folders are
/// not followed: a mounted secret has its files twice, once in a folder `..data`.
fn tokens_below(folder: &Path, depth: usize, files: &mut Vec<Result<Found, Verdict>>) {
    let entries = std::fs::read_dir(folder).and_then(|entries| {
        let mut entries: Vec<_> = entries.collect::<std::io::Result<_>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        Ok(entries)
    });
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => return files.push(Err(Verdict::unreadable(folder, unreadable(folder, &error)))),
    };
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                tokens_below(&path, depth - 1, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "jwt") && !path.is_dir() {
            files.push(Ok(Found { path, in_folder: true }));
        }
    }
}

async fn one(client: &AdminClient, found: &Found, replace: bool, tally: &mut Tally) -> Verdict {
    let from = &found.path;
    if let Some(gone) = &tally.gone {
        let detail = "not sent, because the node no longer answers".to_owned();
        return Verdict::not_stored(from, gone.exit, "not-sent", detail);
    }
    match submit(client, found, replace).await {
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
async fn submit(client: &AdminClient, found: &Found, replace: bool) -> Result<Verdict, ClientError> {
    let from = &found.path;
    let text = match read(from) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(failure) => return Ok(Verdict::unreadable(from, failure)),
    };
    let refused = |code: &str, detail: String| Ok(Verdict::not_stored(from, Exit::Refused, code, detail));
    let token = match Token::from_file_text(&text) {
        Ok(token) => token,
        Err(rejection) => return refused(rejection.code(), rejection.to_string()),
    };
    if found.in_folder && is_of_another_kind(&token) {
        return Ok(Verdict::skipped(from));
    }
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
            // The node logs them; its answer has no place for them.
            warnings: explain(token.bytes(), None, Clock::system().now()).warnings,
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

/// Whether an unverified token says that it is an operator's or a user's.
fn is_of_another_kind(token: &Token) -> bool {
    let Some(claims) = token.unverified_claims() else {
        return false;
    };
    let kind = claims["nats"]["type"].as_str().or_else(|| claims["type"].as_str());
    matches!(kind, Some("operator" | "user"))
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
    fn a_folder_means_the_jwt_files_in_it_and_below_and_one_without_is_a_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in [
            "b.jwt",
            "a.jwt",
            "c.txt",
            "below/again/d.jwt",
            "..data/hidden.jwt",
            ".git/x.jwt",
        ] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "").unwrap();
        }
        std::os::unix::fs::symlink(at("below"), at("linked")).unwrap();
        std::os::unix::fs::symlink(at("..data/hidden.jwt"), at("mounted.jwt")).unwrap();
        let empty = at("empty");
        std::fs::create_dir(&empty).unwrap();
        let files = expand(&[folder.path().to_owned(), empty.clone(), PathBuf::from("-")]);
        let files: Vec<_> = files
            .into_iter()
            .map(|file| file.map_err(|verdict| (verdict.from, verdict.outcome, verdict.exit)))
            .collect();
        let found = |path, in_folder| Ok(Found { path, in_folder });
        assert_eq!(
            files,
            [
                found(at("a.jwt"), true),
                found(at("b.jwt"), true),
                found(at("below/again/d.jwt"), true),
                found(at("mounted.jwt"), true),
                Err((empty.display().to_string(), "failed", Exit::NotFound)),
                found(PathBuf::from("-"), false)
            ]
        );
    }

    #[tokio::test]
    async fn without_a_node_every_file_still_has_its_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let token = include_str!("../../../tests/vectors/accept/exp-zero.jwt");
        let file = folder.path().join("a.jwt");
        std::fs::write(&file, token).unwrap();
        let file = Found {
            path: file,
            in_folder: false,
        };
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
