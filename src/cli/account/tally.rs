//! The outcomes of a command with many items, and its exit code.

use std::collections::BTreeMap;

use crate::cli::exit::{Exit, Failure};

/// Counts the outcomes of a command's items. One failed item does not stop the others.
#[derive(Default)]
pub(super) struct Tally {
    counts: BTreeMap<&'static str, u64>,
    pub(super) exit: Exit,
    /// Why the node does not answer; set as soon as a request got no answer.
    pub(super) gone: Option<Failure>,
}

impl Tally {
    /// Counts one item with its outcome. The command's exit is the worst of its items'.
    pub(super) fn add(&mut self, outcome: &'static str, exit: Exit) {
        *self.counts.entry(outcome).or_default() += 1;
        self.exit = self.exit.or_worse(exit);
    }

    /// Ends the requests to the node, which did not answer: each further request would fail in the same way, and with a
    /// silent node only after half a minute.
    pub(super) fn give_up(&mut self, failure: Failure) {
        self.exit = self.exit.or_worse(failure.exit);
        self.gone = Some(failure);
    }

    /// The number of items with each outcome, such as `2 failed, 1 stored`.
    pub(super) fn line(&self) -> String {
        let counted: Vec<_> = self
            .counts
            .iter()
            .map(|(outcome, count)| format!("{count} {outcome}"))
            .collect();
        counted.join(", ")
    }

    /// The exit code; a failure with that code if the node did not answer. The failure also says what was refused: a
    /// refusal stays one, however often the command is repeated.
    pub(super) fn end(self) -> Result<Exit, Failure> {
        let refused = self.counts.get("refused").copied().unwrap_or(0);
        match self.gone {
            Some(failure) if refused > 0 => Err(Failure::new(
                self.exit,
                format!(
                    "{}; {refused} were refused before that, for the reasons above",
                    failure.message
                ),
            )),
            Some(failure) => Err(Failure::new(self.exit, failure.message)),
            None => Ok(self.exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_exits_the_one_that_needs_a_person_most_counts() {
        let mut tally = Tally::default();
        assert_eq!(tally.exit, Exit::Done);
        for (outcome, exit, so_far) in [
            ("stored", Exit::Done, Exit::Done),
            ("failed", Exit::Unreachable, Exit::Unreachable),
            ("failed", Exit::NotFound, Exit::NotFound),
            ("failed", Exit::Failed, Exit::Failed),
            ("refused", Exit::Refused, Exit::Refused),
            ("failed", Exit::Failed, Exit::Refused),
            ("failed", Exit::Unreachable, Exit::Refused),
        ] {
            tally.add(outcome, exit);
            assert_eq!(tally.exit, so_far, "after {outcome}");
        }
        assert_eq!(tally.line(), "5 failed, 1 refused, 1 stored");
        tally.give_up(Failure::new(Exit::Unreachable, "no node answers"));
        let failure = tally.end().expect_err("the node is gone");
        assert_eq!(
            (failure.exit, failure.message.as_str()),
            (
                Exit::Refused,
                "no node answers; 1 were refused before that, for the reasons above"
            )
        );
        let mut tally = Tally::default();
        tally.add("refused", Exit::Refused);
        tally.add("failed", Exit::Failed);
        assert_eq!(tally.end().ok(), Some(Exit::Refused));
    }
}
