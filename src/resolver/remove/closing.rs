//! The JWT with which an account can be shut: kept, removed, and used.

use std::sync::Arc;

use bytes::Bytes;

use crate::jwt::{AccountClaims, AccountKey, OperatorKey, Token, TrustedKeys, Verified};
use crate::resolver::error::{OlderServer, ReadError, RemovalError, SubmitError};
use crate::resolver::handle::Resolver;
use crate::resolver::older::warn_of;
use crate::resolver::submit::{Submitted, TRUST_ATTEMPTS, item, trust_changes};
use crate::state::{Closing, ClosingOutcome, KillAccount, PutAccount, PutClosing, RemoveClosing};

impl Resolver {
    /// The closing JWT that is kept for `account`.
    pub async fn closing(&self, account: AccountKey) -> Result<Option<Arc<Closing>>, ReadError> {
        let state = self.0.state.clone();
        let read = tokio::task::spawn_blocking(move || state.closing(account));
        self.noted(read.await.map_err(|_shutting_down| ReadError::ShuttingDown)?)
    }

    /// The same, if it shuts the account now: servers refuse one that was signed by a key which its operator has removed since,
    /// or one that has expired.
    pub async fn valid_closing(&self, account: AccountKey) -> Result<Option<Arc<Closing>>, ReadError> {
        let (state, trust, now) = (self.0.state.clone(), self.trust(), self.now());
        let read = tokio::task::spawn_blocking(move || {
            let closing = state.closing(account)?;
            Ok(closing.filter(|closing| is_valid(closing, &trust.keys, now)))
        });
        self.noted(read.await.map_err(|_shutting_down| ReadError::ShuttingDown)?)
    }

    /// Keeps the JWT in `body` for the day on which `account` is to be shut.
    pub async fn keep_closing(&self, account: AccountKey, body: Bytes) -> Result<Submitted, SubmitError> {
        for _ in 0..TRUST_ATTEMPTS {
            let (trust_epoch, item, refused) = self.closing_item(account, body.clone(), false).await?;
            let signed_by = item.operator;
            let outcome = self.0.raft.propose(PutClosing { trust_epoch, item }).await?;
            if let Some(kept) = closing_done(account, signed_by, outcome)? {
                if kept.stored {
                    warn_of(refused.as_ref());
                    tracing::info!(%account, revision = kept.revision, "a closing JWT is kept for this account");
                }
                return Ok(kept);
            }
        }
        Err(trust_changes())
    }

    /// Keeps no closing JWT for `account` any more. `false` if none was kept.
    pub async fn forget_closing(&self, account: AccountKey) -> Result<bool, SubmitError> {
        let outcome = self.0.raft.propose(RemoveClosing { account }).await?;
        let is_removed = outcome.has_happened();
        if is_removed {
            tracing::warn!(%account, "an administrator removed the closing JWT of this account");
        }
        Ok(is_removed)
    }

    /// Shuts `account`: the JWT that is kept for it becomes its current one, which lookups give and the NATS clusters are
    /// sent. With `dry_run` nothing is done, and the revision is that of its present JWT.
    pub async fn kill(&self, account: AccountKey, dry_run: bool) -> Result<Submitted, SubmitError> {
        for _ in 0..TRUST_ATTEMPTS {
            self.check_removable(&[account])?;
            let row = self.current(account).await?.ok_or(RemovalError::Unknown { account })?;
            if row.is_deleted() {
                return Err(RemovalError::AlreadyDeleted { account }.into());
            }
            let closing = self
                .closing(account)
                .await?
                .ok_or(RemovalError::NoClosing { account })?;
            // The operator may have other keys since, and servers other versions.
            let judged = self.closing_item(account, closing.token.clone(), true).await;
            let (trust_epoch, item, refused) = judged.map_err(|error| not_valid(account, error))?;
            if dry_run {
                let (stored, revision) = (false, row.revision);
                return Ok(Submitted { stored, revision });
            }
            let signed_by = item.operator;
            let outcome = self.0.raft.propose(KillAccount { trust_epoch, item }).await?;
            if let Some(killed) = closing_done(account, signed_by, outcome)? {
                if killed.stored {
                    let revision = killed.revision;
                    warn_of(refused.as_ref());
                    tracing::warn!(%account, revision, "an administrator shut this account: its closing JWT is its current one");
                } else {
                    self.republish(account);
                }
                return Ok(killed);
            }
        }
        Err(trust_changes())
    }

    /// The closing JWT in `body`, verified, as it is proposed, under which trust, and what is to be warned of then. `is_kept`: it
    /// is to be used, and a server that would refuse it keeps no other from closing the account.
    async fn closing_item(
        &self,
        account: AccountKey,
        body: Bytes,
        is_kept: bool,
    ) -> Result<(u64, PutAccount, Option<OlderServer>), SubmitError> {
        self.check_trust()?;
        let trust = self.trust();
        let verified = self.verify(body, trust.clone()).await;
        let verified = verified.map_err(|error| self.explained(error))?;
        check_closing(account, verified.claims(), self.now(), is_kept)?;
        let refused = self.check_servers(&verified, is_kept).await?;
        Ok((trust.epoch, item(&verified), refused))
    }
}

fn check_closing(account: AccountKey, claims: &AccountClaims, now: i64, is_kept: bool) -> Result<(), SubmitError> {
    if claims.account != account {
        return Err(SubmitError::WrongAccount {
            path: account,
            token: claims.account,
        });
    }
    match claims.why_not_closing(now, is_kept) {
        Some(reason) => Err(RemovalError::NotClosing { account, reason }.into()),
        None => Ok(()),
    }
}

/// Whether another node's closing token shuts its account. That it is what its command says was checked before.
pub(in crate::resolver) fn check_closing_item(
    item: &PutAccount,
    keys: &TrustedKeys,
    now: i64,
    is_kept: bool,
) -> Result<(), SubmitError> {
    check_closing_token(item.account, &item.token, keys, now, is_kept)
}

fn check_closing_token(
    account: AccountKey,
    token: &Bytes,
    keys: &TrustedKeys,
    now: i64,
    is_kept: bool,
) -> Result<(), SubmitError> {
    let verified = Verified::<AccountClaims>::verify(Token::parse(token)?, keys, now)?;
    check_closing(account, verified.claims(), now, is_kept)
}

/// Whether a closing token that is kept shuts its account under this trust.
pub(super) fn is_valid(closing: &Closing, keys: &TrustedKeys, now: i64) -> bool {
    // It was not of the future when it was deposited: a clock that is behind since must not keep it from the servers.
    let now = now.max(closing.issued_at);
    check_closing_token(closing.account, &closing.token, keys, now, true).is_ok()
}

/// What is said of a closing token that is kept, where an upload of it would be refused with `error`.
fn not_valid(account: AccountKey, error: SubmitError) -> SubmitError {
    match error {
        SubmitError::Rejected(_)
        | SubmitError::Candidate { .. }
        | SubmitError::Untimely { .. }
        | SubmitError::Removal(RemovalError::NotClosing { .. }) => {
            let reason = error.to_string();
            RemovalError::ClosingInvalid { account, reason }.into()
        }
        other => other,
    }
}

fn closing_done(
    account: AccountKey,
    signed_by: OperatorKey,
    outcome: ClosingOutcome,
) -> Result<Option<Submitted>, SubmitError> {
    Err(match outcome {
        ClosingOutcome::Done { revision } => return Ok(Some(Submitted { stored: true, revision })),
        ClosingOutcome::Unchanged { revision } => {
            let stored = false;
            return Ok(Some(Submitted { stored, revision }));
        }
        ClosingOutcome::StaleTrust { .. } | ClosingOutcome::NotTrusted => return Ok(None),
        ClosingOutcome::Unknown => RemovalError::Unknown { account }.into(),
        ClosingOutcome::NotKept => RemovalError::NotKept { account }.into(),
        ClosingOutcome::Deleted { .. } => RemovalError::AlreadyDeleted { account }.into(),
        ClosingOutcome::OtherOperator { owner } => SubmitError::OtherOperator {
            account,
            owner,
            signed_by,
        },
    })
}
