//! The fields of a certificate that this program reads.

use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// When the certificate expires (notAfter; RFC 5280, 4.1.2.5), in Unix seconds; `None` if it cannot be read.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Whether the certificate is of X.509 version 1, which has no extensions and so no names for a client to verify.
pub(super) fn is_version_1(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| certificate.version() == X509Version::V1)
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_truncated_certificate_has_no_expiry_and_causes_no_panic() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
        let text = params.self_signed(&key).expect("a certificate").pem();
        let der = CertificateDer::from_pem_slice(text.as_bytes()).expect("a certificate");
        assert!(not_after(&der).is_some());
        for length in 0..der.len() {
            assert_eq!(not_after(&der[..length]), None, "{length} bytes");
        }
        assert_eq!(not_after(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(not_after(&[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1]), None);
    }
}
