//! An older copy of what the mesh has agreed is put back, and servers hold what others gave them.

use std::collections::{BTreeMap, BTreeSet};

use super::world::World;
use crate::jwt::AccountKey;
use crate::nats::publish::roster::Held;
use crate::resolver::Server;

/// An earlier state of the mesh.
pub(super) struct Copy {
    revision: u64,
    rows: BTreeMap<AccountKey, u64>,
    tokens: BTreeMap<u64, u64>,
    changed: BTreeSet<AccountKey>,
    agreed: u64,
    roster: BTreeMap<String, Server>,
}

impl World {
    /// What the mesh has agreed, to be put back later.
    pub(super) fn copy(&self) -> Copy {
        Copy {
            revision: self.revision,
            rows: self.rows.clone(),
            tokens: self.tokens.clone(),
            changed: self.changed.clone(),
            agreed: self.agreed,
            roster: self.roster.clone(),
        }
    }

    /// An earlier copy is put back, and the process begins with it.
    pub(super) fn put_back(&mut self, copy: Copy) {
        self.disconnect();
        self.is_older = true;
        self.revision = copy.revision;
        self.issued.retain(|revision, _| *revision <= copy.revision);
        self.rows = copy.rows;
        self.tokens = copy.tokens;
        self.changed = copy.changed;
        (self.agreed, self.roster) = (copy.agreed, copy.roster);
        self.log = self
            .rows
            .iter()
            .map(|(account, revision)| (*revision, *account))
            .collect();
        self.open.clear();
        self.answered.clear();
        self.restart();
    }

    /// `token` of `account` is uploaded.
    pub(super) fn upload(&mut self, account: AccountKey, token: u64) {
        // A newer one is stored by then.
        if self.token(&account) < token {
            self.store(std::iter::once(account), token);
            self.pump();
        }
    }

    /// Somebody gives a server a token of `account`.
    pub(super) fn push_past_us(&mut self, server: &str, account: AccountKey, token: u64) {
        self.held.entry(server.to_owned()).or_default().insert(account, token);
    }

    /// What a server holds is stored if it is newer.
    pub(super) fn judge(&mut self, account: AccountKey, held: Option<u64>) -> Held {
        let Some(held) = held else { return Held::Current };
        let current = self.rows.get(&account).map(|revision| self.tokens[revision]);
        if self.is_undecided && current < Some(held) {
            return Held::Undecided;
        }
        match current {
            Some(current) if held < current => Held::Other,
            Some(current) if held == current => Held::Current,
            _ => {
                self.adopted.push(account);
                self.store(std::iter::once(account), held);
                Held::Current
            }
        }
    }
}
