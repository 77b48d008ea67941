//! Sends the answers of one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::notices::Notices;
use crate::clock::Clock;
use crate::jwt::AccountKey;
use crate::nats::connection::Answering;
use crate::nats::subjects::{self, OwnInfo};

/// Sends answers over one connection. Clones are the same.
#[derive(Clone)]
pub(super) struct Answers(Arc<Inner>);

struct Inner {
    sending: Answering,
    /// The largest answer, in bytes.
    limit: usize,
    server: OwnInfo,
    /// How many were sent.
    seq: AtomicU64,
    clock: Clock,
    notices: Notices,
}

impl Answers {
    /// `stated`: the largest message that our user may send by its JWT and its account's, if they say so. The server would
    /// end the connection at a larger one.
    pub(super) fn new(
        sending: Answering,
        stated: Option<usize>,
        server: OwnInfo,
        clock: Clock,
        notices: Notices,
    ) -> Self {
        let limit = stated.unwrap_or(usize::MAX).min(sending.max_payload());
        Self(Arc::new(Inner {
            sending,
            limit,
            server,
            seq: AtomicU64::new(0),
            clock,
            notices,
        }))
    }

    fn server(&self) -> serde_json::Value {
        let seq = self.0.seq.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.server.at(seq, self.0.clock.now())
    }

    /// A token was stored, or was stored already.
    pub(super) async fn updated(&self, reply: &str, account: Option<AccountKey>) {
        let answer = subjects::updated(&self.server(), account);
        self.send(reply, answer).await;
    }

    /// A request failed, for the reason that `description` gives.
    pub(super) async fn failed(&self, reply: &str, account: Option<AccountKey>, description: &str) {
        let answer = subjects::failed(&self.server(), account, description);
        self.send(reply, answer).await;
    }

    /// So many accounts are deleted.
    pub(super) async fn deleted(&self, reply: &str, count: usize) {
        let answer = subjects::deleted(&self.server(), count);
        self.send(reply, answer).await;
    }

    /// These are all accounts.
    pub(super) async fn listed(&self, reply: &str, accounts: &[AccountKey]) {
        let answer = subjects::listed(&self.server(), accounts);
        self.send(reply, answer).await;
    }

    /// How many keys a list has room for; the rest is for the server's own fields.
    pub(super) fn room_for_keys(&self) -> usize {
        let beside = subjects::listed(&self.0.server.at(u64::MAX, self.0.clock.now()), &[]).len();
        self.0.limit.saturating_sub(beside) / subjects::LISTED_KEY_BYTES
    }

    /// Sends `answer` as it is.
    pub(super) async fn send(&self, reply: &str, answer: Bytes) {
        if let Err(reason) = self.try_send(reply, answer).await {
            self.0.notices.not_sent(&reason);
        }
    }

    /// Whether a message can take `answer`; an error says what to change.
    pub(super) fn fits(&self, answer: &Bytes) -> Result<(), String> {
        let (bytes, limit) = (answer.len(), self.0.limit);
        if bytes > limit {
            return Err(format!(
                "it has {bytes} bytes, and the NATS servers take messages of at most {limit} from the user that jwtmesh connects \
                 with: raise max_payload there, and the payload limits of the user and its account"
            ));
        }
        Ok(())
    }

    /// The same as [`Self::send`]; an error is the reason why it was not sent.
    pub(super) async fn try_send(&self, reply: &str, answer: Bytes) -> Result<(), String> {
        self.fits(&answer)?;
        self.0.sending.send(reply, answer).await
    }

    /// Returns when the socket has taken what was sent before.
    pub(super) async fn flush(&self) -> Result<(), String> {
        self.0.sending.flush().await
    }
}
