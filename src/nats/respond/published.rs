//! An account's token that another sender published to the nats-servers: adopted if it is newer, overruled if it is refused.
//!
//! It is not answered. The servers answer it, and the sender counts their answers: `nats auth account push` fails if
//! there is one too many.
//!
//! The publisher hears it, over each of its connections: what is heard twice is looked at once.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
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

/// What is heard of an account within this time is heard over several connections, if it is the same: longer than the way to the
/// servers differs. Shorter than the time after which an account is overruled once more, so that it does not matter if it was
/// sent twice.
const SAME_WITHIN: Duration = Duration::from_millis(500);

/// Accounts of which that is remembered. What is heard twice of others is looked at twice.
const HEARD: usize = 1_024;

pub(super) const BUSY: &str = "too many requests at once; nothing was stored, try again in a second";

/// Takes what other senders, other meshes among them, publish to the servers of one NATS cluster.
#[derive(Debug)]
pub(in crate::nats) struct Published {
    resolver: Resolver,
    limits: Limits,
    refusals: Refusals,
    notices: Notices,
    heard: Heard,
    /// Told when something was neither adopted nor refused.
    unheard: Arc<Notify>,
}

impl Published {
    /// For the NATS cluster called `name`. Accounts that are overruled are sent again by a task in `scope`, until this and the
    /// tasks of what was taken are gone.
    pub(in crate::nats) fn start(name: &str, resolver: &Resolver, scope: &Scope) -> Self {
        let notices = Notices::new(name);
        Self {
            resolver: resolver.clone(),
            limits: Limits::default(),
            refusals: Refusals::start(resolver, &notices, scope),
            notices,
            heard: Heard::default(),
            unheard: Arc::default(),
        }
    }

    /// `payload` was published as a token of `account` by `sender`. It is adopted or overruled by a task of its own in `scope`.
    pub(in crate::nats) fn take(&mut self, account: AccountKey, payload: &[u8], sender: Sender, scope: &Scope) {
        if sender == Sender::Own {
            return;
        }
        let (permit, body) = match admitted(&self.limits, &self.notices, payload, Limits::published) {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.unheard.notify_one();
                return self.notices.not_adopted(account, None, &reason);
            }
        };
        if self.heard.is_repeated(account, (payload, &sender), Instant::now()) {
            return;
        }
        let (resolver, notices, unheard) = (self.resolver.clone(), self.notices.clone(), self.unheard.clone());
        let (refusals, its_scope) = (self.refusals.clone(), scope.clone());
        scope.spawn_for_client(async move {
            if !adopt_or_overrule(&resolver, &notices, (&refusals, &its_scope), account, (body, sender)).await {
                unheard.notify_one();
            }
            drop(permit);
        });
    }

    /// Waits until it is not known of something that was published whether servers enforce it: it was as if it had not been heard.
    pub(in crate::nats) async fn unheard(&self) {
        self.unheard.notified().await;
    }
}

/// What was heard of each account last.
#[derive(Debug, Default)]
struct Heard {
    last: BTreeMap<AccountKey, (u64, Instant)>,
    keys: RandomState,
}

impl Heard {
    /// Whether `what` is the last that was heard of `account`, a moment ago. What came between would have to be repeated: what
    /// servers were given last counts.
    fn is_repeated(&mut self, account: AccountKey, what: (&[u8], &Sender), now: Instant) -> bool {
        let digest = self.keys.hash_one(what);
        self.last.retain(|_, (_, at)| *at + SAME_WITHIN > now);
        if self.last.get(&account).is_some_and(|(last, _)| *last == digest) {
            return true;
        }
        if self.last.len() < HEARD || self.last.contains_key(&account) {
            self.last.insert(account, (digest, now));
        }
        false
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
/// the scope stops, an attempt is finished, and none follows. `false` if it is neither adopted nor refused.
async fn adopt_or_overrule(
    resolver: &Resolver,
    notices: &Notices,
    (refusals, scope): (&Refusals, &Scope),
    account: AccountKey,
    (body, sender): (Bytes, Sender),
) -> bool {
    let submitter = match sender {
        // Only users of the system account may publish here.
        Sender::Other => Submitter::Administrator,
        // It repeats what it has, so that the order of arrival says nothing of two tokens without a time of issue.
        Sender::OtherMesh { .. } | Sender::Own => Submitter::Anyone,
    };
    if is_enforced(resolver, account, &body).await {
        return true;
    }
    let (_, issued_at) = unverified(&body).await;
    // Without a time of issue the order of arrival counts: a later attempt could overwrite what was stored meanwhile.
    let is_dated = issued_at.is_some_and(|issued_at| issued_at > 0);
    let until = Instant::now() + PATIENCE;
    loop {
        let adopting = resolver.adopt(account, body.clone(), submitter);
        let error = match adopting.await {
            Ok(submitted) if submitted.stored => {
                notices.adopted(account, submitted.revision, issued_at);
                return true;
            }
            Ok(_) => return true,
            Err(error) => error,
        };
        if is_final(&error) {
            notices.overruled(account, issued_at, &error.to_string());
            refusals.report(account, &body, sender).await;
            return true;
        }
        let may_pass = is_dated && !matches!(error, SubmitError::Read(ReadError::Damaged(_)));
        if !may_pass || Instant::now() >= until || scope.until_stop(sleep(AGAIN)).await.is_none() {
            notices.not_adopted(account, issued_at, &error.to_string());
            return false;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g6_what_is_heard_over_several_connections_is_looked_at_once_and_what_came_between_counts() {
        let (mut heard, begin) = (Heard::default(), Instant::now());
        let account = |n: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            AccountKey::from_bytes(bytes)
        };
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let other = Sender::OtherMesh {
            node: "n1".to_owned(),
            mesh: "4e".to_owned(),
        };
        for (ms, what, sender, is_repeated) in [
            (0, "one", &Sender::Other, false),
            (1, "one", &Sender::Other, true),
            (2, "one", &other, false),
            (3, "two", &other, false),
            // It is what the servers have now.
            (4, "one", &other, false),
            (5, "one", &other, true),
            (503, "one", &other, true),
            (504, "one", &other, false),
        ] {
            let found = heard.is_repeated(account(1), (what.as_bytes(), sender), at(ms));
            assert_eq!(found, is_repeated, "{ms}");
        }
        assert!(!heard.is_repeated(account(2), (b"one", &other), at(504)));
        for n in 0..2_000 {
            heard.is_repeated(account(n), (b"one", &other), at(505));
        }
        assert_eq!(heard.last.len(), HEARD, "it is bounded (G12)");
    }
}
