//! Judges the token that a server holds of an account, where it is not the current one: adopted if it is newer and valid, by
//! the rules of any upload; otherwise the server is to be sent the current one.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::jwt::AccountKey;
use crate::nats::publish::Held;
use crate::nats::respond::{is_final, unverified};
use crate::resolver::{ReadError, Resolver, Revision, SubmitError, Submitter};

/// Accounts whose tokens may be stored at once. What many servers hold of one account is judged one after the other, so
/// that it is stored once.
const AT_ONCE: usize = 64;

/// Judges what servers hold. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    resolver: Resolver,
    turns: Arc<[Mutex<()>]>,
}

/// What became of a token.
#[derive(Debug)]
pub(super) struct Judgement {
    /// What the server holds, as the publisher needs to know it.
    pub(super) held: Held,
    /// The account's revision, 0 if it is not known here.
    pub(super) revision: Revision,
    pub(super) found: Found,
    /// When the token says that it was issued, Unix seconds.
    pub(super) issued_at: Option<i64>,
}

/// What is remarkable about a token.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    /// It is stored now.
    Adopted,
    /// It is older than the current one, which is sent.
    Older {
        reason: String,
        /// Whether it is the one that is kept to shut the account.
        is_closing: bool,
    },
    /// It is refused for this reason; the current one is sent, if there is one.
    Refused(String),
}

/// What is known of a token at once.
#[derive(Debug)]
pub(super) enum Known {
    /// It takes no submission: it is the current token, or nothing can be read.
    Judged(Judgement),
    /// It is not the current token, which is at this revision; 0 if there is none.
    Other(Revision),
}

impl Judge {
    pub(super) fn new(resolver: Resolver) -> Self {
        let turns = std::iter::repeat_with(Mutex::default);
        Self {
            resolver,
            turns: turns.take(AT_ONCE).collect(),
        }
    }

    /// Judges `token`, which a server holds of `account`.
    pub(super) async fn judge(&self, account: AccountKey, token: String) -> Judgement {
        if let Known::Judged(known) = self.known(account, &token).await {
            return known;
        }
        let turn = usize::from(account.as_bytes()[0]) % AT_ONCE;
        let _turn = self.turns[turn].lock().await;
        // It may have been stored meanwhile, because another server holds it too.
        if let Known::Judged(known) = self.known(account, &token).await {
            return known;
        }
        let body = Bytes::from(token);
        let (_, issued_at) = unverified(&body).await;
        // As anybody: what has no time of issue could be older than what is stored.
        let submitted = self.resolver.adopt(account, body.clone(), Submitter::Anyone).await;
        let wanted = self.resolver.to_enforce(account).await.ok().flatten();
        let (held, found) = match submitted {
            Ok(submitted) if submitted.stored => (Held::Current, Found::Adopted),
            Ok(_) => (Held::Current, Found::Nothing),
            Err(error) if !is_final(&error) => (Held::Undecided, Found::Nothing),
            // Nothing can be sent in its place.
            Err(error) if wanted.is_none() => (Held::Current, Found::Refused(error.to_string())),
            Err(error @ (SubmitError::Superseded { .. } | SubmitError::Deleted { .. })) => {
                let closing = self.resolver.closing(account).await.ok().flatten();
                let is_closing = closing.is_some_and(|closing| closing.token == body);
                let reason = error.to_string();
                (Held::Other, Found::Older { reason, is_closing })
            }
            Err(error) => (Held::Other, Found::Refused(error.to_string())),
        };
        Judgement {
            held,
            revision: wanted.map_or(0, |(revision, _)| revision),
            found,
            issued_at,
        }
    }

    /// The revision of `account`, also of a deleted one: at once, unless a disk hangs. `None` if it cannot be read.
    pub(super) async fn revision(&self, account: AccountKey) -> Option<Revision> {
        let row = self.resolver.current(account).await.ok()?;
        Some(row.map_or(0, |row| row.revision))
    }

    /// What is known of `token` without a submission.
    pub(super) async fn known(&self, account: AccountKey, token: &str) -> Known {
        let (held, revision) = match self.resolver.to_enforce(account).await {
            Ok(Some((revision, wanted))) if wanted == token.as_bytes() => (Held::Current, revision),
            Ok(wanted) => return Known::Other(wanted.map_or(0, |(revision, _)| revision)),
            Err(ReadError::Damaged(_)) => (Held::Unknown, 0),
            Err(_) => (Held::Undecided, 0),
        };
        Known::Judged(Judgement {
            held,
            revision,
            found: Found::Nothing,
            issued_at: None,
        })
    }
}
