//! What one log entry changed.

use std::sync::Arc;

use bytes::Bytes;

use crate::state::command::Revision;
use crate::state::rows::{AccountRow, Mark, OperatorRow, ReplacedOperator, RowId, Trust};

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
        }
    }

    /// About how much memory it takes.
    pub(in crate::state) fn bytes(&self) -> usize {
        let rows: usize = self.rows.iter().map(|row| row.bytes()).sum();
        let operators: usize = self.operators.iter().map(|row| row.token.len()).sum();
        CHANGE_OVERHEAD_BYTES + rows + operators + self.membership.as_ref().map_or(0, Bytes::len)
    }
}

/// What an entry takes beside its rows; counted so that a million blank entries are not free.
const CHANGE_OVERHEAD_BYTES: usize = 256;
