//! A submission: the token is verified, proposed, and acknowledged when it is on disk and applied here.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::error::{CLOCK_TOLERANCE_SECONDS, ReadError, SubmitError};
use super::handle::{Resolver, VerifiedTrust};
use super::older::warn_of;
use crate::jwt::AccountClaims;
use crate::jwt::AccountKey;
use crate::jwt::Issue;
use crate::jwt::Rejection;
use crate::jwt::Token;
use crate::jwt::Verified;
use crate::raft::ProposeError;
use crate::state::AccountOutcome;
use crate::state::Barred;
use crate::state::OverrideAccount;
use crate::state::PutAccount;
use crate::state::PutAccountIf;
use crate::state::Revision;
use crate::state::RowKind;
use crate::state::Version;
use crate::tasks::off_the_workers;

/// A submission that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Whether the state changed; `false` if the same bytes were current already.
    pub stored: bool,
    /// The revision at which these bytes are stored.
    pub revision: Revision,
}

/// Who submits, and so what decides which token of an account is the newer one (G2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitter {
    /// Any client: `iat` decides. A token without one is refused, since any client could send an older one again.
    Anyone,
    /// An administrator: `iat` decides, and the order of arrival where a token has none.
    Administrator,
    /// An administrator who insists: the order of arrival decides.
    Insisting,
}

/// Verifying or printing a token larger than this takes long enough (about 0.3 ms) to be kept off the threads that
/// answer other requests.
pub const INLINE_TOKEN_BYTES: usize = 16 * 1024;

/// How often a submission is verified before it fails, if the trust changes each time before it is applied. Trust is
/// changed by hand, so even a second time is rare.
pub(super) const TRUST_ATTEMPTS: usize = 3;

impl Resolver {
    /// Submits the token in `body` for `submitter`. `expected` is the account that the request names, if it names one.
    ///
    /// Success means that the token is on disk and can be read here (G1). Bytes that were current already are sent to
    /// the NATS clusters once more, within the limits of `resend.rs`: people and scripts push again to update a server
    /// that missed a change.
    pub async fn submit(
        &self,
        expected: Option<AccountKey>,
        body: Bytes,
        submitter: Submitter,
    ) -> Result<Submitted, SubmitError> {
        self.submit_if(expected, body, submitter, None).await
    }

    /// Submits the token in `body`, which NATS servers were given and may enforce already: what older servers refuse is only
    /// warned of, whatever the configuration says. To overrule it could undo a revocation where it is in force.
    pub async fn adopt(
        &self,
        account: AccountKey,
        body: Bytes,
        submitter: Submitter,
    ) -> Result<Submitted, SubmitError> {
        self.submit_as(Some(account), body, submitter, None, true).await
    }

    /// The same as [`Self::submit`]; with `present`, the ETag of a token, only in the place of that token.
    pub async fn submit_if(
        &self,
        expected: Option<AccountKey>,
        body: Bytes,
        submitter: Submitter,
        present: Option<String>,
    ) -> Result<Submitted, SubmitError> {
        self.submit_as(expected, body, submitter, present, false).await
    }

    async fn submit_as(
        &self,
        expected: Option<AccountKey>,
        body: Bytes,
        submitter: Submitter,
        present: Option<String>,
        only_warns: bool,
    ) -> Result<Submitted, SubmitError> {
        for _ in 0..TRUST_ATTEMPTS {
            let trust = self.trust();
            self.check_trust()?;
            let verified = self.verify(body.clone(), trust.clone()).await;
            let verified = verified.map_err(|error| self.explained(error))?;
            let claims = verified.claims();
            if let Some(path) = expected.filter(|path| *path != claims.account) {
                return Err(SubmitError::WrongAccount {
                    path,
                    token: claims.account,
                });
            }
            // Claims of the year 1970 are those of a signer that sets no time.
            let in_order_of_arrival = match submitter {
                Submitter::Anyone => false,
                Submitter::Administrator => claims.issued_at <= 0,
                Submitter::Insisting => true,
            } && present.is_none();
            let known = self.known(&verified, in_order_of_arrival, present.as_deref());
            if let Some(known) = known.await? {
                self.republish(claims.account);
                return Ok(known);
            }
            if !in_order_of_arrival && claims.issued_at <= 0 {
                return Err(SubmitError::Undated {
                    account: claims.account,
                });
            }
            let only_warns = only_warns || submitter == Submitter::Insisting;
            let refused = self.check_servers(&verified, only_warns).await?;
            let item = item(&verified);
            let outcome = if in_order_of_arrival {
                self.override_account(trust.epoch, item, submitter).await?
            } else if let Some(expected) = present.clone() {
                self.put_if(trust.epoch, item, expected).await?
            } else {
                self.0.raft.submit(trust.epoch, item).await?
            };
            if let Some(submitted) = self.concluded(claims, outcome).await? {
                // Also where it was stored by then: of an attempt whose outcome was not known nothing was said.
                warn_of(refused.as_ref());
                return Ok(submitted);
            }
        }
        Err(trust_changes())
    }

    /// What `outcome` means for who submitted a token with these claims; `None` where the trust has changed since it was
    /// verified, so that it has to be verified again.
    async fn concluded(
        &self,
        claims: &AccountClaims,
        outcome: AccountOutcome,
    ) -> Result<Option<Submitted>, SubmitError> {
        let account = claims.account;
        match outcome {
            AccountOutcome::Stored { revision } => {
                // At level debug only: an import makes a million of these lines.
                tracing::debug!(%account, operator = %claims.operator, revision, "submission stored");
                warn(claims, revision);
                Ok(Some(Submitted { stored: true, revision }))
            }
            AccountOutcome::Unchanged { revision } => {
                self.republish(account);
                Ok(Some(Submitted {
                    stored: false,
                    revision,
                }))
            }
            AccountOutcome::Superseded {
                stored_issued_at,
                revision,
            } => {
                // What shut it was decided there, and is mostly known here by now. Without it the times are said.
                let row = self.current(account).await.ok().flatten();
                let shut = row.filter(|row| row.revision == revision && row.kind == RowKind::Closing);
                Err(self.superseded(claims, stored_issued_at, shut.map(|row| row.revision)))
            }
            AccountOutcome::Deleted { issued_after, .. } => Err(deleted(claims, issued_after)),
            AccountOutcome::OtherOperator { owner, .. } => Err(SubmitError::OtherOperator {
                account,
                owner,
                signed_by: claims.operator,
            }),
            AccountOutcome::Changed => Err(SubmitError::Changed { account }),
            AccountOutcome::StaleTrust { .. } | AccountOutcome::NotTrusted => Ok(None),
        }
    }

    pub(super) async fn verify(
        &self,
        body: Bytes,
        trust: Arc<VerifiedTrust>,
    ) -> Result<Verified<AccountClaims>, SubmitError> {
        let now = self.now();
        let verify = move |body: &Bytes| -> Result<_, Rejection> {
            Verified::<AccountClaims>::verify(Token::parse(body)?, &trust.keys, now)
        };
        self.weighed(&self.0.verifying, body.len(), move || verify(&body))
            .await?
            .map_err(SubmitError::Rejected)
    }

    /// Does `work` on this many bytes of tokens: here, or where it holds nothing up, with one of `slots`.
    pub(super) async fn weighed<T: Send + 'static>(
        &self,
        slots: &Arc<Semaphore>,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SubmitError> {
        if bytes <= INLINE_TOKEN_BYTES {
            return Ok(work());
        }
        // The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return Err(ProposeError::Busy.into());
        };
        let done = off_the_workers(move || {
            // The work holds it, because the caller may hang up before the work ends.
            let _slot = slot;
            work()
        });
        Ok(done.await)
    }

    /// Proposes a token in the place of the one whose ETag is `expected`.
    async fn put_if(
        &self,
        trust_epoch: u64,
        item: PutAccount,
        expected: String,
    ) -> Result<AccountOutcome, SubmitError> {
        let command = PutAccountIf {
            trust_epoch,
            item,
            expected,
        };
        let outcome = self.0.raft.propose(command).await?;
        Ok(outcome.expect("applying it gives one outcome"))
    }

    /// Proposes a token whose `iat` does not count. Bars the versions before it that are kept: without that anyone who
    /// has fetched one of them could bring it back.
    async fn override_account(
        &self,
        trust_epoch: u64,
        item: PutAccount,
        submitter: Submitter,
    ) -> Result<AccountOutcome, SubmitError> {
        let (account, issued_at) = (item.account, item.issued_at);
        let barred = self.barred(account).await?;
        let command = OverrideAccount {
            trust_epoch,
            item,
            barred,
        };
        let outcome = self.0.raft.propose(command).await?;
        let outcome = outcome.expect("applying an override gives one outcome");
        if let (Submitter::Insisting, AccountOutcome::Stored { revision }) = (submitter, &outcome) {
            tracing::warn!(%account, revision, issued_at, "an administrator replaced the account's token, whatever was stored");
        }
        Ok(outcome)
    }

    /// The kept versions of `account`, as an override bars them.
    pub(super) async fn barred(&self, account: AccountKey) -> Result<Vec<Barred>, ReadError> {
        match self.scan(move |state| state.history(account)).await {
            Ok(versions) => {
                let tokens = versions.iter().filter(|version| version.kind != RowKind::Tombstone);
                Ok(tokens.map(Version::barred).collect())
            }
            // What cannot be read cannot be barred, and must not keep out what an administrator insists on.
            Err(ReadError::Damaged(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether submissions are taken now; the error with which they would be refused otherwise.
    pub fn check_writable(&self) -> Result<(), ProposeError> {
        self.0.raft.check_writable()?;
        self.check_trust()
    }

    /// Before a new mesh has agreed on its operators no token is right or wrong.
    pub(super) fn check_trust(&self) -> Result<(), ProposeError> {
        if self.trust().keys.operators().is_empty() {
            // Why it has none: it may be no member of a mesh yet.
            self.0.raft.check_writable()?;
            return Err(ProposeError::Unavailable {
                reason: "this node does not know yet which operators its mesh trusts".to_owned(),
            });
        }
        Ok(())
    }

    /// Says more where this node knows more than the token and the trust.
    pub(super) fn explained(&self, error: SubmitError) -> SubmitError {
        let (issuer, trusted) = match &error {
            SubmitError::Rejected(Rejection::Untrusted { issuer, trusted }) => (issuer, trusted),
            SubmitError::Rejected(rejection) => return self.untimely(rejection).unwrap_or(error),
            _ => return error,
        };
        let candidates = self.candidates();
        match issuer.parse().ok().and_then(|key| candidates.owner_of(key)) {
            Some(candidate) => SubmitError::Candidate {
                issuer: issuer.clone(),
                candidate: candidate.operator,
                trusted: trusted.clone(),
            },
            None => error,
        }
    }

    /// Says which clock is wrong, if a token is refused for its times and NATS servers have told theirs.
    fn untimely(&self, rejection: &Rejection) -> Option<SubmitError> {
        let offset = self.heard_offset()?;
        let is_known = match rejection {
            Rejection::IssuedInFuture { .. } => true,
            // Mostly no matter of clocks.
            Rejection::Expired { .. } | Rejection::NotYetValid { .. } => {
                offset.saturating_abs() > CLOCK_TOLERANCE_SECONDS
            }
            _ => false,
        };
        is_known.then(|| SubmitError::Untimely {
            rejection: rejection.clone(),
            offset,
            now: self.0.clock.now(),
        })
    }

    fn superseded(&self, claims: &AccountClaims, stored_issued_at: i64, shut: Option<Revision>) -> SubmitError {
        SubmitError::Superseded {
            account: claims.account,
            stored_issued_at,
            submitted_issued_at: claims.issued_at,
            now: self.now(),
            shut,
        }
    }

    /// The outcome without a proposal, if this node's own state decides it: the same bytes are current, a newer
    /// token is stored, or the account is another operator's. `None` if the token has to be proposed.
    async fn known(
        &self,
        verified: &Verified<AccountClaims>,
        in_order_of_arrival: bool,
        present: Option<&str>,
    ) -> Result<Option<Submitted>, SubmitError> {
        let claims = verified.claims();
        let token = verified.token().bytes();
        let row = match self.current(claims.account).await {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(None),
            // A newer token mends the damage.
            Err(ReadError::Damaged(_))
                if in_order_of_arrival
                    || self
                        .0
                        .state
                        .may_replace_damaged(claims.account, claims.issued_at, token) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        // In a mesh another node may know of a newer token than this one, or of another owner: only what is older than
        // something is older for good.
        let is_alone = self.0.raft.is_alone();
        if row.token == *token {
            return Ok(is_alone.then_some(Submitted {
                stored: false,
                revision: row.revision,
            }));
        }
        // The same operator is trusted, so that no other one has taken its place.
        let owner = if row.operator == claims.operator {
            row.operator
        } else {
            self.0.state.trust().owner(row.operator)
        };
        if owner != claims.operator {
            return if is_alone {
                Err(SubmitError::OtherOperator {
                    account: claims.account,
                    owner,
                    signed_by: claims.operator,
                })
            } else {
                Ok(None)
            };
        }
        let is_dated = claims.issued_at > 0;
        if is_dated && !in_order_of_arrival && row.supersedes(claims.issued_at, token) {
            if present.is_some_and(|present| present != row.etag) {
                return Err(SubmitError::Changed {
                    account: claims.account,
                });
            }
            if row.is_deleted() {
                return Err(deleted(claims, row.issued_at));
            }
            let shut = (row.kind == RowKind::Closing).then_some(row.revision);
            return Err(self.superseded(claims, row.issued_at, shut));
        }
        Ok(None)
    }
}

/// The trust changed each time between verifying and applying.
pub(super) fn trust_changes() -> SubmitError {
    SubmitError::NotAgreed(ProposeError::Unavailable {
        reason: "the trusted operators are changing".to_owned(),
    })
}

fn deleted(claims: &AccountClaims, issued_after: i64) -> SubmitError {
    SubmitError::Deleted {
        account: claims.account,
        issued_after,
        submitted_issued_at: claims.issued_at,
    }
}

/// Logs what is doubtful about a token that was stored all the same: the uploader is told nothing but 200.
fn warn(claims: &AccountClaims, revision: Revision) {
    if !claims.warnings.is_empty() {
        let warnings = Issue::joined(&claims.warnings);
        tracing::warn!(account = %claims.account, operator = %claims.operator, revision, warnings, "submission stored, but doubtful");
    }
}

/// A token as it is proposed.
pub(super) fn item(verified: &Verified<AccountClaims>) -> PutAccount {
    let claims = verified.claims();
    PutAccount {
        account: claims.account,
        operator: claims.operator,
        issued_at: claims.issued_at,
        expires_at: claims.expires_at,
        name: claims.name.clone(),
        token: verified.token().bytes().clone(),
    }
}
