//! `inspect`: explains any token, offline.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output::json;
use super::{Exit, Failure, accounts, operator};
use crate::clock::Clock;
use crate::jwt::{Explanation, explain};

/// Explains a token: header, claims, who signed it, when it is valid, and each rule that it breaks.
///
/// Exit code 0 if it is valid, 4 if it would be refused. Nothing is asked of any node.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A file with a token (also a creds file), - for stdin, or the token itself
    #[arg(value_name = "FILE|-|TOKEN")]
    token: String,
    /// Operator JWTs to trust; without any, the signature is checked but not whose it is
    #[arg(long, value_name = "FILE")]
    operator: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let bytes = if self.is_token() {
            self.token.into_bytes()
        } else {
            accounts::read(Path::new(&self.token))?
        };
        let trusted = if self.operator.is_empty() {
            None
        } else {
            Some(operator::trusted_files(&self.operator)?)
        };
        let explanation = explain(&bytes, trusted.as_ref(), Clock::system().now());
        if self.json {
            json(out, &explanation)?;
        } else {
            print(out, &explanation)?;
        }
        Ok(if explanation.valid { Exit::Done } else { Exit::Refused })
    }

    /// Every JWT begins with `{"` in base64; a file of such a name is still reached as `./eyJ...`.
    fn is_token(&self) -> bool {
        self.token.starts_with("eyJ") && self.token.matches('.').count() == 2
    }
}

/// What a person reads.
pub(super) fn print(out: &mut impl Write, explanation: &Explanation) -> std::io::Result<()> {
    writeln!(out, "{explanation:?}")
}
