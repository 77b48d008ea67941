//! A proxy between a node and a NATS server, which can be shut and can alter what the server says.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A proxy in front of a NATS server that can be shut: its connections are closed, and no new one gets through.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    shared: Arc<GateState>,
}

#[derive(Default)]
struct GateState {
    shut: AtomicBool,
    /// Whether what the server sends is altered.
    alters: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Gate {
    pub(crate) fn open(target: SocketAddr) -> Self {
        Self::altering(target, (b"", b""))
    }

    /// One that also puts `with` in the place of each `what` that the server sends, both of one length. It may miss one
    /// that comes in two parts.
    pub(crate) fn altering(target: SocketAddr, (what, with): (&'static [u8], &'static [u8])) -> Self {
        assert_eq!(what.len(), with.len(), "the protocol counts bytes");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(GateState::default());
        shared.alters.store(!what.is_empty(), Ordering::SeqCst);
        let state = shared.clone();
        // Ends with the test's process; the listener is its own.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(target) else { continue };
                if state.shut.load(Ordering::SeqCst) {
                    continue;
                }
                let copies = [near.try_clone(), far.try_clone(), near.try_clone(), far.try_clone()];
                let [Ok(near_in), Ok(far_in), Ok(near_kept), Ok(far_kept)] = copies else {
                    continue;
                };
                state
                    .streams
                    .lock()
                    .expect("no thread panics with it")
                    .extend([near_kept, far_kept]);
                std::thread::spawn(move || pass(near_in, far, |_| {}));
                let state = state.clone();
                let alter = move |bytes: &mut [u8]| {
                    if state.alters.load(Ordering::SeqCst) {
                        replace(bytes, what, with);
                    }
                };
                std::thread::spawn(move || pass(far_in, near, alter));
            }
        });
        Self { address, shared }
    }

    /// Whether something is connected through it.
    pub(crate) fn passing(&self) -> bool {
        !self.shared.streams.lock().expect("no thread panics with it").is_empty()
    }

    pub(crate) fn shut(&self) {
        self.shared.shut.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().expect("no thread panics with it").drain(..) {
            // One that has ended already cannot be shut down, which is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether what the server sends from now on is altered.
    pub(crate) fn alter(&self, alters: bool) {
        self.shared.alters.store(alters, Ordering::SeqCst);
    }

    pub(crate) fn reopen(&self) {
        self.shared.shut.store(false, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, alter: impl Fn(&mut [u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        alter(&mut buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn replace(bytes: &mut [u8], what: &[u8], with: &[u8]) {
    for at in 0..(bytes.len() + 1).saturating_sub(what.len()) {
        if bytes[at..].starts_with(what) {
            bytes[at..at + what.len()].copy_from_slice(with);
        }
    }
}
