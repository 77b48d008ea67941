//! The operators of the configuration: read from the files that it names, and submitted to the mesh.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::life::StartError;
use crate::jwt::Issue;
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
pub(super) async fn submit_operators(resolver: &Resolver, operators: &[Verified<OperatorClaims>]) -> Result<()> {
    let trusted = resolver.trust();
    let trusted = trusted.keys.operators();
    let outcomes = match resolver.trust_operators(operators).await {
        // The node starts all the same, because lookups need no newer trust.
        Err(error @ SubmitError::NotAgreed(ProposeError::Unavailable { .. })) if !trusted.is_empty() => {
            tracing::error!("the operators in the configuration were not submitted: {error} with SIGHUP or a restart");
            return Ok(());
        }
        Err(error @ SubmitError::SharedKey { .. }) if !trusted.is_empty() => {
            tracing::error!("the operators in the configuration are ignored: {error}");
            return Ok(());
        }
        outcomes => outcomes?,
    };
    let mut candidates = Vec::new();
    for (offered, outcome) in operators.iter().zip(outcomes) {
        let warnings = &offered.claims().warnings;
        let operator = offered.claims().operator;
        if !warnings.is_empty() && outcome != OperatorOutcome::NotTrusted {
            tracing::warn!(%operator, warnings = Issue::joined(warnings), "the operator JWT is trusted, but doubtful");
        }
        match outcome {
            OperatorOutcome::Stored { revision } if trusted.iter().any(|known| known.claims().operator == operator) => {
                tracing::info!(%operator, revision, "JWT of a trusted operator updated");
            }
            OperatorOutcome::Stored { revision } => tracing::info!(%operator, revision, "operator trusted"),
            OperatorOutcome::Superseded { stored_issued_at, .. } => {
                tracing::warn!(%operator, stored_issued_at, "the operator JWT in the configuration is older than the agreed one and is ignored");
            }
            OperatorOutcome::NotTrusted => match resolver.owner(operator) {
                owner if owner == operator => candidates.push(offered.clone()),
                successor => tracing::warn!(
                    %operator,
                    %successor,
                    "an operator in the configuration was replaced: name its successor's JWT in its place"
                ),
            },
            OperatorOutcome::Unchanged { .. } => {}
        }
    }
    for candidate in &candidates {
        let operator = candidate.claims().operator;
        tracing::error!(
            %operator,
            "an operator in the configuration is not trusted: this mesh trusts {}. If it takes the place of one of those, as after \
             `nsc reissue operator`, run `jwtmesh operator replace OLD FILE` on this machine; until then its accounts are refused",
            resolver.trust().keys.names()
        );
    }
    resolver.set_candidates(candidates);
    Ok(())
}
