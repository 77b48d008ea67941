//! Disks that fail real processes: one that is full, and one that hangs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::process::eventually;

/// A small disk that only programs see which are started on it: a file system in memory, in a mount namespace that a
/// process of its own holds open. It outlives those programs.
pub(crate) struct SmallDisk {
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    /// A disk of so many MiB at `folder`.
    #[track_caller]
    pub(crate) fn at(folder: &Path, mib: u32) -> Self {
        fs::create_dir_all(folder).expect("the test's own folder is writable");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command.arg(r#"mount -t tmpfs -o size="$1"m none "$2" && touch "$2"/mounted && exec cat"#);
        command.arg("sh").arg(mib.to_string()).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let holder = command.spawn().expect("unshare (of util-linux) can be started");
        let disk = Self {
            holder,
            folder: folder.to_owned(),
        };
        eventually("the system lets a user mount a file system in memory", || {
            disk.path("mounted").exists().then_some(())
        });
        disk
    }

    /// Starts `program` where it sees this disk.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let holder = self.holder.id().to_string();
        command.args([
            "--target",
            &holder,
            "--user",
            "--mount",
            "--preserve-credentials",
            program,
        ]);
        command
    }

    /// Where this test sees the file `name` of the disk.
    fn path(&self, name: &str) -> PathBuf {
        let folder = self.folder.strip_prefix("/").expect("an absolute path");
        Path::new(&format!("/proc/{}/root", self.holder.id()))
            .join(folder)
            .join(name)
    }

    /// Fills it until `left` MiB are left.
    pub(crate) fn fill(&self, left: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.path("filler"))
            .expect("the disk takes files");
        let free = || {
            let found = rustix::fs::statvfs(self.path("")).expect("the disk says how full it is");
            found.f_bavail * found.f_frsize / (1024 * 1024)
        };
        while free() > left {
            if file.write_all(&[1; 1024 * 1024]).is_err() {
                break;
            }
        }
    }

    /// Frees what [`Self::fill`] took.
    pub(crate) fn free(&self) {
        fs::remove_file(self.path("filler")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Ends when its input does; the disk ends with it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A thread of a program that does not get on, as if its disk hung, until this is dropped.
pub(crate) struct Hang {
    end: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Hang {
    /// The thread called `name` of the child `pid`.
    #[track_caller]
    pub(crate) fn of(pid: u32, name: &str) -> Self {
        Self::of_all(pid, name).swap_remove(0)
    }

    /// Every thread called `name` of the child `pid`; at least one.
    #[track_caller]
    pub(crate) fn of_all(pid: u32, name: &str) -> Vec<Self> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the program runs");
        let found = tasks.flatten().filter(|task| {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            comm.trim() == name
        });
        let threads = found.map(|task| task.file_name().to_string_lossy().parse().expect("a thread's number"));
        let hanging: Vec<Self> = threads.map(Self::of_thread).collect();
        assert!(!hanging.is_empty(), "the program has no thread {name:?}");
        hanging
    }

    fn of_thread(thread: i32) -> Self {
        let (end, ended) = mpsc::channel();
        let (stopped, is_stopped) = mpsc::channel();
        // The thread that traces another has to be the one that lets it go.
        let tracer = std::thread::spawn(move || {
            let thread = Pid::from_raw(thread);
            ptrace::seize(thread, ptrace::Options::empty()).expect("a parent may trace its child");
            ptrace::interrupt(thread).expect("a traced thread can be stopped");
            waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
            stopped.send(()).expect("the test waits");
            // An error says the same: it was dropped.
            let _ = ended.recv();
            // Fails if the program has ended.
            let _ = ptrace::detach(thread, None);
        });
        is_stopped.recv().expect("the thread stops");
        Self {
            end: Some(end),
            tracer: Some(tracer),
        }
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
    }
}
