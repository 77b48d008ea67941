//! Polls a future again at once if it woke itself during the poll.
//!
//! hyper wakes its own task twice for each body: when the handler asks for it, and when it arrives. Each of these wakes
//! would pass through the scheduler's queue and wake another thread for nothing: a tenth of an upload's latency.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A future that keeps waking itself is polled this often in a row; then other tasks get their turn.
const MOST: usize = 8;

/// No poll is running: a wake must reach the task.
const RESTING: u8 = 0;
/// A poll is running: the task checks for a wake before it rests.
const POLLING: u8 = 1;
/// Woken since the last poll began.
const WOKEN: u8 = 2;

/// Polls the one future of a task in this way.
#[derive(Default)]
pub(super) struct Again(Option<(Arc<WakeFlag>, Waker)>);

/// The waker that the future is given. It wakes the task only while no poll is running.
struct WakeFlag {
    task: Waker,
    state: AtomicU8,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == RESTING {
            self.task.wake_by_ref();
        }
    }
}

impl Again {
    /// Whether `task` is the task that polled last.
    pub(super) fn is_for(&self, task: &Waker) -> bool {
        self.0.as_ref().is_some_and(|(flag, _)| flag.task.will_wake(task))
    }

    /// Polls `future` until it is ready or waits for another wake than its own, at most [`MOST`] times in a row.
    pub(super) fn poll<F: Future>(&mut self, mut future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !self.is_for(cx.waker()) {
            self.0 = None;
        }
        let (flag, waker) = self.0.get_or_insert_with(|| {
            let flag = Arc::new(WakeFlag {
                task: cx.waker().clone(),
                state: AtomicU8::new(RESTING),
            });
            let waker = Waker::from(flag.clone());
            (flag, waker)
        });
        for _ in 0..MOST {
            flag.state.store(POLLING, Ordering::Release);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            let rested = flag
                .state
                .compare_exchange(POLLING, RESTING, Ordering::AcqRel, Ordering::Acquire);
            if rested.is_ok() {
                return Poll::Pending;
            }
        }
        flag.state.store(RESTING, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_without_its_task() {
        let (task, mut polls) = (Arc::new(Counted::default()), 0);
        let waker = Waker::from(task.clone());
        let mut future = pin!(poll_fn(|cx| {
            polls += 1;
            if polls < 4 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        }));
        let polled = Again::default().poll(future.as_mut(), &mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Ready(()));
        assert_eq!((polls, task.0.load(Ordering::Relaxed)), (4, 0));
    }

    #[test]
    fn a_wake_that_comes_later_reaches_the_task_once() {
        let task = Arc::new(Counted::default());
        let waker = Waker::from(task.clone());
        let mut kept = None;
        let mut future = pin!(poll_fn(|cx| {
            kept = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        let polled = Again::default().poll(future.as_mut(), &mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Pending);
        let kept = kept.expect("it was polled");
        kept.wake_by_ref();
        kept.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_future_that_never_rests_lets_others_have_their_turn() {
        let (task, mut polls) = (Arc::new(Counted::default()), 0);
        let waker = Waker::from(task.clone());
        let mut future = pin!(poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let polled = Again::default().poll(future.as_mut(), &mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Pending);
        assert_eq!((polls, task.0.load(Ordering::Relaxed)), (MOST, 1));
    }
}
