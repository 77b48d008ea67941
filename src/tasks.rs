//! TASKS: every task has an owner and an end, and the first one that cannot go on ends the node.
//!
//! A part of the node runs in a [`Scope`]: its tasks are spawned on the scope, stopped by it, and waited for through
//! it. A node has two: one for serving and propagation, and one for agreement, which ends after the first. A panic in a
//! task of a scope is a [fault](FaultHandle): the node relies on that task, and would otherwise look alive while
//! callers wait forever.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use futures::FutureExt;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one part of the node, and how they end. Clones are the same scope.
#[derive(Debug, Clone)]
pub struct Scope {
    fault: FaultHandle,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Where the tasks run, if not where they are spawned.
    runtime: Option<Handle>,
}

impl Scope {
    /// A scope without tasks. Panics of its tasks are reported to `fault`.
    pub fn new(fault: FaultHandle) -> Self {
        Self {
            fault,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            runtime: None,
        }
    }

    /// The same, whose tasks all run on `runtime`.
    pub fn on(runtime: Handle, fault: FaultHandle) -> Self {
        Self {
            runtime: Some(runtime),
            ..Self::new(fault)
        }
    }

    /// Does `work` where the tasks of this scope run, so that what it opens and spawns belongs there too. On another runtime
    /// it goes on if the caller no longer waits.
    pub async fn within<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let Some(runtime) = &self.runtime else {
            return work.await;
        };
        joined(self.tracker.spawn_on(work, runtime)).await
    }

    fn run(&self, task: impl Future<Output: Send> + Send + 'static) {
        drop(match &self.runtime {
            Some(runtime) => self.tracker.spawn_on(task, runtime),
            None => self.tracker.spawn(task),
        });
    }

    /// Where the tasks of this scope report that the node cannot go on.
    pub fn fault(&self) -> &FaultHandle {
        &self.fault
    }

    /// Runs `work`, on which the node relies: its panic is a fault. `name` is what the fault calls it, with its
    /// article.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let fault = self.fault.clone();
        self.run(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                fault.report_panic(name);
            }
        });
    }

    /// Runs `work` for one client: a panic affects that client alone.
    pub fn spawn_for_client(&self, work: impl Future<Output: Send> + Send + 'static) {
        self.run(work);
    }

    /// Tells every task to stop; none is aborted.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether the tasks have been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until the tasks are told to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Waits for `work`; `None` if the tasks are told to stop before it is done.
    pub async fn until_stop<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }

    /// Waits until every task has ended. To be called after [`Self::stop`].
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Starts a thread for `work`, on which the node relies: its panic is a fault. `name` is what the system shows,
/// `what` is what the fault calls it.
pub fn spawn_thread(
    name: &str,
    what: &'static str,
    fault: FaultHandle,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
            fault.report_panic(what);
        }
    })
}

/// Runs `work`, which waits for a disk, on a thread where nothing else waits for it. Without a runtime, or on one with one
/// thread, such as that of a simulation, it runs at once.
pub async fn off_the_workers<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = Handle::try_current();
    if runtime.is_ok_and(|runtime| runtime.runtime_flavor() != RuntimeFlavor::CurrentThread) {
        return joined(tokio::task::spawn_blocking(work)).await;
    }
    work()
}

/// What a task gives that is never aborted. Its panic goes on here.
async fn joined<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // Its runtime has ended, and with it the node and this task.
        Err(Err(_cancelled)) => std::future::pending().await,
    }
}

/// Reports that this node cannot go on, from any thread: the first reason ends the process, later ones are dropped.
/// Clones report to the same place.
///
/// After a fault nothing may be answered as if it had not happened: a failed sync must not be tried again, and a state
/// that missed an entry is no longer the agreed one.
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

    fn report_panic(&self, what: &str) {
        self.report(format!("{what} has panicked; this is a defect of the program"));
    }
}

/// The message of an error and of everything that caused it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let sentence = error.to_string();
        // Many errors repeat their cause in their own message.
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
        let scope = Scope::new(FaultHandle::default());
        scope.spawn("a sound task", async {});
        scope.spawn_for_client(async { panic!("of one client alone") });
        scope.ended().await;
        assert!(!scope.fault().is_reported());
        let fault = scope.fault().clone();
        scope.spawn("a broken task", async move { assert!(fault.is_reported(), "not yet") });
        assert!(scope.fault().reported().await.contains("a broken task has panicked"));

        let fault = FaultHandle::default();
        let seen = fault.clone();
        let work = move || assert!(seen.is_reported(), "not yet");
        let thread = spawn_thread("broken", "a broken thread", fault.clone(), work).unwrap();
        thread.join().unwrap();
        assert!(fault.reported().await.contains("a broken thread has panicked"));
    }

    #[tokio::test]
    async fn tasks_end_when_they_are_told_to_and_are_waited_for() {
        let scope = Scope::new(FaultHandle::default());
        let told = scope.clone();
        let (done, ended) = std::sync::mpsc::channel();
        scope.spawn("a task that waits", async move {
            let waited = told.until_stop(std::future::pending::<()>()).await;
            assert_eq!(waited, None);
            done.send(()).unwrap();
        });
        assert!(!scope.is_stopping());
        scope.stop();
        scope.ended().await;
        ended.try_recv().expect("it is waited for");
    }
}
