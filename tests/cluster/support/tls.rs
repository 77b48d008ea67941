//! A certificate authority and TLS clients that trust it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate authority with its files in a folder.
pub(crate) struct Authority {
    folder: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate's files.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// What `openssl req -x509` makes, for 127.0.0.1 and localhost, in files called `name`; `change` comes last.
pub(crate) fn self_signed(folder: &Path, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params = params("peer");
    params.extended_key_usages.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    let key = KeyPair::generate().expect("the system gives randomness");
    let cert = params.self_signed(&key).expect("our own parameters are sound");
    write(folder, name, &cert.pem(), &key)
}

/// A certificate of X.509 version 1 made by `openssl x509 -req`: `version-1-ca`, which signed itself, or
/// `version-1-client`, which that one signed.
pub(crate) fn version_1(name: &str) -> Identity {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    Identity {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    }
}

fn params(name: &str) -> CertificateParams {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut params = CertificateParams::new(names).expect("both are names");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn write(folder: &Path, name: &str, cert: &str, key: &KeyPair) -> Identity {
    let identity = Identity {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    };
    fs::write(&identity.key, key.serialize_pem()).expect("the test's own folder is writable");
    fs::write(&identity.cert, cert).expect("the test's own folder is writable");
    identity
}

impl Authority {
    /// A new authority; its certificate is `NAME-ca.pem` in `folder`.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names, nothing to refuse");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("the system gives randomness");
        let cert = params.self_signed(&key).expect("our own parameters are sound");
        let authority = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            issuer: Issuer::new(params, key),
        };
        fs::write(authority.cert(), cert.pem()).expect("the test's own folder is writable");
        authority
    }

    /// The file with the authority's certificate.
    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.join(format!("{}-ca.pem", self.name))
    }

    /// A certificate for 127.0.0.1 and localhost, good for servers and clients, in files called `name`.
    pub(crate) fn issue(&self, name: &str) -> Identity {
        self.issue_with(name, |_| {})
    }

    /// A certificate for the node called `name`, in files called so.
    pub(crate) fn issue_for_node(&self, name: &str) -> Identity {
        self.issue_with(name, |params| {
            let name = name.try_into().expect("a node's name is a DNS label");
            params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
        })
    }

    /// The same after `change`.
    pub(crate) fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = params(name);
        change(&mut params);
        let key = KeyPair::generate().expect("the system gives randomness");
        let cert = params
            .signed_by(&key, &self.issuer)
            .expect("our own parameters are sound");
        write(&self.folder, name, &cert.pem(), &key)
    }

    /// A client that trusts this authority, shows `identity` if it has one, and offers `protocols` by ALPN.
    pub(crate) fn client(&self, identity: Option<&Identity>, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let cert = CertificateDer::from_pem_file(self.cert()).expect("our own file is PEM");
        roots.add(cert).expect("our own certificate is sound");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks them")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let cert = CertificateDer::from_pem_file(&identity.cert).expect("our own file is PEM");
                let key = PrivateKeyDer::from_pem_file(&identity.key).expect("our own file is PEM");
                builder
                    .with_client_auth_cert(vec![cert], key)
                    .expect("certificate and key belong together")
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
