//! TLS handshakes on the public port: which of them fail, and what the log says about those.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::propagation::TwoServers;
use crate::support::mint::Operator;
use crate::support::nats_server::{NatsServer, resolver_config};
use crate::support::node::{NatsLink, Node, NodeTls, Options};
use crate::support::process::{PATIENCE, eventually};
use crate::support::tls::{Authority, Identity, self_signed, version_1};
use crate::support::tools::NEWEST;

/// What a client does on a new connection to the port.
enum Client {
    /// Begins a handshake.
    Tls(Arc<ClientConfig>),
    /// Sends these bytes and no TLS.
    Plain(&'static [u8]),
    /// Ends the connection.
    Leaves,
}

impl Client {
    /// Connects to a port that it cannot shake hands with, and waits until the port closes the connection. Gives the
    /// client's own address.
    fn fail(&self, port: SocketAddr) -> SocketAddr {
        let mut stream = TcpStream::connect(port).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = stream.local_addr().unwrap();
        match self {
            Self::Leaves => {}
            Self::Plain(bytes) => {
                stream.write_all(bytes).unwrap();
                // TLS's alert, in the clear.
                let _ = stream.read_to_end(&mut Vec::new());
            }
            Self::Tls(config) => {
                let name = ServerName::IpAddress(port.ip().into());
                let mut session = ClientConnection::new(config.clone(), name).unwrap();
                // In TLS 1.3 the client is done before the port has looked at its certificate.
                let mut stream = rustls::Stream::new(&mut session, &mut stream);
                let error = stream.read(&mut [0]).expect_err("the port refuses this client");
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "the port did not answer");
            }
        }
        address
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, and what is counted of it")]
fn every_failed_handshake_is_logged_with_address_and_reason_and_counted_at_info() {
    let folder = tempfile::tempdir().unwrap();
    let [authority, other] = ["test", "other"].map(|name| Authority::new(folder.path(), name));
    let client = authority.issue("client");
    let of_other = other.issue("of-other");
    let expired = authority.issue_with("expired", |params| params.not_after = rcgen::date_time_ymd(2024, 1, 1));
    let early = authority.issue_with("early", |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
    let of_server = authority.issue_with("of-server", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let options = Options {
        tls: Some(NodeTls::of(&authority, Some(&client))),
        log: Some("off,jwtmesh=debug"),
        ..Options::default()
    };
    let mut node = Node::start(&Operator::new("O").token(), options);
    let showing = |identity| Client::Tls(authority.client(identity, &[]));
    let cases = [
        (Client::Leaves, "the client closed the connection"),
        (
            Client::Plain(b"GET / HTTP/1.1\r\n\r\n"),
            "the client does not speak TLS",
        ),
        (
            showing(None),
            "the client has no certificate, and this port requires one",
        ),
        (
            showing(Some(&of_other)),
            "no authority in client_ca signed the client's certificate",
        ),
        (showing(Some(&expired)), "the client's certificate has expired"),
        (showing(Some(&early)), "the client's certificate is not valid yet"),
        (showing(Some(&of_server)), "the client's certificate is not for clients"),
        (
            Client::Tls(other.client(Some(&client), &[])),
            "the client refuses this node's certificate",
        ),
        (
            Client::Tls(authority.client(Some(&client), &["spdy/3"])),
            "neither h2 nor http/1.1",
        ),
    ];
    for (client, reason) in &cases {
        let address = client.fail(node.address());
        eventually(reason, || {
            let log = node.log();
            let told = |line: &str| {
                line.contains("DEBUG") && line.contains(&format!("client={address} ")) && line.contains(reason)
            };
            log.lines().any(told).then_some(())
        });
    }
    // One that succeeds is not counted.
    assert_eq!(node.get("/jwt/v1/accounts/").status, 200);
    node.terminate();
    let log = node.log();
    let counted = log
        .lines()
        .filter(|line| line.contains("INFO") && line.contains("handshakes failed"));
    let counted: Vec<_> = counted.collect();
    assert!(counted.len() <= 3, "one line a minute: {log}");
    let total: usize = counted
        .iter()
        .map(|line| {
            let number = line.split_once(" failed=").expect("a number").1;
            number.split(' ').next().expect("a number").parse::<usize>().unwrap()
        })
        .sum();
    assert_eq!(total, cases.len(), "{log}");
    for (_, reason) in &cases {
        assert!(
            counted.iter().any(|line| line.contains(reason)),
            "{reason}: {counted:?}"
        );
    }
}

/// What the port serves is signed and no secret, and the hybrid costs as much as X25519 again.
#[test]
fn a_client_that_offers_x25519_and_its_hybrid_as_go_does_gets_x25519() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let node = Node::encrypted(&Operator::new("O").token(), &authority);
    for (offered, agreed) in [
        (vec![X25519MLKEM768, X25519, SECP256R1], NamedGroup::X25519),
        (vec![X25519MLKEM768], NamedGroup::X25519MLKEM768),
    ] {
        let provider = CryptoProvider {
            kx_groups: offered,
            ..aws_lc_rs::default_provider()
        };
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(authority.cert()).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::IpAddress(node.address().ip().into());
        let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = TcpStream::connect(node.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = rustls::Stream::new(&mut session, &mut stream);
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let group = session.negotiated_key_exchange_group().map(|group| group.name());
        assert_eq!(group, Some(agreed));
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full), "in one round trip");
    }
}

/// A server whose certificate signed itself, or whose authority no client has, is what many small NATS clusters are.
#[test]
fn g5_a_nats_server_whose_own_certificate_is_the_ca_is_told_of_a_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let own = self_signed(path, "own", |_| {});
    let leaf = Authority::new(path, "unknown").issue("leaf");
    let expired = self_signed(path, "expired", |params| {
        params.not_after = rcgen::date_time_ymd(2024, 1, 1)
    });
    let elsewhere = self_signed(path, "elsewhere", |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("nats.example.net".try_into().unwrap())];
    });
    let of_clients = self_signed(path, "of-clients", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let old = version_1("version-1-ca");
    let same_name = self_signed(path, "same-name", |_| {});
    let start = |server: &Identity, ca: &Identity| {
        let (cert, key) = (server.cert.display(), server.key.display());
        let link = NatsLink {
            ca: Some(ca.cert.clone()),
            ..NatsLink::plain(Vec::new(), String::new())
        };
        TwoServers::start(
            "tls",
            &format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\" }}"),
            link,
        )
    };
    for identity in [&own, &leaf] {
        start(identity, identity).revoke();
    }
    for (server, ca, words) in [
        (&expired, &expired, "certificate expired"),
        (&elsewhere, &elsewhere, "certificate is only valid for DnsName"),
        (&of_clients, &of_clients, "InvalidPurpose"),
        (&own, &same_name, "(CA:TRUE) and not among the named ones"),
        (&leaf, &own, "UnknownIssuer. Set ca under [[nats]]"),
        (
            &old,
            &old,
            "X.509 version 1, which cannot be verified; issue it again with extensions",
        ),
    ] {
        let servers = start(server, ca);
        servers.says(words);
        assert!(!servers.node.log().contains("connected to NATS cluster"), "{words}");
    }
}

/// nats-server shows the certificates that Go's TLS chooses, by the issuers that the port names.
#[test]
fn a_nats_server_whose_own_certificate_is_the_client_ca_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let operator = Operator::new("O");
    let authority = Authority::new(path, "server");
    let own = self_signed(path, "own", |_| {});
    let leaf = Authority::new(path, "unknown").issue("leaf");
    let expired = self_signed(path, "expired", |params| {
        params.not_after = rcgen::date_time_ymd(2024, 1, 1)
    });
    let same_name = self_signed(path, "same-name", |_| {});
    let old = version_1("version-1-client");
    let start = |client: &Identity, client_ca: &Identity| {
        // A certificate that is not the tested one, for the upload.
        let uploader = authority.issue("uploader");
        let both = path.join("both.pem");
        let text = [&client_ca.cert, &authority.cert()].map(|file| std::fs::read_to_string(file).unwrap());
        std::fs::write(&both, text.concat()).unwrap();
        let tls = NodeTls {
            client_ca: Some(both),
            ..NodeTls::of(&authority, Some(&uploader))
        };
        let options = Options {
            tls: Some(tls),
            ..Options::default()
        };
        let node = Node::start(&operator.token(), options);
        node.put(&operator.system, &operator.system_token());
        let config = format!(
            "{}resolver_tls {{ ca_file: \"{}\", cert_file: \"{}\", key_file: \"{}\" }}\n",
            resolver_config(&operator.token(), &node.accounts_url()),
            authority.cert().display(),
            client.cert.display(),
            client.key.display()
        );
        (NatsServer::try_start(NEWEST, &config, &[]), node)
    };
    for identity in [&own, &leaf] {
        let (server, node) = start(identity, identity);
        assert!(server.is_ok(), "{}\n{}", server.err().unwrap_or_default(), node.log());
    }
    for (client, client_ca, words) in [
        (&expired, &expired, "the client's certificate has expired"),
        (&own, &same_name, "an authority's own (CA:TRUE) and not in client_ca"),
        (
            &old,
            &version_1("version-1-ca"),
            "X.509 version 1, which cannot be verified; issue it again",
        ),
        (&old, &old, "X.509 version 1, which cannot be verified; issue it again"),
    ] {
        let (server, node) = start(client, client_ca);
        assert!(server.is_err(), "{words}: it was served");
        eventually(words, || {
            let log = node.log();
            let told = |line: &str| line.contains("INFO") && line.contains(words);
            log.lines().any(told).then_some(())
        });
    }
}
