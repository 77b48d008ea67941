//! Child processes whose output is kept, and waiting for conditions.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a condition may take before the test fails. Far beyond what anything here needs, because the
/// machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Calls `look` again and again until it gives an answer; fails and names `what` if it does not within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, look) {
        Some(found) => found,
        None => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// The answer of `look`, if it gives one before `patience` ends.
pub(crate) fn within<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A free TCP port of 127.0.0.1. It is below the range from which the system takes ports for outgoing connections, so
/// that a program may be stopped and started on it again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 11_000;
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A pipe to which every write fails.
pub(crate) fn broken_pipe() -> std::io::PipeWriter {
    let (_, writer) = std::io::pipe().expect("the system has pipes");
    writer
}

/// A running program. Its output goes to files; it is killed when this is dropped.
pub(crate) struct Program {
    child: Child,
    name: String,
    out: PathBuf,
    err: PathBuf,
}

impl Program {
    /// Starts `command`, with its output in `folder` under `name`.
    pub(crate) fn start(command: Command, folder: &Path, name: &str) -> Self {
        let err = File::create(folder.join(format!("{name}.err"))).expect("the test's own folder is writable");
        Self::start_with(command, folder, name, err)
    }

    /// The same with a stderr that is no longer read, as that of `... 2>&1 | tee` after tee has ended.
    pub(crate) fn start_unheard(command: Command, folder: &Path, name: &str) -> Self {
        Self::start_with(command, folder, name, broken_pipe())
    }

    fn start_with(mut command: Command, folder: &Path, name: &str, stderr: impl Into<Stdio>) -> Self {
        let out = folder.join(format!("{name}.out"));
        let err = folder.join(format!("{name}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("the test's own folder is writable"))
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            child,
            name: name.to_owned(),
            out,
            err,
        }
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it has ended; gives how. Fails if it does not end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ended", self.name);
        eventually(&what, || self.ended())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // A program that has ended but has not been waited for still accepts signals, so this does not fail.
        kill_process(Pid::from_child(&self.child), signal).expect("our own child takes signals");
    }

    /// Sends SIGKILL; the program has ended when this returns.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The resident memory of the program, in KiB.
    pub(crate) fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the program runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .expect("the system says how much memory a process holds")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            for (stream, text) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
                let skip = text.lines().count().saturating_sub(40);
                let tail: Vec<&str> = text.lines().skip(skip).collect();
                eprintln!("---- last {stream} of {}:\n{}", self.name, tail.join("\n"));
            }
        }
    }
}
