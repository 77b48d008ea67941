//! Accounts that an operator deletes, by a request that it has signed.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::closing::is_valid;
use crate::jwt::{AccountKey, DeleteClaims, OperatorKey, Token, TrustedKeys, Verified};
use crate::resolver::error::{ReadError, RemovalError, SubmitError};
use crate::resolver::handle::Resolver;
use crate::resolver::submit::{Submitter, TRUST_ATTEMPTS, trust_changes};
use crate::state::{DeleteAccounts, DeleteOutcome, Revision};

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
    /// Whether a closing JWT is kept for it that is valid now. Without one, a server with a URL resolver that has loaded the account keeps it
    /// until it is restarted.
    pub has_closing: bool,
}

impl Deleted {
    /// How many accounts were there and have no valid closing JWT.
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
        let is_other =
            |path: &AccountKey| claims.accounts.is_empty() || claims.accounts.iter().any(|named| named != path);
        if let Some(path) = path.filter(is_other) {
            return Err(RemovalError::OtherAccounts { path }.into());
        }
        self.check_removable(&claims.accounts)?;
        self.check_streams(&claims.accounts).await?;
        Ok(DeleteAccounts {
            trust_epoch: trust.epoch,
            operator: claims.operator,
            issued_at: claims.issued_at.max(0),
            claim: verified.token().bytes().clone(),
            accounts: claims.accounts.clone(),
        })
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

    /// Which of `accounts` have a closing JWT that is valid now.
    async fn with_closing(&self, accounts: Vec<AccountKey>) -> Result<BTreeSet<AccountKey>, ReadError> {
        let (state, trust, now) = (self.0.state.clone(), self.trust(), self.now());
        let read = tokio::task::spawn_blocking(move || {
            let mut found = BTreeSet::new();
            for account in accounts {
                match state.closing(account) {
                    Ok(Some(closing)) if is_valid(&closing, &trust.keys, now) => drop(found.insert(account)),
                    Ok(_) => {}
                    // What cannot be read cannot be sent.
                    Err(fault) if fault.is_of_one_read() => {}
                    Err(fault) => return Err(fault),
                }
            }
            Ok(found)
        });
        self.noted(read.await.map_err(|_shutting_down| ReadError::ShuttingDown)?)
    }
}

/// Whether another node's request to delete accounts is what its token says.
pub(in crate::resolver) fn check_delete(
    command: &DeleteAccounts,
    keys: &TrustedKeys,
    now: i64,
) -> Result<bool, SubmitError> {
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
            "accounts deleted; no valid closing JWT is kept for some of them, and nats-servers with a URL resolver that have loaded \
             those go on with them until they are restarted, or until `jwtmesh account closing set` gives one"
        ),
    }
}
