//! What became of many items.

use std::collections::BTreeMap;

use crate::cli::exit::{Exit, Failure};

/// What became of everything that was asked for: one bad item does not keep the others from theirs.
#[derive(Default)]
pub(super) struct Tally {
    counts: BTreeMap<&'static str, u64>,
    pub(super) exit: Exit,
    /// Why the node no longer answers, once it does not.
    pub(super) gone: Option<Failure>,
}

impl Tally {
    /// Counts one item with its outcome. Of several exit codes the highest is the command's.
    pub(super) fn add(&mut self, outcome: &'static str, exit: Exit) {
        *self.counts.entry(outcome).or_default() += 1;
        self.exit = self.exit.max(exit);
    }

    /// From here on no item is asked for: a node that is gone would say the same of each, a silent one half a minute
    /// later each time.
    pub(super) fn give_up(&mut self, failure: Failure) {
        self.exit = self.exit.max(failure.exit);
        self.gone = Some(failure);
    }

    /// How many had which outcome.
    pub(super) fn line(&self) -> String {
        let counted: Vec<_> = self
            .counts
            .iter()
            .map(|(outcome, count)| format!("{count} {outcome}"))
            .collect();
        counted.join(", ")
    }

    pub(super) fn end(self) -> Result<Exit, Failure> {
        match self.gone {
            Some(failure) => Err(Failure::new(self.exit, failure.said)),
            None => Ok(self.exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_exit_codes_the_highest_counts() {
        let mut tally = Tally::default();
        assert_eq!(tally.exit, Exit::Done);
        for (outcome, exit, so_far) in [
            ("stored", Exit::Done, Exit::Done),
            ("failed", Exit::Failed, Exit::Failed),
            ("refused", Exit::Refused, Exit::Refused),
            ("failed", Exit::NotFound, Exit::Refused),
        ] {
            tally.add(outcome, exit);
            assert_eq!(tally.exit, so_far, "after {outcome}");
        }
        assert_eq!(tally.line(), "2 failed, 1 refused, 1 stored");
        tally.give_up(Failure::new(Exit::Unreachable, "nobody there"));
        let failure = tally.end().expect_err("the node is gone");
        assert_eq!(
            (failure.exit, failure.said.as_str()),
            (Exit::Unreachable, "nobody there")
        );
    }
}
