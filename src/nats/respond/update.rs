//! `$SYS.REQ.CLAIMS.UPDATE`: a token to be stored, as by an upload over HTTP; and `$SYS.REQ.CLAIMS.DELETE`: accounts that an
//! operator deletes, by a request that it has signed.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::answers::Answers;
use super::notices::Notices;
use super::overrule::Refusals;
use crate::jwt::AccountKey;
use crate::nats::subjects::{self, Sender};
use crate::resolver::{INLINE_TOKEN_BYTES, ProposeError, Resolver, SubmitError, Submitter};
use crate::tasks::off_the_workers;

/// A request is answered so long after its arrival at the latest: nsc and others wait for a second, and the way to them
/// takes some of that.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(600);

/// How long a submission goes on whose sender does not wait for an answer.
const UNANSWERED_PATIENCE: Duration = Duration::from_secs(10);

/// Stores the token in `body`, and answers to `reply`, if an answer is wanted. Accounts whose tokens are refused go to
/// `refusals`: servers with a full or cache resolver get this request too, and may have taken the token.
pub(super) async fn answer(
    resolver: &Resolver,
    answers: &Answers,
    notices: &Notices,
    refusals: &Refusals,
    body: Bytes,
    (reply, arrived): (Option<String>, Instant),
) {
    let patience = if reply.is_some() {
        ANSWER_WITHIN
    } else {
        UNANSWERED_PATIENCE
    };
    // Before the time is up, so that the answer does not come later.
    let (account, _) = unverified(&body).await;
    // Only users of the system account may publish here.
    let submitting = resolver.submit(None, body.clone(), Submitter::Administrator);
    let submitted = timeout_at(arrived + patience, submitting).await;
    let reason = match submitted {
        Ok(Ok(_)) => {
            if let Some(reply) = reply {
                answers.updated(&reply, account).await;
            }
            return;
        }
        Ok(Err(error)) => {
            if let Some(account) = account.filter(|_| is_final(&error)) {
                refusals.report(account, &body, Sender::Other).await;
            }
            error.to_string()
        }
        Err(_) => undecided(resolver, patience),
    };
    notices.refused(account, &reason, reply.is_some());
    if let Some(reply) = reply {
        let description = format!("{FAILED} - {reason}");
        answers.failed(&reply, account, &description).await;
    }
}

/// Carries out the request in `body` to delete accounts, and answers to `reply`, if an answer is wanted. All of its accounts are deleted, or
/// none.
pub(super) async fn delete(
    resolver: &Resolver,
    answers: &Answers,
    notices: &Notices,
    body: Bytes,
    (reply, arrived): (Option<String>, Instant),
) {
    let patience = if reply.is_some() {
        ANSWER_WITHIN
    } else {
        UNANSWERED_PATIENCE
    };
    // Only users of the system account may publish here.
    let deleting = resolver.delete(None, body.clone(), Submitter::Administrator);
    let reason = match timeout_at(arrived + patience, deleting).await {
        Ok(Ok(deleted)) => {
            if let Some(reply) = reply {
                answers.deleted(&reply, deleted.accounts.len()).await;
            }
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_late) => format!(
            "the nodes have not agreed on it within {} ms, and may still do so, unless a majority cannot be reached. It is not known \
             whether its accounts were deleted: list them, and send it again if they are there",
            patience.as_millis()
        ),
    };
    notices.not_deleted(&reason, reply.is_some());
    if let Some(reply) = reply {
        answers
            .failed(&reply, None, &subjects::not_deleted(&body, &reason))
            .await;
    }
}

/// How nats-server's sentence about an update that failed begins.
pub(super) const FAILED: &str = "jwt update resulted in error";

/// The account that a token is of by its own claims, and when it says that it was issued. A large one is read off
/// the threads that answer.
pub(in crate::nats) async fn unverified(body: &Bytes) -> (Option<AccountKey>, Option<i64>) {
    if body.len() <= INLINE_TOKEN_BYTES {
        return subjects::unverified(body);
    }
    let body = body.clone();
    off_the_workers(move || subjects::unverified(&body)).await
}

/// Whether the token is refused for good, and not for a reason that passes.
pub(in crate::nats) fn is_final(error: &SubmitError) -> bool {
    match error {
        SubmitError::NotAgreed(error) => matches!(error, ProposeError::Refused { .. }),
        SubmitError::Read(_) => false,
        _ => true,
    }
}

/// What is known of a submission that takes longer than its sender waits.
fn undecided(resolver: &Resolver, patience: Duration) -> String {
    let ms = patience.as_millis();
    match resolver.check_writable() {
        // Its own sentence says that nothing was stored, which is not known of this one.
        Err(_) => format!(
            "the nodes have not agreed on it within {ms} ms, and none of them takes uploads now, since a majority cannot be \
             reached or is electing a leader. It is not known whether this JWT was stored: push the same one again, which is safe"
        ),
        Ok(()) => format!(
            "the nodes have not agreed on it within {ms} ms, and may still do so. It is not known whether this JWT was stored: \
             push the same one again, which is safe"
        ),
    }
}
