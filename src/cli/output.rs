//! How every verb prints times, names, JSON and progress, so that all output looks the same.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{BufWriter, IsTerminal, LineWriter, Write};
use std::path::Path;

use serde::Serialize;

use crate::clock::Clock;
use crate::jwt::without_seeds;

/// Standard output: line-buffered on a terminal, otherwise written in blocks of 64 KiB.
pub(super) fn stdout() -> Box<dyn Write> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        Box::new(LineWriter::new(stdout))
    } else {
        Box::new(BufWriter::with_capacity(64 * 1024, stdout))
    }
}

/// A time as people and programs read it (RFC 3339, UTC).
pub(super) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s since 1970"), |time| time.to_string())
}

/// An expiry: 0 means never.
pub(super) fn expiry(seconds: i64) -> String {
    if seconds == 0 {
        "never".to_owned()
    } else {
        time(seconds)
    }
}

/// Text from a token or an argument without control characters, because the name of an account must not be able to move
/// the cursor or to look like another one, and without seeds.
pub(super) fn plain(text: &str) -> String {
    without_seeds(text)
        .chars()
        .map(|c| {
            if c.is_control() || is_invisible(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Characters that show nothing, or change the direction of those around them (Unicode: `Bidi_Control`,
/// `Default_Ignorable_Code_Point`, line and paragraph separators, interlinear annotations).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A path as one word of a shell command.
pub(super) fn for_shell(path: &Path) -> String {
    let text = path.display().to_string();
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@' | '%' | ',');
    if text.chars().all(safe) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Prints one value as indented JSON.
pub(super) fn json(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A JSON array whose items are written as they arrive, one a line, so that a long array needs no more memory.
#[derive(Default)]
pub(super) struct JsonArray {
    begun: bool,
}

impl JsonArray {
    /// Writes one item.
    pub(super) fn item(&mut self, out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
        out.write_all(if self.begun { b",\n " } else { b"[" })?;
        self.begun = true;
        serde_json::to_writer(out, value)?;
        Ok(())
    }

    /// Closes the array; without items it is `[]`.
    pub(super) fn close(self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(if self.begun { b"]" } else { b"[]" })
    }

    /// Closes the array and ends the line, for an array that is the whole output.
    pub(super) fn end(self, out: &mut impl Write) -> std::io::Result<()> {
        self.close(out)?;
        writeln!(out)
    }
}

/// Writes one line to stderr, without seeds, and ignores a failure: `eprintln!` would panic if stderr is closed.
pub(super) fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", without_seeds(line));
}

/// One line of a log in JSON, as `serve --log-format json` writes it, with these fields beside the message.
pub(super) fn log_line(level: &str, message: &str, fields: &[(&str, &str)]) -> String {
    let mut line = serde_json::Map::new();
    line.insert("timestamp".to_owned(), time(Clock::system().now()).into());
    line.insert("level".to_owned(), level.into());
    line.insert("message".to_owned(), without_seeds(message).into());
    for (name, value) in fields {
        line.insert((*name).to_owned(), (*value).into());
    }
    serde_json::Value::Object(line).to_string()
}

/// Whether these arguments ask for a log in JSON: then what is wrong with them is a line of it too.
pub(super) fn asks_for_json_log(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<_> = args.collect();
    args.iter().any(|arg| arg == "--log-format=json")
        || args
            .windows(2)
            .any(|pair| pair[0] == "--log-format" && pair[1] == "json")
}

/// Prints what is wrong with the command line. clap repeats the argument that it does not take, which may be a seed; the
/// message with one is printed without colours.
pub(super) fn usage_error(error: &clap::Error) {
    let text = error.to_string();
    if asks_for_json_log(std::env::args_os()) {
        return to_stderr(&log_line("ERROR", text.trim_end(), &[]));
    }
    match without_seeds(&text) {
        Cow::Owned(hidden) => to_stderr(hidden.trim_end()),
        Cow::Borrowed(_) => {
            let _ = error.print();
        }
    }
}

/// A counter on stderr during a long command. Shown on a terminal only.
pub(super) struct Progress {
    what: &'static str,
    shown: bool,
}

impl Progress {
    /// A counter of `what`, not shown yet.
    pub(super) fn of(what: &'static str) -> Self {
        Self { what, shown: false }
    }

    /// Shows the count.
    pub(super) fn at(&mut self, count: u64) {
        if std::io::stderr().is_terminal() {
            self.shown = true;
            let _ = write!(std::io::stderr(), "\r{}: {count}", self.what);
        }
    }

    /// Clears the count from the terminal.
    pub(super) fn end(self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r{:width$}\r", "", width = self.what.len() + 24);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_zero_never_expires() {
        assert_eq!(time(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(expiry(0), "never");
        assert_eq!(time(i64::MAX), "9223372036854775807 s since 1970");
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\r\n"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
        for hidden in [
            "\u{202e}",
            "\u{2066}",
            "\u{200b}",
            "\u{200d}",
            "\u{feff}",
            "\u{ad}",
            "\u{e0041}",
            "\u{2028}",
        ] {
            assert_eq!(plain(&format!("a{hidden}b")), "a\u{fffd}b", "{hidden:?}");
        }
        assert_eq!(plain("Zürich 東京 العربية"), "Zürich 東京 العربية");
    }

    #[test]
    fn an_array_is_json_whatever_its_length() {
        for count in 0..3 {
            let mut text = Vec::new();
            let mut array = JsonArray::default();
            for at in 0..count {
                array.item(&mut text, &at).unwrap();
            }
            array.end(&mut text).unwrap();
            let read: Vec<i32> = serde_json::from_slice(&text).unwrap();
            assert_eq!(read, (0..count).collect::<Vec<_>>());
        }
    }
}
