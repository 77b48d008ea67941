//! The rules that a token breaks, up to the first ten.

use crate::jwt::rejection::Issue;

/// How many issues a refusal names: enough to correct a token in one go, few enough for one screen.
const MAX_ISSUES: usize = 10;

/// Collects the rules that a token breaks; those past [`MAX_ISSUES`] are dropped.
#[derive(Debug, Default)]
pub(super) struct Issues(Vec<Issue>);

impl Issues {
    pub(super) fn add(&mut self, code: &'static str, detail: impl FnOnce() -> String) {
        if self.0.len() < MAX_ISSUES {
            self.0.push(Issue { code, detail: detail() });
        }
    }

    /// The collected issues, in the order in which they were found.
    pub(super) fn into_list(self) -> Vec<Issue> {
        self.0
    }
}
