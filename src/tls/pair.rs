//! Why a certificate and its key cannot be used together, in a sentence that names the file.

use std::path::Path;

use super::files::{TlsError, damaged};
use super::x509;

/// The sentence for the library's error about the certificate `own`, the first in the file `cert`, and the file `key`.
pub(super) fn unusable(error: rustls::Error, own: &[u8], cert: &Path, key: &Path) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::NotAPair {
            cert: cert.to_owned(),
            key: key.to_owned(),
        },
        // The library reports this only when it checks whether the key belongs to the certificate.
        rustls::Error::InvalidCertificate(_) if x509::is_version_1(own) => {
            // `openssl x509 -req` makes these without a warning unless it is given extensions.
            let reason = "it is of X.509 version 1, which has no extensions, and so no names a client could verify; \
                          issue it with extensions, a server's at least with subjectAltName \
                          (openssl x509 -req ... -extfile FILE)";
            damaged("certificate", cert, &reason)
        }
        rustls::Error::InvalidCertificate(defect) => damaged("certificate", cert, &defect),
        other => damaged("private key", key, &other),
    }
}
