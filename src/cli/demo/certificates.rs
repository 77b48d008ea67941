//! An authority and a certificate for the public port.

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

use super::folder::{Folder, Secrecy};

/// The authority's certificate, for the clients that must trust it.
pub(super) const CA: &str = "tls/ca.pem";

/// The public port's certificate.
const CERT: &str = "tls/node.pem";

/// Longer than a demo's folder is kept.
const VALID_YEARS: i16 = 10;

/// Makes the authority and the certificate, unless both exist. A certificate is useless without the authority that
/// signed it, so if one is missing both are made again.
pub(super) fn make(folder: &Folder, now: i64) -> anyhow::Result<()> {
    if folder.path(CERT).exists() && folder.path(CA).exists() {
        return Ok(());
    }
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "jwtmesh demo authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut ca, now)?;
    let ca_key = key()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, &ca_key);

    // The host names and addresses in the URLs of nats-server, nsc and curl on this machine.
    let mut node = CertificateParams::new(["127.0.0.1", "::1", "localhost", "demo-1"].map(str::to_owned))?;
    node.distinguished_name.push(DnType::CommonName, "demo-1");
    node.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    node.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    node.use_authority_key_identifier_extension = true;
    validity(&mut node, now)?;
    let node_key = key()?;
    let node_certificate = node.signed_by(&node_key, &issuer)?;

    folder.write("tls/ca.key", Secrecy::Secret, &ca_key.serialize_pem())?;
    folder.write("tls/node.key", Secrecy::Secret, &node_key.serialize_pem())?;
    folder.write(CA, Secrecy::Open, &ca_certificate.pem())?;
    // Written last: its presence means that the other files are complete.
    folder.write(CERT, Secrecy::Open, &node_certificate.pem())
}

fn key() -> anyhow::Result<KeyPair> {
    // P-256: every TLS library verifies it, and its handshakes are the cheapest for both sides.
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")
}

fn validity(params: &mut CertificateParams, now: i64) -> anyhow::Result<()> {
    let today = jiff::Timestamp::from_second(now)?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let date = |year: i16| {
        // Day 1, because every month has it.
        rcgen::date_time_ymd(year.into(), today.month().unsigned_abs(), 1)
    };
    params.not_before = date(today.year());
    params.not_after = date(today.year() + VALID_YEARS);
    Ok(())
}
