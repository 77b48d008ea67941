//! How this node says that it cannot go on: the first reason ends the process, every later one is dropped.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
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

impl FaultHandle {
    /// Runs `task`, whose panic is a fault of this node: whoever waits for it would wait for ever.
    pub async fn guard<T>(self, name: &'static str, task: impl Future<Output = T>) -> Option<T> {
        let ended = AssertUnwindSafe(task).catch_unwind().await;
        ended
            .inspect_err(|_| self.report(format!("{name} has panicked; this is a defect of the program")))
            .ok()
    }

    /// The same for what runs on a thread of its own.
    pub fn guard_thread(self, name: &'static str, work: impl FnOnce()) {
        if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.report(format!("{name} has panicked; this is a defect of the program"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_the_node_and_one_that_returns_does_not() {
        let fault = FaultHandle::default();
        assert_eq!(fault.clone().guard("a sound task", async { 7 }).await, Some(7));
        assert!(!fault.is_reported());
        fault
            .clone()
            .guard("a broken task", async { assert!(fault.is_reported(), "not yet") })
            .await;
        assert!(fault.reported().await.contains("a broken task has panicked"));
        let fault = FaultHandle::default();
        fault
            .clone()
            .guard_thread("a broken thread", || assert!(fault.is_reported(), "not yet"));
        assert!(fault.is_reported());
    }
}
