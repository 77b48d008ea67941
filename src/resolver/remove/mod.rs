//! REMOVALS: accounts that an operator deletes, and accounts that are shut with the JWT that was deposited for it.
//!
//! A request to delete accounts (`delete.rs`) is a token of its own, signed by a key of the operator whose accounts it names.
//! All of them are deleted or none. A closing JWT (`closing.rs`) is signed in advance, and kept for the day on which an account
//! is to be shut without a key. What an account leaves behind, and what may come back, is decided in the state (G8).
//!
//! Where the configuration says so, an account that has JetStream streams is not deleted (`streams.rs`).
//!
//! Neither is done to accounts without which no server can be updated, nor to those that the configuration protects.

mod closing;
mod delete;
mod streams;

use std::collections::BTreeMap;

pub(super) use closing::check_closing_item;
pub(super) use delete::check_delete;
pub use delete::{Deleted, DeletedAccount};

use super::error::{Protected, RemovalError};
use super::handle::Resolver;
use crate::jwt::AccountKey;
use crate::state::MAX_DELETED;

impl Resolver {
    /// Refuses more accounts than are removed at once, and those that are not to be removed.
    pub(super) fn check_removable(&self, accounts: &[AccountKey]) -> Result<(), RemovalError> {
        let count = accounts.len();
        if count > MAX_DELETED {
            return Err(RemovalError::TooMany { count });
        }
        for account in accounts {
            if let Some(why) = self.protection(*account) {
                let account = *account;
                return Err(RemovalError::Protected { account, why });
            }
        }
        Ok(())
    }

    /// Why `account` is not to be removed, if it is not.
    fn protection(&self, account: AccountKey) -> Option<Protected> {
        let trust = self.trust();
        let mut systems = trust
            .keys
            .operators()
            .iter()
            .filter_map(|operator| operator.claims().system_account);
        if systems.any(|system| system == account) {
            return Some(Protected::System);
        }
        self.0.protected.load().get(&account).copied()
    }

    /// `accounts` are not removed from now on.
    pub fn protect(&self, accounts: impl IntoIterator<Item = AccountKey> + Clone, why: Protected) {
        self.0.protected.rcu(|known| {
            let mut protected = BTreeMap::clone(known);
            protected.extend(accounts.clone().into_iter().map(|account| (account, why)));
            protected
        });
    }
}
