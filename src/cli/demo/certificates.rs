//! Authorities and certificates: for the public ports, and for the peer ports of a mesh.

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

use super::folder::{Folder, Secrecy};

/// The certificate of the public ports' authority, for the clients that must trust it.
pub(super) const CA: &str = "tls/ca.pem";

/// The public ports' certificate.
const CERT: &str = "tls/node.pem";

/// The certificate of the mesh's own authority. The holder of a certificate of it with a node's name is that node, so it
/// signs nothing else.
pub(super) const MESH_CA: &str = "tls/mesh-ca.pem";

/// Longer than a demo's folder is kept.
const VALID_YEARS: i16 = 10;

/// An authority that signs certificates.
struct Authority {
    key: KeyPair,
    params: CertificateParams,
    now: i64,
}

/// Makes the authorities and the certificates, unless all exist. A certificate is useless without the authority that
/// signed it, so if one is missing all are made again.
pub(super) fn make(folder: &Folder, now: i64) -> anyhow::Result<()> {
    if folder.path(CERT).exists() && folder.path(CA).exists() {
        return Ok(());
    }
    let members = folder.ports.members();
    if !members.is_empty() {
        let mesh = Authority::make(folder, "mesh-ca", "jwtmesh demo mesh", now)?;
        for member in members {
            let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let file = format!("{}.peer", member.name);
            mesh.issue(folder, &file, &member.name, &[&member.name], &usages)?;
        }
    }
    let public = Authority::make(folder, "ca", "jwtmesh demo authority", now)?;
    // The host names and addresses in the URLs of nats-server, nsc and curl on this machine. Issued last: its presence
    // means that the other files are complete.
    let hosts = ["127.0.0.1", "::1", "localhost"];
    let usages = [ExtendedKeyUsagePurpose::ServerAuth];
    public.issue(folder, "node", "jwtmesh demo", &hosts, &usages)
}

impl Authority {
    /// Makes an authority whose files are called `file`.
    fn make(folder: &Folder, file: &str, name: &str, now: i64) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now)?;
        let key = key()?;
        let certificate = params.self_signed(&key)?;
        folder.write(&format!("tls/{file}.key"), Secrecy::Secret, &key.serialize_pem())?;
        folder.write(&format!("tls/{file}.pem"), Secrecy::Open, &certificate.pem())?;
        Ok(Self { key, params, now })
    }

    /// Issues a certificate for `names`, and writes it and its key into the files called `file`.
    fn issue(
        &self,
        folder: &Folder,
        file: &str,
        common_name: &str,
        names: &[&str],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> anyhow::Result<()> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = usages.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, self.now)?;
        let key = key()?;
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))?;
        folder.write(&format!("tls/{file}.key"), Secrecy::Secret, &key.serialize_pem())?;
        folder.write(&format!("tls/{file}.pem"), Secrecy::Open, &certificate.pem())
    }
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
