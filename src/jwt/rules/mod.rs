//! The rules that the jwt library treats as blocking, so that nats-server would refuse what breaks one.
//!
//! Each has a code and a sentence. Reading and judging go together: a field of the wrong type is a `Rejection`.

mod account;
mod exports;
mod imports;
mod operator;
mod subject;
mod url;

pub(super) use account::account;
pub(super) use operator::operator;

use account::info;

use super::rejection::Issue;

/// How many issues a refusal names: enough to mend a token in one go, few enough for one screen.
pub(super) const MAX_ISSUES: usize = 10;

/// The rules a token breaks.
#[derive(Debug, Default)]
pub(super) struct Issues(Vec<Issue>);

impl Issues {
    pub(super) fn add(&mut self, code: &'static str, detail: impl FnOnce() -> String) {
        if self.0.len() < MAX_ISSUES {
            self.0.push(Issue { code, detail: detail() });
        }
    }
}
