//! `$SYS.REQ.CLAIMS.PACK`: all accounts, one in each message, and an empty message at the end. Paced, so that lookups stay
//! fast and a nats-server, which writes each account to its disk, need not keep many of them in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::answers::Answers;
use super::digest::{Digest, Hash};
use super::pages::Pages;
use crate::jwt::AccountKey;
use crate::nats::subjects;
use crate::resolver::{ReadError, Resolver};

/// How long a nats-server is not sent the same again.
const SENT_LATELY: Duration = Duration::from_secs(600);

/// Servers that are remembered for that.
const SERVERS: usize = 64;

/// Sends all accounts to `reply`, or only the end if they are not needed. `hash` is that of the sender's accounts, or empty.
/// Gives how many were sent. An error says why the end was not sent: what lacks an account must not look complete. An
/// account that cannot be read or is too large is left out, and the others are sent all the same.
pub(super) async fn pack(
    resolver: &Resolver,
    answers: &Answers,
    (digest, sent): (&Digest, &SentPacks),
    (hash, reply): (&[u8], &str),
) -> Result<u64, String> {
    let sentence = |error: ReadError| error.to_string();
    // nsc sends no hash, and wants them all. Without ours, theirs counts as another one.
    let pair = match Hash::try_from(hash) {
        Ok(theirs) => digest.current().await.ok().map(|ours| (theirs, ours)),
        Err(_) => None,
    };
    let denials = sent.denials();
    let is_needless = pair.is_some_and(|pair| pair.0 == pair.1 || sent.is_known(reply, pair));
    let (mut count, mut left_out) = (0, LeftOut::default());
    let mut pages = Pages::after(resolver.clone(), None);
    while !is_needless && let Some(rows) = pages.next().await.map_err(sentence)? {
        let now = resolver.now();
        for listed in &rows {
            let row = match &listed.row {
                Ok(row) if row.expires_at == 0 || row.expires_at >= now => row,
                Ok(_expired) => continue,
                Err(fault) => {
                    left_out.add(listed.account, &fault.to_string());
                    continue;
                }
            };
            let message = subjects::packed(row.account, &row.token);
            if let Err(reason) = answers.fits(&message) {
                left_out.add(listed.account, &reason);
                continue;
            }
            answers.try_send(reply, message).await?;
            count += 1;
        }
        // The socket takes them no faster than the server reads.
        answers.flush().await?;
        pages.rest().await;
    }
    left_out.check()?;
    answers.try_send(reply, Bytes::new()).await?;
    answers.flush().await?;
    if let Some(pair) = pair.filter(|_| !is_needless) {
        sent.note(reply, pair, denials);
    }
    Ok(count)
}

/// The accounts that are not in a pack.
#[derive(Default)]
struct LeftOut {
    count: u64,
    /// The first of them, and why.
    first: String,
}

impl LeftOut {
    fn add(&mut self, account: AccountKey, reason: &str) {
        if self.count == 0 {
            self.first = format!("{account}: {reason}");
        }
        self.count += 1;
    }

    fn check(&self) -> Result<(), String> {
        match self.count {
            0 => Ok(()),
            count => Err(format!("{count} accounts were left out; the first is {}", self.first)),
        }
    }
}

/// What was sent lately. Clones are the same.
///
/// A server that has accounts which are not stored here, such as another operator's, never has the same hash, and asks for
/// everything each minute. Its inbox stays the same. If its hash does too after everything was sent, and nothing has changed
/// here, it has all that it takes.
#[derive(Debug, Clone, Default)]
pub(super) struct SentPacks(Arc<Mutex<Sent>>);

#[derive(Debug, Default)]
struct Sent {
    complete: VecDeque<Complete>,
    /// How often the server has said that our user may not publish answers.
    denials: u64,
}

#[derive(Debug)]
struct Complete {
    inbox: String,
    /// The hash of the server's accounts when it asked, and of those here.
    pair: (Hash, Hash),
    at: Instant,
}

impl SentPacks {
    fn lock(&self) -> MutexGuard<'_, Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server did not take an answer. It does not say which: no pack counts as sent.
    pub(super) fn denied(&self) {
        let mut sent = self.lock();
        sent.denials += 1;
        sent.complete.clear();
    }

    fn denials(&self) -> u64 {
        self.lock().denials
    }

    /// Everything was sent, unless an answer was denied after the first `denials`.
    fn note(&self, inbox: &str, pair: (Hash, Hash), denials: u64) {
        let mut sent = self.lock();
        if sent.denials != denials {
            return;
        }
        let all = &mut sent.complete;
        all.retain(|known| known.inbox != inbox);
        if all.len() == SERVERS {
            all.pop_front();
        }
        let (inbox, at) = (inbox.to_owned(), Instant::now());
        all.push_back(Complete { inbox, pair, at });
    }

    fn is_known(&self, inbox: &str, pair: (Hash, Hash)) -> bool {
        let sent = self.lock();
        sent.complete
            .iter()
            .any(|known| known.inbox == inbox && known.pair == pair && known.at.elapsed() < SENT_LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_is_not_sent_the_same_twice_unless_something_has_changed_or_time_has_passed() {
        let sent = SentPacks::default();
        let pair = |theirs: u8, ours: u8| ([theirs; 32], [ours; 32]);
        assert!(!sent.is_known("a", pair(0, 9)));
        sent.note("a", pair(0, 9), 0);
        assert!(!sent.is_known("a", pair(1, 9)), "it has taken some");
        sent.note("a", pair(1, 9), 0);
        assert!(sent.is_known("a", pair(1, 9)));
        assert!(!sent.is_known("a", pair(1, 8)), "another account is stored here");
        assert!(!sent.is_known("b", pair(1, 9)), "another server");
        tokio::time::advance(SENT_LATELY).await;
        assert!(!sent.is_known("a", pair(1, 9)));
        for inbox in 0..1_000 {
            sent.note(&inbox.to_string(), pair(1, 9), 0);
        }
        assert_eq!(sent.lock().complete.len(), SERVERS);
        assert!(sent.is_known("999", pair(1, 9)));
        sent.denied();
        assert!(!sent.is_known("999", pair(1, 9)), "it may not have arrived");
        sent.note("a", pair(1, 9), 0);
        assert!(!sent.is_known("a", pair(1, 9)), "an answer was denied meanwhile");
        sent.note("a", pair(1, 9), 1);
        assert!(sent.is_known("a", pair(1, 9)));
    }
}
