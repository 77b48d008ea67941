//! THE DOOR: every lookup and every submission passes here, whichever way it came.
//!
//! A lookup reads this node's own state and waits for nobody. A submission is verified for a clear answer,
//! proposed, and answered when it is on disk and applied here.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, watch};

use crate::clock::Clock;
use crate::jwt::AccountClaims;
use crate::jwt::AccountKey;
use crate::jwt::OperatorClaims;
use crate::jwt::Rejection;
use crate::jwt::Token;
use crate::jwt::TrustedKeys;
use crate::jwt::Verified;
use crate::raft::ProposeError;
use crate::raft::Raft;
pub use crate::state::AccountRow;
pub use crate::state::Changes;
use crate::state::Command;
pub use crate::state::Fault;
use crate::state::Outcome;
use crate::state::PutAccount;
use crate::state::PutOperator;
pub use crate::state::Revision;
use crate::state::State;
use crate::tasks::FaultHandle;
use crate::tasks::chain;

/// Verifying or printing a token larger than this takes long enough (about 0.3 ms) to be kept off the threads that answer
/// everyone else.
pub const INLINE_TOKEN_BYTES: usize = 16 * 1024;

/// Large tokens verified at once. One takes milliseconds and some 20 MB; the other threads answer lookups.
const LARGE_VERIFICATIONS: usize = 2;

/// How often a submission is verified again because the trust changed meanwhile. Trust changes by hand.
const TRUST_RETRIES: usize = 3;

/// How long a lookup lets others go first when enough are reading the disk already. A read takes some microseconds; where
/// this is not enough the disk hangs, and the lookup waits for it on a thread of its own.
const READ_PATIENCE: Duration = Duration::from_millis(20);

/// Lookups that wait for a hanging disk on threads of their own. The next ones wait for these, and whoever hangs up
/// meanwhile leaves nothing behind.
const HANGING_READS: usize = 32;

/// Damaged rows that are logged; beyond these the file is what is damaged.
const DAMAGES_TOLD: usize = 64;

/// Rows that a scan moves into redb at once when it waits for the flush.
const SCAN_FLUSH_ROWS: usize = 256;

/// Requests to send an account again that may wait for a slow NATS cluster; older ones are dropped, since the
/// regular way has sent that account already.
const REPUBLISH_QUEUE: usize = 1024;

/// Whom this mesh trusts to issue accounts.
#[derive(Debug, Default)]
pub struct Trust {
    /// Grows with every change.
    pub epoch: u64,
    /// The operators and their keys.
    pub keys: TrustedKeys,
}

/// How far this node's view is, and how old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The newest revision that can be read here.
    pub revision: Revision,
    /// Milliseconds since this node last heard from a leader; 0 on the leader.
    pub leader_age_ms: u64,
    /// Whether the state is usable: lookups are answered from it.
    pub ready: bool,
}

/// A submission that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Whether something changed; `false` when the same bytes were current already.
    pub stored: bool,
    /// The revision at which these bytes are stored.
    pub revision: Revision,
}

/// Why a submission did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The token is not acceptable to any nats-server of this operator.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It is some other account's token.
    #[error("the path names account {path}, but the token is for account {token}: submit it under its own key")]
    WrongAccount {
        /// The key it was submitted under.
        path: AccountKey,
        /// The token's subject.
        token: AccountKey,
    },
    /// A newer one is stored (G2).
    #[error("{}", superseded(*account, *stored_issued_at, *submitted_issued_at))]
    Superseded {
        /// The account.
        account: AccountKey,
        /// `iat` of the one that is stored, Unix seconds.
        stored_issued_at: i64,
        /// `iat` of the one that was submitted.
        submitted_issued_at: i64,
    },
    /// Too much is waiting.
    #[error("too many submissions are waiting; try again in a second")]
    Busy,
    /// Nothing was stored.
    #[error("{reason}; nothing was stored, try again")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// It may have been stored.
    #[error("the outcome is not known yet; submitting the same token again is safe")]
    OutcomeUnknown,
    /// What was asked for is not in redb yet, and the disk has no room to bring it there.
    #[error("the disk of this node is full; make room there and try again (lookups of single accounts go on)")]
    NoRoomToRead,
    /// This node is ending, or the row is damaged.
    #[error("this node cannot answer that")]
    Fault(#[source] Fault),
}

fn superseded(account: AccountKey, stored: i64, submitted: i64) -> String {
    let newer = if stored == submitted {
        format!(
            "was issued another JWT in the same second, {}, which replaced this one",
            time(stored)
        )
    } else {
        format!(
            "has a newer JWT, issued at {}; this one was issued at {}",
            time(stored),
            time(submitted)
        )
    };
    format!("account {account} {newer}: pull the account, repeat the change on that version and push again")
}

fn time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(at) => format!("{at} ({seconds})"),
        Err(_) => seconds.to_string(),
    }
}

impl From<ProposeError> for SubmitError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Busy => Self::Busy,
            ProposeError::Unavailable { reason } => Self::Unavailable { reason },
            ProposeError::OutcomeUnknown => Self::OutcomeUnknown,
        }
    }
}

/// The door. Clones lead to the same place.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    raft: Raft,
    state: State,
    clock: Clock,
    fault: FaultHandle,
    trust: ArcSwap<Trust>,
    revision: watch::Receiver<Revision>,
    ready: AtomicBool,
    republish: broadcast::Sender<AccountKey>,
    verifying: Arc<Semaphore>,
    reading: Semaphore,
    /// For the lookups that wait for a hanging disk on threads of their own.
    hanging: Arc<Semaphore>,
    damage_told: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// A door before `raft` and `state`, open for lookups at once. To be called on the runtime that answers.
    pub fn new(raft: Raft, state: State, clock: Clock, fault: FaultHandle) -> Self {
        let revision = raft.revision();
        Self(Arc::new(Inner {
            raft,
            state,
            clock,
            fault,
            trust: ArcSwap::default(),
            revision,
            ready: AtomicBool::new(true),
            republish: broadcast::channel(REPUBLISH_QUEUE).0,
            verifying: Arc::new(Semaphore::new(LARGE_VERIFICATIONS)),
            // One thread fewer than answer: that one goes on from memory while the others hang in a read.
            reading: Semaphore::new(Handle::current().metrics().num_workers().saturating_sub(1).max(1)),
            hanging: Arc::new(Semaphore::new(HANGING_READS)),
            damage_told: Mutex::default(),
        }))
    }

    /// A fault found while answering ends the node; but a damaged row ends this answer alone, since the others are sound.
    fn noted<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.inspect_err(|fault| match fault {
            Fault::Damaged { .. } => self.note_damage(chain(fault)),
            _ => self.0.fault.report(chain(fault)),
        })
    }

    /// Each damage is logged once: anybody may ask for the row again and again.
    fn note_damage(&self, damage: String) {
        let mut told = self.0.damage_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < DAMAGES_TOLD && !told.contains(&damage) {
            tracing::error!("{damage}");
            told.insert(damage);
        }
    }

    /// The current token of `account`, from this node's own state. Waits for nobody but the disk.
    ///
    /// A damaged row is a fault of this one answer and does not end the node: the others are sound.
    pub async fn lookup(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault> {
        if let Some(row) = self.0.state.account_at_hand(account) {
            return Ok(Some(row));
        }
        let found = self.read(account).await;
        self.noted(found)
    }

    /// Reads redb. On the thread that answers, because another one costs more than the read does; but never on all of
    /// them, so that what is in memory is answered while a disk hangs.
    async fn read(&self, account: AccountKey) -> Result<Option<Arc<AccountRow>>, Fault> {
        let place = match self.0.reading.try_acquire() {
            Ok(place) => Some(place),
            Err(_) => tokio::time::timeout(READ_PATIENCE, self.0.reading.acquire())
                .await
                .ok()
                .and_then(Result::ok),
        };
        if let Some(_place) = place {
            return self.0.state.account_in_file(account);
        }
        // The semaphore is never closed.
        let place = self.0.hanging.clone().acquire_owned().await.ok();
        let state = self.0.state.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _place = place;
            state.account_in_file(account)
        });
        match read.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(found) => found,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // Only a runtime that is ending cancels one; nobody hears this answer.
            Err(Err(_cancelled)) => Ok(None),
        }
    }

    /// How far and how old this node's view is.
    pub fn view(&self) -> View {
        View {
            revision: *self.0.revision.borrow(),
            leader_age_ms: self.0.raft.leader_age().map_or(u64::MAX, as_ms),
            ready: self.0.ready.load(Ordering::Relaxed) && !self.0.fault.is_reported(),
        }
    }

    /// No longer ready: new nats-servers shall ask another node, while this one still answers.
    pub fn retire(&self) {
        self.0.ready.store(false, Ordering::Relaxed);
    }

    /// Whom this mesh trusts now.
    pub fn trust(&self) -> Arc<Trust> {
        let agreed = self.0.state.trust();
        let known = self.0.trust.load_full();
        if known.epoch == agreed.epoch {
            return known;
        }
        // Each was verified before it was agreed on; one that no longer decodes is trusted by nobody.
        let verified = agreed.operators.iter().filter_map(|row| {
            let token = Token::parse(&row.token).and_then(Verified::<OperatorClaims>::verify);
            token
                .inspect_err(
                    |rejection| tracing::error!(operator = %row.operator, %rejection, "an agreed operator is unusable"),
                )
                .ok()
        });
        let fresh = Arc::new(Trust {
            epoch: agreed.epoch,
            keys: TrustedKeys::new(verified),
        });
        self.0.trust.store(fresh.clone());
        fresh
    }

    /// Offers the token in `body`; `expected` is the account it was submitted under, where the way names one.
    ///
    /// Success means that it is on disk and readable here (G1). Bytes that were current already are sent to the NATS
    /// clusters once more: pushing again is how people and scripts make a server catch up that missed something (T22).
    pub async fn submit(&self, expected: Option<AccountKey>, body: Bytes) -> Result<Submitted, SubmitError> {
        for _ in 0..TRUST_RETRIES {
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
                Outcome::Stored { revision } => {
                    // Not louder: an import is a million of these.
                    tracing::debug!(account = %claims.account, operator = %claims.operator, revision, "submission stored");
                    return Ok(Submitted { stored: true, revision });
                }
                Outcome::Unchanged { revision } => {
                    self.republish(claims.account);
                    return Ok(Submitted {
                        stored: false,
                        revision,
                    });
                }
                Outcome::Superseded { stored_issued_at, .. } => {
                    return Err(SubmitError::Superseded {
                        account: claims.account,
                        stored_issued_at,
                        submitted_issued_at: claims.issued_at,
                    });
                }
                // Verified under a trust that no longer holds: once more under the new one.
                Outcome::StaleTrust { .. } | Outcome::NotTrusted => {}
                other @ Outcome::Marked => unreachable!("an account was answered {other:?}"),
            }
        }
        Err(SubmitError::Unavailable {
            reason: "the trusted operators are changing".to_owned(),
        })
    }

    async fn verify(&self, body: Bytes, trust: Arc<Trust>) -> Result<Verified<AccountClaims>, SubmitError> {
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
            return Err(SubmitError::Busy);
        };
        let verified = tokio::task::spawn_blocking(move || {
            // Held by the work, not by the caller, who may hang up.
            let _slot = slot;
            verify()
        });
        verified
            .await
            .map_err(|_shutting_down| SubmitError::Unavailable {
                reason: "this node is shutting down".to_owned(),
            })?
            .map_err(SubmitError::Rejected)
    }

    /// What is known without asking the log: the same bytes are current, or newer ones are.
    async fn known(&self, verified: &Verified<AccountClaims>) -> Result<Option<Submitted>, SubmitError> {
        let claims = verified.claims();
        let Some(row) = self.lookup(claims.account).await.map_err(SubmitError::Fault)? else {
            return Ok(None);
        };
        if row.token == *verified.token().bytes() {
            return Ok(Some(Submitted {
                stored: false,
                revision: row.revision,
            }));
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

    /// One page of accounts with their current tokens, in the order of their keys' bytes, after `after`.
    pub async fn accounts(&self, after: Option<AccountKey>, limit: usize) -> Result<Vec<Arc<AccountRow>>, SubmitError> {
        self.scan(move |state| state.accounts(after, limit)).await
    }

    /// What changed after the revision `after`, as current rows in the order of their revisions.
    pub async fn changes(&self, after: Revision, limit: usize) -> Result<Changes, SubmitError> {
        // The newest changes are still in the memtable: they are told at once, without waiting for the disk.
        if let Some(recent) = self.0.state.recent_changes(after, limit) {
            return Ok(recent);
        }
        self.scan(move |state| state.rows_since(after, limit)).await
    }

    /// Reads one view of redb, after everything that is applied now has reached it. Off the threads that answer.
    async fn scan<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, SubmitError> {
        let (state, raft) = (self.0.state.clone(), self.0.raft.clone());
        let scanned = tokio::task::spawn_blocking(move || {
            let applied = state.applied().map_or(0, |mark| mark.index);
            while state.flushed() < applied {
                if !raft.may_flush() {
                    return Ok(None);
                }
                state.flush_step(SCAN_FLUSH_ROWS)?;
            }
            read(&state).map(Some)
        });
        match scanned.await {
            Ok(Ok(Some(found))) => Ok(found),
            Ok(Ok(None)) => Err(SubmitError::NoRoomToRead),
            Ok(Err(fault)) => self.noted(Err(fault)).map_err(SubmitError::Fault),
            Err(_shutting_down) => Err(SubmitError::Unavailable {
                reason: "this node is shutting down".to_owned(),
            }),
        }
    }

    /// Changes with every applied entry; says "look again", not what changed.
    pub fn watch_revision(&self) -> watch::Receiver<Revision> {
        self.0.revision.clone()
    }

    /// Asks for the current token of `account` to be sent to every NATS cluster once more.
    pub fn republish(&self, account: AccountKey) {
        // Without a NATS cluster there is nobody to tell.
        let _ = self.0.republish.send(account);
    }

    /// The accounts that [`Self::republish`] asks for.
    pub fn republished(&self) -> broadcast::Receiver<AccountKey> {
        self.0.republish.subscribe()
    }

    /// How far `nats_cluster` has been told, as agreed.
    pub fn position(&self, nats_cluster: &str) -> Revision {
        self.0.state.position(nats_cluster)
    }

    /// Agrees that `nats_cluster` has been told everything up to `position`.
    pub async fn mark_propagated(&self, nats_cluster: &str, position: Revision) -> Result<(), SubmitError> {
        let command = Command::MarkPropagated {
            nats_cluster: nats_cluster.to_owned(),
            position,
        };
        self.0.raft.propose(&command).await?;
        Ok(())
    }

    /// Offers operators to trust: the first ones ever, or newer tokens of those that are trusted.
    ///
    /// Gives what became of each, in order. Nothing is proposed where nothing would change.
    pub async fn trust_operators(&self, operators: &[Verified<OperatorClaims>]) -> Result<Vec<Outcome>, SubmitError> {
        let agreed = self.0.state.trust();
        let news = operators.iter().any(|offered| {
            let row = agreed
                .operators
                .iter()
                .find(|row| row.operator == offered.claims().operator);
            match row {
                None => agreed.operators.is_empty(),
                Some(row) => row.issued_at <= offered.claims().issued_at && row.token != *offered.token().bytes(),
            }
        });
        if !news {
            let judged = operators.iter().map(|offered| {
                let row = agreed
                    .operators
                    .iter()
                    .find(|row| row.operator == offered.claims().operator);
                match row {
                    Some(row) if row.issued_at > offered.claims().issued_at => Outcome::Superseded {
                        stored_issued_at: row.issued_at,
                        revision: row.revision,
                    },
                    Some(row) => Outcome::Unchanged { revision: row.revision },
                    None => Outcome::NotTrusted,
                }
            });
            return Ok(judged.collect());
        }
        let items = operators.iter().map(|offered| PutOperator {
            operator: offered.claims().operator,
            issued_at: offered.claims().issued_at,
            token: offered.token().bytes().clone(),
        });
        let command = Command::PutOperators { items: items.collect() };
        Ok(self.0.raft.propose(&command).await?)
    }
}

fn as_ms(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}
