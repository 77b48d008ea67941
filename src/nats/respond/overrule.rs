//! Sends accounts again whose tokens another sender has overwritten on the nats-servers.
//!
//! A refused JWT may still be on its way to some of the servers, and an account is not sent twice within a second. So each
//! refusal is followed by a second request to send the account again, more than a second later. An account stays due until
//! the resolver has taken that request. All this lasts longer than any connection: the task ends when the responder and the
//! tasks of its requests have.
//!
//! Another mesh does the same, and where it has another JWT of the account, the two would overrule each other without end. So
//! what was refused of another mesh is remembered, and where the same bytes come again and again, the pauses before the account
//! is sent again grow to minutes, and the log says that the two disagree. What any other sender gives to the servers is
//! overruled at once, however often it comes.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::notices::Notices;
use crate::jwt::AccountKey;
use crate::nats::subjects::Sender;
use crate::nats::wait::until;
use crate::resolver::Resolver;
use crate::tasks::Scope;

/// The second request comes so long after the refusal: later than the second in which nothing is sent again, and than a
/// message takes to the farthest server.
const AGAIN: Duration = Duration::from_millis(1_200);

/// Further refusals put it off, but not longer than this after the first: an account is set right within five seconds.
const LATEST: Duration = Duration::from_millis(3_500);

/// Accounts that wait for it. Of more at once only the first request is made.
const ACCOUNTS: usize = 4096;

/// Refusals that wait for the task; it only has to note them.
const REFUSALS: usize = 256;

/// The same bytes of another mesh are overruled at once so many times: it may have been about to adopt the newer ones.
const AT_ONCE: u32 = 3;

/// The first pause before they are overruled again. It doubles up to the longest: rarely enough for servers and logs, often
/// enough for a revocation that the other sender undoes.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(256);

/// How long refused bytes are remembered. Two meshes that both wait for the longest pause hear each other after twice that.
const REMEMBERED: Duration = Duration::from_secs(1_200);

/// Refused tokens that are remembered; beyond it the one that was refused longest ago is forgotten.
const DISPUTES: usize = 4096;

/// A token that was refused.
#[derive(Debug)]
struct Refused {
    account: AccountKey,
    digest: u64,
    sender: Sender,
}

/// Takes the accounts whose tokens were refused. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Refusals {
    sender: mpsc::Sender<Refused>,
    /// Keys of a hash: nobody can choose two tokens with the same one.
    keys: RandomState,
}

impl Refusals {
    /// A place to report refusals to. Their accounts are sent again by a task in `scope`, until the last clone is dropped.
    pub(super) fn start(resolver: &Resolver, notices: &Notices, scope: &Scope) -> Self {
        let (sender, refused) = mpsc::channel(REFUSALS);
        let overruling = run(resolver.clone(), notices.clone(), refused);
        scope.spawn("sending accounts again that were overwritten", overruling);
        let keys = RandomState::new();
        Self { sender, keys }
    }

    /// The JWT of `account` in `body` was refused, and servers may have taken it from `sender`.
    pub(super) async fn report(&self, account: AccountKey, body: &[u8], sender: Sender) {
        let digest = self.keys.hash_one(body);
        let refused = Refused {
            account,
            digest,
            sender,
        };
        // It fails only where the task has panicked, which ends the node.
        let _ = self.sender.send(refused).await;
    }
}

/// Has the accounts in `refusals` sent again, until no more can come.
async fn run(resolver: Resolver, notices: Notices, mut refusals: mpsc::Receiver<Refused>) {
    let (mut waiting, mut disputes) = (Overrules::default(), Disputes::default());
    loop {
        let refused = tokio::select! {
            biased;
            () = until(waiting.next()) => None,
            refused = refusals.recv() => match refused {
                Some(refused) => Some(refused),
                None => break,
            },
        };
        let now = Instant::now();
        if let Some(Refused {
            account,
            digest,
            sender,
        }) = refused
        {
            let when = match sender {
                Sender::OtherMesh { .. } => disputes.refused(account, digest, now),
                Sender::Own | Sender::Other => When::Now,
            };
            let is_noted = match when {
                // If it is not taken now, the second request is to come.
                When::Now => {
                    let is_taken = resolver.overrule(account);
                    waiting.refused(account, now) || is_taken
                }
                When::Later { at, is_new } => {
                    if is_new && let Sender::OtherMesh { node, mesh } = &sender {
                        let own = resolver.mesh().unwrap_or_default();
                        notices.disagree(account, (node, mesh), &own, LONGEST_PAUSE.as_secs());
                    }
                    waiting.put_off(account, at)
                }
            };
            if !is_noted {
                notices.too_many("refused JWTs that servers may have taken");
            }
            continue;
        }
        for account in waiting.take_due(now) {
            if !resolver.overrule(account) {
                let _ = waiting.refused(account, now);
            }
        }
    }
    // The node stops: the second request comes early, rather than not at all.
    for Waiting { account, .. } in waiting.0 {
        let _ = resolver.overrule(account);
    }
}

/// When an account is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// `is_new`: it is the first time that it is not sent at once.
    Later {
        at: Instant,
        is_new: bool,
    },
}

/// A token that was refused, and is remembered.
#[derive(Debug)]
struct Dispute {
    /// How many times it was overruled.
    times: u32,
    /// What comes before belongs to the last of these.
    until: Instant,
    last: Instant,
}

/// The tokens that were refused, by their accounts and digests.
#[derive(Debug, Default)]
struct Disputes(BTreeMap<(AccountKey, u64), Dispute>);

impl Disputes {
    /// A token of `account` with this digest was refused at `now`.
    fn refused(&mut self, account: AccountKey, digest: u64, now: Instant) -> When {
        let key = (account, digest);
        self.0.retain(|_, dispute| dispute.last + REMEMBERED > now);
        if self.0.len() >= DISPUTES && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, dispute)| dispute.last);
            if let Some(oldest) = oldest.map(|(oldest, _)| *oldest) {
                self.0.remove(&oldest);
            }
        }
        let dispute = self.0.entry(key).or_insert(Dispute {
            times: 0,
            until: now,
            last: now,
        });
        dispute.last = now;
        let is_another = dispute.times == 0 || now >= dispute.until;
        if is_another {
            dispute.times = dispute.times.saturating_add(1);
            dispute.until = now + pause(dispute.times);
        }
        match dispute.times {
            ..=AT_ONCE => When::Now,
            times => When::Later {
                at: dispute.until,
                is_new: is_another && times == AT_ONCE + 1,
            },
        }
    }
}

/// How long it lasts until the same bytes count as refused once more, after so many times.
fn pause(times: u32) -> Duration {
    match times.checked_sub(AT_ONCE + 1) {
        None => AGAIN,
        Some(doubled) => FIRST_PAUSE.saturating_mul(1 << doubled.min(16)).min(LONGEST_PAUSE),
    }
}

#[derive(Debug)]
struct Waiting {
    account: AccountKey,
    first: Instant,
    due: Instant,
}

/// The accounts to be sent again once more.
#[derive(Debug, Default)]
struct Overrules(Vec<Waiting>);

impl Overrules {
    /// A JWT of `account` was refused at `now`, or the account could not be sent then. `false` if too many wait.
    fn refused(&mut self, account: AccountKey, now: Instant) -> bool {
        if let Some(known) = self.0.iter_mut().find(|known| known.account == account) {
            known.first = known.first.min(now);
            known.due = (now + AGAIN).min(known.first + LATEST);
            return true;
        }
        self.add(account, now, now + AGAIN)
    }

    /// `account` is to be sent again `at` this time, or before. `false` if too many wait.
    fn put_off(&mut self, account: AccountKey, at: Instant) -> bool {
        if let Some(known) = self.0.iter_mut().find(|known| known.account == account) {
            known.due = known.due.min(at);
            return true;
        }
        self.add(account, at, at)
    }

    fn add(&mut self, account: AccountKey, first: Instant, due: Instant) -> bool {
        let has_room = self.0.len() < ACCOUNTS;
        if has_room {
            self.0.push(Waiting { account, first, due });
        }
        has_room
    }

    /// When the next one is due.
    fn next(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.due).min()
    }

    /// Those that are due at `now`.
    fn take_due(&mut self, now: Instant) -> Vec<AccountKey> {
        let due = self.0.extract_if(.., |waiting| waiting.due <= now);
        due.map(|waiting| waiting.account).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(n: u16) -> AccountKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        AccountKey::from_bytes(bytes)
    }

    #[test]
    fn g6_each_refusal_is_followed_by_a_second_request_within_five_seconds() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut overrules = Overrules::default();
        assert_eq!(overrules.next(), None);
        assert!(overrules.refused(account(1), at(0)) && overrules.refused(account(2), at(500)));
        assert_eq!(overrules.next(), Some(at(1_200)));
        assert_eq!(overrules.take_due(at(1_199)), []);
        assert_eq!(overrules.take_due(at(1_200)), [account(1)]);
        for ms in [1_000, 2_000, 3_000, 3_900] {
            assert!(overrules.refused(account(2), at(ms)));
            assert_eq!(overrules.take_due(at(ms)), [], "{ms}");
        }
        assert_eq!(overrules.next(), Some(at(4_000)));
        assert_eq!(overrules.take_due(at(4_000)), [account(2)]);
        assert_eq!(overrules.next(), None);
    }

    #[test]
    fn g6_the_same_bytes_are_overruled_at_once_three_times_and_then_at_growing_pauses() {
        let begin = Instant::now();
        let mut disputes = Disputes::default();
        let (mut now, mut pauses) = (begin, Vec::new());
        // A sender that answers at once, twice each time.
        for _ in 0..3 {
            assert_eq!(disputes.refused(account(1), 7, now), When::Now);
            assert_eq!(disputes.refused(account(1), 7, now + AGAIN / 2), When::Now);
            now += AGAIN;
        }
        for round in 0..10 {
            let When::Later { at, is_new } = disputes.refused(account(1), 7, now) else {
                panic!("{round}: at once");
            };
            assert_eq!(is_new, round == 0, "it is said once");
            let again = disputes.refused(account(1), 7, now + Duration::from_secs(1));
            assert_eq!(again, When::Later { at, is_new: false }, "it is put off no further");
            pauses.push((at - now).as_secs());
            // The other one waits as long.
            now = at + (at - now);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
        assert_eq!(disputes.refused(account(1), 8, now), When::Now, "other bytes");
        assert_eq!(disputes.refused(account(2), 7, now), When::Now, "of another account");
        let later = now + REMEMBERED;
        assert_eq!(disputes.refused(account(1), 7, later), When::Now, "it is forgotten");
    }

    #[test]
    fn g6_an_account_that_is_put_off_is_sent_in_time_and_at_once_when_other_bytes_are_refused() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut overrules = Overrules::default();
        assert!(overrules.put_off(account(1), at(60_000)) && overrules.put_off(account(2), at(60_000)));
        assert!(overrules.put_off(account(1), at(90_000)), "it is put off no further");
        assert_eq!(overrules.next(), Some(at(60_000)));
        assert!(overrules.refused(account(1), at(1_000)));
        assert_eq!(overrules.next(), Some(at(2_200)));
        assert!(overrules.refused(account(1), at(4_400)));
        assert_eq!(
            overrules.take_due(at(4_500)),
            [account(1)],
            "not for more than 3.5 seconds"
        );
        assert_eq!(overrules.take_due(at(60_000)), [account(2)]);
    }

    #[test]
    fn g12_the_number_of_refused_tokens_that_are_remembered_is_bounded() {
        let (mut disputes, now) = (Disputes::default(), Instant::now());
        for n in 0..5_000_u16 {
            let at = now + Duration::from_millis(u64::from(n));
            assert_eq!(disputes.refused(account(n), 7, at), When::Now);
        }
        assert_eq!(disputes.0.len(), DISPUTES);
        assert!(
            !disputes.0.contains_key(&(account(0), 7)),
            "the oldest one is forgotten"
        );
    }

    #[test]
    fn g12_the_number_of_accounts_that_wait_is_bounded() {
        let mut overrules = Overrules::default();
        let now = Instant::now();
        let taken = (0..5_000).filter(|n| overrules.refused(account(*n), now)).count();
        assert_eq!(taken, ACCOUNTS);
        assert!(overrules.refused(account(0), now), "it waits already");
        assert_eq!(overrules.take_due(now + AGAIN).len(), ACCOUNTS);
    }
}
