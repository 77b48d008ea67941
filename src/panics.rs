//! PANICS: each is one line of the log; where a library may panic on bytes that it did not write, it is an error.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

thread_local! {
    /// Whether a panic on this thread becomes an error, which says what it has to say.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`. A panic in it is returned as its message and is not logged: the caller makes it an error.
///
/// For calls of a library that panics on damaged input. After a panic, nothing that `work` was changing may be used.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = EXPECTED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(before);
    outcome.map_err(|payload| message(payload.as_ref()).to_owned())
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// From now on every panic that is not [`caught`] is an event of the log, in the log's own format.
pub fn log_all() {
    std::panic::set_hook(Box::new(|info| {
        if !EXPECTED.get() {
            log(info);
        }
    }));
}

fn log(info: &PanicHookInfo<'_>) {
    let at = info.location().map(ToString::to_string).unwrap_or_default();
    // Captured only where RUST_BACKTRACE asks for it.
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
    let reason = message(info.payload());
    tracing::error!(
        at,
        thread = std::thread::current().name().unwrap_or_default(),
        backtrace = trace,
        "a thread has panicked; this is a defect of the program: {reason}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_that_is_caught_is_its_message() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| -> u8 { panic!("a text") }), Err("a text".to_owned()));
        let number = 3;
        assert_eq!(caught(|| -> u8 { panic!("page {number}") }), Err("page 3".to_owned()));
        assert!(!EXPECTED.get(), "the next panic on this thread is logged");
    }
}
