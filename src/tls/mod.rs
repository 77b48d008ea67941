//! CERTIFICATES: read, checked, and read again when the files change. Never a line of a private key in a log.
//!
//! `server.rs` makes a [`ReloadableTls`] of a port's certificate, key and client authorities. It follows the files and
//! gives each new connection the current configuration. A defect in new files is logged, and the old configuration
//! stays in use. `client.rs` is for connections to servers. `named.rs` verifies both kinds of peers with the certificates
//! of a file. `files.rs` reads the PEM files and names the file that is wrong, `pair.rs` says why a certificate and its
//! key cannot be used; `x509.rs` reads the few fields of a certificate that are needed. `provider.rs` has the crypto
//! provider of this program's servers and clients.
//!
//! The handshakes are made elsewhere: in `listener`, `client` and `nats`. `reason.rs` says why one failed.

mod client;
mod files;
mod named;
mod pair;
mod provider;
mod reason;
mod server;
mod x509;

pub use client::{check, client, peer_client};
pub use files::{Stamp, TlsError, stamp};
pub use provider::provider;
pub use reason::{TOO_SLOW, reason, words};
pub use server::{PortConfig, ReloadableTls};
pub use x509::dns_names;
