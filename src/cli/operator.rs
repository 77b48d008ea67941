//! `operator`: whom the mesh trusts.

use std::io::Write;

use clap::{Args, Subcommand};

use super::output::{json, plain, time};
use super::target::Target;
use super::{Exit, Failure};
use crate::api::{Operator, Operators};
use crate::jwt::{OperatorClaims, Token, TrustedKeys, Verified};

#[derive(Debug, Subcommand)]
pub(super) enum OperatorCommand {
    /// Show the agreed operators: keys, strictness, system account
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    target: Target,
    /// Print JSON, with the tokens
    #[arg(long)]
    json: bool,
}

impl OperatorCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let Self::Show(show) = self;
        let operators = show.target.client()?.operators().await?;
        if show.json {
            json(out, &operators)?;
            return Ok(Exit::Done);
        }
        for (at, operator) in operators.items.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            print(out, operator)?;
        }
        Ok(Exit::Done)
    }
}

fn print(out: &mut impl Write, operator: &Operator) -> std::io::Result<()> {
    writeln!(out, "operator        {}", operator.operator)?;
    writeln!(out, "name            {}", plain(&operator.name))?;
    writeln!(out, "issued          {}", time(operator.issued_at))?;
    for (at, key) in operator.signing_keys.iter().enumerate() {
        writeln!(out, "{:<15} {key}", if at == 0 { "signing keys" } else { "" })?;
    }
    if operator.signing_keys.is_empty() {
        writeln!(out, "signing keys    none: accounts are signed with the identity key")?;
    }
    let strict = if operator.strict_signing_key_usage {
        "yes: an account signed with the identity key is refused"
    } else {
        "no: the identity key may sign accounts too"
    };
    writeln!(out, "strict          {strict}")?;
    let system = operator
        .system_account
        .as_deref()
        .unwrap_or("none: nats-server will use one of its own, without remote administration");
    writeln!(out, "system account  {system}")?;
    let url = match operator.account_server_url.as_str() {
        "" => "none: see `jwtmesh nats config`".to_owned(),
        url => plain(url),
    };
    writeln!(out, "account server  {url}")
}

/// What these operators allow, verified on this side: a listing is only a claim.
pub(super) fn trusted(operators: &Operators) -> Result<TrustedKeys, Failure> {
    let mut verified = Vec::with_capacity(operators.items.len());
    for operator in &operators.items {
        verified.push(verify(operator.token.as_bytes()).map_err(|defect| {
            Failure::new(
                Exit::Failed,
                format!("the node's operator {} does not verify: {defect}", operator.operator),
            )
        })?);
    }
    Ok(TrustedKeys::new(verified))
}

/// The trust that files with operator JWTs give.
pub(super) fn trusted_files(files: &[std::path::PathBuf]) -> Result<TrustedKeys, Failure> {
    let mut verified = Vec::with_capacity(files.len());
    for file in files {
        let wrong = |defect: String| Failure::new(Exit::Usage, format!("{}: {defect}", file.display()));
        let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        verified.push(verify(&text).map_err(wrong)?);
    }
    Ok(TrustedKeys::new(verified))
}

fn verify(text: &[u8]) -> Result<Verified<OperatorClaims>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "this is no text, so no operator JWT".to_owned())?;
    Token::from_file_text(text)
        .and_then(Verified::<OperatorClaims>::verify)
        .map_err(|rejection| rejection.to_string())
}
