//! `account closing`: the JWT with which an account can be shut; and `account kill`, which does it.

use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};

use super::consent::Consent;
use super::named::Named;
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{read_beside, text_of, trusted};
use crate::cli::inspect;
use crate::cli::key::operator_key;
use crate::cli::output::json;
use crate::cli::target::Target;
use crate::client::{AdminClient, ClientError};
use crate::clock::Clock;
use crate::jwt::{AccountKey, Token, explain, time};
use crate::sign::Claims;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Closing {
    /// Keep a JWT with which the account can be shut: one that allows no connections and does not expire
    Set(Set),
    /// Show the JWT that is kept
    Show(Show),
    /// Keep none any more
    Remove(Remove),
}

/// Keeps a JWT with which the account can be shut without a key: it becomes the account's JWT with `account kill`, and is sent
/// to the nats-servers when the account is deleted.
#[derive(Debug, Args)]
pub(in crate::cli) struct Set {
    /// The account's public key, or its name
    #[arg(value_name = "ACCOUNT")]
    account: Named,
    /// The JWT; "-" is standard input
    #[arg(value_name = "FILE", required_unless_present = "key", conflicts_with = "key")]
    from: Option<PathBuf>,
    /// The seed of the operator's identity key or of one of its signing keys: the account's present JWT is signed again here,
    /// without connections and with all users revoked. The node never sees the key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the JWT that is kept.
#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    /// The account's public key, or its name
    #[arg(value_name = "ACCOUNT")]
    account: Named,
    #[command(flatten)]
    target: Target,
    /// Print JSON, with the JWT
    #[arg(long)]
    json: bool,
}

/// Keeps no such JWT any more.
#[derive(Debug, Args)]
pub(in crate::cli) struct Remove {
    /// The account's public key, or its name
    #[arg(value_name = "ACCOUNT")]
    account: Named,
    #[command(flatten)]
    target: Target,
}

/// Shuts an account with its closing JWT: every client is disconnected, and none can connect again.
///
/// Only a JWT that was issued later than the one before and than the closing one opens the account again.
#[derive(Debug, Args)]
pub(in crate::cli) struct Kill {
    /// The account's public key, or its name
    #[arg(value_name = "ACCOUNT")]
    account: Named,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    target: Target,
}

impl Closing {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        match self {
            Self::Set(set) => set.run(out).await,
            Self::Show(show) => show.run(out).await,
            Self::Remove(remove) => remove.run(out).await,
        }
    }
}

impl Set {
    async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let account = self.account.key(&client).await?;
        let token = self.token(&client, account).await?;
        let kept = client.keep_closing(account, token).await?;
        if self.json {
            json(out, &kept)?;
        } else {
            writeln!(out, "{}: revision {}", kept.outcome, kept.revision)?;
        }
        Ok(Exit::Done)
    }

    /// The JWT given, or one that is signed with the key given.
    async fn token(&self, client: &AdminClient, account: AccountKey) -> Result<Bytes, Failure> {
        if let Some(key) = &self.key {
            let key = operator_key(key)?;
            let present = client
                .account(account)
                .await
                .map_err(|error| without_present(account, error))?;
            let present = present.token.unwrap_or_default();
            let now = Clock::system().now();
            let signed = Claims::of_token(&present).and_then(|claims| claims.closed(now).sign(&key, now));
            let signed = signed.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            return Ok(signed.into());
        }
        let file = self
            .from
            .as_ref()
            .ok_or_else(|| Failure::new(Exit::Usage, "give FILE or --key"))?;
        let token = Token::from_file_text(&text_of(&read_beside(file)?));
        let token =
            token.map_err(|rejection| Failure::new(Exit::Refused, format!("{}: {rejection}", file.display())))?;
        Ok(token.bytes().clone())
    }
}

/// Why there is no present JWT to sign again.
fn without_present(account: AccountKey, error: ClientError) -> Failure {
    match error {
        ClientError::Problem(problem) if problem.code == "deleted-account" => Failure::new(
            Exit::NotFound,
            format!(
                "account {account} was deleted, so it has no present JWT that could be signed again: give a closing JWT as FILE in \
                 place of --key, such as one made with nsc (edit account --conns 0 --leaf-conns 0)"
            ),
        ),
        error => error.into(),
    }
}

impl Show {
    async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let closing = client.closing(self.account.key(&client).await?).await?;
        if self.json {
            json(out, &closing)?;
            return Ok(Exit::Done);
        }
        let trusted = trusted(&client.operators().await?)?;
        let explanation = explain(closing.token.as_bytes(), Some(&trusted), Clock::system().now());
        writeln!(out, "revision    {}", closing.revision)?;
        inspect::print(out, &explanation)?;
        Ok(inspect::exit(&explanation))
    }
}

impl Remove {
    async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let account = self.account.key(&client).await?;
        client.forget_closing(account).await?;
        writeln!(out, "no closing JWT is kept for {account} any more")?;
        Ok(Exit::Done)
    }
}

impl Kill {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let account = self.account.key(&client).await?;
        let planned = client.kill(account, true).await?;
        let mut said = String::new();
        if self.consent.shows_text() {
            let (present, closing) = (client.account(account).await?, client.closing(account).await?);
            said = format!(
                "account   {account}  {}\noperator  {}\nThe closing JWT of {} takes the place of the one of {}: every client is \
                 disconnected, and none can connect until a newer JWT is pushed.\n",
                crate::cli::output::plain(&present.name),
                present.operator,
                time(closing.issued_at),
                time(present.issued_at),
            );
            if present.state.as_deref() == Some("closing") {
                said =
                    format!("account {account} is shut already; its closing JWT is sent to the NATS clusters again\n");
            }
        }
        if !self.consent.given(out, &planned, said.as_bytes(), "kill")? {
            return Ok(Exit::Done);
        }
        let killed = client.kill(account, false).await?;
        if self.consent.json {
            json(out, &killed)?;
        } else {
            writeln!(
                out,
                "account {account} is shut since revision {}; `jwtmesh account watch {account}` says where that is in force",
                killed.revision
            )?;
        }
        Ok(Exit::Done)
    }
}
