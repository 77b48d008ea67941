//! The accounts of one server that are being looked at.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::jwt::AccountKey;

/// How often a server may answer a token and still hold another one: a directory resolver says "updated" of tokens that it
/// does not trust.
const ANSWERS: u8 = 2;

/// The same of what it did not answer, which may not have reached it: it was sent when the server was not back yet.
const SILENCES: u8 = 8;

/// How often it may be silent once more, whatever the account, before each further account is sent twice at most: what is
/// sent for it goes to all servers.
const DEAF: usize = 16;

/// What a server has loaded and may hold another token of than the current one.
#[derive(Debug, Default)]
pub(super) struct Looking {
    /// How often the server had missed something when the check began.
    pub(super) misses: u64,
    /// Whether it was asked for its accounts for the second time.
    pub(super) is_second: bool,
    todo: Vec<AccountKey>,
    /// When it was asked about each; `None`: the answer is being judged.
    asked: BTreeMap<AccountKey, Option<u64>>,
    /// What it does not enforce yet, which is being sent.
    sent: BTreeSet<AccountKey>,
    /// What became of those, and how often it was silent once more about any of them.
    tried: BTreeMap<AccountKey, Tried>,
    deaf: usize,
    /// What it does not take.
    refused: BTreeSet<AccountKey>,
}

/// How often it was sent a token, and whether it answered.
#[derive(Debug, Default)]
struct Tried {
    answered: u8,
    silent: u8,
}

impl Looking {
    pub(super) fn at(todo: Vec<AccountKey>, misses: u64, is_second: bool) -> Self {
        Self {
            misses,
            is_second,
            todo,
            ..Self::default()
        }
    }

    /// The next account to ask about.
    pub(super) fn next(&mut self, now: u64) -> Option<AccountKey> {
        loop {
            let account = self.todo.pop()?;
            if let Entry::Vacant(asked) = self.asked.entry(account) {
                asked.insert(Some(now));
                return Some(account);
            }
        }
    }

    /// `account` is to be looked at too.
    pub(super) fn add(&mut self, account: AccountKey) {
        if !self.is_asked(account) && !self.is_sent(account) {
            self.todo.push(account);
        }
    }

    /// It has answered about `account`, which is being judged.
    pub(super) fn arrived(&mut self, account: AccountKey) {
        if let Some(asked) = self.asked.get_mut(&account) {
            *asked = None;
        }
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn is_asked(&self, account: AccountKey) -> bool {
        self.asked.contains_key(&account)
    }

    /// It holds the current token of `account`, or none.
    pub(super) fn is_current(&mut self, account: AccountKey) {
        self.asked.remove(&account);
        self.tried.remove(&account);
    }

    /// It holds another token of `account`; gives whether the current one is to be sent.
    pub(super) fn is_other(&mut self, account: AccountKey) -> bool {
        self.asked.remove(&account);
        let tried = self.tried.entry(account).or_default();
        let is_deaf = self.deaf >= DEAF && tried.silent > 1;
        if tried.answered >= ANSWERS || tried.silent >= SILENCES || is_deaf {
            self.refused.insert(account);
            return false;
        }
        self.sent.insert(account);
        true
    }

    /// `account` was sent, and it has answered, or it is in flight no more: what it holds now has to be looked at.
    pub(super) fn look_again(&mut self, account: AccountKey, has_answered: bool) -> bool {
        let was_sent = self.sent.remove(&account);
        if was_sent {
            self.todo.push(account);
            let tried = self.tried.entry(account).or_default();
            tried.answered += u8::from(has_answered);
            tried.silent += u8::from(!has_answered);
            self.deaf += usize::from(tried.silent > 1 && !has_answered);
        }
        was_sent
    }

    /// It does not take the current token of `account`, or that cannot be sent. Gives whether it was asked about it, and is
    /// no longer.
    #[must_use]
    pub(super) fn refuses(&mut self, account: AccountKey) -> bool {
        self.sent.remove(&account);
        self.refused.insert(account);
        self.asked.remove(&account).is_some()
    }

    pub(super) fn is_sent(&self, account: AccountKey) -> bool {
        self.sent.contains(&account)
    }

    pub(super) fn refused(&self) -> &BTreeSet<AccountKey> {
        &self.refused
    }

    /// Whether there is nothing left to find out.
    pub(super) fn is_over(&self) -> bool {
        self.todo.is_empty() && self.asked.is_empty() && self.sent.is_empty()
    }

    /// When the first question was asked that is not answered yet.
    pub(super) fn asked_since(&self) -> Option<u64> {
        self.asked.values().flatten().min().copied()
    }
}
