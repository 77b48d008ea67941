//! How many requests are worked on at once, and how much memory they take: users of the system account may send any
//! number.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Tokens that are stored at once; further ones are refused. As many as one entry of the log has.
const UPDATES: usize = 256;

/// KiB of tokens that are stored at once: thirty-two of the largest. Further ones are refused.
const UPDATE_KIB: usize = 32 * 1024;

/// The same of tokens that another sender published to the servers, which may hold their permit for half a minute: separate,
/// so that requests, whose senders wait for an answer, do not have to wait for these.
const PUBLISHED: usize = 64;
const PUBLISHED_KIB: usize = 8 * 1024;

/// Lookups that wait, such as after a nats-server's restart; further ones are not answered, and are asked again when the
/// client connects again.
const LOOKUPS: usize = 8 * 1024;

/// Of these, lookups that hold a token: 64 of the largest are 64 MiB.
const READING: usize = 64;

/// Lists at once; further ones are refused. Each takes some milliseconds and up to two megabytes.
const LISTS: usize = 8;

/// Packs that are sent at once, and those that wait; further requests are not answered. A nats-server asks again within
/// a minute.
const PACKS: usize = 2;
const WAITING_PACKS: usize = 8;

/// Errors on their way. Further ones are not sent: a sender of more does not read them.
const ERRORS: usize = 1024;

/// A permit for one request, given back when this is dropped.
pub(super) struct Permit {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// The permits for the requests of one NATS cluster.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    updates: Arc<Semaphore>,
    update_kib: Arc<Semaphore>,
    published: Arc<Semaphore>,
    published_kib: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    packs: Arc<Semaphore>,
    waiting_packs: Arc<Semaphore>,
    errors: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Self {
            updates: of(UPDATES),
            update_kib: of(UPDATE_KIB),
            published: of(PUBLISHED),
            published_kib: of(PUBLISHED_KIB),
            lookups: of(LOOKUPS),
            reading: of(READING),
            lists: of(LISTS),
            packs: of(PACKS),
            waiting_packs: of(WAITING_PACKS),
            errors: of(ERRORS),
        }
    }
}

fn permit(one: &Arc<Semaphore>) -> Option<Permit> {
    let taken = one.clone().try_acquire_owned().ok()?;
    Some(Permit {
        _permits: [Some(taken), None],
    })
}

/// One of `count`, and `kib` for a token of so many bytes.
fn token_permit(count: &Arc<Semaphore>, kib: &Arc<Semaphore>, bytes: usize) -> Option<Permit> {
    let needed = u32::try_from(bytes.div_ceil(1024).max(1)).ok()?;
    let one = count.clone().try_acquire_owned().ok()?;
    let memory = kib.clone().try_acquire_many_owned(needed).ok()?;
    Some(Permit {
        _permits: [Some(one), Some(memory)],
    })
}

/// Waits for a permit. The semaphores are never closed.
async fn wait(one: &Arc<Semaphore>) -> Permit {
    Permit {
        _permits: [one.clone().acquire_owned().await.ok(), None],
    }
}

impl Limits {
    /// For a request to store a token of so many bytes.
    pub(super) fn update(&self, bytes: usize) -> Option<Permit> {
        token_permit(&self.updates, &self.update_kib, bytes)
    }

    /// For a token of so many bytes that another sender published to the servers.
    pub(super) fn published(&self, bytes: usize) -> Option<Permit> {
        token_permit(&self.published, &self.published_kib, bytes)
    }

    /// For a lookup that waits.
    pub(super) fn lookup(&self) -> Option<Permit> {
        permit(&self.lookups)
    }

    /// For one of those to hold a token.
    pub(super) async fn read(&self) -> Permit {
        wait(&self.reading).await
    }

    /// For a list.
    pub(super) fn list(&self) -> Option<Permit> {
        permit(&self.lists)
    }

    /// For a pack that waits.
    pub(super) fn waiting_pack(&self) -> Option<Permit> {
        permit(&self.waiting_packs)
    }

    /// For one of those to be sent.
    pub(super) async fn pack(&self) -> Permit {
        wait(&self.packs).await
    }

    /// For an error.
    pub(super) fn error(&self) -> Option<Permit> {
        permit(&self.errors)
    }

    /// Waits until nothing is left that has an answer to come, packs excepted; at most until then.
    pub(super) async fn idle(&self, until: Instant) {
        let all = [
            (&self.updates, UPDATES),
            (&self.lookups, LOOKUPS),
            (&self.lists, LISTS),
            (&self.errors, ERRORS),
        ];
        for (places, count) in all {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            drop(timeout_at(until, places.acquire_many(count)).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn g12_tokens_are_bounded_in_number_and_in_bytes_and_give_their_permit_back() {
        let limits = Limits::default();
        let many: Vec<_> = (0..UPDATES + 1).map_while(|_| limits.update(1_500)).collect();
        assert_eq!(many.len(), UPDATES);
        assert!(limits.update(1).is_none());
        drop(many);
        let large: Vec<_> = (0..UPDATES).map_while(|_| limits.update(1_048_576)).collect();
        assert_eq!(large.len(), UPDATE_KIB / 1024);
        assert!(limits.update(0).is_none(), "an empty one takes a permit too");
        let published: Vec<_> = (0..PUBLISHED + 1).map_while(|_| limits.published(1)).collect();
        assert_eq!(published.len(), PUBLISHED, "what is published has permits of its own");
        drop(large);
        assert!(limits.update(0).is_some());
    }

    #[tokio::test]
    async fn every_other_kind_is_bounded_too_and_lookups_do_not_wait_for_packs() {
        let limits = Limits::default();
        for (take, count) in [
            (Limits::lookup as fn(&Limits) -> Option<Permit>, LOOKUPS),
            (Limits::list, LISTS),
            (Limits::waiting_pack, WAITING_PACKS),
            (Limits::error, ERRORS),
        ] {
            let taken: Vec<_> = (0..count + 1).map_while(|_| take(&limits)).collect();
            assert_eq!(taken.len(), count);
        }
        let (_one, _two) = (limits.pack().await, limits.pack().await);
        limits.idle(Instant::now()).await;
        let _permit = limits.read().await;
    }
}
