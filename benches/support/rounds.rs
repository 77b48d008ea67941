//! Interleaved rounds, medians and percentiles.

use super::process::{Program, settle};

/// What the load of one round did, and what it cost.
pub(crate) struct Measured<T> {
    /// What was done.
    pub(crate) load: T,
    /// Processor time of the servers for each request, in microseconds, with what they did after the last answer.
    pub(crate) cost_us: f64,
}

/// Runs `load` on `servers`; `count` says how many requests it made.
pub(crate) fn measure<T>(servers: &[&Program], load: impl FnOnce() -> T, count: impl FnOnce(&T) -> f64) -> Measured<T> {
    let spent = || -> f64 { servers.iter().map(|server| server.processor_seconds()).sum() };
    let before = spent();
    let load = load();
    settle(servers);
    let cost_us = (spent() - before) * 1e6 / count(&load);
    Measured { load, cost_us }
}

/// One figure of ours and of the peer in each round.
#[derive(Default)]
pub(crate) struct Pairs {
    /// Ours.
    pub(crate) ours: Vec<f64>,
    /// The peer's.
    pub(crate) peer: Vec<f64>,
}

impl Pairs {
    /// The figure that `measure` reads off what each round left behind.
    pub(crate) fn of<T>(rounds: &[(T, T)], measure: impl Fn(&T) -> f64) -> Self {
        Self {
            ours: rounds.iter().map(|(ours, _)| measure(ours)).collect(),
            peer: rounds.iter().map(|(_, peer)| measure(peer)).collect(),
        }
    }

    /// Ours by the peer's, round by round: both halves of a round run under the same conditions.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        self.ours
            .iter()
            .zip(&self.peer)
            .map(|(ours, peer)| ours / peer)
            .collect()
    }
}

/// Ours and the peer in turns: A B A B. What a round left undone is to be finished by `between`.
pub(crate) fn interleave<T>(rounds: usize, mut ours: impl FnMut() -> T, mut peer: impl FnMut() -> T) -> Vec<(T, T)> {
    (0..rounds).map(|_| (ours(), peer())).collect()
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

/// The value that `share` of the ascending `sorted` are at or below.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
