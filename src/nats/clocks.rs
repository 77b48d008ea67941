//! How far the clocks of a NATS cluster's servers are from ours, as their replies show. No I/O, no clock.

use std::collections::VecDeque;

use crate::resolver::CLOCK_TOLERANCE_SECONDS;

/// Servers that are remembered; of more, those that replied last.
const SERVERS: usize = 64;

/// The last known clock of each server, as its difference to ours.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// Each server's name, and its clock minus ours in seconds. The last is the one that replied last.
    offsets: VecDeque<(String, i64)>,
    /// Whether the last comparison found a difference that is too large.
    differ: bool,
}

/// What a reply's time shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    /// The median of the servers' clocks minus ours, in seconds.
    pub(super) offset: i64,
    /// `Some(true)`: from now on they differ by more than a minute; `Some(false)`: from now on they agree again.
    pub(super) changed: Option<bool>,
}

impl Clocks {
    /// The server called `name` replied when its clock said `theirs` and ours said `ours`, both in Unix seconds.
    pub(super) fn heard(&mut self, name: &str, theirs: i64, ours: i64) -> Comparison {
        let known = self.offsets.iter().position(|(server, _)| server == name);
        let oldest = (self.offsets.len() == SERVERS).then_some(0);
        let name = match known.or(oldest).and_then(|at| self.offsets.remove(at)) {
            Some((server, _)) if server == name => server,
            _ => name.to_owned(),
        };
        self.offsets.push_back((name, theirs.saturating_sub(ours)));
        let offset = self.median();
        let differ = offset.saturating_abs() > CLOCK_TOLERANCE_SECONDS;
        let changed = (differ != self.differ).then_some(differ);
        self.differ = differ;
        Comparison { offset, changed }
    }

    /// The median, so that one server with a wrong clock shows nothing about ours. Of two in the middle the smaller
    /// difference.
    fn median(&self) -> i64 {
        let mut sorted: Vec<i64> = self.offsets.iter().map(|(_, offset)| *offset).collect();
        sorted.sort_unstable();
        let middle = [(sorted.len().max(1) - 1) / 2, sorted.len() / 2];
        let middle = middle.iter().filter_map(|at| sorted.get(*at).copied());
        middle.min_by_key(|offset| offset.saturating_abs()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_servers_clocks_decides_and_each_change_is_said_once() {
        let mut clocks = Clocks::default();
        for (server, theirs, offset, changed) in [
            ("n1", 1_000, 0, None),
            ("n1", 1_060, 60, None),
            ("n1", 1_061, 61, Some(true)),
            ("n1", 1_100, 100, None),
            ("n2", 1_000, 0, Some(false)),
            ("n3", 1_100, 100, Some(true)),
            ("n2", 1_100, 100, None),
            ("n1", 1_001, 100, None),
            ("n2", 999, 1, Some(false)),
            ("n3", 100, -1, None),
            ("n2", 100, -900, Some(true)),
            ("n1", i64::MAX, -900, None),
            ("n2", i64::MIN, -900, None),
        ] {
            let ours = 1_000;
            let comparison = clocks.heard(server, theirs, ours);
            assert_eq!(comparison, Comparison { offset, changed }, "{server} {theirs}");
        }
    }

    #[test]
    fn g12_the_number_of_servers_is_bounded_and_the_latest_count() {
        let mut clocks = Clocks::default();
        for server in 0..1_000 {
            clocks.heard(&server.to_string(), 0, 500);
        }
        assert_eq!(clocks.offsets.len(), SERVERS);
        for server in 0..SERVERS {
            clocks.heard(&format!("later {server}"), 500, 500);
        }
        assert_eq!(clocks.median(), 0);
        assert_eq!(clocks.offsets.len(), SERVERS);
    }
}
