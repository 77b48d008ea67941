//! Failed handshakes of a port: each in the debug log, and their number by reason at INFO, at most once a minute.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::tasks::Scope;
use crate::tls;

/// The pause between two lines about failed handshakes, however many fail.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// The most characters of an error that are logged: parts of it may come from the client.
const MAX_ERROR_CHARS: usize = 200;

/// The handshakes that failed since the last line about them.
pub(super) struct Failures {
    port: &'static str,
    // There are a dozen reasons.
    counts: Mutex<BTreeMap<&'static str, u64>>,
    counted: Notify,
}

impl Failures {
    /// No failures yet, on the port that is called `port` in the log.
    pub(super) fn of(port: &'static str) -> Self {
        Self {
            port,
            counts: Mutex::default(),
            counted: Notify::new(),
        }
    }

    /// The handshake of the client at this address ended with `error`.
    pub(super) fn failed(&self, client: Option<SocketAddr>, error: &io::Error) {
        self.count(client, tls::reason(error), error);
    }

    /// The handshake of the client at this address was not complete after `limit`.
    pub(super) fn too_slow(&self, client: Option<SocketAddr>, limit: Duration) {
        self.count(client, tls::TOO_SLOW, &format_args!("not complete after {limit:?}"));
    }

    fn count(&self, client: Option<SocketAddr>, reason: &'static str, error: &dyn Display) {
        tracing::debug!(
            port = self.port,
            client = client.map(tracing::field::display),
            reason,
            error = clip(error),
            "TLS handshake failed"
        );
        *self.counts().entry(reason).or_default() += 1;
        self.counted.notify_one();
    }

    /// Logs how many failed until `scope` stops: the first one at once, and what follows within the minute together. To
    /// be run as a task of its own.
    pub(super) async fn report(&self, scope: &Scope) {
        while scope.until_stop(self.counted.notified()).await.is_some() {
            self.log();
            if scope.until_stop(sleep(REPORT_EVERY)).await.is_none() {
                break;
            }
        }
        self.log();
    }

    fn log(&self) {
        let counts = mem::take(&mut *self.counts());
        let failed: u64 = counts.values().sum();
        if failed == 0 {
            return;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let reasons: Vec<String> = counts
            .iter()
            .map(|(reason, count)| format!("{count}: {reason}"))
            .collect();
        tracing::info!(
            port = self.port,
            failed,
            reasons = reasons.join(" | "),
            "TLS handshakes failed; log level debug has the address of each client"
        );
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beginning of an error's text, on one line.
fn clip(error: &dyn Display) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    error.to_string().chars().take(MAX_ERROR_CHARS).map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::tasks::FaultHandle;

    /// The log of one test.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nothing panics").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Log {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Log {
        fn lines(&self, level: &str) -> Vec<String> {
            let text = self.0.lock().expect("nothing panics").clone();
            let text = String::from_utf8(text).expect("text");
            text.lines()
                .filter(|line| line.contains(level))
                .map(str::to_owned)
                .collect()
        }
    }

    /// Lets the report's task run as far as it can.
    async fn settle() {
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn g12_however_many_handshakes_fail_they_are_counted_in_one_line_a_minute() {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(log.clone());
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let (scope, failures) = (Scope::new(FaultHandle::default()), Arc::new(Failures::of("public")));
        let (of_report, its_scope) = (failures.clone(), scope.clone());
        scope.spawn("the report", async move { of_report.report(&its_scope).await });
        let client = SocketAddr::from(([192, 0, 2, 7], 4222));
        let fail = |count: usize, error: &io::Error| {
            for _ in 0..count {
                failures.failed(Some(client), error);
            }
        };

        settle().await;
        fail(1, &io::ErrorKind::UnexpectedEof.into());
        settle().await;
        assert_eq!(
            log.lines("INFO").len(),
            1,
            "the first is told at once: {log:?}",
            log = log.lines("")
        );
        fail(1_000, &io::Error::other("\u{1b}[2J\n".repeat(1_000)));
        fail(3, &io::ErrorKind::UnexpectedEof.into());
        failures.too_slow(None, Duration::from_secs(10));
        advance(REPORT_EVERY - Duration::from_millis(1)).await;
        settle().await;
        assert_eq!(log.lines("INFO").len(), 1);
        advance(Duration::from_millis(2)).await;
        settle().await;
        let told = log.lines("INFO");
        let words = "failed=1004 reasons=\"1000: the connection failed | 3: the client closed the connection | \
                     1: the client took too long\"";
        assert!(told.len() == 2 && told[1].contains(words), "{told:?}");

        // A minute without failures is not told; what fails before a shutdown is.
        advance(3 * REPORT_EVERY).await;
        settle().await;
        fail(1, &io::ErrorKind::UnexpectedEof.into());
        settle().await;
        fail(2, &io::ErrorKind::UnexpectedEof.into());
        scope.stop();
        scope.ended().await;
        let told = log.lines("INFO");
        assert!(told.len() == 4 && told[3].contains("failed=2"), "{told:?}");

        let each = log.lines("DEBUG");
        assert_eq!(each.len(), 1 + 1_000 + 3 + 1 + 1 + 2, "one line for each: {each:?}");
        assert!(each[0].contains("client=192.0.2.7:4222 reason=\"the client closed the connection\""));
        assert!(
            each.iter().all(|line| line.len() < 500 && !line.contains('\u{1b}')),
            "{each:?}"
        );
        assert!(
            each.iter().any(|line| line.contains("not complete after 10s")),
            "{each:?}"
        );
    }
}
