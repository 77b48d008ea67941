//! Why a handshake failed, in the words of an administrator.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError};

use super::named::Unverifiable;

/// The reason of a handshake that took longer than it may.
pub const TOO_SLOW: &str = "the client took too long";

/// The reason why a server's handshake ended with `error`.
///
/// There are a dozen reasons, whatever clients send, so that they can be counted. Details are in the error itself.
pub fn reason(error: &io::Error) -> &'static str {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                "the client closed the connection"
            }
            _ => "the connection failed",
        };
    };
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the client does not speak TLS; its URL may say http://"
        }
        Error::NoCertificatesPresented => "the client has no certificate, and this port requires one",
        Error::InvalidCertificate(defect) => of_certificate(defect),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::NoApplicationProtocol => "the client offers neither h2 nor http/1.1 (ALPN)",
        Error::PeerIncompatible(_) => "no TLS version, cipher, key exchange or signature in common",
        _ => "the client broke the protocol",
    }
}

fn of_certificate(defect: &CertificateError) -> &'static str {
    match defect {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the client's certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the client's certificate is not valid yet; check both clocks"
        }
        CertificateError::UnknownIssuer => "no authority in client_ca signed the client's certificate",
        CertificateError::BadSignature => {
            "the client has not the certificate's key, or another authority of the same name signed it"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the client's certificate is not for clients (extendedKeyUsage)"
        }
        CertificateError::Other(other) => match unverifiable(other) {
            Some(Unverifiable::Version1) => {
                "the client's certificate is of X.509 version 1, which cannot be verified; issue it again with \
                 extensions (openssl x509 -req ... -extfile FILE)"
            }
            Some(Unverifiable::Authority) => {
                "the client's certificate is an authority's own (CA:TRUE) and not in client_ca; put it there, or issue \
                 one without CA:TRUE"
            }
            None => "the client's certificate cannot be used",
        },
        _ => "the client's certificate cannot be used",
    }
}

fn unverifiable(error: &OtherError) -> Option<Unverifiable> {
    error.0.downcast_ref().copied()
}

/// The text of the error that ended a handshake with a server, with our verifier's sentence where that is the reason:
/// rustls does not print what a verifier of our own says.
pub fn words(error: &(dyn StdError + 'static)) -> String {
    let mut next = Some(error);
    while let Some(found) = next {
        if let Some(Error::InvalidCertificate(CertificateError::Other(other))) = found.downcast_ref()
            && let Some(defect) = unverifiable(other)
        {
            return format!("the server's certificate cannot be used: {defect}");
        }
        next = match found.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => found.source(),
        };
    }
    error.to_string()
}

fn of_alert(alert: AlertDescription) -> &'static str {
    match alert {
        // Go sends BadCertificate whatever it dislikes, the name included.
        AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::UnsupportedCertificate => "the client refuses this node's certificate",
        _ => "the client ended the handshake with an alert",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::PeerIncompatible;

    use super::*;

    #[test]
    fn each_failure_has_one_of_few_reasons() {
        fn other(error: impl StdError + Send + Sync + 'static) -> Error {
            CertificateError::Other(OtherError(Arc::new(error))).into()
        }
        let tls = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        for (error, words) in [
            (io::ErrorKind::UnexpectedEof.into(), "closed the connection"),
            (io::ErrorKind::ConnectionReset.into(), "closed the connection"),
            (io::Error::other("of another kind"), "the connection failed"),
            (tls(InvalidMessage::InvalidContentType.into()), "does not speak TLS"),
            (tls(InvalidMessage::InvalidCcs.into()), "broke the protocol"),
            (tls(Error::NoCertificatesPresented), "no certificate"),
            (tls(CertificateError::Expired.into()), "expired"),
            (tls(CertificateError::NotValidYet.into()), "not valid yet"),
            (tls(CertificateError::UnknownIssuer.into()), "no authority in client_ca"),
            (
                tls(CertificateError::BadSignature.into()),
                "another authority of the same name",
            ),
            (tls(other(Unverifiable::Version1)), "X.509 version 1"),
            (tls(other(Unverifiable::Authority)), "CA:TRUE"),
            (tls(other(std::fmt::Error)), "cannot be used"),
            (tls(CertificateError::InvalidPurpose.into()), "extendedKeyUsage"),
            (tls(CertificateError::BadEncoding.into()), "cannot be used"),
            (
                tls(Error::AlertReceived(AlertDescription::UnknownCA)),
                "refuses this node's",
            ),
            (
                tls(Error::AlertReceived(AlertDescription::Unknown(217))),
                "with an alert",
            ),
            (tls(Error::NoApplicationProtocol), "ALPN"),
            (tls(PeerIncompatible::NoKxGroupsInCommon.into()), "in common"),
            (tls(Error::General("x".repeat(99))), "broke the protocol"),
        ] {
            assert!(reason(&error).contains(words), "{error}: {}", reason(&error));
        }
    }
}
