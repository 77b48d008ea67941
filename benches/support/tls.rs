//! A certificate for both servers, and a client that makes a full handshake each time.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::ServerName;

/// A self-signed P-256 certificate for 127.0.0.1 and its key, as PEM files, and a client that trusts it.
pub(crate) struct Identity {
    /// The certificate's file.
    pub(crate) cert: PathBuf,
    /// The key's file.
    pub(crate) key: PathBuf,
    client: Arc<ClientConfig>,
}

impl Identity {
    /// Makes one in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        // rcgen's default key is ECDSA P-256, the one that the design recommends.
        let key = KeyPair::generate().expect("the system gives randomness");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a name");
        let cert = params.self_signed(&key).expect("our own parameters are sound");
        let files = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&files.0, cert.pem()).expect("the bench's own folder is writable");
        fs::write(&files.1, key.serialize_pem()).expect("the bench's own folder is writable");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("our own certificate is sound");
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // As Go's crypto/tls, and so nats-server, offers them where the processor has AES: the shorter key first.
        provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
        // And the hybrid group before X25519, with a key for each.
        provider.kx_groups = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks it")
            .with_root_certificates(roots)
            .with_no_client_auth();
        // nats-server makes a new client for nearly every fetch and resumes nothing; neither does this one.
        client.resumption = Resumption::disabled();
        Self {
            cert: files.0,
            key: files.1,
            client: Arc::new(client),
        }
    }

    /// `count` GETs of random `paths`, each over a connection of its own, on a few threads.
    pub(crate) fn get_with_new_connections(&self, server: SocketAddr, paths: &[String], count: usize) {
        /// Enough to keep both servers busy on a small machine.
        const THREADS: usize = 4;
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while done.fetch_add(1, Ordering::Relaxed) < count {
                        let path = &paths[rand::random::<usize>() % paths.len()];
                        self.get(server, path);
                    }
                });
            }
        });
    }

    fn get(&self, server: SocketAddr, path: &str) {
        let name = ServerName::try_from("127.0.0.1").expect("an address is a name");
        let session = ClientConnection::new(Arc::clone(&self.client), name).expect("our own configuration is sound");
        let socket = TcpStream::connect(server).unwrap_or_else(|error| panic!("connect {server}: {error}"));
        socket.set_nodelay(true).expect("a TCP connection has this option");
        let mut stream = StreamOwned::new(session, socket);
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        .expect("a GET is sent");
        let mut answer = Vec::with_capacity(4_096);
        stream
            .read_to_end(&mut answer)
            .expect("the server answers and says good-bye");
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{path}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}
