//! Verifies a peer with the certificates in a file: by a chain to one of them, or because it is one of them.
//!
//! The file is called one of authorities, but people also name the very certificate that the peer shows: what `openssl
//! req -x509` makes is self-signed and says CA:TRUE, and some have no authority at all. Go trusts such a certificate as
//! itself. webpki takes only certificates that another one signed, and never one with CA:TRUE for a peer's.
//!
//! Trusted as itself means the same bytes. What the certificate says about itself still counts: dates, names and use.
//! That the peer has its key is proved by the handshake's signature, as always.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::files::{TlsError, certificates, damaged};
use super::provider::provider;
use super::x509::{self, Role};

/// A certificate that the verifier cannot take, whatever its signature. `Display` says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unverifiable {
    /// It is of X.509 version 1. Go takes such client certificates.
    Version1,
    /// It is an authority's, and not itself in the file.
    Authority,
}

impl Unverifiable {
    /// Of these bytes; `None` if neither is the reason.
    fn of(certificate: &[u8]) -> Option<Self> {
        if x509::is_version_1(certificate) {
            Some(Self::Version1)
        } else if x509::is_authority(certificate) {
            Some(Self::Authority)
        } else {
            None
        }
    }
}

impl fmt::Display for Unverifiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            // `openssl x509 -req` makes these without a warning unless it is given extensions.
            Self::Version1 => {
                "it is of X.509 version 1, which cannot be verified; issue it again with extensions \
                 (openssl x509 -req ... -extfile FILE)"
            }
            Self::Authority => {
                "it is an authority's own (CA:TRUE) and not among the named ones; name this very certificate, or issue \
                 one without CA:TRUE"
            }
        })
    }
}

impl std::error::Error for Unverifiable {}

/// The certificates of a file that peers in one role are verified with.
#[derive(Debug)]
struct Named {
    role: Role,
    certificates: Vec<CertificateDer<'static>>,
}

impl Named {
    fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|named| named == certificate)
    }

    /// One of the named certificates, if it may be used as itself now; a server's name is verified by the caller.
    fn as_itself<'c>(
        &self,
        certificate: &'c CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<ParsedCertificate<'c>, Error> {
        // Refuses damaged ones and those with critical extensions of unknown meaning.
        let parsed = ParsedCertificate::try_from(certificate)?;
        let (not_before, not_after) = x509::validity(certificate).ok_or(CertificateError::BadEncoding)?;
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
        }
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
        }
        if !x509::is_for(certificate, self.role) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        Ok(parsed)
    }
}

/// The error of the library, or the reason in our words where it knows none.
fn explained(error: Error, certificate: &[u8]) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::Other(_)) => match Unverifiable::of(certificate) {
            Some(defect) => CertificateError::Other(OtherError(Arc::new(defect))).into(),
            None => error,
        },
        other => other,
    }
}

/// The certificates in the file at `path`, and all of them as authorities.
fn read(role: Role, what: &'static str, path: &Path) -> Result<(Named, Arc<RootCertStore>), TlsError> {
    let certificates = certificates(what, path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|error| damaged(what, path, &error))?;
    }
    Ok((Named { role, certificates }, Arc::new(roots)))
}

/// Whether nodes that trust the authorities in `ca` will take `own`, the certificate of the node `name`, as a server and as a
/// client. At a time at which it is valid: only this machine's clock may be wrong.
pub(super) fn check_own(ca: &Path, own: &[CertificateDer<'_>], name: &str) -> Result<Result<(), Error>, TlsError> {
    let (by_clients, by_servers) = (ServerVerifier::read(ca)?, ClientVerifier::read(ca, true)?);
    let check = || {
        let (certificate, intermediates) = own.split_first().ok_or(Error::NoCertificatesPresented)?;
        let (from, until) = x509::validity(certificate).ok_or(CertificateError::BadEncoding)?;
        let now = UnixTime::now().max(from).min(until);
        by_servers.verify_client_cert(certificate, intermediates, now)?;
        let name = ServerName::try_from(name.to_owned()).map_err(|_| CertificateError::NotValidForName)?;
        by_clients
            .verify_server_cert(certificate, intermediates, &name, &[], now)
            .map(drop)
    };
    Ok(check())
}

/// Verifies the clients of a port.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    named: Named,
    by_chain: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    /// A verifier with the certificates in the file at `path`. Unless a certificate `is_required`, clients without one
    /// are taken too.
    pub(super) fn read(path: &Path, is_required: bool) -> Result<Self, TlsError> {
        const WHAT: &str = "file of client authorities";
        let (named, roots) = read(Role::Client, WHAT, path)?;
        // A Go client shows only a certificate whose issuer is among the subjects that the server names. The issuer of
        // a certificate that is trusted as itself may be nobody in the file.
        let mut subjects: Vec<Vec<u8>> = roots.subjects().iter().map(|name| name.as_ref().to_vec()).collect();
        let mut issuers: Vec<DistinguishedName> = Vec::new();
        for issuer in named.certificates.iter().filter_map(|named| x509::issuer(named)) {
            if !subjects.contains(&issuer) {
                issuers.push(issuer.clone().into());
                subjects.push(issuer);
            }
        }
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider()).add_root_hint_subjects(issuers);
        let builder = if is_required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        let by_chain = builder.build().map_err(|error| damaged(WHAT, path, &error))?;
        Ok(Self { named, by_chain })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.by_chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.by_chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = if self.named.has(certificate) {
            self.named
                .as_itself(certificate, now)
                .map(|_| ClientCertVerified::assertion())
        } else {
            self.by_chain.verify_client_cert(certificate, intermediates, now)
        };
        verified.map_err(|error| explained(error, certificate))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

/// Verifies the servers that this program connects to.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    named: Named,
    by_chain: Arc<WebPkiServerVerifier>,
}

impl ServerVerifier {
    /// A verifier with the certificates in the file at `path` and nothing else.
    pub(super) fn read(path: &Path) -> Result<Self, TlsError> {
        const WHAT: &str = "file of server authorities";
        let (named, roots) = read(Role::Server, WHAT, path)?;
        let by_chain = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| damaged(WHAT, path, &error))?;
        Ok(Self { named, by_chain })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let as_itself = || {
            verify_server_name(&self.named.as_itself(certificate, now)?, name)?;
            Ok(ServerCertVerified::assertion())
        };
        let verified = if self.named.has(certificate) {
            as_itself()
        } else {
            self.by_chain
                .verify_server_cert(certificate, intermediates, name, ocsp, now)
        };
        verified.map_err(|error| explained(error, certificate))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use rustls_pki_types::pem::PemObject;

    use super::*;

    const VERSION_1_AUTHORITY: &str = include_str!("../../tests/fixtures/tls/version-1-ca.pem");
    const VERSION_1: &str = include_str!("../../tests/fixtures/tls/version-1-client.pem");

    fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, "peer");
        change(&mut params);
        params
    }

    /// A certificate that signs itself, in PEM.
    fn own(change: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate().expect("a key");
        with(change).self_signed(&key).expect("a certificate").pem()
    }

    /// As `openssl req -x509` makes them.
    fn authority(params: &mut CertificateParams) {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
    }

    /// An authority and what it signs, both in PEM.
    fn signed(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let (key, own_key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let mut of_authority = with(authority);
        of_authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, "authority");
        let its = of_authority.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(of_authority, key);
        (
            its,
            with(change).signed_by(&own_key, &issuer).expect("a certificate").pem(),
        )
    }

    /// `Ok`, or the words of the refusal, of a peer that shows `shown` where `named` is the file.
    fn verified(role: Role, named: &str, shown: &str, name: &'static str) -> Result<(), String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("named.pem");
        fs::write(&file, named).expect("written");
        let shown = CertificateDer::from_pem_slice(shown.as_bytes()).expect("a certificate");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));
        match role {
            Role::Client => {
                let verifier = ClientVerifier::read(&file, true).expect("reads");
                verifier.verify_client_cert(&shown, &[], now).map(drop)
            }
            Role::Server => {
                let verifier = ServerVerifier::read(&file).expect("reads");
                let name = ServerName::try_from(name).expect("a name");
                verifier.verify_server_cert(&shown, &[], &name, &[], now).map(drop)
            }
        }
        .map_err(|error| super::super::reason::words(&error))
    }

    #[test]
    fn a_node_knows_whether_the_others_will_take_its_certificate() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let of_node = |purposes: Vec<ExtendedKeyUsagePurpose>, until| {
            signed(move |params| {
                params.subject_alt_names = vec![rcgen::SanType::DnsName("n3".try_into().expect("a name"))];
                params.extended_key_usages = purposes;
                params.not_after = rcgen::date_time_ymd(until, 1, 1);
            })
        };
        let good = of_node(vec![ServerAuth, ClientAuth], 2090);
        let taken = |authority: &str, shown: &str, name: &str| {
            let folder = tempfile::tempdir().expect("a folder");
            let ca = folder.path().join("ca.pem");
            fs::write(&ca, authority).expect("written");
            let own = CertificateDer::from_pem_slice(shown.as_bytes()).expect("a certificate");
            check_own(&ca, &[own], name).expect("reads").is_ok()
        };
        assert!(taken(&good.0, &good.1, "n3"));
        let expired = of_node(vec![ServerAuth, ClientAuth], 2020);
        assert!(taken(&expired.0, &expired.1, "n3"), "maybe the clock is wrong");
        let for_servers = of_node(vec![ServerAuth], 2090);
        let for_clients = of_node(vec![ClientAuth], 2090);
        assert!(!taken(&for_servers.0, &for_servers.1, "n3"), "not for clients");
        assert!(!taken(&for_clients.0, &for_clients.1, "n3"), "not for servers");
        assert!(!taken(&for_clients.0, &good.1, "n3"), "of another authority");
        assert!(!taken(&good.0, &good.1, "n2"), "another name");
    }

    #[test]
    #[expect(
        clippy::too_many_lines,
        reason = "a table; each of its certificates is made in another way"
    )]
    fn a_certificate_among_the_named_is_trusted_as_itself_and_nothing_else_is() {
        const ADDRESS: &str = "127.0.0.1";
        let year = |year| rcgen::date_time_ymd(year, 1, 1);
        let plain = own(|_| ());
        let self_signed = own(authority);
        let (_, leaf) = signed(|_| ());
        let (its_authority, below) = signed(|_| ());
        let (of_authority, authority_below) = signed(authority);
        let expired = own(|params| params.not_after = year(2024));
        let early = own(|params| params.not_before = year(2999));
        let for_others = own(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
        let for_any = own(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]);
        let critical = own(|params| {
            let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 99], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        });
        let both = format!("{}{self_signed}{}", own(authority), own(authority));
        let cases = [
            ("self-signed", &plain, &plain, ADDRESS, None),
            ("self-signed with CA:TRUE", &self_signed, &self_signed, ADDRESS, None),
            ("one of several", &both, &self_signed, ADDRESS, None),
            ("a leaf without its authority", &leaf, &leaf, ADDRESS, None),
            ("signed by a named one", &its_authority, &below, ADDRESS, None),
            ("for any purpose", &for_any, &for_any, ADDRESS, None),
            ("expired", &expired, &expired, ADDRESS, Some("expired")),
            ("early", &early, &early, ADDRESS, Some("not valid yet")),
            (
                "for other purposes",
                &for_others,
                &for_others,
                ADDRESS,
                Some("InvalidPurpose"),
            ),
            (
                "unknown critical extension",
                &critical,
                &critical,
                ADDRESS,
                Some("CriticalExtension"),
            ),
            (
                "another of the same name",
                &plain,
                &own(|_| ()),
                ADDRESS,
                Some("BadSignature"),
            ),
            (
                "another of the same name, CA:TRUE",
                &self_signed,
                &own(authority),
                ADDRESS,
                Some("(CA:TRUE) and not among"),
            ),
            (
                "signed by another of the same name",
                &its_authority,
                &signed(|_| ()).1,
                ADDRESS,
                Some("BadSignature"),
            ),
            (
                "signed by a leaf's authority",
                &leaf,
                &signed(|_| ()).1,
                ADDRESS,
                Some("UnknownIssuer"),
            ),
            (
                "an authority below a named one",
                &of_authority,
                &authority_below,
                ADDRESS,
                Some("(CA:TRUE) and not among"),
            ),
            (
                "version 1",
                &VERSION_1.to_owned(),
                &VERSION_1.to_owned(),
                ADDRESS,
                Some("version 1"),
            ),
            (
                "version 1, signed",
                &VERSION_1_AUTHORITY.to_owned(),
                &VERSION_1.to_owned(),
                ADDRESS,
                Some("version 1"),
            ),
        ];
        for role in [Role::Server, Role::Client] {
            for (what, named, shown, name, words) in &cases {
                match (verified(role, named, shown, name), words) {
                    (Ok(()), None) => {}
                    (Err(error), Some(words)) if error.contains(words) => {}
                    (other, _) => panic!("{role:?}, {what}: {other:?}"),
                }
            }
        }
        // The name of a server counts also where it is trusted as itself.
        for certificate in [&plain, &self_signed, &leaf] {
            let error = verified(Role::Server, certificate, certificate, "127.0.0.2").expect_err("another name");
            assert!(error.contains("not valid for name"), "{error}");
        }
        for (role, usage) in [
            (Role::Server, ExtendedKeyUsagePurpose::ClientAuth),
            (Role::Client, ExtendedKeyUsagePurpose::ServerAuth),
        ] {
            let other_role = own(|params| params.extended_key_usages = vec![usage]);
            let error = verified(role, &other_role, &other_role, ADDRESS).expect_err("of the other role");
            assert!(error.contains("InvalidPurpose"), "{error}");
        }
    }

    /// Go clients show only certificates of issuers that the server names.
    #[test]
    fn the_issuer_of_each_named_certificate_is_named_to_clients_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("named.pem");
        for (named, hints) in [
            (own(authority), 1),
            (signed(|_| ()).1, 2),
            (format!("{}{}", signed(|_| ()).1, signed(|_| ()).1), 3),
        ] {
            fs::write(&file, named).expect("written");
            let verifier = ClientVerifier::read(&file, true).expect("reads");
            assert_eq!(verifier.root_hint_subjects().len(), hints);
        }
    }
}
