//! What every step of the story uses, and how a step is printed.

use std::io::Write;
use std::path::PathBuf;

use super::folder::Folder;
use super::keys::Keys;
use crate::clock::Clock;

/// What every step uses.
pub(super) struct Stage {
    pub(super) folder: Folder,
    pub(super) keys: Keys,
    pub(super) clock: Clock,
    /// The nats-server to start, if there is one.
    pub(super) program: Option<PathBuf>,
}

impl Stage {
    /// Where nats-server listens.
    pub(super) fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.folder.ports.nats)
    }
}

/// Prints one line for each step, and flushes it so that a pipe gets it at once.
pub(super) struct Steps<'o, W>(pub(super) &'o mut W);

impl<W: Write> Steps<'_, W> {
    pub(super) fn line(&mut self, what: &str, text: &str) -> std::io::Result<()> {
        writeln!(self.0, "{what:<13} {text}")?;
        self.0.flush()
    }

    pub(super) fn block(&mut self, head: &str, text: &str) -> std::io::Result<()> {
        writeln!(self.0, "\n{head}\n")?;
        for line in text.lines() {
            writeln!(self.0, "{}{line}", if line.is_empty() { "" } else { "  " })?;
        }
        writeln!(self.0)?;
        self.0.flush()
    }
}
