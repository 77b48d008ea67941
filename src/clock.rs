//! The only reader of the system clock. Everything below takes the time as an argument.
//!
//! A test or a simulation can thus decide what time it is. Clippy refuses `SystemTime::now` everywhere else
//! (`.clippy.toml`).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970 in UTC, the unit of every time in a JWT (RFC 7519, section 2, NumericDate).
pub type UnixSeconds = i64;

/// Where the time comes from: the system, or a source that a test gives.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixSeconds + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(system_now))
    }

    /// A clock that asks `source` each time.
    pub fn from_source(source: impl Fn() -> UnixSeconds + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// The present time.
    pub fn now(&self) -> UnixSeconds {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

#[expect(clippy::disallowed_methods, reason = "this file is the one place that may")]
fn system_now() -> UnixSeconds {
    // A clock before 1970 reads as 0: every token is then "not yet valid" or from the future, and refused.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
