//! `account`: list, show, push, pull.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{JsonArray, Progress, expiry, json, plain, time};
use super::target::Target;
use super::{Exit, Failure, inspect, operator};
use crate::api::{Account, Operators};
use crate::client::{AdminClient, ClientError, PAGE};
use crate::clock::Clock;
use crate::jwt::{AccountKey, MAX_TOKEN_BYTES, Token};

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// List the accounts in the order of their keys
    List(List),
    /// Show one account and explain its claims
    Show(Show),
    /// Submit tokens; each gets its verdict. An older token never replaces a newer one
    Push(Push),
    /// Write accounts' tokens to stdout or to files
    Pull(Pull),
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

#[derive(Debug, Args)]
pub(super) struct Push {
    /// Files with account JWTs, folders with *.jwt files, or - for stdin
    #[arg(value_name = "FILE", required = true)]
    from: Vec<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Print a JSON array of verdicts
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, args = ["accounts", "all"])]
pub(super) struct Pull {
    /// The accounts' public keys
    #[arg(value_name = "ACCOUNT")]
    accounts: Vec<AccountKey>,
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

/// What became of one submitted file.
#[derive(Debug, Serialize)]
struct Verdict {
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    /// `stored`, `unchanged`, `refused` or `failed`.
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Verdict {
    fn refused(from: String, code: &str, detail: String) -> Self {
        Self {
            from,
            account: None,
            outcome: "refused".to_owned(),
            revision: None,
            code: Some(code.to_owned()),
            detail: Some(detail),
        }
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
    async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let mut array = JsonArray::default();
        let mut progress = Progress::of("pushed");
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for (done, from) in (1u64..).zip(expand(&self.from)?) {
            let verdict = submit(&client, &from).await?;
            if self.json {
                array.item(out, &verdict)?;
                progress.at(done);
            } else {
                verdict.print(out)?;
            }
            *counts.entry(verdict.outcome).or_default() += 1;
        }
        progress.end();
        if self.json {
            array.end(out)?;
        } else {
            let counted: Vec<_> = counts
                .iter()
                .map(|(outcome, count)| format!("{count} {outcome}"))
                .collect();
            writeln!(out, "{}", counted.join(", "))?;
        }
        Ok(if counts.contains_key("refused") {
            Exit::Refused
        } else if counts.contains_key("failed") {
            Exit::Failed
        } else {
            Exit::Done
        })
    }
}

/// Folders become their *.jwt files, in the order of their names.
fn expand(from: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in from {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside: Vec<PathBuf> = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(|error| unreadable(path, &error))?;
        inside.retain(|file| file.extension().is_some_and(|extension| extension == "jwt"));
        if inside.is_empty() {
            return Err(Failure::new(
                Exit::NotFound,
                format!("there is no *.jwt file in {}", path.display()),
            ));
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
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

async fn submit(client: &AdminClient, path: &Path) -> Result<Verdict, Failure> {
    let from = path.display().to_string();
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    let token = match Token::from_file_text(&text) {
        Ok(token) => token,
        Err(rejection) => return Ok(Verdict::refused(from, rejection.code(), rejection.to_string())),
    };
    let Some(account) = subject(&token) else {
        let detail = "this is no account JWT: its subject is no account's key. Only account JWTs are submitted";
        return Ok(Verdict::refused(from, "not-an-account", detail.to_owned()));
    };
    let mut verdict = Verdict {
        from,
        account: Some(account.to_string()),
        outcome: String::new(),
        revision: None,
        code: None,
        detail: None,
    };
    match client.submit(account, token.bytes().clone()).await {
        Ok(submitted) => {
            verdict.outcome = submitted.outcome;
            verdict.revision = Some(submitted.revision);
        }
        Err(ClientError::Problem(problem)) => {
            let refused = Failure::from(ClientError::Problem(problem.clone())).exit == Exit::Refused;
            verdict.outcome = if refused { "refused" } else { "failed" }.to_owned();
            verdict.code = Some(problem.code);
            verdict.detail = Some(problem.detail);
        }
        // The node is gone, so every further file would only say the same.
        Err(error) => return Err(error.into()),
    }
    Ok(verdict)
}

/// Which account a token claims to be of. Only for the address; the node verifies.
fn subject(token: &Token) -> Option<AccountKey> {
    let claims = token.as_str().split('.').nth(1)?;
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims.get("sub")?.as_str()?.parse().ok()
}

#[derive(Serialize)]
struct Pulled<'a> {
    account: &'a str,
    file: &'a Path,
}

impl Pull {
    async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        if let Some(dir) = &self.dir {
            std::fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
        }
        let mut array = JsonArray::default();
        if self.all {
            let mut pages = Pages::new(&client, true);
            let mut progress = Progress::of("pulled");
            let mut count = 0;
            while let Some(page) = pages.next().await? {
                for account in &page {
                    self.one(out, account, &mut array)?;
                }
                count += page.len() as u64;
                progress.at(count);
            }
            progress.end();
        } else {
            for key in &self.accounts {
                self.one(out, &client.account(*key).await?, &mut array)?;
            }
        }
        if self.json {
            array.end(out)?;
        }
        Ok(Exit::Done)
    }

    fn one(&self, out: &mut impl Write, account: &Account, array: &mut JsonArray) -> Result<(), Failure> {
        let Some(dir) = &self.dir else {
            if self.json {
                array.item(out, account)?;
            } else {
                writeln!(out, "{}", account.token.as_deref().unwrap_or_default())?;
            }
            return Ok(());
        };
        // Only what is a key becomes a file's name, whoever answers on the socket.
        let key: AccountKey = account
            .account
            .parse()
            .map_err(|error| Failure::new(Exit::Failed, format!("the node's listing is damaged: {error}")))?;
        let file = dir.join(format!("{key}.jwt"));
        write_whole(&file, account.token.as_deref().unwrap_or_default().as_bytes())
            .map_err(|error| unwritable(&file, &error))?;
        if self.json {
            let account = &account.account;
            array.item(out, &Pulled { account, file: &file })?;
        } else {
            writeln!(out, "{}", file.display())?;
        }
        Ok(())
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
}

/// The old file or the whole new one: nats-account-server left empty files behind when it was interrupted here.
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
    fn a_folder_means_its_jwt_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jwt", "a.jwt", "c.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let files = expand(&[folder.path().to_owned(), PathBuf::from("-")])
            .map_err(|failure| failure.said)
            .unwrap();
        assert_eq!(
            files,
            [
                folder.path().join("a.jwt"),
                folder.path().join("b.jwt"),
                PathBuf::from("-")
            ]
        );
    }

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
