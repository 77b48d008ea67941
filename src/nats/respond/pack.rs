//! `$SYS.REQ.CLAIMS.PACK`: all accounts, one in each message, and an empty message at the end. Paced, so that lookups stay
//! fast and a nats-server, which writes each account to its disk, need not keep many of them in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::answers::Answers;
use super::digest::{Digest, Hash};
use super::pages::Pages;
use crate::nats::subjects;
use crate::resolver::{ReadError, Resolver};

/// How long a nats-server is not sent the same again.
const SENT_LATELY: Duration = Duration::from_secs(600);

/// Servers that are remembered for that.
const SERVERS: usize = 64;

/// Sends all accounts to `reply`, or only the end if they are not needed. `hash` is that of the accounts that whoever asks
/// has, or empty. Gives how many were sent. An error says why it broke off, without the end: what lacks an account must not
/// look complete.
pub(super) async fn pack(
    resolver: &Resolver,
    answers: &Answers,
    (digest, sent): (&Digest, &Sent),
    (hash, reply): (&[u8], &str),
) -> Result<u64, String> {
    let sentence = |error: ReadError| error.to_string();
    // nsc sends none, and wants them all.
    let pair = match Hash::try_from(hash) {
        Ok(theirs) => Some((theirs, digest.current().await.map_err(sentence)?)),
        Err(_) => None,
    };
    let is_needless = pair.is_some_and(|pair| pair.0 == pair.1 || sent.is_known(reply, pair));
    let mut count = 0;
    let mut pages = Pages::after(resolver.clone(), None);
    while !is_needless && let Some(rows) = pages.next().await.map_err(sentence)? {
        let now = resolver.now();
        for row in rows.iter().filter(|row| row.expires_at == 0 || row.expires_at >= now) {
            let message = subjects::packed(row.account, &row.token);
            let too_large = |reason| format!("account {}: {reason}", row.account);
            answers.try_send(reply, message).await.map_err(too_large)?;
            count += 1;
        }
        // The socket takes them no faster than the server reads.
        answers.flush().await?;
        pages.rest().await;
    }
    answers.try_send(reply, Bytes::new()).await?;
    answers.flush().await?;
    if let Some(pair) = pair.filter(|_| !is_needless) {
        sent.note(reply, pair);
    }
    Ok(count)
}

/// What was sent lately. Clones are the same.
///
/// A server that has accounts which are not stored here, such as another operator's, never has the same hash, and asks for
/// everything each minute. Its inbox stays the same. If its hash does too after everything was sent, and nothing has changed
/// here, it has all that it takes.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<Mutex<VecDeque<Complete>>>);

#[derive(Debug)]
struct Complete {
    inbox: String,
    /// The hash of the server's accounts when it asked, and of those here.
    pair: (Hash, Hash),
    at: Instant,
}

impl Sent {
    fn note(&self, inbox: &str, pair: (Hash, Hash)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.inbox != inbox);
        if all.len() == SERVERS {
            all.pop_front();
        }
        let (inbox, at) = (inbox.to_owned(), Instant::now());
        all.push_back(Complete { inbox, pair, at });
    }

    fn is_known(&self, inbox: &str, pair: (Hash, Hash)) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .any(|known| known.inbox == inbox && known.pair == pair && known.at.elapsed() < SENT_LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_is_not_sent_the_same_twice_unless_something_has_changed_or_time_has_passed() {
        let sent = Sent::default();
        let pair = |theirs: u8, ours: u8| ([theirs; 32], [ours; 32]);
        assert!(!sent.is_known("a", pair(0, 9)));
        sent.note("a", pair(0, 9));
        assert!(!sent.is_known("a", pair(1, 9)), "it has taken some");
        sent.note("a", pair(1, 9));
        assert!(sent.is_known("a", pair(1, 9)));
        assert!(!sent.is_known("a", pair(1, 8)), "another account is stored here");
        assert!(!sent.is_known("b", pair(1, 9)), "another server");
        tokio::time::advance(SENT_LATELY).await;
        assert!(!sent.is_known("a", pair(1, 9)));
        for inbox in 0..1_000 {
            sent.note(&inbox.to_string(), pair(1, 9));
        }
        assert_eq!(sent.0.lock().unwrap().len(), SERVERS);
        assert!(sent.is_known("999", pair(1, 9)));
    }
}
