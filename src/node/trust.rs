//! The operators of the configuration: read from the files that it names, and submitted to the mesh.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::life::StartError;
use crate::jwt::Issue;
use crate::jwt::OperatorClaims;
use crate::jwt::Token;
use crate::jwt::Verified;
use crate::raft::Raft;
use crate::resolver::OperatorOutcome;
use crate::resolver::ProposeError;
use crate::resolver::Resolver;
use crate::resolver::SubmitError;
use crate::tasks::Scope;

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

/// How often a node of a mesh looks whether the first trust is agreed on.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Has the mesh agree on its first trust, which the leader proposes from its own configuration. Every other node only
/// compares its own with it. Ends when that is done, or when `scope` stops.
pub(super) async fn agree_on_operators(
    resolver: Resolver,
    raft: Raft,
    operators: Vec<Verified<OperatorClaims>>,
    scope: Scope,
) {
    let compared = async {
        let mut said = String::new();
        loop {
            // Before there is a trust only the leader may propose one. Afterwards newer JWTs are taken from every node.
            let has_trust = resolver.trust().epoch > 0;
            if raft.is_usable() && (raft.is_leading() || (has_trust && raft.leader().is_some())) {
                match submit_operators(&resolver, &operators).await {
                    Ok(()) => return,
                    Err(error) => {
                        let reason = format!("{error:#}");
                        if reason != said {
                            tracing::warn!(
                                "the operators in the configuration were not submitted: {reason}; trying again"
                            );
                            said = reason;
                        }
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    scope.until_stop(compared).await;
}

/// The same as [`submit_operators`] for a node that goes on without: lookups need no newer trust.
pub(super) async fn submit_operators_if_possible(
    resolver: &Resolver,
    operators: &[Verified<OperatorClaims>],
) -> Result<()> {
    let has_trust = resolver.trust().epoch > 0;
    let submitted = submit_operators(resolver, operators).await;
    match submitted.as_ref().err().and_then(|error| error.downcast_ref()) {
        Some(error @ SubmitError::NotAgreed(ProposeError::Unavailable { .. } | ProposeError::NoLeader))
            if has_trust =>
        {
            tracing::error!("the operators in the configuration were not submitted: {error} with SIGHUP or a restart");
            Ok(())
        }
        _ => submitted,
    }
}

/// Submits the configured operators. They are the mesh's first trust; later only newer tokens of trusted operators are
/// taken from them.
pub(super) async fn submit_operators(resolver: &Resolver, operators: &[Verified<OperatorClaims>]) -> Result<()> {
    let trusted = resolver.trust();
    let trusted = trusted.keys.operators();
    let outcomes = match resolver.trust_operators(operators).await {
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
    let agreed = resolver.trust();
    let owners: Vec<_> = operators
        .iter()
        .map(|named| resolver.owner(named.claims().operator))
        .collect();
    for known in agreed.keys.operators() {
        let operator = known.claims().operator;
        if !owners.contains(&operator) {
            tracing::warn!(
                %operator,
                name = known.claims().name,
                "the mesh trusts an operator that the configuration of this node does not name: add its JWT to `operators` in cluster.toml, \
                 which is the same on every node"
            );
        }
    }
    resolver.set_candidates(candidates);
    Ok(())
}
