//! TLS handshakes on the public port: which of them fail, and what the log says about those.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;

use crate::support::mint::Operator;
use crate::support::node::{Node, NodeTls, Options};
use crate::support::process::{PATIENCE, eventually};
use crate::support::tls::Authority;

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
            "the client has no certificate, and client_required is set",
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
