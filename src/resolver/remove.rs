//! Removals: accounts that an operator deletes, and accounts that are shut with the JWT that was deposited for it.
//!
//! A request to delete accounts is a token of its own, signed by a key of the operator whose accounts it names. All of them
//! are deleted or none. What an account leaves behind, and what may come back, is decided in the state (G8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::error::{Protected, ReadError, RemovalError, SubmitError};
use super::handle::Resolver;
use super::submit::{Submitted, Submitter, TRUST_ATTEMPTS, item, trust_changes};
use crate::jwt::{AccountClaims, AccountKey, DeleteClaims, OperatorKey, Token, TrustedKeys, Verified};
use crate::state::{
    Closing, ClosingOutcome, DeleteAccounts, DeleteOutcome, KillAccount, MAX_DELETED, PutAccount, PutClosing,
    RemoveClosing, Revision,
};

/// Accounts that are named in the line of the log about a request; the others are counted.
const LOGGED: usize = 8;

/// What became of a request to delete accounts, or what would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// The operator whose key signed it.
    pub operator: OperatorKey,
    /// The revision at which it was carried out; `None` if it was only looked at.
    pub revision: Option<Revision>,
    /// The accounts, in the order of the request.
    pub accounts: Vec<DeletedAccount>,
}

/// An account of such a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedAccount {
    /// The account.
    pub account: AccountKey,
    /// Its name, as it was; empty if the mesh never had it.
    pub name: String,
    /// Whether it was there.
    pub was_there: bool,
    /// Whether a closing JWT is kept for it. Without one, a server with a URL resolver that has loaded the account keeps it
    /// until it is restarted.
    pub has_closing: bool,
}

impl Deleted {
    /// How many accounts were there and have no closing JWT.
    pub fn left_open(&self) -> usize {
        let open = |account: &&DeletedAccount| account.was_there && !account.has_closing;
        self.accounts.iter().filter(open).count()
    }
}

impl Resolver {
    /// Deletes the accounts that the request in `body` names, for `submitter`: all of them, or none. `path` is the account
    /// that the request to this node names, if it names one; then the signed one must name no other.
    pub async fn delete(
        &self,
        path: Option<AccountKey>,
        body: Bytes,
        submitter: Submitter,
    ) -> Result<Deleted, SubmitError> {
        for _ in 0..TRUST_ATTEMPTS {
            let command = self.delete_command(path, &body, submitter).await?;
            let mut deleted = self.looked_at(&command).await?;
            let outcome = self.0.raft.propose(command.clone()).await?;
            if let Some((revision, were_there)) = done(&command, outcome)? {
                deleted.revision = Some(revision);
                for (account, was_there) in deleted.accounts.iter_mut().zip(were_there) {
                    account.was_there = was_there;
                }
                log(&deleted);
                return Ok(deleted);
            }
        }
        Err(trust_changes())
    }

    /// What [`Self::delete`] would do, as far as this node knows; nothing is done.
    pub async fn preview_delete(
        &self,
        path: Option<AccountKey>,
        body: Bytes,
        submitter: Submitter,
    ) -> Result<Deleted, SubmitError> {
        let command = self.delete_command(path, &body, submitter).await?;
        let mut deleted = self.looked_at(&command).await?;
        let judged = command.clone();
        let outcome = self.scan(move |state| state.judge_delete(&judged)).await?;
        let (_, were_there) = done(&command, outcome)?.ok_or_else(trust_changes)?;
        for (account, was_there) in deleted.accounts.iter_mut().zip(were_there) {
            account.was_there = was_there;
        }
        Ok(deleted)
    }

    /// The request in `body`, verified, as it is proposed.
    async fn delete_command(
        &self,
        path: Option<AccountKey>,
        body: &Bytes,
        submitter: Submitter,
    ) -> Result<DeleteAccounts, SubmitError> {
        self.check_trust()?;
        let (trust, now, body) = (self.trust(), self.now(), body.clone());
        let bytes = body.len();
        let keys = trust.clone();
        let verify = move || Verified::<DeleteClaims>::verify(Token::parse(&body)?, &keys.keys, now);
        let verified = self.weighed(&self.0.verifying, bytes, verify).await?;
        let verified = verified.map_err(|rejection| self.explained(SubmitError::Rejected(rejection)))?;
        let claims = verified.claims();
        if submitter == Submitter::Anyone && claims.issued_at <= 0 {
            return Err(RemovalError::Undated.into());
        }
        if let Some(path) = path.filter(|path| claims.accounts.iter().any(|account| account != path)) {
            return Err(RemovalError::OtherAccounts { path }.into());
        }
        self.check_removable(&claims.accounts)?;
        Ok(DeleteAccounts {
            trust_epoch: trust.epoch,
            operator: claims.operator,
            issued_at: claims.issued_at.max(0),
            claim: verified.token().bytes().clone(),
            accounts: claims.accounts.clone(),
        })
    }

    /// Refuses more accounts than are removed at once, and those that are not to be removed.
    pub(super) fn check_removable(&self, accounts: &[AccountKey]) -> Result<(), RemovalError> {
        let count = accounts.len();
        if count > MAX_DELETED {
            return Err(RemovalError::TooMany { count });
        }
        for account in accounts {
            if let Some(why) = self.protection(*account) {
                let account = *account;
                return Err(RemovalError::Protected { account, why });
            }
        }
        Ok(())
    }

    /// Why `account` is not to be removed, if it is not.
    fn protection(&self, account: AccountKey) -> Option<Protected> {
        let trust = self.trust();
        let mut systems = trust
            .keys
            .operators()
            .iter()
            .filter_map(|operator| operator.claims().system_account);
        if systems.any(|system| system == account) {
            return Some(Protected::System);
        }
        self.0.protected.load().get(&account).copied()
    }

    /// `accounts` are not removed from now on.
    pub fn protect(&self, accounts: impl IntoIterator<Item = AccountKey> + Clone, why: Protected) {
        self.0.protected.rcu(|known| {
            let mut protected = BTreeMap::clone(known);
            protected.extend(accounts.clone().into_iter().map(|account| (account, why)));
            protected
        });
    }

    /// The accounts of `command` as they are now.
    async fn looked_at(&self, command: &DeleteAccounts) -> Result<Deleted, SubmitError> {
        let mut accounts = Vec::with_capacity(command.accounts.len());
        for account in &command.accounts {
            let row = match self.current(*account).await {
                // It may be deleted all the same.
                Err(ReadError::Damaged(_)) => None,
                row => row?,
            };
            accounts.push(DeletedAccount {
                account: *account,
                was_there: row.as_ref().is_some_and(|row| !row.is_deleted()),
                name: row.map(|row| row.name.clone()).unwrap_or_default(),
                has_closing: false,
            });
        }
        let closings = self.with_closing(command.accounts.clone()).await?;
        for account in &mut accounts {
            account.has_closing = closings.contains(&account.account);
        }
        Ok(Deleted {
            operator: command.operator,
            revision: None,
            accounts,
        })
    }

    /// Which of `accounts` have a closing JWT.
    async fn with_closing(&self, accounts: Vec<AccountKey>) -> Result<BTreeSet<AccountKey>, ReadError> {
        let state = self.0.state.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut found = BTreeSet::new();
            for account in accounts {
                match state.closing(account) {
                    Ok(None) => {}
                    Ok(Some(_)) => drop(found.insert(account)),
                    // What cannot be read cannot be sent.
                    Err(fault) if fault.is_of_one_read() => {}
                    Err(fault) => return Err(fault),
                }
            }
            Ok(found)
        });
        self.noted(read.await.map_err(|_shutting_down| ReadError::ShuttingDown)?)
    }

    /// The closing JWT that is kept for `account`.
    pub async fn closing(&self, account: AccountKey) -> Result<Option<Arc<Closing>>, ReadError> {
        let state = self.0.state.clone();
        let read = tokio::task::spawn_blocking(move || state.closing(account));
        self.noted(read.await.map_err(|_shutting_down| ReadError::ShuttingDown)?)
    }

    /// Keeps the JWT in `body` for the day on which `account` is to be shut.
    pub async fn keep_closing(&self, account: AccountKey, body: Bytes) -> Result<Submitted, SubmitError> {
        for _ in 0..TRUST_ATTEMPTS {
            let (trust_epoch, item) = self.closing_item(account, body.clone()).await?;
            let signed_by = item.operator;
            let outcome = self.0.raft.propose(PutClosing { trust_epoch, item }).await?;
            if let Some(kept) = closing_done(account, signed_by, outcome)? {
                if kept.stored {
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
            let (trust_epoch, item) = self.closing_item(account, closing.token.clone()).await?;
            if dry_run {
                let (stored, revision) = (false, row.revision);
                return Ok(Submitted { stored, revision });
            }
            let signed_by = item.operator;
            let outcome = self.0.raft.propose(KillAccount { trust_epoch, item }).await?;
            if let Some(killed) = closing_done(account, signed_by, outcome)? {
                if killed.stored {
                    let revision = killed.revision;
                    tracing::warn!(%account, revision, "an administrator shut this account: its closing JWT is its current one");
                } else {
                    self.republish(account);
                }
                return Ok(killed);
            }
        }
        Err(trust_changes())
    }

    /// The closing JWT in `body`, verified, as it is proposed, and under which trust.
    async fn closing_item(&self, account: AccountKey, body: Bytes) -> Result<(u64, PutAccount), SubmitError> {
        self.check_trust()?;
        let trust = self.trust();
        let verified = self.verify(body, trust.clone()).await;
        let verified = verified.map_err(|error| self.explained(error))?;
        check_closing(account, verified.claims(), self.now())?;
        self.check_servers(&verified, false).await?;
        Ok((trust.epoch, item(&verified)))
    }
}

fn check_closing(account: AccountKey, claims: &AccountClaims, now: i64) -> Result<(), SubmitError> {
    if claims.account != account {
        return Err(SubmitError::WrongAccount {
            path: account,
            token: claims.account,
        });
    }
    match claims.why_not_closing(now) {
        Some(reason) => Err(RemovalError::NotClosing { account, reason }.into()),
        None => Ok(()),
    }
}

/// Whether another node's closing token shuts its account. That it is what its command says was checked before.
pub(super) fn check_closing_item(item: &PutAccount, keys: &TrustedKeys, now: i64) -> Result<(), SubmitError> {
    let verified = Verified::<AccountClaims>::verify(Token::parse(&item.token)?, keys, now)?;
    check_closing(item.account, verified.claims(), now)
}

/// Whether another node's request to delete accounts is what its token says.
pub(super) fn check_delete(command: &DeleteAccounts, keys: &TrustedKeys, now: i64) -> Result<bool, SubmitError> {
    let verified = Verified::<DeleteClaims>::verify(Token::parse(&command.claim)?, keys, now)?;
    let claims = verified.claims();
    let found = (claims.operator, claims.issued_at.max(0), &claims.accounts);
    Ok(found == (command.operator, command.issued_at, &command.accounts))
}

/// What applying a request has come to: its revision and which accounts were there. `None` if the trust has changed.
fn done(command: &DeleteAccounts, outcome: DeleteOutcome) -> Result<Option<(Revision, Vec<bool>)>, RemovalError> {
    Err(match outcome {
        DeleteOutcome::Done { revision, were_there } => return Ok(Some((revision, were_there))),
        DeleteOutcome::StaleTrust { .. } | DeleteOutcome::NotTrusted => return Ok(None),
        DeleteOutcome::OtherOperator { account, owner } => RemovalError::OtherOperator {
            account,
            owner,
            signed_by: command.operator,
        },
        DeleteOutcome::Superseded {
            account,
            stored_issued_at,
        } => RemovalError::Superseded {
            account,
            stored_issued_at,
            issued_at: command.issued_at,
        },
        DeleteOutcome::Replayed { account } => RemovalError::Replayed { account },
    })
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
        ClosingOutcome::Deleted { .. } => RemovalError::AlreadyDeleted { account }.into(),
        ClosingOutcome::OtherOperator { owner } => SubmitError::OtherOperator {
            account,
            owner,
            signed_by,
        },
    })
}

/// One line for a request, whatever it names.
fn log(deleted: &Deleted) {
    let gone: Vec<String> = deleted
        .accounts
        .iter()
        .filter(|account| account.was_there)
        .map(|account| account.account.to_string())
        .collect();
    if gone.is_empty() {
        return;
    }
    let (count, operator, revision) = (gone.len(), deleted.operator, deleted.revision);
    let accounts = gone[..count.min(LOGGED)].join(" ");
    match deleted.left_open() {
        0 => {
            tracing::warn!(%operator, revision, count, accounts, "accounts deleted; their closing JWTs are sent to the NATS clusters")
        }
        left_open => tracing::warn!(
            %operator,
            revision,
            count,
            left_open,
            accounts,
            "accounts deleted; no closing JWT is kept for some of them, and nats-servers with a URL resolver that have loaded those \
             go on with them until they are restarted, or until `jwtmesh account closing set` gives one"
        ),
    }
}
