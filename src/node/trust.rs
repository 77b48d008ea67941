//! The first operators: read from the files of the configuration, and offered to the mesh.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::jwt::OperatorClaims;
use crate::jwt::Token;
use crate::jwt::Verified;
use crate::resolver::OperatorOutcome;
use crate::resolver::ProposeError;
use crate::resolver::Resolver;
use crate::resolver::SubmitError;

/// Reads and verifies the operator JWTs in `paths`.
pub(super) fn read_operators(paths: &[PathBuf]) -> Result<Vec<Verified<OperatorClaims>>> {
    let read = |path: &PathBuf| -> Result<_> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the operator JWT {}", path.display()))?;
        let verified = Token::from_file_text(&text).and_then(Verified::<OperatorClaims>::verify);
        verified.with_context(|| format!("{} is no operator JWT", path.display()))
    };
    paths.iter().map(read).collect()
}

/// The operators of the file are the mesh's first trust; later they only bring newer tokens of trusted ones.
pub(super) async fn trust_first(resolver: &Resolver, operators: &[Verified<OperatorClaims>]) -> Result<()> {
    let outcomes = match resolver.trust_operators(operators).await {
        // Lookups need no newer trust.
        Err(error @ SubmitError::NotAgreed(ProposeError::Unavailable { .. }))
            if !resolver.trust().keys.operators().is_empty() =>
        {
            tracing::error!(
                "the operators in the configuration are not looked at: {error}, by starting this node again"
            );
            return Ok(());
        }
        outcomes => outcomes?,
    };
    for (operator, outcome) in operators.iter().zip(outcomes) {
        let operator = operator.claims().operator;
        match outcome {
            OperatorOutcome::Stored { revision } => tracing::info!(%operator, revision, "operator trusted"),
            OperatorOutcome::Superseded { stored_issued_at, .. } => {
                tracing::warn!(%operator, stored_issued_at, "the operator JWT in the configuration is older than the agreed one, which stays");
            }
            OperatorOutcome::NotTrusted => tracing::warn!(
                %operator,
                "an operator in the configuration is not among the agreed ones, and is not trusted: the file gives the first trust only"
            ),
            OperatorOutcome::Unchanged { .. } => {}
        }
    }
    Ok(())
}
