//! Child processes: started, measured through /proc, and ended by their own pid however the bench ends.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take to come up or to end before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The kernel reports processor time to programs in hundredths of a second (USER_HZ), whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Children that run now, and folders to remove, for the case that the bench is interrupted.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Ends every child and removes every folder when the bench is interrupted. Call it first.
pub(crate) fn clean_up_when_interrupted() {
    let wait = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime for signals").block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminated = signal(SignalKind::terminate()).expect("signals can be awaited");
            let mut interrupted = signal(SignalKind::interrupt()).expect("signals can be awaited");
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        });
        for pid in RUNNING.lock().expect("no holder panics").drain(..) {
            // It may have ended by itself: the terminal interrupts the whole group.
            let _ = kill_process(pid, Signal::TERM);
        }
        // nginx needs a moment to end its workers; what is left behind after it would be only files.
        thread::sleep(Duration::from_millis(500));
        for folder in FOLDERS.lock().expect("no holder panics").drain(..) {
            let _ = fs::remove_dir_all(folder);
        }
        std::process::exit(130);
    };
    thread::spawn(wait);
}

/// A folder for this run, on the disk that the build uses: a `/tmp` in memory would make every fsync free.
pub(crate) fn work_folder(name: &str) -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix(&format!("bench-{name}-"))
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("target/tmp is writable");
    FOLDERS.lock().expect("no holder panics").push(folder.path().to_owned());
    folder
}

/// Where a program is; ends the bench, saying which package holds it, when it is not there.
pub(crate) fn find_program(name: &str, package: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps nginx where only root's PATH looks.
    let folders = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        give_up(&format!(
            "`{name}` is missing; install it with: apt-get install {package}"
        ))
    })
}

/// Ends the bench with a sentence for the person who started it.
pub(crate) fn give_up(sentence: &str) -> ! {
    eprintln!("{sentence}");
    std::process::exit(1)
}

/// An unused TCP port of 127.0.0.1, below the range that outgoing connections are given ports from.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 11_000;
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The answer of `look`, once it gives one.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    /// A mesh that copies a million accounts takes minutes to form.
    const LONG_ENOUGH: Duration = Duration::from_secs(900);
    let deadline = Instant::now() + LONG_ENOUGH;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {LONG_ENOUGH:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A running program, its output in a file. It is ended when this is dropped.
pub(crate) struct Program {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Program {
    /// Starts `command`, with what it prints in `folder` under `name`.
    pub(crate) fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let output = folder.join(format!("{name}.out"));
        let file = File::create(&output).expect("the bench's own folder is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        RUNNING.lock().expect("no holder panics").push(Pid::from_child(&child));
        Self {
            child,
            name: name.to_owned(),
            output,
        }
    }

    /// What it printed so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until `ready` says so; ends the bench with the program's last words when it ends instead.
    pub(crate) fn wait_until(&mut self, mut ready: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !ready(self) {
            let ended = self.child.try_wait().expect("a child can be waited for");
            if ended.is_some() || Instant::now() > deadline {
                panic!("{} did not come up: {}", self.name, self.output());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Processor time of the program and its children so far, in seconds.
    pub(crate) fn processor_seconds(&self) -> f64 {
        let own = self.child.id();
        // nginx works in children of the process that was started.
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        children.chain([own]).map(processor_seconds).sum()
    }

    /// Bytes of memory that it holds, as the kernel's `VmRSS`; with `VmHWM`, the most it ever held.
    pub(crate) fn memory(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the program runs");
        let line = status.lines().find(|line| line.starts_with(field));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        kilobytes.expect("the kernel says how much memory a process holds") * 1024.0
    }

    /// SIGKILL, and gone when this returns.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.forget();
    }

    /// SIGTERM, and gone when this returns; nginx would leave its workers behind without it.
    pub(crate) fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let deadline = Instant::now() + PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill();
    }

    fn forget(&self) {
        let own = Pid::from_child(&self.child);
        RUNNING.lock().expect("no holder panics").retain(|pid| *pid != own);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the program runs");
    // The second field is the program's name in brackets and may hold blanks; proc(5) counts utime and stime as
    // fields 14 and 15, eleven behind the third.
    let (_, fields) = stat.rsplit_once(") ").expect("proc(5) puts the name in brackets");
    let ticks: f64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_SECOND
}

/// Waits until the servers have nothing left to do, so that one's leftovers are not done in the other's round.
pub(crate) fn settle(programs: &[&Program]) {
    const LOOK: Duration = Duration::from_millis(250);
    // A twentieth of one core: below it are heartbeats and timers.
    const IDLE: f64 = 0.05;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before: f64 = programs.iter().map(|program| program.processor_seconds()).sum();
        thread::sleep(LOOK);
        let after: f64 = programs.iter().map(|program| program.processor_seconds()).sum();
        if (after - before) / LOOK.as_secs_f64() < IDLE || Instant::now() > deadline {
            return;
        }
    }
}
