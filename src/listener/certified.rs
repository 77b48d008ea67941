//! Who a client is by its certificate.

use std::sync::Arc;

use crate::tls::dns_names;

/// The names in the certificate that a client showed. A port puts it into the extensions of requests that are no lookups.
#[derive(Debug, Clone)]
pub struct Certified(pub Arc<[String]>);

impl Certified {
    /// The names in the first certificate of a chain that was verified; `None` if there is none.
    pub(super) fn of(chain: Option<&[rustls_pki_types::CertificateDer<'_>]>) -> Option<Self> {
        let names = dns_names(chain?.first()?);
        Some(Self(names.into()))
    }
}
