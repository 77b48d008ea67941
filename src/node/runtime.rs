//! The runtime of agreement: Raft's core, the peer port and what applies, apart from everything else.
//!
//! A flood of handshakes on the public port, or a read that hangs, must not make a leader look dead.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// openraft's core does one thing at a time, and what surrounds it is short; what takes longer is done by the blocking
/// threads. With two threads each message would wake both.
const WORKERS: usize = 1;

/// Threads for what waits for a disk: one snapshot that comes in, one that goes out for each peer.
const BLOCKING_THREADS: usize = 16;

/// The runtime. Its tasks end when it is dropped, which does not wait for them.
#[derive(Debug)]
pub(super) struct AgreementRuntime(Option<Runtime>);

impl AgreementRuntime {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("agreement")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn handle(&self) -> Handle {
        self.0
            .as_ref()
            .expect("it is taken only to be dropped")
            .handle()
            .clone()
    }
}

impl Drop for AgreementRuntime {
    fn drop(&mut self) {
        // Another runtime drops it, whose threads must not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
