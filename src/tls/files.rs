//! Certificate and key files: reading them, what is wrong with one, and whether one has changed.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The largest certificate or key file read: a chain is a few KiB, a bundle of every public authority 250 KiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why a port's TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error(
        "cannot read the {what} {path}: {source}; check the path, and that the user that runs jwtmesh may read the file"
    )]
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
    /// The certificate for the other nodes is another node's.
    #[error(
        "the certificate {cert} is for {names:?}, and the other nodes look for {name:?}, the name of this node: \
         give the node a certificate whose dNSName is its name"
    )]
    OtherName {
        /// The certificate's file.
        cert: PathBuf,
        /// The dNSNames in it.
        names: Vec<String>,
        /// The node's name.
        name: String,
    },
    /// Certificate and key are not a pair.
    #[error(
        "the private key {key} does not belong to the first certificate in {cert}; \
         give the key that goes with it, and put the own certificate before those of its authorities"
    )]
    NotAPair {
        /// The certificate's path.
        cert: PathBuf,
        /// The key's path.
        key: PathBuf,
    },
}

/// Device, inode, modification time and length of each file, `None` if it cannot be found. They change when a file is
/// written or replaced. Symlinks are followed, so the swap of a Kubernetes volume is a change too.
pub type Stamp = Vec<Option<(u64, u64, i64, i64, u64)>>;

/// The current stamp of the files at `paths`.
pub fn stamp<'p>(paths: impl IntoIterator<Item = &'p PathBuf>) -> Stamp {
    let look = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
    };
    paths.into_iter().map(look).collect()
}

/// Every certificate in the file; at least one.
pub(super) fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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

/// The first private key in the file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const WHAT: &str = "private key";
    let bytes = contents(WHAT, path)?;
    let contains = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
    if contains(b"BEGIN ENCRYPTED PRIVATE KEY-----") || contains(b"Proc-Type: 4,ENCRYPTED") {
        let reason = "it is encrypted, and a node has no terminal to type its passphrase; decrypt it (openssl pkey -in KEY -out DECRYPTED) \
                      and protect the file by its mode";
        return Err(damaged(WHAT, path, &reason));
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::Empty {
            what: WHAT,
            path: path.to_owned(),
            wanted: "PRIVATE KEY",
        },
        other => damaged(WHAT, path, &other),
    })?;
    if is_short_rsa(&key) {
        let reason = "it is an RSA key of less than 2048 bits, which is too short for TLS today; make a longer one, or one on P-256";
        return Err(damaged(WHAT, path, &reason));
    }
    Ok(key)
}

/// Whether it is an RSA key that is too short to sign with. Judged by its length: with 2048 bits it has 1,190 bytes, and
/// with 1,536 no more than 920.
fn is_short_rsa(key: &PrivateKeyDer<'_>) -> bool {
    const BYTES_OF_2048_BITS: usize = 1_150;
    /// 1.2.840.113549.1.1.1, rsaEncryption (RFC 8017).
    const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let bytes = key.secret_der();
    let is_rsa = match key {
        PrivateKeyDer::Pkcs1(_) => true,
        // The algorithm is among its first fields.
        PrivateKeyDer::Pkcs8(_) => bytes.get(..32).unwrap_or(bytes).windows(RSA.len()).any(|at| at == RSA),
        _ => false,
    };
    is_rsa && bytes.len() < BYTES_OF_2048_BITS
}

/// Warns if other users of this machine may read the private key.
pub(super) fn warn_if_exposed(path: &Path) {
    if let Ok(found) = fs::metadata(path)
        && found.permissions().mode() & 0o007 != 0
    {
        tracing::warn!(
            key = %path.display(),
            "every user of this machine has access to the private key; run chmod o= on it"
        );
    }
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

/// The error for a file that cannot be used for `reason`.
pub(super) fn damaged(what: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::Damaged {
        what,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl genpkey`, `genrsa -traditional` and `ec -aes256`; each is of no other use.
    #[test]
    fn a_key_that_is_encrypted_or_too_short_is_named_as_that() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
        for (name, words) in [
            ("encrypted-pkcs8.key", Some("it is encrypted")),
            ("encrypted-sec1.key", Some("it is encrypted")),
            ("rsa-1024.key", Some("less than 2048 bits")),
            ("rsa-1024-pkcs1.key", Some("less than 2048 bits")),
            ("rsa-1536.key", Some("less than 2048 bits")),
            ("rsa-2048.key", None),
            ("rsa-2048-pkcs1.key", None),
        ] {
            let key = private_key(&folder.join(name));
            match (words, key) {
                (None, key) => assert!(key.is_ok(), "{name}"),
                (Some(words), key) => {
                    let error = key.expect_err(name).to_string();
                    assert!(error.contains(words) && error.contains(name), "{error}");
                }
            }
        }
    }
}
