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

/// The state of a [`WakeFlag`], over the kind of atomic that it is in: loom's, where every order of two threads is tried.
///
/// Each transition reads and writes in one step and synchronizes in both directions. A thread that finds [`WOKEN`] has seen
/// what came before that wake: a poll that begins with a plain store would overwrite a wake whose news it cannot see
/// yet, and then rest.
trait Flag {
    fn swap(&self, state: u8) -> u8;
    /// From [`POLLING`] to [`RESTING`]; fails if it was woken.
    fn rest(&self) -> bool;

    /// A wake; whether the task has to be woken.
    fn wake(&self) -> bool {
        self.swap(WOKEN) == RESTING
    }

    /// Polls until `poll` gives something or was not woken meanwhile, at most `most` times. `None` if it rests.
    fn poll<T>(&self, most: usize, mut poll: impl FnMut() -> Option<T>, too_often: impl FnOnce()) -> Option<T> {
        for _ in 0..most {
            self.swap(POLLING);
            if let Some(output) = poll() {
                return Some(output);
            }
            if self.rest() {
                return None;
            }
        }
        self.swap(RESTING);
        too_often();
        None
    }
}

/// The same orderings for the program and for loom.
macro_rules! flag {
    ($atomic:ty) => {
        impl Flag for $atomic {
            fn swap(&self, state: u8) -> u8 {
                self.swap(state, Ordering::AcqRel)
            }

            fn rest(&self) -> bool {
                self.compare_exchange(POLLING, RESTING, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
            }
        }
    };
}

flag!(AtomicU8);

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
        if Flag::wake(&self.state) {
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
        let poll = || match future.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        };
        let output = Flag::poll(&flag.state, MOST, poll, || cx.waker().wake_by_ref());
        output.map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    flag!(loom::sync::atomic::AtomicU8);

    /// In every order that the memory model allows: after all wakes, the last poll has seen all the news, or the task
    /// is woken once more. The news itself synchronizes nothing.
    #[test]
    fn no_wake_is_lost_whatever_the_order_of_waking_and_polling() {
        // With 1, a single wake during a poll makes it give up its turn.
        for most in [MOST, 1] {
            every_order(most);
        }
    }

    fn every_order(most: usize) {
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicU8, AtomicUsize};

        loom::model(move || {
            let state = Arc::new(AtomicU8::new(RESTING));
            let news = Arc::new(AtomicUsize::new(0));
            let woken = Arc::new(AtomicUsize::new(0));
            let waker = {
                let (state, news, woken) = (state.clone(), news.clone(), woken.clone());
                loom::thread::spawn(move || {
                    for _ in 0..2 {
                        news.fetch_add(1, Ordering::Relaxed);
                        if Flag::wake(&*state) {
                            woken.fetch_add(1, Ordering::Release);
                        }
                    }
                })
            };
            let seen = Cell::new(0);
            let poll = || {
                let poll = || {
                    seen.set(news.load(Ordering::Relaxed));
                    None::<()>
                };
                let again = || {
                    woken.fetch_add(1, Ordering::Release);
                };
                Flag::poll(&*state, most, poll, again);
            };
            // The runtime polls once for each wake that reached the task, and once at the start.
            let mut polled = 0;
            loop {
                poll();
                if woken.load(Ordering::Acquire) == polled {
                    break;
                }
                polled += 1;
            }
            waker.join().expect("it only wakes");
            while polled < woken.load(Ordering::Acquire) {
                poll();
                polled += 1;
            }
            assert_eq!(seen.get(), 2, "a wake was lost");
        });
    }

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
