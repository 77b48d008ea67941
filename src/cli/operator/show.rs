//! `operator show`: the operators that the mesh trusts, with their keys.

use std::io::Write;

use clap::Args;

use crate::api::Operator;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{json, plain, time};
use crate::cli::target::Target;

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    #[command(flatten)]
    target: Target,
    /// Print JSON, with the tokens
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let operators = self.target.client()?.operators().await?;
        if self.json {
            json(out, &operators)?;
            return Ok(Exit::Done);
        }
        for (at, operator) in operators.items.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            print(out, operator)?;
        }
        for candidate in &operators.candidates {
            writeln!(
                out,
                "\nNOT TRUSTED     {} {}, which the node's configuration names: if it takes the place of another one, run\n                \
                 jwtmesh operator replace OLD FILE",
                candidate.operator,
                plain(&candidate.name)
            )?;
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
