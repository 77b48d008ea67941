//! The first operators: read from the files that the configuration names, and submitted to the mesh.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::life::StartError;
use crate::jwt::OperatorClaims;
use crate::jwt::Token;
use crate::jwt::Verified;
use crate::resolver::OperatorOutcome;
use crate::resolver::ProposeError;
use crate::resolver::Resolver;
use crate::resolver::SubmitError;

/// Reads and verifies the operator JWTs in `paths`.
pub(super) fn read_operators(paths: &[PathBuf]) -> Result<Vec<Verified<OperatorClaims>>, StartError> {
    let read = |path: &PathBuf| -> Result<_, StartError> {
        let bytes = std::fs::read(path)
            .with_context(|| format!("cannot read the operator JWT {}", path.display()))
            .map_err(StartError::Failed)?;
        let text = String::from_utf8_lossy(&bytes);
        let verified = Token::from_file_text(&text).and_then(Verified::<OperatorClaims>::verify);
        verified
            .with_context(|| format!("{} is not an operator JWT", path.display()))
            .map_err(StartError::Configuration)
    };
    paths.iter().map(read).collect()
}

/// Submits the configured operators. They are the mesh's first trust; later only newer tokens of trusted operators are
/// taken from them.
pub(super) async fn trust_first(resolver: &Resolver, operators: &[Verified<OperatorClaims>]) -> Result<()> {
    let outcomes = match resolver.trust_operators(operators).await {
        // The node starts all the same, because lookups need no newer trust.
        Err(error @ SubmitError::NotAgreed(ProposeError::Unavailable { .. }))
            if !resolver.trust().keys.operators().is_empty() =>
        {
            tracing::error!("the operators in the configuration were not submitted: {error} by restarting this node");
            return Ok(());
        }
        outcomes => outcomes?,
    };
    for (operator, outcome) in operators.iter().zip(outcomes) {
        let operator = operator.claims().operator;
        match outcome {
            OperatorOutcome::Stored { revision } => tracing::info!(%operator, revision, "operator trusted"),
            OperatorOutcome::Superseded { stored_issued_at, .. } => {
                tracing::warn!(%operator, stored_issued_at, "the operator JWT in the configuration is older than the agreed one and is ignored");
            }
            OperatorOutcome::NotTrusted => tracing::warn!(
                %operator,
                "an operator in the configuration is not trusted: the configuration gives only the first operators of a mesh"
            ),
            OperatorOutcome::Unchanged { .. } => {}
        }
    }
    Ok(())
}
