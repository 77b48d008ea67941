//! WHAT A COMMAND DOES: one file a command, each a pure function of the command and of what was agreed before it.
//!
//! Nothing here looks at a clock, draws a number or reads the configuration, and nothing depends on the order of a hash
//! map: every node that applies the same log must come to the same rows (I3). The result is a [`Change`], complete
//! before any of it can be seen.

mod accounts;
mod before;
mod closings;
mod deletes;
mod operators;
mod positions;
mod roster;

pub(super) use before::{Before, Present};

use super::command::{Command, DeleteAccounts, DeleteOutcome, OperatorOutcome, Outcomes, PutOperators};
use super::fault::Fault;
use super::recent::Change;
use super::rows::{Mark, Trust};

/// Decides what `command` does, puts it into `change`, and returns the outcomes.
pub(super) fn decide(change: &mut Change, before: &impl Before, command: Command) -> Result<Outcomes, Fault> {
    Ok(match command {
        Command::PutAccounts(command) => Outcomes::Accounts(accounts::put_all(change, before, command)?),
        Command::PutOperators(command) => Outcomes::Operators(operators::put(change, &before.trust(), command)),
        Command::MarkPropagated(command) => {
            positions::mark(change, before, command);
            Outcomes::Marked
        }
        Command::TakeLease(command) => Outcomes::Lease(positions::lease(change, before, command)),
        Command::OverrideAccount(command) => Outcomes::Accounts(vec![accounts::override_one(change, before, command)?]),
        Command::PutAccountIf(command) => Outcomes::Accounts(vec![accounts::put_if(change, before, command)?]),
        Command::ReplaceOperator(command) => {
            Outcomes::Operators(vec![operators::replace(change, &before.trust(), command)])
        }
        Command::UpdateRoster(command) => Outcomes::Roster(roster::update(change, before, command)),
        Command::UpdateRosterIf(command) => Outcomes::Roster(roster::update_if(change, before, command)),
        Command::ForgetServer(command) => Outcomes::Roster(roster::forget(change, before, command)),
        Command::DeleteAccounts(command) => Outcomes::Deleted(deletes::delete(change, before, &command)?),
        Command::PutClosing(command) => Outcomes::Closing(closings::keep(change, before, command)?),
        Command::RemoveClosing(command) => Outcomes::Closing(closings::forget(change, before, command)?),
        Command::KillAccount(command) => Outcomes::Closing(closings::kill(change, before, command)?),
    })
}

/// The outcome of a request to delete accounts, without its effect.
pub(super) fn judge_delete(before: &impl Before, command: &DeleteAccounts) -> Result<DeleteOutcome, Fault> {
    deletes::delete(&mut Change::blank(Mark::default()), before, command)
}

/// The outcomes of operators, if none of them would be stored; `None` if one would.
pub(super) fn outcomes_without_change(trust: &Trust, command: PutOperators) -> Option<Vec<OperatorOutcome>> {
    let mut change = Change::blank(Mark::default());
    let outcomes = operators::put(&mut change, trust, command);
    change.trust.is_none().then_some(outcomes)
}
