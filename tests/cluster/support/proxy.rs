//! A TCP proxy for faults of the network between nodes. It needs neither netem nor privileges.
//!
//! A test puts a [`Proxy`] in front of a node's port and gives the proxy's address to the other nodes. Each direction
//! can be delayed or cut on its own; chunks can be lost; all connections can be refused. A fault applies to open and new
//! connections, and it has begun when the method returns: bytes move only under the read lock of the proxy's state, and
//! faults change only under its write lock.
//!
//! A chunk is what one read gives, at most [`CHUNK`]. The end of a stream travels as a chunk too: it is delayed, lost
//! and cut like bytes. A reset arrives as an end.
//!
//! Where it differs from a real network: the kernel acknowledges everything at once, even during a cut. TCP keepalive
//! and `TCP_USER_TIMEOUT` therefore notice nothing, and only the program's own timeouts can find the fault. Handshakes
//! are not delayed. If the target does not listen, a client is accepted and then closed, not refused.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::thread::{JoinHandle, Scope};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::process::eventually;

/// How much later a lost chunk arrives: the shortest time after which Linux sends again.
pub(crate) const RETRANSMISSION: Duration = Duration::from_millis(200);

/// The most that one read takes.
const CHUNK: usize = 64 * 1024;

/// How much a connection queues in one direction before it stops reading, as a full receive window would. At a delay of
/// 100 ms it lets 40 MB/s through.
const QUEUE_LIMIT: usize = 4 << 20;

/// How long a thread with something to deliver waits before it looks at the faults again. A write to a slow receiver
/// also holds the read lock for at most this time, and so delays a change of the faults.
const TICK: Duration = Duration::from_millis(20);

/// How long a connection to the target may take. The kernel answers at once unless the target's backlog is full.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    ToTarget,
    FromTarget,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::ToTarget, Self::FromTarget];
}

/// A proxy in front of a port. Its threads end and its connections are closed when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy without faults in front of `target`, which need not listen yet.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target,
            listener,
            state: RwLock::default(),
        });
        let acceptor = {
            let shared = shared.clone();
            // The scope joins the threads of all connections.
            std::thread::spawn(move || std::thread::scope(|scope| shared.accept(scope)))
        };
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        let state = self.shared.state();
        state.connections.iter().filter(|open| open.strong_count() > 0).count()
    }

    /// Where to connect instead of to the target.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is read from now on arrives `delay` later. The throughput stays, up to [`QUEUE_LIMIT`] in flight.
    pub(crate) fn delay(&self, direction: Direction, delay: Duration) {
        self.shared.change().faults[direction as usize].delay = delay;
    }

    /// Loses `permille` of the chunks that are read from now on, in both directions. TCP hides a loss: the chunk arrives
    /// one [`RETRANSMISSION`] later and holds up what is behind it.
    pub(crate) fn loss(&self, permille: u32) {
        self.shared.change().loss_permille = permille;
    }

    /// Delivers nothing in this direction from now on, neither what is queued nor what is sent later; connections stay
    /// open. Nothing is read either: the sender can send until the kernel's buffers are full, a few MiB.
    ///
    /// A handshake needs both directions: while one is cut, the kernel accepts new connections, but the target sees none.
    pub(crate) fn cut(&self, direction: Direction) {
        self.shared.change().faults[direction as usize].cut = true;
    }

    /// Closes all connections, and new ones as soon as they are accepted.
    pub(crate) fn refuse(&self) {
        let mut state = self.shared.change();
        state.refused = true;
        state.pending.clear();
        for connection in state.connections.drain(..).filter_map(|open| open.upgrade()) {
            connection.close();
        }
    }

    /// Ends all faults. What is still delayed arrives now.
    ///
    /// A connection on which a cut withheld something is closed, and what was withheld never arrives: this is how a
    /// partition ends that lasted longer than TCP retransmits. A test of a shorter one uses [`Proxy::delay`]. A
    /// connection made during a cut is closed too. One on which nothing was sent during the cut goes on.
    pub(crate) fn heal(&self) {
        let mut state = self.shared.change();
        for connection in state.connections.iter().filter_map(Weak::upgrade) {
            let withheld = |direction| state.fault(direction).cut && connection.lane(direction).holds();
            if Direction::BOTH.into_iter().any(withheld) {
                connection.close();
            } else {
                connection.lanes.iter().for_each(Lane::hurry);
            }
        }
        state.faults = Default::default();
        state.loss_permille = 0;
        state.refused = false;
        state.pending.clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse();
        // On Linux this ends a blocked accept and all later ones.
        rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Read).expect("it listens");
        if let Some(acceptor) = self.acceptor.take_if(|_| !std::thread::panicking()) {
            eventually("the threads of the proxy end", || acceptor.is_finished().then_some(()));
            acceptor.join().expect("no thread of the proxy panics");
        }
    }
}

/// What the threads of a proxy share.
struct Shared {
    target: SocketAddr,
    listener: TcpListener,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// By direction.
    faults: [Fault; 2],
    loss_permille: u32,
    refused: bool,
    /// Accepted during a cut, and not connected to the target.
    pending: Vec<TcpStream>,
    connections: Vec<Weak<Connection>>,
}

/// The faults of one direction.
#[derive(Clone, Copy, Default)]
struct Fault {
    delay: Duration,
    cut: bool,
}

impl State {
    fn fault(&self, direction: Direction) -> Fault {
        self.faults[direction as usize]
    }

    /// When a chunk that is read now may arrive.
    fn arrival(&self, direction: Direction) -> Instant {
        let sent = Instant::now() + self.fault(direction).delay;
        if rand::random::<u32>() % 1000 < self.loss_permille {
            sent + RETRANSMISSION
        } else {
            sent
        }
    }
}

impl Shared {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no thread panics with it")
    }

    fn change(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no thread panics with it")
    }

    /// Accepts until the listener is shut down.
    fn accept<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        loop {
            let near = match self.listener.accept() {
                Ok((near, _)) => near,
                Err(error) if error.kind() == ErrorKind::InvalidInput => return,
                Err(error) => panic!("the proxy cannot accept: {error}"),
            };
            let mut state = self.change();
            if state.refused {
                continue;
            }
            if state.faults.iter().any(|fault| fault.cut) {
                state.pending.push(near);
                continue;
            }
            let Ok(far) = TcpStream::connect_timeout(&self.target, CONNECT_LIMIT) else {
                continue;
            };
            let connection = Arc::new(Connection::between(near, far));
            state.connections.retain(|open| open.strong_count() > 0);
            state.connections.push(Arc::downgrade(&connection));
            for direction in Direction::BOTH {
                let connection = connection.clone();
                scope.spawn(move || self.carry(&connection, direction));
            }
        }
    }

    /// Carries what goes in one direction until it ends. The sockets are closed when both directions have ended.
    fn carry(&self, connection: &Connection, direction: Direction) {
        let lane = connection.lane(direction);
        while !connection.closed.load(Ordering::SeqCst) {
            let next = lane.advance(&self.state(), direction);
            match next {
                Next::Go => {}
                Next::Sleep(wait) => std::thread::sleep(wait),
                Next::Readable(at_most) => {
                    // Unlike a socket's own time-out, which the kernel rounds up to its tick, this is exact.
                    let at_most = at_most.map(|wait| Timespec::try_from(wait).expect("a short time"));
                    let mut readable = [PollFd::new(&*lane.from, PollFlags::IN)];
                    // `advance` sees the error if there is one.
                    let _ = poll(&mut readable, at_most.as_ref());
                }
                Next::End => return,
            }
        }
    }
}

/// A connection through the proxy.
struct Connection {
    /// By direction.
    lanes: [Lane; 2],
    closed: AtomicBool,
}

impl Connection {
    fn between(near: TcpStream, far: TcpStream) -> Self {
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("a TCP socket");
            stream.set_write_timeout(Some(TICK)).expect("a TCP socket has timeouts");
        }
        let (near, far) = (Arc::new(near), Arc::new(far));
        let lane = |from: &Arc<TcpStream>, to: &Arc<TcpStream>| Lane {
            from: from.clone(),
            to: to.clone(),
            queue: Mutex::default(),
        };
        Self {
            lanes: [lane(&near, &far), lane(&far, &near)],
            closed: AtomicBool::new(false),
        }
    }

    fn lane(&self, direction: Direction) -> &Lane {
        &self.lanes[direction as usize]
    }

    /// Closes both sides and ends both threads. Nothing that is queued arrives.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for lane in &self.lanes {
            // One that has ended already cannot be shut down, which is as good.
            let _ = lane.from.shutdown(Shutdown::Both);
        }
    }
}

/// One direction of a connection.
struct Lane {
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    queue: Mutex<Queue>,
}

/// What was read and has not arrived yet, oldest first. A chunk that is not due holds up all behind it.
#[derive(Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    /// The bytes in `chunks`.
    size: usize,
    /// Whether the end of the stream was read.
    ended: bool,
}

struct Chunk {
    due: Instant,
    /// Empty at the end of the stream.
    bytes: Vec<u8>,
}

/// What a lane does next.
enum Next {
    /// It has more to deliver.
    Go,
    Sleep(Duration),
    /// It waits until there is something to read, be it the end after [`Connection::close`], or for this time.
    Readable(Option<Duration>),
    End,
}

impl Lane {
    /// Reads one chunk and delivers one, as far as both are possible now.
    fn advance(&self, state: &State, direction: Direction) -> Next {
        if state.fault(direction).cut {
            return Next::Sleep(TICK);
        }
        let mut queue = self.queue.lock().expect("no thread panics with it");
        if queue.has_room() {
            self.read(&mut queue, state, direction);
        }
        if !self.deliver(&mut queue) {
            return Next::End;
        }
        let until_due = |first: &Chunk| first.due.saturating_duration_since(Instant::now()).min(TICK);
        match queue.chunks.front().map(until_due) {
            Some(Duration::ZERO) => Next::Go,
            wait if queue.has_room() => Next::Readable(wait),
            wait => Next::Sleep(wait.unwrap_or(TICK)),
        }
    }

    /// Reads a chunk if there is one.
    fn read(&self, queue: &mut Queue, state: &State, direction: Direction) {
        let mut buffer = [0; CHUNK];
        let count = match rustix::net::recv(&*self.from, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => 0,
        };
        queue.chunks.push_back(Chunk {
            due: state.arrival(direction),
            bytes: buffer[..count].to_vec(),
        });
        queue.size += count;
        queue.ended = count == 0;
    }

    /// Delivers the first chunk if it is due, or a part of it if the receiver is slow. False if nothing follows: the end
    /// was delivered, or the receiver is gone. The sender learns of the latter from the other lane, unless that is cut.
    fn deliver(&self, queue: &mut Queue) -> bool {
        let Some(first) = queue.chunks.front_mut() else {
            return true;
        };
        if first.due > Instant::now() {
            return true;
        }
        if first.bytes.is_empty() {
            // Fails if the receiver is gone.
            let _ = self.to.shutdown(Shutdown::Write);
            queue.chunks.clear();
            return false;
        }
        match (&*self.to).write(&first.bytes) {
            Ok(count) => {
                queue.size -= count;
                first.bytes.drain(..count);
                if first.bytes.is_empty() {
                    queue.chunks.pop_front();
                }
                true
            }
            Err(error) => matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
            ),
        }
    }

    /// Whether something has been sent and not delivered, be it the end of the stream.
    fn holds(&self) -> bool {
        let queue = self.queue.lock().expect("no thread panics with it");
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let unread = || !matches!(rustix::net::recv(&*self.from, &mut [0], flags), Err(Errno::AGAIN));
        !queue.chunks.is_empty() || (!queue.ended && unread())
    }

    /// Makes everything that is queued due.
    fn hurry(&self) {
        let now = Instant::now();
        for chunk in &mut self.queue.lock().expect("no thread panics with it").chunks {
            chunk.due = chunk.due.min(now);
        }
    }
}

impl Queue {
    fn has_room(&self) -> bool {
        !self.ended && self.size < QUEUE_LIMIT
    }
}
