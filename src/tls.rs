//! Certificates of a listening port: read, checked, and read again when the files change.
//!
//! A connection takes the configuration that is current when it arrives; those already open keep theirs. A reload
//! that fails changes nothing: what worked goes on working, and the defect is logged once per state of the files.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::PublicTls;
use crate::tasks::Scope;

/// How often the files are looked at: soon enough that nobody waits for a new certificate, and three `stat` calls
/// are nothing.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The largest certificate or key file read: a chain is a few KiB, a bundle of every public authority 250 KiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The tag of a certificate's version (DER: context-specific 0).
const VERSION: u8 = 0xa0;

/// Why a port's TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read the {what} {path}: {source}; give the file and this program's user read access")]
    Unreadable {
        /// Which of the files.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file has nothing of the kind it should hold.
    #[error(
        "the {what} {path} holds no {wanted} in PEM (-----BEGIN {wanted}-----); point the setting at the right file"
    )]
    Empty {
        /// Which of the files.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The PEM label that was looked for.
        wanted: &'static str,
    },
    /// A file is damaged or of a kind that is not supported.
    #[error("the {what} {path} cannot be used: {reason}")]
    Damaged {
        /// Which of the files.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key are not a pair.
    #[error(
        "the private key {key} does not belong to the first certificate in {cert}; \
         give the key that goes with it, and put the port's own certificate before those of its authorities"
    )]
    NotAPair {
        /// The certificate's path.
        cert: PathBuf,
        /// The key's path.
        key: PathBuf,
    },
}

/// What became of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reload {
    /// New connections use what the files hold now.
    Loaded,
    /// The files are as they were.
    Unchanged,
}

/// A port's TLS configuration that follows its files. Clones share it.
#[derive(Clone)]
pub struct ReloadableTls(Arc<Shared>);

struct Shared {
    files: PublicTls,
    current: ArcSwap<Loaded>,
    // The state of the files that was last tried, whether it could be used or not: a defect is logged once.
    tried: Mutex<Stamp>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    not_after: i64,
}

/// What shows that a file was written or replaced; symlinks are followed, so a Kubernetes swap shows too.
type Stamp = Vec<Option<(u64, u64, i64, i64, u64)>>;

impl ReloadableTls {
    /// Reads the files and checks that they work together. An expired certificate is served: it may be that only
    /// this machine's clock is wrong.
    pub fn load(files: &PublicTls) -> Result<Self, TlsError> {
        let stamp = stamp(files);
        let loaded = read(files)?;
        Ok(Self(Arc::new(Shared {
            files: files.clone(),
            current: ArcSwap::from_pointee(loaded),
            tried: Mutex::new(stamp),
        })))
    }

    /// The configuration for a connection that arrives now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.current.load().config.clone()
    }

    /// When the certificate in use ends, in Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.0.current.load().not_after
    }

    /// Reads the files again, whether or not they look changed (SIGHUP). A defect is logged, and the old
    /// configuration stays.
    pub fn reload(&self) {
        log(self.try_reload());
    }

    /// Follows the files until `scope` is told to stop; a task of its own.
    pub async fn watch(self, scope: Scope) {
        while scope.until_stop(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let this = self.clone();
            // Off the async workers: a file on a network mount may take its time.
            if let Ok(outcome) = tokio::task::spawn_blocking(move || this.reload_if_changed()).await {
                log(outcome);
            }
        }
    }

    fn try_reload(&self) -> Result<Reload, TlsError> {
        // Looked at before they are read: what is written meanwhile is the next change.
        *self.tried() = stamp(&self.0.files);
        self.0.current.store(Arc::new(read(&self.0.files)?));
        tracing::info!(cert = %self.0.files.cert.display(), not_after = self.not_after(), "certificate loaded");
        Ok(Reload::Loaded)
    }

    /// Reads the files again if they are not as they were at the last try.
    ///
    /// Certificate and key are two files: seen between the two writes they do not match, the old pair stays, and the
    /// second write is the next change.
    fn reload_if_changed(&self) -> Result<Reload, TlsError> {
        if *self.tried() == stamp(&self.0.files) {
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

/// The one crypto provider of the program, named wherever one is needed, so that no process-wide default decides.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn log(outcome: Result<Reload, TlsError>) {
    if let Err(error) = outcome {
        tracing::warn!("{error}; the certificate loaded before stays in use");
    }
}

fn stamp(files: &PublicTls) -> Stamp {
    let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
    let look = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
    };
    paths.into_iter().flatten().map(look).collect()
}

fn read(files: &PublicTls) -> Result<Loaded, TlsError> {
    let chain = certificates("certificate", &files.cert)?;
    let key = private_key(&files.key)?;
    let not_after =
        not_after(&chain[0]).ok_or_else(|| damaged("certificate", &files.cert, &"it has no readable end"))?;
    let verifier = match &files.client_ca {
        Some(path) => client_verifier(path, files.client_required)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let own = chain[0].clone();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| damaged("certificate", &files.cert, &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::NotAPair {
                cert: files.cert.clone(),
                key: files.key.clone(),
            },
            rustls::Error::InvalidCertificate(defect) => bad_certificate(&own, &files.cert, &defect),
            other => damaged("private key", &files.key, &other),
        })?;
    // nats-server offers h2 without `resolver_tls` and no ALPN at all with it; both are served, and a client that
    // offers only others is turned away by the handshake as RFC 7301 asks.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // nats-server never resumes a session: tickets would be two more records in every handshake, for nobody.
    config.send_tls13_tickets = 0;
    Ok(Loaded {
        config: Arc::new(config),
        not_after,
    })
}

/// Why rustls does not take the port's own certificate; it only says so when it looks whether the key goes with it.
fn bad_certificate(certificate: &[u8], path: &Path, defect: &rustls::CertificateError) -> TlsError {
    if version(certificate) == Some(1) {
        // `openssl x509 -req` makes these unless it is told of extensions, and nothing shows it.
        let reason = "it is of X.509 version 1, which has no names a client could verify; issue it with extensions, of \
                      which subjectAltName is needed (openssl x509 -req ... -extfile FILE)";
        return damaged("certificate", path, &reason);
    }
    damaged("certificate", path, defect)
}

fn client_verifier(path: &Path, required: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    const WHAT: &str = "file of client authorities";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(WHAT, path)? {
        roots.add(certificate).map_err(|error| damaged(WHAT, path, &error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = if required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder.build().map_err(|error| damaged(WHAT, path, &error))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = contents(what, path)?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsError::Empty {
            what,
            path: path.to_owned(),
            wanted: "CERTIFICATE",
        }),
        Ok(chain) => Ok(chain),
        Err(error) => Err(damaged(what, path, &error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const WHAT: &str = "private key";
    let bytes = contents(WHAT, path)?;
    if let Ok(found) = fs::metadata(path)
        && found.permissions().mode() & 0o007 != 0
    {
        tracing::warn!(key = %path.display(), "the private key is open to every user of this machine; chmod o= it");
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::Empty {
            what: WHAT,
            path: path.to_owned(),
            wanted: "PRIVATE KEY",
        },
        other => damaged(WHAT, path, &other),
    })
}

fn contents(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable {
        what,
        path: path.to_owned(),
        source,
    };
    let length = fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        let reason = format!("it has {length} bytes, more than the {MAX_FILE_BYTES} a PEM file may have");
        return Err(damaged(what, path, &reason));
    }
    fs::read(path).map_err(unreadable)
}

fn damaged(what: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::Damaged {
        what,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Which version of X.509 a certificate is of (RFC 5280, 4.1): the optional first part of its first part, one less.
fn version(certificate: &[u8]) -> Option<u8> {
    let (_, certificate, _) = element(certificate)?;
    let (_, signed, _) = element(certificate)?;
    let (tag, version, _) = element(signed)?;
    if tag != VERSION {
        return Some(1);
    }
    let (_, number, _) = element(version)?;
    number.first()?.checked_add(1)
}

/// The end of a certificate's validity (RFC 5280, 4.1): the sixth part of its first part, where the optional version
/// counts as one.
fn not_after(certificate: &[u8]) -> Option<i64> {
    const SEQUENCE: u8 = 0x30;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    if rest.first() == Some(&VERSION) {
        (_, _, rest) = element(rest)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (tag, validity, _) = element(rest)?;
    let (_, _, end) = (tag == SEQUENCE).then(|| element(validity))??;
    let (tag, text, _) = element(end)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// One DER element: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        let (digits, after) = rest.split_at_checked(count)?;
        // Four digits are 4 GiB: no certificate is longer, and more would overflow.
        length = (1..=4)
            .contains(&count)
            .then(|| digits.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))?;
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// UTCTime `YYMMDDHHMMSSZ` (50 and later are 19xx) or GeneralizedTime `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &str) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = text
        .strip_suffix('Z')
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let short: i16 = digits[..2].parse().ok()?;
            (if short < 50 { 2000 + short } else { 1900 + short }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<i8>().ok();
    let when = jiff::civil::DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    Some(when.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
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

        /// Written aside and renamed over, as every tool that renews certificates does.
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
    fn the_end_of_a_certificate_is_read_in_both_notations() {
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
    fn a_cut_certificate_has_no_end_and_does_no_harm() {
        let text = pair(2031).cert;
        let der = CertificateDer::from_pem_slice(text.as_bytes()).expect("a certificate");
        for length in 0..200 {
            let _ = not_after(&der[..length]);
        }
        assert_eq!(not_after(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(not_after(&[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1]), None);
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

    /// A DER element of up to 64 KiB.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).expect("a small one").to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    /// The same certificate as `openssl x509 -req` writes it without -extfile: neither version nor extensions. Its
    /// signature is no longer right, which whoever shows a certificate does not look at.
    fn of_version_1(certificate: &[u8]) -> Vec<u8> {
        const EXTENSIONS: u8 = 0xa3;
        let (_, certificate, _) = element(certificate).expect("DER");
        let (_, mut rest, signature) = element(certificate).expect("DER");
        let mut signed = Vec::new();
        while let Some((tag, content, after)) = element(rest) {
            if !matches!(tag, VERSION | EXTENSIONS) {
                signed.extend(der(tag, content));
            }
            rest = after;
        }
        der(0x30, &[&der(0x30, &signed), signature].concat())
    }

    #[test]
    fn a_certificate_of_version_1_is_blamed_itself_and_not_its_key() {
        let good = pair(2031);
        let whole = CertificateDer::from_pem_slice(good.cert.as_bytes()).expect("a certificate");
        assert_eq!(version(&whole), Some(3));
        let old = of_version_1(&whole);
        let pem = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            data_encoding::BASE64.encode(&old)
        );
        let folder = Folder::with(&Pair {
            cert: pem,
            key: good.key,
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

    #[test]
    fn half_a_new_pair_keeps_the_old_one_and_is_tried_once() {
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
