//! The fields of a certificate that this program reads.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Version};

/// What a peer is verified for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// When the certificate expires (notAfter; RFC 5280, 4.1.2.5), in Unix seconds; `None` if it cannot be read.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// From when and until when the certificate is valid; `None` if it cannot be read.
pub(super) fn validity(certificate: &[u8]) -> Option<(UnixTime, UnixTime)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let time = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let validity = certificate.validity();
    Some((
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    ))
}

/// Whether the certificate is of X.509 version 1, which has no extensions and so no names for a client to verify.
pub(super) fn is_version_1(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| certificate.version() == X509Version::V1)
}

/// Whether the certificate says that it is an authority's (CA:TRUE).
pub(super) fn is_authority(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| certificate.is_ca())
}

/// Whether the certificate may be used in this role: it says so, or does not restrict its use (RFC 5280, 4.2.1.12).
pub(super) fn is_for(certificate: &[u8], role: Role) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
        certificate.extended_key_usage().is_ok_and(|usage| {
            usage.is_none_or(|usage| {
                usage.value.any
                    || match role {
                        Role::Client => usage.value.client_auth,
                        Role::Server => usage.value.server_auth,
                    }
            })
        })
    })
}

/// The dNSNames of the certificate; none if it cannot be read.
pub fn dns_names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

/// The DER of the name of the certificate's issuer; `None` if it cannot be read.
pub(super) fn issuer(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.issuer().as_raw().to_vec())
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
