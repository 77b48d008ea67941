//! How many accounts may be under way at once, and at which pace: what takes rights away never waits for what does not.

use super::agenda::{Rank, is_urgent};
use super::propagation::{ANSWER_MS, Propagation};
use crate::jwt::AccountKey;

/// Changes of accounts that existed that are read and unanswered at once. Enough to fill a connection over a 50 ms round
/// trip with 5,000 accounts a second; few enough that a NATS cluster that stopped answering costs nothing.
const IN_FLIGHT: usize = 256;

/// How many of them catching up may use, so that a fresh change always finds room. First revisions may be as many
/// beside them.
const CATCH_UP_IN_FLIGHT: usize = IN_FLIGHT / 2;

/// Accounts that are under way before other changes than fresh ones are sent, even if thousands are due at once, as after
/// a reconnection. A fresh change waits for no more messages than the servers take in some ten milliseconds.
const UNDER_WAY: usize = CATCH_UP_IN_FLIGHT;

/// The same for first revisions and what is sent on request: over a 50 ms round trip 640 a second.
const BEHIND_UNDER_WAY: usize = 32;

/// The time between two of those, at least, in microseconds: 2,000 a second. Servers that work through an import thus
/// have time left for a revocation: right after one, 49 of 50 took at most 13 ms; at 4,000 a second that was 62 to 414 ms
/// on a busy machine, without pauses 81 to 161 ms.
const BEHIND_PAUSE_US: u64 = 500;

/// Pauses that may be made up for, since a timer wakes us every millisecond at most.
const BEHIND_BURST_US: u64 = 8 * BEHIND_PAUSE_US;

/// Accounts remembered in total, most of them answered `skipped` and waiting for their repetition: 16,384 in 3 s is a
/// pace of 5,000 accounts a second, and about 5 MB. Beyond it no earlier changes are read until some are finished. As
/// many first revisions are remembered beside them; beyond those no account is sent on request.
const REMEMBERED: usize = 16_384;

/// How far fresh changes may exceed that. Beyond it they wait where they are, in the store.
const REMEMBERED_RESERVE: usize = 2_048;

/// First revisions and accounts sent on request that are unanswered before no more are sent on request: those two share
/// their places, and an import must not make requests fail.
const ASKED_IN_FLIGHT: usize = 2 * IN_FLIGHT;

/// The pause before it is looked whether one more account may be read. An answer ends it too.
const READ_PAUSE_MS: u64 = 10;

impl Propagation {
    /// When an account of `rank` that is due at `due` may be sent. Urgent ones wait for nothing but what servers hold.
    pub(super) fn not_before(&self, rank: Rank, (due, account): (u64, AccountKey), now: u64) -> u64 {
        let is_read = self.is_to_be_read(account, now);
        if is_read && self.reads_enough(due) {
            return now + READ_PAUSE_MS;
        }
        if is_read && now < self.greets_until() {
            return self.greets_until();
        }
        if rank == Rank::Answers || rank == Rank::Sent || is_urgent(due) {
            return 0;
        }
        let (most, paced) = match rank {
            Rank::Behind => (BEHIND_UNDER_WAY, self.behind_at_us.div_ceil(1_000)),
            _ => (UNDER_WAY, 0),
        };
        if self.agenda.reading().len() >= most {
            return now + READ_PAUSE_MS;
        }
        match self.agenda.under_way((now + 1).saturating_sub(ANSWER_MS)) {
            // At the latest when its answer is overdue and it counts no more.
            (count, Some(first)) if count >= most => paced.max(first + ANSWER_MS),
            _ => paced,
        }
    }

    /// How many fresh changes may be taken now.
    pub(super) fn room_for_fresh(&self) -> usize {
        let ahead = self.agenda.ahead();
        if self.draining || ahead.all >= REMEMBERED + REMEMBERED_RESERVE {
            return 0;
        }
        IN_FLIGHT.saturating_sub(ahead.unanswered)
    }

    /// How many earlier changes may be taken now.
    pub(super) fn room_for_earlier(&self) -> usize {
        let ahead = self.agenda.ahead();
        if self.draining || ahead.all >= REMEMBERED {
            return 0;
        }
        CATCH_UP_IN_FLIGHT.saturating_sub(ahead.unanswered)
    }

    /// How many first revisions may be taken now.
    pub(super) fn room_for_firsts(&self) -> usize {
        let behind = self.agenda.behind();
        if self.draining || behind.all >= REMEMBERED {
            return 0;
        }
        CATCH_UP_IN_FLIGHT.saturating_sub(behind.unanswered)
    }

    /// One of those that are sent behind all others is sent now.
    pub(super) fn paced(&mut self, now: u64) {
        let earliest = (now * 1_000).saturating_sub(BEHIND_BURST_US);
        self.behind_at_us = self.behind_at_us.max(earliest) + BEHIND_PAUSE_US;
    }

    /// Whether one more account may be sent on request.
    pub(super) fn has_room_for_asked(&self) -> bool {
        let behind = self.agenda.behind();
        behind.all < REMEMBERED + REMEMBERED_RESERVE && behind.unanswered < ASKED_IN_FLIGHT
    }
}
