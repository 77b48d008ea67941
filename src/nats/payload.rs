//! How large a message our user may send, where that is less than what the server announces. No I/O.
//!
//! A server ends the connection at the first message that is larger, and reads no further. It does not say which message
//! that was, nor the limit. But of the messages that no server has answered, the largest is certainly too large.

use std::collections::HashMap;

use serde_json::Value;
use tokio::time::Instant;

use crate::jwt::AccountKey;

/// How large a message may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// At most this many bytes: the server's `max_payload`.
    Server(usize),
    /// At most this many bytes: the payload limit in the JWT of our user or of its account.
    Stated(usize),
    /// Less than this many bytes: a message of this size was refused, and the JWTs that we know do not say why.
    Below(usize),
}

impl Limit {
    /// Whether a message of `bytes` may be sent.
    pub(super) fn allows(self, bytes: usize) -> bool {
        match self {
            Self::Server(most) | Self::Stated(most) => bytes <= most,
            Self::Below(refused) => bytes < refused,
        }
    }

    /// The largest message that it allows.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Server(most) | Self::Stated(most) => most,
            Self::Below(refused) => refused.saturating_sub(1),
        }
    }

    /// What a server's refusal shows, if `largest` is the largest unanswered message and `stated` what the JWTs say.
    pub(super) fn learned(largest: usize, stated: Option<usize>) -> Self {
        match stated {
            Some(stated) if stated < largest => Self::Stated(stated),
            _ => Self::Below(largest),
        }
    }
}

/// The payload limit that a server applies, by the claims of our `user` and of its `account`; `None` if neither states
/// one. As nats-server `server/client.go` (`applyAccountLimits`) finds it: the template of a scoped signing key replaces
/// the user's own limit, and the account's counts beside it.
pub(super) fn stated(user: &Value, account: &Value) -> Option<usize> {
    let scopes = account["nats"]["signing_keys"].as_array();
    let scope = scopes.and_then(|keys| {
        keys.iter()
            .find(|key| key["key"].is_string() && key["key"] == user["iss"])
    });
    let of_user = match scope {
        Some(scope) => &scope["template"]["payload"],
        None => &user["nats"]["payload"],
    };
    [of_user, &account["nats"]["limits"]["payload"]]
        .into_iter()
        // -1 means no limit.
        .filter_map(|limit| usize::try_from(limit.as_i64()?).ok().filter(|limit| *limit > 0))
        .min()
}

/// The messages that were sent over one connection and that no server has answered. At most one of each account, so they
/// are bounded as the accounts in flight are.
#[derive(Debug, Default)]
pub(super) struct Unanswered(HashMap<AccountKey, (u64, usize)>);

impl Unanswered {
    /// A message of `bytes` with the account's token of `revision` is sent.
    pub(super) fn sent(&mut self, account: AccountKey, revision: u64, bytes: usize) {
        let (last, most) = self.0.entry(account).or_default();
        *last = revision;
        *most = bytes.max(*most);
    }

    /// A server answered: it has read that message, and those before it.
    pub(super) fn answered(&mut self, account: AccountKey, revision: u64) {
        if self.0.get(&account).is_some_and(|(last, _)| *last <= revision) {
            self.0.remove(&account);
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The size of the largest.
    pub(super) fn largest(&self) -> Option<usize> {
        self.0.values().map(|(_, bytes)| *bytes).max()
    }
}

/// The payload limit of our user, which a server showed by ending the connection.
pub(super) struct Learned {
    pub(super) limit: Limit,
    /// The revision of the user's account then: with another one the limit may be another.
    pub(super) account: Option<(AccountKey, Option<u64>)>,
    pub(super) until: Instant,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_limit_is_read_from_the_user_its_scope_and_its_account() {
        let account = |limit: i64| json!({"nats": {"limits": {"payload": limit}}});
        let user = |limit: i64| json!({"iss": "K", "nats": {"payload": limit}});
        let scoped = |key: &str, template: i64, limit: i64| {
            json!({"nats": {
                "limits": {"payload": limit},
                "signing_keys": ["P", {"kind": "user_scope", "key": key, "template": {"payload": template}}],
            }})
        };
        for (user, account, wanted) in [
            (user(-1), account(-1), None),
            (user(4_096), account(-1), Some(4_096)),
            (user(-1), account(4_096), Some(4_096)),
            (user(1_000), account(4_096), Some(1_000)),
            (user(0), account(0), None),
            (json!({}), json!({}), None),
            (json!({"nats": {"payload": "4096"}}), Value::Null, None),
            (user(50), scoped("K", 4_096, -1), Some(4_096)),
            (user(50), scoped("K", -1, -1), None),
            (user(50), scoped("K", 4_096, 1_000), Some(1_000)),
            (user(50), scoped("other", 10, -1), Some(50)),
            (json!({"nats": {"payload": 50}}), scoped("K", 10, -1), Some(50)),
        ] {
            assert_eq!(stated(&user, &account), wanted, "{user} {account}");
        }
    }

    #[test]
    fn the_largest_message_without_an_answer_is_to_blame_and_what_is_learned_never_allows_it() {
        let account = |n: u8| AccountKey::from_bytes([n; 32]);
        let mut unanswered = Unanswered::default();
        assert_eq!(unanswered.largest(), None);
        unanswered.sent(account(1), 1, 9_000);
        unanswered.sent(account(2), 2, 5_000);
        assert_eq!(unanswered.largest(), Some(9_000));
        unanswered.sent(account(1), 3, 100);
        unanswered.answered(account(1), 1);
        assert_eq!(unanswered.largest(), Some(9_000), "the answer is to an earlier message");
        unanswered.answered(account(1), 3);
        assert_eq!(unanswered.largest(), Some(5_000));
        for (stated, limit) in [
            (None, Limit::Below(5_000)),
            (Some(4_096), Limit::Stated(4_096)),
            (Some(5_000), Limit::Below(5_000)),
        ] {
            let learned = Limit::learned(5_000, stated);
            assert_eq!(learned, limit);
            assert!(!learned.allows(5_000) && learned.allows(4_096));
        }
        assert!(Limit::Server(5).allows(5) && !Limit::Server(5).allows(6));
    }
}
