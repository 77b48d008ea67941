//! An account's token that another sender published to the nats-servers: adopted if it is newer, overruled if it is refused.
//!
//! It is not answered. The servers answer it, and the sender counts their answers: `nats auth account push` fails if
//! there is one too many.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::limits::{Limits, Permit};
use super::notices::Notices;
use super::overrule::Refusals;
use super::update::{is_final, unverified};
use crate::jwt::{AccountKey, MAX_TOKEN_BYTES, Token};
use crate::nats::subjects::Sender;
use crate::resolver::{AtLeast, ReadError, Resolver, SubmitError, Submitter};
use crate::tasks::Scope;

/// How long attempts go on while no majority agrees. Longer than an election takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// Bytes allowed after the largest token, for the line end that editors and scripts append.
const LINE_END_BYTES: usize = 16;

pub(super) const BUSY: &str = "too many requests at once; nothing was stored, try again in a second";

/// Takes what other senders, other meshes among them, publish to the servers of one NATS cluster. Clones are the same.
#[derive(Debug, Clone)]
pub(in crate::nats) struct Published {
    resolver: Resolver,
    pub(super) limits: Limits,
    pub(super) refusals: Refusals,
    pub(super) notices: Notices,
}

impl Published {
    /// For the NATS cluster called `name`. Accounts that are overruled are sent again by a task in `scope`, until the last
    /// clone is dropped.
    pub(in crate::nats) fn start(name: &str, resolver: &Resolver, scope: &Scope) -> Self {
        let notices = Notices::new(name);
        Self {
            resolver: resolver.clone(),
            limits: Limits::default(),
            refusals: Refusals::start(resolver, &notices, scope),
            notices,
        }
    }

    /// `payload` was published as a token of `account` by `sender`. It is adopted or overruled by a task of its own in `scope`.
    pub(in crate::nats) fn take(&self, account: AccountKey, payload: &[u8], sender: Sender, scope: &Scope) {
        if sender == Sender::Own {
            return;
        }
        let (permit, body) = match admitted(&self.limits, &self.notices, payload, Limits::published) {
            Ok(admitted) => admitted,
            Err(reason) => return self.notices.not_adopted(account, None, &reason),
        };
        let (resolver, notices) = (self.resolver.clone(), self.notices.clone());
        let (refusals, its_scope) = (self.refusals.clone(), scope.clone());
        scope.spawn_for_client(async move {
            adopt_or_overrule(&resolver, &notices, (&refusals, &its_scope), account, (body, sender)).await;
            drop(permit);
        });
    }
}

/// A permit for a token that is to be stored, and the token in memory of its own; or why there is none.
pub(super) fn admitted(
    limits: &Limits,
    notices: &Notices,
    payload: &[u8],
    permit: impl FnOnce(&Limits, usize) -> Option<Permit>,
) -> Result<(Permit, Bytes), String> {
    if payload.len() > MAX_TOKEN_BYTES + LINE_END_BYTES
        && let Err(rejection) = Token::parse(payload)
    {
        return Err(rejection.to_string());
    }
    let Some(permit) = permit(limits, payload.len()) else {
        notices.too_many("updates");
        return Err(BUSY.to_owned());
    };
    Ok((permit, Bytes::copy_from_slice(payload)))
}

/// Stores `body`, published as a token of `account`, if it is newer. If it is refused, the account goes to `refusals`. When
/// the scope stops, an attempt is finished, and none follows.
async fn adopt_or_overrule(
    resolver: &Resolver,
    notices: &Notices,
    (refusals, scope): (&Refusals, &Scope),
    account: AccountKey,
    (body, sender): (Bytes, Sender),
) {
    let submitter = match sender {
        // Only users of the system account may publish here.
        Sender::Other => Submitter::Administrator,
        // It repeats what it has, so that the order of arrival says nothing of two tokens without a time of issue.
        Sender::OtherMesh { .. } | Sender::Own => Submitter::Anyone,
    };
    if is_enforced(resolver, account, &body).await {
        return;
    }
    let (_, issued_at) = unverified(&body).await;
    // Without a time of issue the order of arrival counts: a later attempt could overwrite what was stored meanwhile.
    let is_dated = issued_at.is_some_and(|issued_at| issued_at > 0);
    let until = Instant::now() + PATIENCE;
    loop {
        let adopting = resolver.adopt(account, body.clone(), submitter);
        let error = match adopting.await {
            Ok(submitted) if submitted.stored => return notices.adopted(account, submitted.revision, issued_at),
            Ok(_) => return,
            Err(error) => error,
        };
        if is_final(&error) {
            notices.overruled(account, issued_at, &error.to_string());
            return refusals.report(account, &body, sender).await;
        }
        let may_pass = is_dated && !matches!(error, SubmitError::Read(ReadError::Damaged(_)));
        if !may_pass || Instant::now() >= until || scope.until_stop(sleep(AGAIN)).await.is_none() {
            return notices.not_adopted(account, issued_at, &error.to_string());
        }
    }
}

/// Whether these bytes are what the servers are to enforce. Submitting them would have them sent to every server once more,
/// and a closing JWT of a deleted account would be refused.
async fn is_enforced(resolver: &Resolver, account: AccountKey, body: &[u8]) -> bool {
    let Ok(token) = Token::parse(body) else {
        return false;
    };
    let same = async || {
        let wanted = resolver.to_enforce(account).await;
        wanted.is_ok_and(|wanted| wanted.is_some_and(|(_, wanted)| wanted == *token.bytes()))
    };
    if !same().await {
        return false;
    }
    // Another node may know of a newer one, which must then be sent again.
    resolver.is_alone() || (resolver.read_at_least(AtLeast::Newest).await.is_ok() && same().await)
}
