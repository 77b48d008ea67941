//! The operators that the mesh trusts, as verified keys, and submitting operators to it.

use std::sync::Arc;

use super::error::SubmitError;
use super::handle::{Resolver, VerifiedTrust};
use crate::jwt::OperatorClaims;
use crate::jwt::Token;
use crate::jwt::TrustedKeys;
use crate::jwt::Verified;
use crate::state::OperatorOutcome;
use crate::state::PutOperator;
use crate::state::PutOperators;

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

    /// Submits operators to trust: the mesh's first ones, or newer tokens of operators that are trusted already.
    ///
    /// Gives the outcome of each, in order. Nothing is proposed if nothing would change.
    pub async fn trust_operators(
        &self,
        operators: &[Verified<OperatorClaims>],
    ) -> Result<Vec<OperatorOutcome>, SubmitError> {
        let items = operators.iter().map(|offered| PutOperator {
            operator: offered.claims().operator,
            issued_at: offered.claims().issued_at,
            token: offered.token().bytes().clone(),
        });
        let command = PutOperators { items: items.collect() };
        match self.0.state.outcomes_without_change(command.clone()) {
            Some(outcomes) => Ok(outcomes),
            None => Ok(self.0.raft.propose(command).await?),
        }
    }
}
