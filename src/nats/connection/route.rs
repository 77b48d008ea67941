//! Which server of a NATS cluster is tried next, and after what pause. No I/O, no clock.

use std::time::Duration;

/// The pause between two rounds of attempts, and after a connection that ended. It doubles from the first of these up
/// to the second: a nats-server restarts within a second or two, and a revocation waits for that.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(1_500);

/// The longest pause while a permission is missing: an administrator has to act, and each attempt costs the server a
/// line in its log for every account in flight.
const MAX_PAUSE_WITHOUT_PERMISSION: Duration = Duration::from_secs(5);

/// How many servers that other servers named are remembered.
const LEARNT_SERVERS: usize = 32;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Ended {
    /// It was useful for a while: what ended it is new.
    Useful,
    /// It was not useful.
    Useless,
    /// Our user lacks a permission, which an administrator has to grant.
    WithoutPermission,
}

/// The servers of a NATS cluster, in the order in which they are tried.
///
/// A round tries every configured server, beginning after the one that was tried last, and then one learnt server. The
/// learnt ones may be many and out of reach from here; they must not keep the configured ones from being tried.
#[derive(Debug)]
pub(in crate::nats) struct Route {
    configured: Vec<String>,
    learnt: Vec<String>,
    next_configured: usize,
    next_learnt: usize,
    /// Configured servers that this round has still to try.
    left: usize,
    /// Whether this round has still to try a learnt server.
    learnt_left: bool,
    /// The pause before the next attempt.
    pause: Duration,
    /// The pause before the next round.
    backoff: Duration,
}

impl Route {
    /// A route to a NATS cluster with these servers; at least one is needed.
    pub(in crate::nats) fn new(configured: &[String]) -> Self {
        Self {
            configured: configured.to_vec(),
            learnt: Vec::new(),
            next_configured: 0,
            next_learnt: 0,
            left: configured.len(),
            learnt_left: false,
            pause: Duration::ZERO,
            backoff: MIN_PAUSE,
        }
    }

    /// A server has named these other servers of its NATS cluster.
    pub(in crate::nats) fn learn(&mut self, others: Vec<String>) {
        self.learnt = others;
        self.learnt.retain(|other| !self.configured.contains(other));
        self.learnt.truncate(LEARNT_SERVERS);
        self.learnt_left &= !self.learnt.is_empty();
    }

    /// The next server to try, and the pause before it.
    pub(in crate::nats) fn attempt(&mut self) -> (Duration, String) {
        if self.left == 0 && !self.learnt_left {
            self.begin_round(MAX_PAUSE);
        }
        let (of, next) = if self.left > 0 {
            self.left -= 1;
            (&self.configured, &mut self.next_configured)
        } else {
            self.learnt_left = false;
            (&self.learnt, &mut self.next_learnt)
        };
        let url = of[*next % of.len()].clone();
        *next = (*next + 1) % of.len();
        (std::mem::take(&mut self.pause), url)
    }

    /// The connection to the server that was tried last has ended.
    pub(in crate::nats) fn ended(&mut self, how: Ended) {
        if how == Ended::Useful {
            self.backoff = MIN_PAUSE;
        }
        self.begin_round(match how {
            Ended::WithoutPermission => MAX_PAUSE_WITHOUT_PERMISSION,
            Ended::Useful | Ended::Useless => MAX_PAUSE,
        });
    }

    fn begin_round(&mut self, longest_pause: Duration) {
        self.left = self.configured.len();
        self.learnt_left = !self.learnt.is_empty();
        self.pause = self.backoff.min(longest_pause);
        self.backoff = (self.pause * 2).min(longest_pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(configured: &[&str]) -> Route {
        Route::new(&configured.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>())
    }

    fn urls(route: &mut Route, count: usize) -> Vec<String> {
        (0..count).map(|_| route.attempt().1).collect()
    }

    fn pauses(route: &mut Route, count: usize) -> Vec<u128> {
        (0..count).map(|_| route.attempt().0.as_millis()).collect()
    }

    #[test]
    fn after_a_lost_connection_the_next_server_is_tried_first() {
        let mut route = route(&["a", "b", "c"]);
        assert_eq!(urls(&mut route, 1), ["a"]);
        route.ended(Ended::Useful);
        assert_eq!(urls(&mut route, 2), ["b", "c"]);
        route.ended(Ended::Useless);
        assert_eq!(urls(&mut route, 4), ["a", "b", "c", "a"]);
    }

    #[test]
    fn g12_a_round_tries_every_configured_server_and_one_learnt_server_however_many_there_are() {
        let mut route = route(&["a", "b"]);
        urls(&mut route, 1);
        let others = (0..1_000).map(|n| format!("x{n}")).chain(["b".to_owned()]);
        route.learn(others.collect());
        route.ended(Ended::Useful);
        assert_eq!(urls(&mut route, 6), ["b", "a", "x0", "b", "a", "x1"]);
        let seen: std::collections::BTreeSet<_> = urls(&mut route, 3_000).into_iter().collect();
        assert_eq!(seen.len(), 2 + LEARNT_SERVERS);
        route.learn(Vec::new());
        assert_eq!(urls(&mut route, 4), ["b", "a", "b", "a"]);
    }

    #[test]
    fn g12_pauses_grow_after_useless_connections_and_start_over_after_a_useful_one() {
        let mut route = route(&["a"]);
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.extend(pauses(&mut route, 1));
            route.ended(Ended::Useless);
        }
        assert_eq!(seen, [0, 50, 100, 200, 400, 800, 1_500]);
        assert_eq!(pauses(&mut route, 2), [1_500, 1_500]);
        route.ended(Ended::Useful);
        assert_eq!(pauses(&mut route, 3), [50, 100, 200]);
    }

    #[test]
    fn a_missing_permission_makes_the_pauses_longer() {
        let mut route = route(&["a"]);
        let mut seen = Vec::new();
        for _ in 0..10 {
            seen.extend(pauses(&mut route, 1));
            route.ended(Ended::WithoutPermission);
        }
        assert_eq!(seen, [0, 50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }

    #[test]
    fn servers_that_do_not_answer_are_tried_in_rounds_with_a_pause_between_them() {
        let mut route = route(&["a", "b"]);
        assert_eq!(pauses(&mut route, 7), [0, 0, 50, 0, 100, 0, 200]);
    }
}
