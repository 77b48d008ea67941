//! How a step of the story is printed.

use std::io::Write;

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
