//! The table that a bench ends with.

use super::rounds::{Pairs, median};

/// What a ratio (or, in a row without a peer, the figure) is to be.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// It is only shown.
    Shown,
}

impl Aim {
    fn verdict(self, value: f64) -> String {
        match self {
            Self::AtLeast(aim) if value >= aim => format!(">= {aim}  met"),
            Self::AtLeast(aim) => format!(">= {aim}  MISSED"),
            Self::AtMost(aim) if value <= aim => format!("<= {aim}  met"),
            Self::AtMost(aim) => format!("<= {aim}  MISSED"),
            Self::Shown => String::new(),
        }
    }
}

/// Rows are printed as they come, so that a long run shows what it found so far.
pub(crate) struct Table;

impl Table {
    /// Prints the title and the head.
    pub(crate) fn begin(title: &str, peer: &str) -> Self {
        println!("\n{title}\n");
        println!(
            "{:<44} {:>12} {peer:>12} {:>7}  {:<13} aim",
            "", "ours", "ratio", "(range)"
        );
        Self
    }

    /// A figure beside a peer's: medians of the rounds, and the median and the range of the rounds' ratios.
    pub(crate) fn compare(&self, what: &str, pairs: &Pairs, aim: Aim) {
        let ratios = pairs.ratios();
        let (low, high) = ratios
            .iter()
            .fold((f64::MAX, f64::MIN), |(low, high), r| (low.min(*r), high.max(*r)));
        let (ours, peer, ratio) = (
            number(median(&pairs.ours)),
            number(median(&pairs.peer)),
            median(&ratios),
        );
        let range = format!("({low:.2}-{high:.2})");
        println!(
            "{what:<44} {ours:>12} {peer:>12} {ratio:>7.2}  {range:<13} {}",
            aim.verdict(ratio)
        );
    }

    /// A figure beside a peer's, of one run: the aim is on the figure itself.
    pub(crate) fn beside(&self, what: &str, ours: f64, peer: f64, aim: Aim) {
        let ratio = ours / peer;
        println!(
            "{what:<44} {:>12} {:>12} {ratio:>7.2}  {:<13} {}",
            number(ours),
            number(peer),
            "",
            aim.verdict(ours)
        );
    }

    /// A figure that stands alone.
    pub(crate) fn show(&self, what: &str, value: f64, aim: Aim) {
        println!(
            "{what:<44} {:>12} {:>12} {:>7}  {:<13} {}",
            number(value),
            "",
            "",
            "",
            aim.verdict(value)
        );
    }
}

/// Three significant places are more than any of these figures is good for.
fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
