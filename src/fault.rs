//! How this node says that it cannot go on: the first reason ends the process, every later one is dropped.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Reports a fault of this node, from any thread. Clones report to the same place.
///
/// After a fault nothing may be answered as if it had not happened: a failed sync may not be tried again, and
/// a state that missed an entry is no longer the agreed one.
#[derive(Debug, Clone, Default)]
pub struct FaultHandle {
    reason: Arc<OnceLock<String>>,
    ended: CancellationToken,
}

impl FaultHandle {
    /// Ends the node for `reason`, unless it is ending for an earlier one.
    pub fn report(&self, reason: impl Display) {
        if self.reason.set(reason.to_string()).is_ok() {
            tracing::error!(%reason, "this node cannot go on");
        }
        self.ended.cancel();
    }

    /// Whether a fault was reported.
    pub fn is_reported(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits for a fault and gives its reason.
    pub async fn reported(&self) -> String {
        self.ended.cancelled().await;
        self.reason.get().cloned().unwrap_or_default()
    }
}

/// The sentence of an error and of everything that caused it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let sentence = error.to_string();
        // Many errors repeat their cause in their own sentence.
        if !text.contains(&sentence) {
            text.push_str(": ");
            text.push_str(&sentence);
        }
        cause = error.source();
    }
    text
}
