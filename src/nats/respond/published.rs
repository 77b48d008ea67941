//! An account's token that another sender published to the nats-servers: adopted if it is newer, overruled if it is refused.
//!
//! It is not answered. The servers answer it, and the sender counts their answers: `nats auth account push` fails if
//! there is one too many.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::notices::Notices;
use super::overrule::Refusals;
use super::update::{is_final, unverified};
use crate::jwt::{AccountKey, Token};
use crate::resolver::{AtLeast, ReadError, Resolver, SubmitError, Submitter};
use crate::tasks::Scope;

/// How long attempts go on while no majority agrees. Longer than an election takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// Stores `body`, published as a token of `account`, if it is newer. If it is refused, the account goes to `refusals`. When
/// the scope stops, an attempt is finished, and none follows.
pub(super) async fn adopt_or_overrule(
    resolver: &Resolver,
    notices: &Notices,
    (refusals, scope): (&Refusals, &Scope),
    account: AccountKey,
    body: Bytes,
) {
    if is_stored(resolver, account, &body).await {
        return;
    }
    let (_, issued_at) = unverified(&body).await;
    // Without a time of issue the order of arrival counts: a later attempt could overwrite what was stored meanwhile.
    let is_dated = issued_at.is_some_and(|issued_at| issued_at > 0);
    let until = Instant::now() + PATIENCE;
    loop {
        let submitting = resolver.submit(Some(account), body.clone(), Submitter::Administrator);
        let error = match submitting.await {
            Ok(submitted) if submitted.stored => return notices.adopted(account, submitted.revision, issued_at),
            Ok(_) => return,
            Err(error) => error,
        };
        if is_final(&error) {
            notices.overruled(account, issued_at, &error.to_string());
            return refusals.report(account).await;
        }
        let may_pass = is_dated && !matches!(error, SubmitError::Read(ReadError::Damaged(_)));
        if !may_pass || Instant::now() >= until || scope.until_stop(sleep(AGAIN)).await.is_none() {
            return notices.not_adopted(account, issued_at, &error.to_string());
        }
    }
}

/// Whether these bytes are the account's present token. Submitting them would have it sent to every server once more.
async fn is_stored(resolver: &Resolver, account: AccountKey, body: &[u8]) -> bool {
    let Ok(token) = Token::parse(body) else {
        return false;
    };
    let same = async || {
        let row = resolver.lookup(account).await;
        row.is_ok_and(|row| row.is_some_and(|row| row.token == *token.bytes()))
    };
    if !same().await {
        return false;
    }
    // Another node may know of a newer one, which must then be sent again.
    resolver.is_alone() || (resolver.read_at_least(AtLeast::Newest).await.is_ok() && same().await)
}
