//! The TLS configuration of a listening port, which follows its files.
//!
//! A connection takes the configuration that is current when it arrives; open connections keep theirs. A reload that
//! fails changes nothing: the old configuration stays in use, and the defect is logged once per change of the files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::files::{Stamp, TlsError, certificates, damaged, private_key, stamp, warn_if_exposed};
use super::named::{ClientVerifier, check_own};
use super::pair::unusable;
use super::provider::{provider, x25519_provider};
use super::reason;
use super::x509;
use crate::clock::Clock;
use crate::config::{PeerTls, PublicTls};
use crate::tasks::Scope;

/// How often the files are checked for changes: often enough that an administrator does not have to wait for a new
/// certificate, and three `stat` calls cost next to nothing.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Warns a week ahead, four times a day, so that an administrator who reads the log on working days sees it.
const EXPIRY_NOTICE_SECONDS: i64 = 7 * 24 * 3600;
const EXPIRY_CHECK_EVERY: Duration = Duration::from_secs(6 * 3600);

/// The versions of TLS on the public port: nats-server speaks both.
static PUBLIC: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
/// The versions between nodes.
static PEERS: &[&SupportedProtocolVersion] = &[&TLS13];

/// The outcome of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reload {
    /// New connections use what the files hold now.
    Loaded,
    /// The files have not changed since the last attempt.
    Unchanged,
}

/// A port's TLS configuration that follows its files. Clones share it.
#[derive(Clone)]
pub struct ReloadableTls(Arc<Shared>);

struct Shared {
    files: PublicTls,
    versions: &'static [&'static SupportedProtocolVersion],
    current: ArcSwap<Loaded>,
    // The state of the files at the last attempt, whether that succeeded or not, so that a defect is logged once.
    tried: Mutex<Stamp>,
}

struct Loaded {
    config: PortConfig,
    not_after: i64,
}

/// The TLS configuration of a port at one moment. It differs by what a client offers.
#[derive(Clone)]
pub struct PortConfig {
    any: Arc<ServerConfig>,
    x25519: Arc<ServerConfig>,
}

impl PortConfig {
    /// The configuration for a client that begins with `hello`.
    ///
    /// rustls agrees on the group that the client offers first, whatever it prefers itself. Go's clients begin with the
    /// hybrid of X25519 and ML-KEM, which costs twice as much as X25519, and send a key for X25519 too. What this port
    /// serves is signed and no secret, so nothing is gained by keeping it from those who can break X25519 one day. The
    /// hybrid stays for clients that do not offer X25519; any other group would cost them a round trip.
    pub fn for_client(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let groups = hello.named_groups().unwrap_or_default();
        let hybrid_first = groups.first() == Some(&NamedGroup::X25519MLKEM768);
        if hybrid_first && groups.contains(&NamedGroup::X25519) {
            self.x25519.clone()
        } else {
            self.any.clone()
        }
    }
}

impl ReloadableTls {
    /// Reads the files and checks that they work together. An expired certificate is accepted, because it may be only
    /// this machine's clock that is wrong.
    pub fn load(files: &PublicTls) -> Result<Self, TlsError> {
        Self::of(files.clone(), PUBLIC)
    }

    /// The same for the peer port of the node `name`: TLS 1.3 only, and every client shows a certificate of the mesh's own
    /// authority. The other nodes look for `name` in the certificate.
    pub fn for_peers(files: &PeerTls, name: &str) -> Result<Self, TlsError> {
        let own = certificates("certificate", &files.cert)?;
        let names = own.first().map(|own| x509::dns_names(own)).unwrap_or_default();
        if !names.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(TlsError::OtherName {
                cert: files.cert.clone(),
                names,
                name: name.to_owned(),
            });
        }
        check_own(&files.ca, &own, name)?.map_err(|error| {
            let (ca, reason) = (files.ca.display(), reason::words(&error));
            let said = format!("the other nodes will refuse it, if their `ca` is this one's, {ca}: {reason}");
            damaged("certificate", &files.cert, &said)
        })?;
        let files = PublicTls {
            cert: files.cert.clone(),
            key: files.key.clone(),
            client_ca: Some(files.ca.clone()),
            client_required: true,
        };
        Self::of(files, PEERS)
    }

    fn of(files: PublicTls, versions: &'static [&'static SupportedProtocolVersion]) -> Result<Self, TlsError> {
        let stamp = stamp(paths(&files));
        let loaded = read(&files, versions)?;
        Ok(Self(Arc::new(Shared {
            files,
            versions,
            current: ArcSwap::from_pointee(loaded),
            tried: Mutex::new(stamp),
        })))
    }

    /// The configuration for a connection that arrives now, in its variants.
    pub fn config(&self) -> PortConfig {
        self.0.current.load().config.clone()
    }

    /// When the certificate in use expires, in Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.0.current.load().not_after
    }

    /// Reads the files again, whether or not they look changed (SIGHUP). A defect is logged, and the old
    /// configuration stays.
    pub fn reload(&self) {
        log(self.try_reload());
    }

    /// Reloads the files whenever they change, until `scope` stops. To be run as a task of its own.
    pub async fn watch(self, scope: Scope) {
        while scope.until_stop(tokio::time::sleep(CHECK_EVERY)).await.is_some() {
            let this = self.clone();
            // Off the async workers: a read from a network mount may take long.
            if let Ok(outcome) = tokio::task::spawn_blocking(move || this.reload_if_changed()).await {
                log(outcome);
            }
        }
    }

    /// Logs when the certificate is about to expire or has expired, because all clients that verify it then refuse this
    /// port at once. Runs until `scope` stops.
    pub async fn warn_before_expiry(self, clock: Clock, scope: Scope) {
        loop {
            let (not_after, now) = (self.not_after(), clock.now());
            if not_after < now {
                tracing::error!(
                    certificate = %self.0.files.cert.display(),
                    not_after,
                    now,
                    "the certificate has expired; put a new one in its place"
                );
            } else if not_after - now < EXPIRY_NOTICE_SECONDS {
                tracing::warn!(
                    certificate = %self.0.files.cert.display(),
                    not_after,
                    now,
                    "the certificate expires soon; put a new one in its place"
                );
            }
            if scope.until_stop(tokio::time::sleep(EXPIRY_CHECK_EVERY)).await.is_none() {
                break;
            }
        }
    }

    fn try_reload(&self) -> Result<Reload, TlsError> {
        // Stamped before the files are read, so that a write during the read counts as the next change.
        *self.tried() = stamp(paths(&self.0.files));
        self.0.current.store(Arc::new(read(&self.0.files, self.0.versions)?));
        tracing::info!(cert = %self.0.files.cert.display(), not_after = self.not_after(), "certificate loaded");
        Ok(Reload::Loaded)
    }

    /// Reads the files again if they have changed since the last attempt.
    ///
    /// Certificate and key are two files. Between the two writes they do not match; then the old pair stays in use, and
    /// the second write is the next change.
    fn reload_if_changed(&self) -> Result<Reload, TlsError> {
        if *self.tried() == stamp(paths(&self.0.files)) {
            return Ok(Reload::Unchanged);
        }
        self.try_reload()
    }

    fn tried(&self) -> MutexGuard<'_, Stamp> {
        self.0.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ReloadableTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadableTls")
            .field("cert", &self.0.files.cert)
            .finish_non_exhaustive()
    }
}

fn log(outcome: Result<Reload, TlsError>) {
    if let Err(error) = outcome {
        tracing::warn!("{error}; the certificate loaded before stays in use");
    }
}

fn paths(files: &PublicTls) -> impl Iterator<Item = &PathBuf> {
    [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()]
        .into_iter()
        .flatten()
}

fn read(files: &PublicTls, versions: &[&'static SupportedProtocolVersion]) -> Result<Loaded, TlsError> {
    let chain = certificates("certificate", &files.cert)?;
    let key = private_key(&files.key)?;
    warn_if_exposed(&files.key);
    let not_after = x509::not_after(&chain[0])
        .ok_or_else(|| damaged("certificate", &files.cert, &"its expiry (notAfter) cannot be read"))?;
    let verifier: Arc<dyn ClientCertVerifier> = match &files.client_ca {
        Some(path) => Arc::new(ClientVerifier::read(path, files.client_required)?),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let with = |provider| {
        config(
            files,
            provider,
            versions,
            verifier.clone(),
            chain.clone(),
            key.clone_key(),
        )
    };
    Ok(Loaded {
        config: PortConfig {
            any: with(provider())?,
            x25519: with(x25519_provider())?,
        },
        not_after,
    })
}

/// The configuration with what was read from `files`.
fn config(
    files: &PublicTls,
    provider: Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let own = chain[0].clone();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| damaged("certificate", &files.cert, &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(error, &own, &files.cert, &files.key))?;
    // nats-server offers h2 without `resolver_tls` and no ALPN at all with it; both are served. The handshake refuses a
    // client that offers only other protocols, as RFC 7301 requires.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // nats-server never resumes a session: tickets would add two records to every handshake and never be used.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustls::crypto::aws_lc_rs::{self, kx_group};
    use rustls::server::Acceptor;
    use rustls::{ClientConnection, HandshakeKind};
    use rustls_pki_types::ServerName;

    use super::*;

    struct Pair {
        cert: String,
        key: String,
    }

    fn pair(until: i32) -> Pair {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let cert = params.self_signed(&key).expect("a certificate");
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(pair: &Pair) -> Self {
            let folder = Self(tempfile::tempdir().expect("a folder"));
            folder.write("cert.pem", &pair.cert);
            folder.write("key.pem", &pair.key);
            folder
        }

        /// Written under another name and renamed, as every tool that renews certificates does.
        fn write(&self, name: &str, text: &str) {
            let aside = self.0.path().join("aside");
            fs::write(&aside, text).expect("written");
            fs::rename(aside, self.0.path().join(name)).expect("renamed");
        }

        fn files(&self) -> PublicTls {
            PublicTls {
                cert: self.0.path().join("cert.pem"),
                key: self.0.path().join("key.pem"),
                client_ca: None,
                client_required: false,
            }
        }
    }

    #[test]
    fn the_expiry_of_a_certificate_is_read_in_both_encodings() {
        for (year, seconds) in [
            (2031, 1_924_992_000),
            (2049, 2_493_072_000),
            (2050, 2_524_608_000),
            (2999, 32_472_144_000),
        ] {
            let folder = Folder::with(&pair(year));
            let tls = ReloadableTls::load(&folder.files()).expect("loads");
            assert_eq!(tls.not_after(), seconds, "{year}");
        }
    }

    #[test]
    fn each_defect_is_named_with_its_file() {
        let (good, other) = (pair(2031), pair(2032));
        let folder = Folder::with(&good);
        let defect = |cert: &str, key: &str| {
            folder.write("cert.pem", cert);
            folder.write("key.pem", key);
            ReloadableTls::load(&folder.files())
                .expect_err("cannot be used")
                .to_string()
        };
        let cases = [
            (defect("", &good.key), "cert.pem holds no CERTIFICATE"),
            (defect(&good.key, &good.key), "cert.pem holds no CERTIFICATE"),
            (defect(&good.cert, &good.cert), "key.pem holds no PRIVATE KEY"),
            (
                defect(&good.cert, &other.key),
                "does not belong to the first certificate in",
            ),
            (defect(&good.cert[..200], &good.key), "cert.pem"),
        ];
        for (sentence, part) in cases {
            assert!(sentence.contains(part), "{sentence:?} does not say {part:?}");
        }
        let missing = PublicTls {
            cert: "/nowhere/cert.pem".into(),
            ..folder.files()
        };
        let sentence = ReloadableTls::load(&missing).expect_err("not there").to_string();
        assert!(
            sentence.starts_with("cannot read the certificate /nowhere/cert.pem: No such file"),
            "{sentence}"
        );
    }

    /// Issued by `openssl x509 -req` without -extfile: neither version nor extensions.
    const VERSION_1: &str = include_str!("../../tests/fixtures/tls/version-1.pem");

    #[test]
    fn a_certificate_of_version_1_is_named_as_the_defect_and_not_its_key() {
        let folder = Folder::with(&Pair {
            cert: VERSION_1.to_owned(),
            key: pair(2031).key,
        });
        let sentence = ReloadableTls::load(&folder.files()).expect_err("version 1").to_string();
        let cert = folder.files().cert;
        let start = format!(
            "the certificate {} cannot be used: it is of X.509 version 1",
            cert.display()
        );
        assert!(
            sentence.starts_with(&start) && sentence.contains("subjectAltName") && !sentence.contains("key.pem"),
            "{sentence}"
        );
    }

    /// The hybrid costs as much as X25519 again, and what this port serves is no secret.
    #[test]
    fn x25519_is_agreed_on_where_it_is_offered_and_the_hybrid_where_nothing_else_is() {
        let folder = Folder::with(&pair(2031));
        let tls = ReloadableTls::load(&folder.files()).expect("loads");
        let (hybrid, x25519, p256) = (kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1);
        let cases = [
            // As Go does.
            (vec![hybrid, x25519, p256], x25519),
            (vec![hybrid, p256, x25519], x25519),
            (vec![x25519, hybrid], x25519),
            (vec![x25519], x25519),
            (vec![hybrid], hybrid),
            // A key for the hybrid alone was sent; any other group would cost a round trip.
            (vec![hybrid, p256], hybrid),
            (vec![p256], p256),
            (vec![p256, hybrid], p256),
            (vec![p256, x25519], p256),
        ];
        for (offered, agreed) in cases {
            let names: Vec<_> = offered.iter().map(|group| group.name()).collect();
            let provider = CryptoProvider {
                kx_groups: offered,
                ..aws_lc_rs::default_provider()
            };
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("known")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            let name = ServerName::try_from("localhost").expect("a name");
            let mut client = ClientConnection::new(Arc::new(config), name).expect("sound");
            let mut acceptor = Acceptor::default();
            let mut sent = Vec::new();
            client.write_tls(&mut sent).expect("memory");
            acceptor.read_tls(&mut sent.as_slice()).expect("memory");
            let accepted = acceptor.accept().ok().flatten().expect("a whole hello");
            let config = tls.config().for_client(&accepted.client_hello());
            let Ok(server) = accepted.into_connection(config) else {
                panic!("no group in common with {names:?}");
            };
            let group = server.negotiated_key_exchange_group().map(|group| group.name());
            assert_eq!(group, Some(agreed.name()), "{names:?}");
            assert_eq!(
                server.handshake_kind(),
                Some(HandshakeKind::Full),
                "{names:?}: one round trip"
            );
        }
    }

    #[test]
    fn half_of_a_new_pair_is_tried_once_and_the_old_pair_stays() {
        let (old, new) = (pair(2031), pair(2032));
        let folder = Folder::with(&old);
        let tls = ReloadableTls::load(&folder.files()).expect("loads");
        let before = tls.not_after();
        assert_eq!(tls.reload_if_changed().expect("as it was"), Reload::Unchanged);
        folder.write("cert.pem", &new.cert);
        assert!(matches!(tls.reload_if_changed(), Err(TlsError::NotAPair { .. })));
        assert_eq!(tls.reload_if_changed().expect("tried already"), Reload::Unchanged);
        assert_eq!(tls.not_after(), before);
        folder.write("key.pem", &new.key);
        assert_eq!(tls.reload_if_changed().expect("a pair again"), Reload::Loaded);
        assert!(tls.not_after() > before);
    }

    #[test]
    fn a_swapped_symlink_is_a_change() {
        let (old, new) = (pair(2031), pair(2032));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        for (name, pair) in [("old", &old), ("new", &new)] {
            fs::create_dir(path.join(name)).expect("made");
            fs::write(path.join(name).join("cert.pem"), &pair.cert).expect("written");
            fs::write(path.join(name).join("key.pem"), &pair.key).expect("written");
        }
        std::os::unix::fs::symlink("old", path.join("data")).expect("linked");
        let files = PublicTls {
            cert: path.join("data/cert.pem"),
            key: path.join("data/key.pem"),
            client_ca: Some(path.join("data/cert.pem")),
            client_required: true,
        };
        let tls = ReloadableTls::load(&files).expect("loads");
        std::os::unix::fs::symlink("new", path.join("swap")).expect("linked");
        fs::rename(path.join("swap"), path.join("data")).expect("swapped");
        assert_eq!(tls.reload_if_changed().expect("loads"), Reload::Loaded);
    }
}
