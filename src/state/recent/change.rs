//! What one log entry changed.

use std::sync::Arc;

use bytes::Bytes;

use crate::jwt::AccountKey;
use crate::state::command::Revision;
use crate::state::roster::Server;
use crate::state::rows::{AccountRow, Closing, Mark, OperatorRow, ReplacedOperator, RowId, RowKind, Trust};

/// What one log entry changed. Decided completely before any of it can be seen.
#[derive(Debug)]
pub(in crate::state) struct Change {
    pub(in crate::state) mark: Mark,
    pub(in crate::state) membership: Option<Bytes>,
    pub(in crate::state) rows: Vec<Arc<AccountRow>>,
    /// Rows that fall out of their account's history.
    pub(in crate::state) forgotten: Vec<RowId>,
    pub(in crate::state) operators: Vec<OperatorRow>,
    pub(in crate::state) replaced: Vec<ReplacedOperator>,
    /// The trust after this entry, if it changed it.
    pub(in crate::state) trust: Option<Arc<Trust>>,
    /// New values of positions by their names.
    pub(in crate::state) positions: Vec<(String, Revision)>,
    /// The servers of a NATS cluster, if it changed them.
    pub(in crate::state) roster: Option<RosterChange>,
    /// The closing token of an account, or that it has none any more.
    pub(in crate::state) closing: Option<(AccountKey, Option<Arc<Closing>>)>,
}

/// What an entry changed in the roster of one NATS cluster. No id is in both lists, nor twice in one.
#[derive(Debug)]
pub(in crate::state) struct RosterChange {
    pub(in crate::state) nats_cluster: String,
    /// New rows, and rows in the place of another with their id.
    pub(in crate::state) seen: Vec<Server>,
    /// The ids of removed rows.
    pub(in crate::state) gone: Vec<String>,
}

impl RosterChange {
    /// A change of `nats_cluster` that changes nothing.
    pub(in crate::state) fn of(nats_cluster: String) -> Self {
        Self {
            nats_cluster,
            seen: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Whether it changes nothing.
    pub(in crate::state) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.gone.is_empty()
    }

    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let seen: usize = self.seen.iter().map(Server::bytes).sum();
        let gone: usize = self.gone.iter().map(|id| id.len() + size_of::<String>()).sum();
        seen + gone
    }
}

impl Change {
    /// A change that changes nothing but the mark.
    pub(in crate::state) fn blank(mark: Mark) -> Self {
        Self {
            mark,
            membership: None,
            rows: Vec::new(),
            forgotten: Vec::new(),
            operators: Vec::new(),
            replaced: Vec::new(),
            trust: None,
            positions: Vec::new(),
            roster: None,
            closing: None,
        }
    }

    /// Whether it is such that only a program that knows tombstones and closing tokens may open the file.
    pub(in crate::state) fn has_deletes(&self) -> bool {
        self.closing.is_some() || self.rows.iter().any(|row| row.kind != RowKind::Token)
    }

    /// About how much memory it takes.
    pub(in crate::state) fn bytes(&self) -> usize {
        let rows: usize = self.rows.iter().map(|row| row.bytes()).sum();
        let operators: usize = self.operators.iter().map(|row| row.token.len()).sum();
        let roster = self.roster.as_ref().map_or(0, RosterChange::bytes);
        let closing = self.closing.as_ref().and_then(|(_, closing)| closing.as_ref());
        let closing = closing.map_or(0, |closing| closing.bytes());
        CHANGE_OVERHEAD_BYTES + rows + operators + roster + closing + self.membership.as_ref().map_or(0, Bytes::len)
    }
}

/// What an entry takes beside its rows; counted so that a million blank entries are not free.
const CHANGE_OVERHEAD_BYTES: usize = 256;
