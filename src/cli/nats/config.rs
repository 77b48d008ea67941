//! `nats config`: prints the configuration of nats-server and nsc for this mesh.

use std::borrow::Cow;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::pointing::{BaseUrl, Pointing, ResolverTls};
use crate::api::{Operator, Operators};
use crate::cli::exit::{Exit, Failure};
use crate::cli::operator::find;
use crate::cli::output::{json, plain, to_stderr};
use crate::cli::target::Target;
use crate::jwt::without_seeds;

#[derive(Debug, Args)]
pub(in crate::cli) struct ConfigCommand {
    #[command(flatten)]
    target: Target,
    /// Where nats-servers and nsc reach the public port, such as `https://jwt.example.net:9090` [default: the
    /// address the node listens on]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The authority that signed the public port's certificate, as a path on nats-server's machine [default: the
    /// system's authorities]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A client certificate for nats-server, as a path on nats-server's machine
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The key of the client certificate
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// The operator, by name or key; optional if the mesh trusts one operator
    #[arg(long, value_name = "OPERATOR")]
    operator: Option<String>,
    /// Print JSON, with the configuration as one string
    #[arg(long)]
    json: bool,
}

impl ConfigCommand {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        for path in [&self.ca, &self.client_cert, &self.client_key].into_iter().flatten() {
            if let Cow::Owned(_) = without_seeds(&path.display().to_string()) {
                return Err(Failure::new(
                    Exit::Usage,
                    "a private seed was given in place of a file: name the file",
                ));
            }
        }
        let client = self.target.client()?;
        let operators = client.operators().await?;
        let operator = choose(&operators, self.operator.as_deref())?;
        let status = client.status().await?;
        let url = BaseUrl::parse(self.url.as_ref().unwrap_or(&status.public))?;
        let tls = match (self.ca, self.client_cert, self.client_key) {
            (ca, Some(cert), Some(key)) => Some(ResolverTls {
                ca,
                client: Some((cert, key)),
            }),
            (Some(ca), ..) => Some(ResolverTls {
                ca: Some(ca),
                client: None,
            }),
            _ => None,
        };
        if tls.is_some() && !url.is_https() {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "--ca and --client-cert have no effect on {}: give an https:// URL",
                    url.text()
                ),
            ));
        }
        let candidates = operators.candidates.iter().map(|candidate| {
            format!(
                "the node's configuration names operator {} ({}), which the mesh does not trust: if it takes the place of {}, as after \
                 `nsc reissue operator`, run `jwtmesh operator replace {} FILE` first, then print this again",
                plain(&candidate.name),
                candidate.operator,
                plain(&operator.name),
                operator.operator,
            )
        });
        let mut warnings: Vec<String> = candidates.collect();
        let shows_certificate = tls.as_ref().is_some_and(|tls| tls.client.is_some());
        if status.client_required && !shows_certificate {
            warnings.push(
                "the public port refuses clients without a certificate (client_required): give --client-cert and --client-key".to_owned(),
            );
        }
        if self.url.is_none() && url.is_loopback() {
            warnings.push(format!(
                "{} is reached from this machine only: give --url for nats-servers on others",
                url.text()
            ));
        }
        let pointing = Pointing::new(operator, &url, tls.as_ref(), None, warnings);
        for warning in &pointing.warnings {
            to_stderr(&format!("jwtmesh: warning: {warning}"));
        }
        if self.json {
            json(out, &pointing)?;
        } else {
            out.write_all(pointing.config.as_bytes())?;
        }
        Ok(Exit::Done)
    }
}

fn choose<'o>(operators: &'o Operators, wanted: Option<&str>) -> Result<&'o Operator, Failure> {
    match (wanted, operators.items.as_slice()) {
        (None, [only]) => Ok(only),
        (None, []) => Err(Failure::new(Exit::NotFound, "the mesh trusts no operator yet")),
        (None, several) => {
            let names: Vec<_> = several.iter().map(|operator| plain(&operator.name)).collect();
            Err(Failure::new(
                Exit::Usage,
                format!(
                    "the mesh trusts {} operators, but a nats-server only one: choose it with --operator ({})",
                    several.len(),
                    names.join(", ")
                ),
            ))
        }
        (Some(wanted), _) => find(operators, wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(name: &str) -> Operator {
        Operator {
            operator: "OKEY".to_owned(),
            name: name.to_owned(),
            issued_at: 0,
            signing_keys: Vec::new(),
            strict_signing_key_usage: false,
            system_account: None,
            account_server_url: String::new(),
            token: String::new(),
        }
    }

    #[test]
    fn of_several_operators_one_must_be_chosen() {
        let several = Operators {
            trust_epoch: 1,
            items: vec![operator("A"), operator("B")],
            candidates: Vec::new(),
        };
        assert_eq!(choose(&several, None).expect_err("two").exit, Exit::Usage);
        assert_eq!(choose(&several, Some("C")).expect_err("no C").exit, Exit::NotFound);
        assert_eq!(choose(&several, Some("B")).map(|one| one.name.as_str()).ok(), Some("B"));
    }
}
