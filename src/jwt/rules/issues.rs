//! The rules that a token breaks, and what is doubtful about it: up to the first ten of each.

use crate::jwt::rejection::Issue;

/// How many issues a refusal names: enough to correct a token in one go, few enough for one screen. The same for
/// warnings, which become one line in the log.
const MAX_ISSUES: usize = 10;

/// Collects what a token's rules find; issues and warnings past [`MAX_ISSUES`] are dropped.
#[derive(Debug, Default)]
pub(in crate::jwt) struct Issues {
    blocking: Vec<Issue>,
    warnings: Vec<Issue>,
}

impl Issues {
    /// Adds a rule that the token breaks, and for which nats-server refuses it.
    pub(in crate::jwt) fn add(&mut self, code: &'static str, detail: impl FnOnce() -> String) {
        push(&mut self.blocking, code, detail);
    }

    /// Adds something that nats-server accepts, but that is probably not what the signer wants.
    pub(super) fn warn(&mut self, code: &'static str, detail: impl FnOnce() -> String) {
        push(&mut self.warnings, code, detail);
    }

    /// The broken rules and the warnings, each in the order in which they were found.
    pub(in crate::jwt) fn into_lists(self) -> (Vec<Issue>, Vec<Issue>) {
        (self.blocking, self.warnings)
    }
}

fn push(list: &mut Vec<Issue>, code: &'static str, detail: impl FnOnce() -> String) {
    if list.len() < MAX_ISSUES {
        list.push(Issue { code, detail: detail() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_of_each_are_kept_and_the_others_are_not_even_written() {
        let mut issues = Issues::default();
        for at in 0..11 {
            let detail = || {
                assert!(at < 10, "written in vain");
                String::new()
            };
            issues.add("a", detail);
            issues.warn("b", detail);
        }
        let (blocking, warnings) = issues.into_lists();
        assert_eq!((blocking.len(), warnings.len()), (10, 10));
        assert!(blocking.iter().all(|issue| issue.code == "a") && warnings.iter().all(|issue| issue.code == "b"));
    }
}
