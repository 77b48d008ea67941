//! Log lines that would return with every attempt: which were logged within the last minute.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// How soon the same line is logged again: often enough for an administrator who begins to look.
pub(super) const AGAIN: Duration = Duration::from_secs(60);

/// Different lines remembered within that time. There are few in practice; past the limit new ones are not logged, so
/// that a server cannot fill the log with errors that it makes up.
const SAID: usize = 64;

/// The lines that were logged, and when.
#[derive(Debug, Default)]
pub(super) struct Said(HashMap<String, Instant>);

impl Said {
    /// Whether `what` was not logged within the last minute; if so, it counts as logged now.
    pub(super) fn is_due(&mut self, what: &str) -> bool {
        let now = Instant::now();
        self.0.retain(|_, at| *at + AGAIN > now);
        if self.0.contains_key(what) || self.0.len() >= SAID {
            return false;
        }
        self.0.insert(what.to_owned(), now);
        true
    }

    /// From now on every line is new, and is logged again.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// From now on every line that begins with `prefix` is new.
    pub(super) fn forget_those_with(&mut self, prefix: &str) {
        self.0.retain(|line, _| !line.starts_with(prefix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn g12_the_same_line_is_logged_once_a_minute_and_the_number_of_different_lines_is_bounded() {
        let mut said = Said::default();
        assert!(said.is_due("refused"));
        tokio::time::advance(AGAIN - Duration::from_millis(1)).await;
        assert!(!said.is_due("refused"));
        assert!(said.is_due("something else"), "it is another line");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(said.is_due("refused"));
        let more = (0..1_000).filter(|n| said.is_due(&n.to_string())).count();
        assert_eq!(more, SAID - 2);
        said.forget();
        assert!(said.is_due("refused"), "after a useful connection it is logged again");
    }
}
