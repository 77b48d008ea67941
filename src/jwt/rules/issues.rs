//! The rules that a token breaks, the first few of them.

use crate::jwt::rejection::Issue;

/// How many issues a refusal names: enough to mend a token in one go, few enough for one screen.
const MAX_ISSUES: usize = 10;

/// The rules a token breaks.
#[derive(Debug, Default)]
pub(super) struct Issues(Vec<Issue>);

impl Issues {
    pub(super) fn add(&mut self, code: &'static str, detail: impl FnOnce() -> String) {
        if self.0.len() < MAX_ISSUES {
            self.0.push(Issue { code, detail: detail() });
        }
    }

    /// All of them, in the order in which they were found.
    pub(super) fn into_list(self) -> Vec<Issue> {
        self.0
    }
}
