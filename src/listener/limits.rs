//! The limits of one port.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits of one port. Past each of them a client gets an answer or a closed connection, never an endless wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; one more is closed as soon as it is accepted.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long the head of a request may take, and how long a new connection may stay silent.
    pub head: Duration,
    /// How long a connection may stay silent after its first request; counted in steps of `head`.
    pub idle: Duration,
    /// How long the body of an upload may take.
    pub body: Duration,
    /// How long a connection may last, idle or not: its client is asked to open another. Counted in steps of `head`.
    pub age: Duration,
    /// How long requests in flight may take once the port is stopping.
    pub drain: Duration,
}

/// Enough for 1,000 nats-servers on each of which 20 clients reconnect at once: a nats-server then opens one connection
/// for each fetch (two stay open). At about 3 KiB for a silent connection this is 60 MiB.
const CONNECTIONS: usize = 20_000;
/// Open files reserved for the log, the store, the peers and NATS.
const RESERVED_FILES: usize = 256;
/// A distant nats-server allows a whole fetch 1.9 s; 10 s is enough for people on slow lines.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// As for the handshake. A new connection that stays silent is closed after this, however many there are.
const HEAD: Duration = Duration::from_secs(10);
/// nats-server and nsc close their idle connections after 30 and 90 s. Closing after nats-server does keeps its next
/// fetch from racing our close.
const IDLE: Duration = Duration::from_secs(60);
/// 1 MiB at 100 KiB/s.
const BODY: Duration = Duration::from_secs(10);
/// As long as a submission waits for its outcome, and shorter than the 30 s after which Kubernetes kills the process.
const DRAIN: Duration = Duration::from_secs(10);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            handshake: HANDSHAKE,
            head: HEAD,
            idle: IDLE,
            body: BODY,
            age: Duration::MAX,
            drain: DRAIN,
        }
    }
}

impl Limits {
    /// The defaults, with no more connections than this process may have files. The soft limit is raised to the hard
    /// one first, as Go programs do: it is low only for programs that use `select`.
    pub fn of_this_process() -> Self {
        let found = getrlimit(Resource::Nofile);
        let wanted = Rlimit {
            current: found.maximum,
            maximum: found.maximum,
        };
        let files = if setrlimit(Resource::Nofile, wanted).is_ok() {
            found.maximum
        } else {
            found.current
        };
        let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        // If the system allows only a few files, half of them.
        let connections = CONNECTIONS.min(files.saturating_sub(RESERVED_FILES).max(files / 2));
        Self {
            connections,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g12_the_limit_of_connections_leaves_files_for_the_rest() {
        let limits = Limits::of_this_process();
        let files = getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |files| files as usize);
        assert!(limits.connections > 0 && limits.connections < files && limits.connections <= CONNECTIONS);
    }
}
