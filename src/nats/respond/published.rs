//! An account's token that somebody else published to the nats-servers: adopted if it is newer, overruled if it is refused.
//!
//! It is not answered. The servers answer it, and whoever sent it counts their answers: `nats auth account push` fails if
//! there is one too many.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::notices::Notices;
use super::update::{is_final, unverified};
use crate::jwt::{AccountKey, Token};
use crate::resolver::{AtLeast, Resolver, Submitter};

/// How long it is tried to store it while nobody can agree on it. Longer than an election takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// Stores `body`, published as a token of `account`, if it is newer. If it is refused, the account goes to `refused`.
pub(super) async fn take_in(
    resolver: &Resolver,
    notices: &Notices,
    refused: &mpsc::Sender<AccountKey>,
    account: AccountKey,
    body: Bytes,
) {
    if is_stored(resolver, account, &body).await {
        return;
    }
    let (_, issued_at) = unverified(&body).await;
    let until = Instant::now() + PATIENCE;
    loop {
        match resolver
            .submit(Some(account), body.clone(), Submitter::Administrator)
            .await
        {
            Ok(submitted) if submitted.stored => notices.adopted(account, submitted.revision, issued_at),
            Ok(_) => {}
            Err(error) if is_final(&error) => {
                notices.overruled(account, issued_at, &error.to_string());
                // Past the limit others wait, whose accounts are sent.
                let _ = refused.try_send(account);
            }
            Err(error) if Instant::now() >= until => notices.not_adopted(account, issued_at, &error.to_string()),
            Err(_) => {
                sleep(AGAIN).await;
                continue;
            }
        }
        return;
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
