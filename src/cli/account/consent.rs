//! What is asked before accounts are deleted or shut.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{Exit, Failure};
use crate::cli::input::confirmed;
use crate::cli::output::json;

/// How far a command goes, and how it prints.
#[derive(Debug, Args)]
pub(super) struct Consent {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Consent {
    /// Whether a question is asked.
    pub(super) fn is_asked(&self) -> bool {
        !self.yes && !self.dry_run
    }

    /// Whether what is planned is shown as text.
    pub(super) fn shows_text(&self) -> bool {
        if self.dry_run { !self.json } else { !self.yes }
    }

    /// Shows what is `planned`, as text in `said`, and asks for `phrase`. Whether it is to be done; `false` for a dry run, an error
    /// if something else is typed.
    pub(super) fn given(
        &self,
        out: &mut impl Write,
        planned: &impl Serialize,
        said: &[u8],
        phrase: &str,
    ) -> Result<bool, Failure> {
        if self.dry_run {
            if self.json {
                json(out, planned)?;
            } else {
                out.write_all(said)?;
            }
            return Ok(false);
        }
        if self.is_asked() {
            // Beside the question, so that standard output has the outcome alone.
            std::io::stderr().write_all(said)?;
            if !confirmed(phrase)? {
                return Err(Failure::new(Exit::Failed, "nothing was changed"));
            }
        }
        Ok(true)
    }
}
