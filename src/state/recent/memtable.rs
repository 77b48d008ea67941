//! What is applied and not yet in redb: whole entries in log order, and the newest row of each account among them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::change::Change;
use crate::jwt::AccountKey;
use crate::state::command::Revision;
use crate::state::file::Meta;
use crate::state::roster::Rosters;
use crate::state::rows::{AccountRow, Changes, Closing, Mark, Trust};

/// The small part of the applied state, all of it, and the rows that redb does not have yet.
///
/// Invariants:
/// - `changes` continue what redb holds, in log order and without a hole, so that moving any number of the oldest
///   leaves redb at the end of an entry;
/// - `newest` holds exactly the last row of each account in `changes`.
#[derive(Debug)]
pub(in crate::state) struct Memtable {
    changes: VecDeque<Arc<Change>>,
    newest: HashMap<AccountKey, Arc<AccountRow>>,
    /// The last closing token of each account in `changes`, or that it has none any more, and the entry that says so.
    closings: HashMap<AccountKey, (Revision, Option<Arc<Closing>>)>,
    bytes: usize,
    pub(in crate::state) applied: Option<Mark>,
    pub(in crate::state) membership: Option<Bytes>,
    pub(in crate::state) trust: Arc<Trust>,
    pub(in crate::state) positions: BTreeMap<String, Revision>,
    /// Another one after each change, so that what was made of it can be kept with it.
    pub(in crate::state) rosters: Arc<Rosters>,
}

impl Memtable {
    /// Empty, on top of what redb holds.
    pub(in crate::state) fn new(
        meta: Meta,
        trust: Trust,
        positions: BTreeMap<String, Revision>,
        rosters: Rosters,
    ) -> Self {
        Self {
            changes: VecDeque::new(),
            newest: HashMap::new(),
            closings: HashMap::new(),
            bytes: 0,
            applied: meta.applied,
            membership: meta.membership,
            trust: Arc::new(trust),
            positions,
            rosters: Arc::new(rosters),
        }
    }

    /// The newest row of `account`, if redb does not have it yet.
    pub(in crate::state) fn account(&self, account: AccountKey) -> Option<&Arc<AccountRow>> {
        self.newest.get(&account)
    }

    /// The closing token of `account`, or that it has none; `None` if redb knows.
    pub(in crate::state) fn closing(&self, account: AccountKey) -> Option<Option<Arc<Closing>>> {
        self.closings.get(&account).map(|(_, closing)| closing.clone())
    }

    /// Memory taken by what redb does not have yet.
    pub(in crate::state) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes a decided change visible: rows, mark and all else together (I4).
    pub(in crate::state) fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        for row in &change.rows {
            self.newest.insert(row.account, row.clone());
        }
        if let Some((account, closing)) = &change.closing {
            self.closings.insert(*account, (change.mark.index, closing.clone()));
        }
        if let Some(membership) = &change.membership {
            self.membership = Some(membership.clone());
        }
        if let Some(trust) = &change.trust {
            self.trust = trust.clone();
        }
        for (nats_cluster, position) in &change.positions {
            self.positions.insert(nats_cluster.clone(), *position);
        }
        if let Some(roster) = &change.roster {
            let rosters = Arc::make_mut(&mut self.rosters);
            let servers = rosters.entry(roster.nats_cluster.clone()).or_default();
            for id in &roster.gone {
                servers.remove(id);
            }
            servers.extend(roster.seen.iter().map(|server| (server.id.clone(), server.clone())));
        }
        self.applied = Some(change.mark.clone());
        self.changes.push_back(Arc::new(change));
    }

    /// The accounts that changed after `after`, about `limit` rows of whole entries; `None` if redb is needed for it.
    pub(in crate::state) fn since(&self, after: Revision, limit: usize) -> Option<Changes> {
        let oldest = self.changes.front()?.mark.index;
        if oldest > after.saturating_add(1) {
            return None;
        }
        let mut found = Changes {
            rows: Vec::new(),
            position: after,
            more: false,
        };
        for change in self.changes.iter().filter(|change| change.mark.index > after) {
            if found.rows.len() >= limit.max(1) {
                found.more = true;
                break;
            }
            let is_newest = |row: &&Arc<AccountRow>| {
                self.newest
                    .get(&row.account)
                    .is_some_and(|newest| newest.id() == row.id())
            };
            found.rows.extend(change.rows.iter().filter(is_newest).cloned());
            found.position = change.mark.index;
        }
        Some(found)
    }

    /// The oldest entries, whole, until they have `rows` rows or [`STEP_BYTES`].
    pub(in crate::state) fn oldest(&self, rows: usize) -> Vec<Arc<Change>> {
        let (mut count, mut bytes) = (0, 0);
        let enough = |change: &&Arc<Change>| {
            let take = count < rows.max(1) && bytes < STEP_BYTES;
            // An entry without rows counts as one row: a step ends in time even if only marks move.
            count += change.rows.len().max(1);
            bytes += change.bytes();
            take
        };
        self.changes.iter().take_while(enough).cloned().collect()
    }

    /// Removes the oldest `count` entries, which redb holds now. Returns those of their rows that are still the newest.
    pub(in crate::state) fn release(&mut self, count: usize) -> Vec<Arc<AccountRow>> {
        let mut last = Vec::new();
        for change in self.changes.drain(..count) {
            self.bytes -= change.bytes();
            if let Some((account, _)) = &change.closing
                && self
                    .closings
                    .get(account)
                    .is_some_and(|(index, _)| *index == change.mark.index)
            {
                self.closings.remove(account);
            }
            for row in &change.rows {
                if self
                    .newest
                    .get(&row.account)
                    .is_some_and(|newest| newest.id() == row.id())
                {
                    self.newest.remove(&row.account);
                    last.push(row.clone());
                }
            }
        }
        last
    }

    /// Whether nothing waits for redb.
    pub(in crate::state) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Bytes one step moves: a few of the largest tokens, so that an entry that waits for room in the memtable waits for
/// megabytes and not for all of it. On a slow disk that would take longer than a proposal may.
const STEP_BYTES: usize = 4 * 1024 * 1024;
