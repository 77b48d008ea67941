//! The TLS configuration of connections to servers, verified with the certificates in a file.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::files::{TlsError, certificates, damaged, private_key};
use super::named::ServerVerifier;
use super::pair::unusable;
use super::provider::provider;
use crate::config::{ClientCert, PeerTls};

/// A configuration that trusts the certificates in the PEM file `ca` and nothing else, each as an authority and as
/// itself. Servers that ask are shown `own`. Reads files.
pub fn client(ca: &Path, own: Option<&ClientCert>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| damaged("file of server authorities", ca, &error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::read(ca)?));
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some(files) => {
            let (chain, key) = pair(files)?;
            let shown = chain[0].clone();
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unusable(error, &shown, &files.cert, &files.key))
        }
    }
}

/// A configuration for connections to the peer ports of other nodes: shows the node's own certificate, and takes servers
/// that the mesh's own authority has certified. Reads files.
pub fn peer_client(files: &PeerTls) -> Result<ClientConfig, TlsError> {
    let own = ClientCert {
        cert: files.cert.clone(),
        key: files.key.clone(),
    };
    let mut config = client(&files.ca, Some(&own))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Whether a client certificate can be shown: both files can be read, and they belong together. Reads files.
pub fn check(files: &ClientCert) -> Result<(), TlsError> {
    let (chain, key) = pair(files)?;
    let shown = chain[0].clone();
    CertifiedKey::from_der(chain, key, &provider())
        .map(drop)
        .map_err(|error| unusable(error, &shown, &files.cert, &files.key))
}

fn pair(files: &ClientCert) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    Ok((
        certificates("client certificate", &files.cert)?,
        private_key(&files.key)?,
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, IsCa, KeyPair};
    use rustls::sign::SingleCertAndKey;
    use rustls::{ClientConnection, Error, ServerConfig, ServerConnection, SupportedProtocolVersion};
    use rustls_pki_types::ServerName;

    use super::super::named::ClientVerifier;
    use super::*;

    /// What `openssl req -x509` makes, its key and another one.
    struct Own {
        folder: tempfile::TempDir,
        chain: Vec<CertificateDer<'static>>,
        keys: [KeyPair; 2],
    }

    impl Own {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let keys = [(); 2].map(|()| KeyPair::generate().expect("a key"));
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let certificate = params.self_signed(&keys[0]).expect("a certificate");
            fs::write(folder.path().join("own.pem"), certificate.pem()).expect("written");
            let chain = vec![certificate.der().clone()];
            Self { folder, chain, keys }
        }

        fn file(&self) -> std::path::PathBuf {
            self.folder.path().join("own.pem")
        }

        /// The certificate with its own key, or with the other one.
        fn shown(&self, with_its_key: bool) -> Arc<SingleCertAndKey> {
            let key = self.keys[usize::from(!with_its_key)].serialize_der();
            let key = provider()
                .key_provider
                .load_private_key(PrivateKeyDer::Pkcs8(key.into()))
                .expect("a key");
            Arc::new(CertifiedKey::new(self.chain.clone(), key).into())
        }
    }

    /// A handshake in memory; the error of whichever side refuses it.
    fn shake(client: ClientConfig, server: ServerConfig) -> Result<(), Error> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("sound");
        let mut server = ServerConnection::new(Arc::new(server)).expect("sound");
        while client.is_handshaking() || server.is_handshaking() {
            let mut sent = Vec::new();
            client.write_tls(&mut sent).expect("memory");
            server.read_tls(&mut sent.as_slice()).expect("memory");
            server.process_new_packets()?;
            let mut answered = Vec::new();
            server.write_tls(&mut answered).expect("memory");
            client.read_tls(&mut answered.as_slice()).expect("memory");
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn who_shows_a_named_certificate_without_its_key_is_refused() {
        let own = Own::new();
        let versions: [&'static SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];
        for version in versions {
            for (server_has_key, client_has_key) in [(true, true), (false, true), (true, false)] {
                let verifier = ClientVerifier::read(&own.file(), true).expect("reads");
                let server = ServerConfig::builder_with_provider(provider())
                    .with_protocol_versions(&[version])
                    .expect("known")
                    .with_client_cert_verifier(Arc::new(verifier))
                    .with_cert_resolver(own.shown(server_has_key));
                let mut config = client(&own.file(), None).expect("reads");
                config.client_auth_cert_resolver = own.shown(client_has_key);
                let outcome = shake(config, server);
                assert_eq!(
                    outcome.is_ok(),
                    server_has_key && client_has_key,
                    "{version:?}, server {server_has_key}, client {client_has_key}: {outcome:?}"
                );
            }
        }
    }

    #[test]
    fn a_client_certificate_that_cannot_be_shown_is_named_with_its_file() {
        const VERSION_1: &str = include_str!("../../tests/fixtures/tls/version-1-client.pem");
        const ITS_KEY: &str = include_str!("../../tests/fixtures/tls/version-1-client.key");
        let own = Own::new();
        let good = fs::read_to_string(own.file()).expect("written");
        let [key, other] = own.keys.each_ref().map(KeyPair::serialize_pem);
        let files = ClientCert {
            cert: own.folder.path().join("client.pem"),
            key: own.folder.path().join("client.key"),
        };
        for (cert, key, words) in [
            (good.as_str(), key.as_str(), None),
            (
                &good,
                &other,
                Some("client.key does not belong to the first certificate in"),
            ),
            (&key, &key, Some("client.pem holds no CERTIFICATE")),
            (&good, &good, Some("client.key holds no PRIVATE KEY")),
            (
                VERSION_1,
                ITS_KEY,
                Some("client.pem cannot be used: it is of X.509 version 1"),
            ),
        ] {
            fs::write(&files.cert, cert).expect("written");
            fs::write(&files.key, key).expect("written");
            for outcome in [check(&files), client(&own.file(), Some(&files)).map(drop)] {
                match (&outcome, words) {
                    (Ok(()), None) => {}
                    (Err(error), Some(words)) if error.to_string().contains(words) => {}
                    other => panic!("{words:?}: {other:?}"),
                }
            }
        }
    }
}
