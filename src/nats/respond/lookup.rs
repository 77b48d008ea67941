//! One account's token, and the keys of all accounts.

use std::pin::pin;

use tokio::time::{Instant, timeout_at};

use super::answers::Answers;
use super::limits::Limits;
use super::notices::Notices;
use super::update::ANSWER_WITHIN;
use crate::jwt::AccountKey;
use crate::resolver::{AtLeast, ReadError, Resolver};
use crate::tasks::Scope;

/// `CLAIMS.LOOKUP`: sends the token of `account` to `reply`, as it is stored, also if it has expired; the server judges
/// that. It keeps whatever it is sent, and asks no more, so nothing else is ever sent.
///
/// An account that is not stored here gets no answer. An empty one, as full resolvers send, counts as that of one of the
/// nats-servers that the asking one knows of, and once there are as many it gives up. How many it knows of, and whether
/// one of them has the account, cannot be seen from here: an empty answer could refuse a client whose account another
/// server has. So it waits until its own time is up, as beside nats-account-server.
pub(super) async fn lookup(
    resolver: &Resolver,
    answers: &Answers,
    (limits, notices): (&Limits, &Notices),
    account: AccountKey,
    (reply, arrived): (&str, Instant),
) {
    let found = async || {
        let _reading = limits.read().await;
        if let Some(row) = resolver.lookup(account).await? {
            answers.send(reply, row.token.clone()).await;
            return Ok(true);
        }
        Ok::<bool, ReadError>(false)
    };
    let until = arrived + ANSWER_WITHIN;
    match timeout_at(until, found()).await {
        Ok(Ok(true)) => return,
        // It may have been stored through another node just now.
        Ok(Ok(false)) if !resolver.is_alone() => {}
        Ok(Ok(false)) => return,
        Ok(Err(error)) => return notices.unread("a lookup", &error.to_string()),
        Err(_late) => return notices.too_many("lookups"),
    }
    let again = async {
        resolver.read_at_least(AtLeast::Newest).await?;
        found().await
    };
    // If it is not found in time either, it may be unknown, and gets no answer.
    drop(timeout_at(until, again).await);
}

/// `CLAIMS.LIST`: sends the keys of all accounts to `reply`, in one message. Returns when the disk is no longer read, or the
/// scope stops: a disk that hangs must not be read by ever more lists.
pub(super) async fn list(resolver: &Resolver, answers: &Answers, scope: &Scope, (reply, arrived): (&str, Instant)) {
    let room = answers.room_for_keys();
    let mut reading = pin!(resolver.account_keys(room));
    let read = timeout_at(arrived + ANSWER_WITHIN, &mut reading).await;
    let is_late = read.is_err();
    let reason = match read {
        Ok(Ok((keys, count))) if keys.len() as u64 == count => return answers.listed(reply, &keys).await,
        Ok(Ok((_, count))) => format!(
            "{count} accounts are stored, and a message of this NATS cluster has room for {room}: run `jwtmesh account list` on \
             the machine of a node, or `jwtmesh account pull --all --dir DIR` for their JWTs"
        ),
        Ok(Err(error)) => error.to_string(),
        Err(_late) => "the disk of this node is too slow just now; try again".to_owned(),
    };
    answers
        .failed(reply, None, &format!("list accounts failed - {reason}"))
        .await;
    if is_late {
        drop(scope.until_stop(reading).await);
    }
}
