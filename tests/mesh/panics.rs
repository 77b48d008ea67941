//! Panics that go unseen: openraft runs its core as a task, and a core that panics looks like a node that died.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    /// The first panic of the simulation on this thread.
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on every panic of this thread is kept, but redb's, which gives up that way when the power fails.
pub(crate) fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let at = info.location().map(ToString::to_string).unwrap_or_default();
            if at.contains("/redb-") {
                return;
            }
            FIRST.with_borrow_mut(|first| first.get_or_insert_with(|| info.to_string()).truncate(2_000));
            before(info);
        }));
    });
    FIRST.set(None);
}

/// Fails if something has panicked since [`watch`].
pub(crate) fn check() {
    if let Some(panicked) = FIRST.take() {
        panic!("a task {panicked}");
    }
}
