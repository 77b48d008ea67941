//! The operators that the mesh trusts, as verified keys, and submitting operators to it.

use std::sync::Arc;

use super::error::SubmitError;
use super::handle::{Resolver, VerifiedTrust};
use super::submit::Submitted;
use crate::jwt::OperatorClaims;
use crate::jwt::OperatorKey;
use crate::jwt::SharedKey;
use crate::jwt::Token;
use crate::jwt::TrustedKeys;
use crate::jwt::Verified;
use crate::state::OperatorOutcome;
use crate::state::PutOperator;
use crate::state::PutOperators;
use crate::state::ReplaceOperator;

impl Resolver {
    /// The operators that this mesh trusts now.
    pub fn trust(&self) -> Arc<VerifiedTrust> {
        let agreed = self.0.state.trust();
        let known = self.0.trust.load_full();
        if known.epoch == agreed.epoch {
            return known;
        }
        // Each was verified before it was agreed on. One that no longer verifies is left out, and so is not trusted.
        let verified = agreed.operators.iter().filter_map(|row| {
            let token = Token::parse(&row.token).and_then(Verified::<OperatorClaims>::verify);
            token
                .inspect_err(
                    |rejection| tracing::error!(operator = %row.operator, %rejection, "an agreed operator does not verify"),
                )
                .ok()
        });
        let fresh = Arc::new(VerifiedTrust {
            epoch: agreed.epoch,
            keys: TrustedKeys::new(verified),
        });
        self.0.trust.store(fresh.clone());
        fresh
    }

    /// The operators that this node's configuration names and that the mesh does not trust, with their keys.
    pub fn candidates(&self) -> Arc<TrustedKeys> {
        self.0.candidates.load_full()
    }

    /// Sets [`Self::candidates`], so that refusals and listings can say what they are.
    pub fn set_candidates(&self, candidates: impl IntoIterator<Item = Verified<OperatorClaims>>) {
        self.0.candidates.store(Arc::new(TrustedKeys::new(candidates)));
    }

    /// The operator to whom the accounts of `operator` belong: the one that took its place, or itself if none did.
    pub fn owner(&self, operator: OperatorKey) -> OperatorKey {
        self.0.state.trust().owner(operator)
    }

    /// Submits the newer token in `body` of the trusted operator `expected`.
    pub async fn update_operator(&self, expected: OperatorKey, body: &[u8]) -> Result<Submitted, SubmitError> {
        let newer = Verified::<OperatorClaims>::verify(Token::parse(body)?)?;
        let operator = newer.claims().operator;
        if operator != expected {
            return Err(SubmitError::WrongOperator {
                path: expected,
                token: operator,
            });
        }
        let outcomes = self.trust_operators(std::slice::from_ref(&newer)).await?;
        let outcome = outcomes.into_iter().next().expect("each operator has an outcome");
        let submitted = self.operator_submitted(operator, &newer, outcome)?;
        if submitted.stored {
            tracing::info!(%operator, revision = submitted.revision, "JWT of a trusted operator updated");
        }
        Ok(submitted)
    }

    /// Has the mesh trust the operator in `body` in the place of the trusted operator `old`, whose accounts are its own
    /// from then on.
    pub async fn replace_operator(&self, old: OperatorKey, body: &[u8]) -> Result<Submitted, SubmitError> {
        let new = &Verified::<OperatorClaims>::verify(Token::parse(body)?)?;
        self.check_successor(old, new)?;
        let command = ReplaceOperator {
            old,
            new: proposed(new),
        };
        let outcome = self.0.raft.propose(command).await?;
        let outcome = outcome.expect("applying a replacement gives one outcome");
        let submitted = self.operator_submitted(old, new, outcome)?;
        if submitted.stored {
            let operator = new.claims().operator;
            let revision = submitted.revision;
            tracing::warn!(%operator, replaced = %old, revision, "an administrator replaced an operator; its accounts have a new owner");
            let candidates = self.candidates();
            let others = candidates.operators().iter();
            let others = others.filter(|candidate| candidate.claims().operator != operator);
            self.set_candidates(others.cloned());
        }
        Ok(submitted)
    }

    /// `wanted` is the operator that had to be trusted for this.
    fn operator_submitted(
        &self,
        wanted: OperatorKey,
        offered: &Verified<OperatorClaims>,
        outcome: OperatorOutcome,
    ) -> Result<Submitted, SubmitError> {
        match outcome {
            OperatorOutcome::Stored { revision } => Ok(Submitted { stored: true, revision }),
            OperatorOutcome::Unchanged { revision } => Ok(Submitted {
                stored: false,
                revision,
            }),
            OperatorOutcome::Superseded { stored_issued_at, .. } => Err(SubmitError::OperatorSuperseded {
                operator: offered.claims().operator,
                stored_issued_at,
                submitted_issued_at: offered.claims().issued_at,
            }),
            OperatorOutcome::NotTrusted => Err(SubmitError::UnknownOperator {
                operator: wanted,
                trusted: self.trust().keys.names(),
            }),
        }
    }

    /// Submits operators to trust: the mesh's first ones, or newer tokens of operators that are trusted already.
    ///
    /// Gives the outcome of each, in order. Nothing is proposed if nothing would change.
    pub async fn trust_operators(
        &self,
        operators: &[Verified<OperatorClaims>],
    ) -> Result<Vec<OperatorOutcome>, SubmitError> {
        let command = PutOperators {
            items: operators.iter().map(proposed).collect(),
        };
        if let Some(outcomes) = self.0.state.outcomes_without_change(command.clone()) {
            return Ok(outcomes);
        }
        self.check_operators(operators)?;
        Ok(self.0.raft.propose(command).await?)
    }

    /// Refuses a successor that shares a key with an operator that stays.
    pub(super) fn check_successor(&self, old: OperatorKey, new: &Verified<OperatorClaims>) -> Result<(), SubmitError> {
        let trust = self.trust();
        let staying = trust.keys.operators().iter();
        let staying = staying.filter(|trusted| ![old, new.claims().operator].contains(&trusted.claims().operator));
        check_keys(staying.chain([new]))
    }

    /// Refuses operators that would share a key, with each other or with one that is trusted already.
    pub(super) fn check_operators(&self, operators: &[Verified<OperatorClaims>]) -> Result<(), SubmitError> {
        let trust = self.trust();
        let trusted = trust.keys.operators();
        let key = |operator: &Verified<OperatorClaims>| operator.claims().operator;
        let staying = trusted
            .iter()
            .filter(|trusted| !operators.iter().any(|offered| key(offered) == key(trusted)));
        let coming = operators
            .iter()
            .filter(|offered| trusted.is_empty() || trusted.iter().any(|trusted| key(trusted) == key(offered)));
        check_keys(staying.chain(coming))
    }
}

fn proposed(operator: &Verified<OperatorClaims>) -> PutOperator {
    PutOperator {
        operator: operator.claims().operator,
        issued_at: operator.claims().issued_at,
        token: operator.token().bytes().clone(),
    }
}

/// Refuses operators that share a key: whose an account is must not depend on their order (G3).
fn check_keys<'o>(operators: impl Iterator<Item = &'o Verified<OperatorClaims>>) -> Result<(), SubmitError> {
    match TrustedKeys::new(operators.cloned()).shared_key() {
        Some(SharedKey { key, operators }) => Err(SubmitError::SharedKey { key, operators }),
        None => Ok(()),
    }
}
