//! A submission: the token is verified, proposed, and acknowledged when it is on disk and applied here.

use std::sync::Arc;

use bytes::Bytes;

use super::error::SubmitError;
use super::handle::{Resolver, VerifiedTrust};
use crate::jwt::AccountClaims;
use crate::jwt::AccountKey;
use crate::jwt::Rejection;
use crate::jwt::Token;
use crate::jwt::Verified;
use crate::raft::ProposeError;
use crate::state::AccountOutcome;
use crate::state::PutAccount;
use crate::state::Revision;

/// A submission that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Whether the state changed; `false` if the same bytes were current already.
    pub stored: bool,
    /// The revision at which these bytes are stored.
    pub revision: Revision,
}

/// Verifying or printing a token larger than this takes long enough (about 0.3 ms) to be kept off the threads that
/// answer other requests.
pub const INLINE_TOKEN_BYTES: usize = 16 * 1024;

/// How often a submission is verified before it fails, if the trust changes each time before it is applied. Trust is
/// changed by hand, so even a second time is rare.
const TRUST_ATTEMPTS: usize = 3;

impl Resolver {
    /// Submits the token in `body`. `expected` is the account that the request names, if it names one.
    ///
    /// Success means that the token is on disk and can be read here (G1). Bytes that were current already are sent to
    /// the NATS clusters once more: people and scripts push again to update a server that missed a change.
    pub async fn submit(&self, expected: Option<AccountKey>, body: Bytes) -> Result<Submitted, SubmitError> {
        for _ in 0..TRUST_ATTEMPTS {
            let trust = self.trust();
            let verified = self.verify(body.clone(), trust.clone()).await?;
            let claims = verified.claims();
            if let Some(path) = expected.filter(|path| *path != claims.account) {
                return Err(SubmitError::WrongAccount {
                    path,
                    token: claims.account,
                });
            }
            if let Some(known) = self.known(&verified).await? {
                self.republish(claims.account);
                return Ok(known);
            }
            let item = PutAccount {
                account: claims.account,
                operator: claims.operator,
                issued_at: claims.issued_at,
                expires_at: claims.expires_at,
                name: claims.name.clone(),
                token: verified.token().bytes().clone(),
            };
            match self.0.raft.submit(trust.epoch, item).await? {
                AccountOutcome::Stored { revision } => {
                    // At level debug only: an import makes a million of these lines.
                    tracing::debug!(account = %claims.account, operator = %claims.operator, revision, "submission stored");
                    return Ok(Submitted { stored: true, revision });
                }
                AccountOutcome::Unchanged { revision } => {
                    self.republish(claims.account);
                    return Ok(Submitted {
                        stored: false,
                        revision,
                    });
                }
                AccountOutcome::Superseded { stored_issued_at, .. } => {
                    return Err(SubmitError::Superseded {
                        account: claims.account,
                        stored_issued_at,
                        submitted_issued_at: claims.issued_at,
                    });
                }
                AccountOutcome::OtherOperator { owner, .. } => {
                    return Err(SubmitError::OtherOperator {
                        account: claims.account,
                        owner,
                        signed_by: claims.operator,
                    });
                }
                // The trust has changed since the token was verified: verify it again under the new one.
                AccountOutcome::StaleTrust { .. } | AccountOutcome::NotTrusted => {}
            }
        }
        Err(SubmitError::NotAgreed(ProposeError::Unavailable {
            reason: "the trusted operators are changing".to_owned(),
        }))
    }

    async fn verify(&self, body: Bytes, trust: Arc<VerifiedTrust>) -> Result<Verified<AccountClaims>, SubmitError> {
        let now = self.0.clock.now();
        let small = body.len() <= INLINE_TOKEN_BYTES;
        let verify = move || -> Result<_, Rejection> {
            Verified::<AccountClaims>::verify(Token::parse(&body)?, &trust.keys, now)
        };
        if small {
            return Ok(verify()?);
        }
        // The semaphore is never closed.
        let Ok(slot) = self.0.verifying.clone().acquire_owned().await else {
            return Err(ProposeError::Busy.into());
        };
        let verified = tokio::task::spawn_blocking(move || {
            // The work holds it, because the caller may hang up before the work ends.
            let _slot = slot;
            verify()
        });
        verified
            .await
            .map_err(|_shutting_down| ProposeError::ended())?
            .map_err(SubmitError::Rejected)
    }

    /// The outcome without a proposal, if this node's own state decides it: the same bytes are current, a newer
    /// token is stored, or the account is another operator's. `None` if the token has to be proposed.
    async fn known(&self, verified: &Verified<AccountClaims>) -> Result<Option<Submitted>, SubmitError> {
        let claims = verified.claims();
        let Some(row) = self.lookup(claims.account).await? else {
            return Ok(None);
        };
        if row.token == *verified.token().bytes() {
            return Ok(Some(Submitted {
                stored: false,
                revision: row.revision,
            }));
        }
        if row.operator != claims.operator {
            return Err(SubmitError::OtherOperator {
                account: claims.account,
                owner: row.operator,
                signed_by: claims.operator,
            });
        }
        if row.supersedes(claims.issued_at, verified.token().bytes()) {
            return Err(SubmitError::Superseded {
                account: claims.account,
                stored_issued_at: row.issued_at,
                submitted_issued_at: claims.issued_at,
            });
        }
        Ok(None)
    }
}
